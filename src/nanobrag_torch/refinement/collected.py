"""The files of many shots put together: one experiment list, one reflection table, one unmerged MTZ, one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nanobrag_torch.io.atomic import OutputSet
from nanobrag_torch.io.expt import read_expts
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.mtz_unmerged import Unmerged, write_unmerged_mtz
from nanobrag_torch.io.refl import read_refl
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.records.tables import ReflectionData
from nanobrag_torch.refinement.outputs import EXPERIMENTS, PARAMETERS, REFLECTIONS, UNMERGED, observations
from nanobrag_torch.refinement.shots import brief
from nanobrag_torch.refinement.tables import write_table

GOOD = ("converged",)
FILES_OF_ALL = (EXPERIMENTS, REFLECTIONS, UNMERGED, PARAMETERS, PARAMETERS.replace(".json", ".parquet"))
"""What `collect` may write."""


def collect(
    folder: str | Path, records: Sequence[Mapping[str, Any]], space_group: str | None
) -> tuple[list[str], list[str]]:
    """Write refined.expt, refined.refl and unmerged.mtz of the converged shots, and parameters.parquet of all.

    parameters.json takes the place of the last where pyarrow is not installed. Returns the names of the files and of
    the shots in them.
    """
    place = Path(folder)
    names = [r["name"] for r in records if r["status"] in GOOD and (place / r["name"] / REFLECTIONS).is_file()]
    with OutputSet() as outputs:
        written = [write_table(outputs, place, PARAMETERS.removesuffix(".json"), [brief(r) for r in records])]
    if not names:
        return written, names
    experiments: list[ExperimentData] = []
    tables: list[dict[str, Any]] = []
    seen: list[Unmerged] = []
    for batch, name in enumerate(names):
        own = read_expts(place / name / EXPERIMENTS)
        table = read_refl(place / name / REFLECTIONS)
        tables.append({**table.columns, "id": table.columns["id"] + len(experiments)})
        experiments += [replace(e, identifier=e.identifier or f"{name}-{i}") for i, e in enumerate(own)]
        seen.append(observations(table, own[0], space_group, batch + 1))
    with OutputSet() as outputs:
        write_expt(outputs.open(place / EXPERIMENTS, "-o"), experiments)
        shared = [c for c in tables[0] if all(c in t for t in tables)]
        joined = {c: np.concatenate([t[c] for t in tables]) for c in shared}
        identifiers = {i: e.identifier for i, e in enumerate(experiments)}
        whole = ReflectionData(rows=len(joined["id"]), identifiers=identifiers, columns=joined)
        write_refl(outputs.open(place / REFLECTIONS, "-o"), whole)
        write_unmerged_mtz(outputs.open(place / UNMERGED, "-o"), together(seen))
    return [*written, EXPERIMENTS, REFLECTIONS, UNMERGED], names


def together(parts: Sequence[Unmerged]) -> Unmerged:
    """Observations of several shots; the cell is that of the first."""
    columns = {
        name: (kind, np.concatenate([part.columns[name][1] for part in parts]))
        for name, (kind, _) in parts[0].columns.items()
    }
    return replace(
        parts[0],
        hkl=np.concatenate([part.hkl for part in parts]),
        batch=np.concatenate([part.batch for part in parts]),
        intensity=np.concatenate([part.intensity for part in parts]),
        sigma=np.concatenate([part.sigma for part in parts]),
        columns=columns,
    )
