"""What comes out of shots that share intensities: a merged MTZ, statistics by shell, and a row a shot."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.crystallography.french_wilson import amplitudes
from nanobrag_torch.crystallography.symmetry import space_group
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import OutputSet
from nanobrag_torch.io.mtz_merged import write_merged_mtz
from nanobrag_torch.refinement.merged import Merged
from nanobrag_torch.refinement.tables import write_table
from nanobrag_torch.refinement.verdict import FAILED
from nanobrag_torch.report.many_shots import write_intensities_page
from nanobrag_torch.report.shot import PAGE

Floats = NDArray[np.float64]
MERGED, STATISTICS, SHOTS = "merged.mtz", "statistics.json", "shots"
FEWEST = 3
"""Pairs below which a correlation says nothing."""


@dataclass(frozen=True)
class ShellRow:
    """Statistics of one shell, or of all; nan where too few reflections are there."""

    d_max: float
    d_min: float
    possible: int
    seen: int
    completeness: float
    multiplicity: float
    mean_I_over_sigma: float
    cc_half: float
    cc_ano: float
    r_split: float


def statistics(merged: Merged, shells: int = 10) -> list[ShellRow]:
    """Shells of equal numbers of possible reflections from the inside out, and all of them in the last row."""
    if shells < 1:
        raise InputError("shells", shells, "at least 1")
    inverse = merged.shared.inverse_square_spacing()
    edges = np.quantile(inverse, np.linspace(0, 1, shells + 1))
    shell = np.searchsorted(edges[1:-1], inverse, side="right")
    rows = [_row(merged, shell == s, edges[s], edges[s + 1]) for s in range(shells)]
    return [*rows, _row(merged, np.ones(len(inverse), bool), edges[0], edges[-1])]


def _row(merged: Merged, own: NDArray[np.bool_], low: float, high: float) -> ShellRow:
    seen = own & merged.seen
    ratio = merged.intensity[seen] / merged.sigma[seen]
    first, second = merged.halves
    both = own & np.isfinite(first) & np.isfinite(second)
    plus, minus = merged.shared.pairs.numpy()
    paired = both[plus] & both[minus]
    differences = [(half[plus] - half[minus])[paired] for half in (first, second)]
    total = (first[both] + second[both]).sum()
    return ShellRow(
        d_max=float(low**-0.5) if low > 0 else float("inf"),
        d_min=float(high**-0.5),
        possible=int(own.sum()),
        seen=int(seen.sum()),
        completeness=float(seen.sum() / max(own.sum(), 1)),
        multiplicity=_mean(merged.multiplicity[seen].astype(np.float64)),
        mean_I_over_sigma=_mean(ratio),
        cc_half=_correlation(first[both], second[both]),
        cc_ano=_correlation(*differences),
        r_split=float(np.sqrt(2) * np.abs(first[both] - second[both]).sum() / total) if total > 0 else float("nan"),
    )


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _correlation(a: Floats, b: Floats) -> float:
    if len(a) < FEWEST or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def wilson_means(merged: Merged, shells: int = 10) -> Floats:
    """Wilson's expected intensity [N] with epsilon in it: the mean of what was seen in the shell."""
    inverse, seen = merged.shared.inverse_square_spacing(), merged.seen
    operations = space_group(merged.shared.space_group).operations()
    hkl = np.ascontiguousarray(merged.shared.hkl, np.int32)
    epsilon = np.asarray(operations.epsilon_factor_without_centering_array(hkl), np.float64)
    edges = np.quantile(inverse[seen], np.linspace(0, 1, shells + 1)[1:-1])
    shell = np.searchsorted(edges, inverse)
    count = np.bincount(shell[seen], minlength=shells)
    mean = np.bincount(shell[seen], (merged.intensity / epsilon)[seen], shells) / count.clip(1)
    overall = (merged.intensity / epsilon)[seen].mean()
    mean = np.where(mean > 0, mean, overall)
    if not overall > 0:
        raise InputError("intensities", float(overall), "a mean above 0")
    return np.asarray(mean[shell] * epsilon, np.float64)


def write_merged(merged: Merged, folder: str | os.PathLike[str], shells: int = 10) -> list[str]:
    """Write merged.mtz (I, SIGI, F, SIGF, N; Friedel mates), statistics.json and the table of shots: all, or none.

    A result that failed has no merged.mtz. Returns their names. Raises InputError where nothing was seen or a file
    cannot be written.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    text = {
        "status": merged.status,
        "reason": merged.reason,
        "steps": [asdict(step) for step in merged.history],
        "shells": [{name: _plain(value) for name, value in asdict(row).items()} for row in statistics(merged, shells)],
    }
    with OutputSet() as outputs:
        names = [STATISTICS, write_table(outputs, place, SHOTS, list(merged.shots))]
        if merged.status != FAILED:
            _write_mtz(merged, outputs.open(place / MERGED, "-o"))
            names.insert(0, MERGED)
        outputs.open(place / STATISTICS, "-o").write(json.dumps(text, indent=1, allow_nan=False).encode() + b"\n")
    write_intensities_page(place / PAGE, text, merged.shots)
    if merged.status == FAILED:
        (place / MERGED).unlink(missing_ok=True)  # of an earlier run
    return [*names, PAGE]


def _write_mtz(merged: Merged, file: BinaryIO) -> None:
    seen = merged.seen & np.isfinite(merged.intensity) & (merged.sigma > 0)
    if not seen.any():
        raise InputError("intensities", 0, "at least one that was seen")
    shared, hkl = merged.shared, merged.shared.hkl[seen]
    operations = space_group(shared.space_group).operations()
    centric = np.asarray(operations.centric_flag_array(np.ascontiguousarray(hkl, np.int32)), bool)
    intensity, sigma = merged.intensity[seen], merged.sigma[seen]
    _, F, sigma_F = amplitudes(intensity, sigma, wilson_means(merged)[seen], centric)
    columns = {"I": intensity, "SIGI": sigma, "F": F, "SIGF": sigma_F, "N": merged.multiplicity[seen].astype(float)}
    write_merged_mtz(file, hkl, columns, shared.cell, shared.space_group, anomalous=shared.anomalous)


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def table(rows: list[ShellRow], say: Callable[[float], str] = lambda value: f"{value:.3f}") -> str:
    """The statistics, a line a shell."""
    head = "   d_max   d_min possible  seen  compl.   mult. I/sigma  CC1/2   CCano R-split"
    lines = [
        f"{r.d_max:8.2f}{r.d_min:8.2f}{r.possible:9d}{r.seen:6d}{r.completeness:8.3f}{r.multiplicity:8.2f}"
        f"{r.mean_I_over_sigma:8.2f}{say(r.cc_half):>7s}{say(r.cc_ano):>8s}{say(r.r_split):>8s}"
        for r in rows
    ]
    return "\n".join([head, *lines])
