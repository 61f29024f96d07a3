"""What a refinement of the detector leaves: its files, moves with sigmas, residuals by panel, and a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nanobrag_torch.io.atomic import OutputSet
from nanobrag_torch.io.crystfel_write import write_crystfel
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.records.experiment import DetectorData, ExperimentData
from nanobrag_torch.refinement.company import everyones, fingerprint, kept_paths, own_shots
from nanobrag_torch.refinement.geometry import Geometry, refine_geometry, start_panels
from nanobrag_torch.refinement.group_moves import GroupMoves
from nanobrag_torch.refinement.groups import MOVES
from nanobrag_torch.refinement.kept import read_kept
from nanobrag_torch.refinement.reducers import Reducer
from nanobrag_torch.refinement.result import moved_detector
from nanobrag_torch.refinement.tables import write_table
from nanobrag_torch.report.many_shots import write_geometry_page
from nanobrag_torch.report.shot import PAGE
from nanobrag_torch.workers import Place

DETECTOR, GEOM, MOVED, PICTURE = "detector.expt", "detector.geom", "moves.json", "residuals.png"
PANELS, SHOTS = "panels", "shots"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of the shots of a folder: groups as `panel_groups` takes them, free: shift, tilt, distance."""

    folder: Path
    output: Path
    groups: str | Mapping[int, int] = "panel"
    free: tuple[str, ...] = ("shift", "tilt")
    pixels: bool = True

    def job(self) -> str:
        """A fingerprint of what decides the result. Raises InputError for a folder without shots."""
        return fingerprint(self.folder, replace(self, output=Path()))


def run(request: Request, place: Place, reducer: Reducer) -> tuple[Geometry, ExperimentData]:
    """Refine as one process of `place.size`, and the first shot's experiment with the detector where it is now."""
    first = read_kept(kept_paths(request.folder)[0])
    data = first.experiments[0]
    assert data.detector is not None
    groups = GroupMoves.of(data.detector, request.groups, request.free)
    request.output.mkdir(parents=True, exist_ok=True)
    found = refine_geometry(
        own_shots(request.folder, place), groups, start_panels(data), reducer=reducer, pixels=request.pixels
    )
    detector = moved_detector(data.detector, found.panels.numpy())
    rows = tuple(everyones(found.shots, request.output, place, reducer))
    return replace(found, shots=rows), replace(data, detector=detector)


def write(found: Geometry, data: ExperimentData, folder: str | os.PathLike[str]) -> list[str]:
    """Write detector.expt and .geom, moves.json, tables of panels and shots and residuals.png: all, or none."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    assert data.detector is not None
    named = [{"name": data.detector.panels[row["panel"]].name, **row} for row in found.rows]
    with OutputSet() as outputs:
        write_expt(outputs.open(place / DETECTOR, "-o"), data)
        write_crystfel(outputs.open(place / GEOM, "-o"), replace(data, crystal=None))
        outputs.open(place / MOVED, "-o").write(json.dumps(as_text(found), indent=1).encode() + b"\n")
        tables = [write_table(outputs, place, PANELS, named), write_table(outputs, place, SHOTS, found.shots)]
        draw_residuals(found.rows, data.detector, outputs.open(place / PICTURE, "-o"))
    write_geometry_page(place / PAGE, as_text(found), found.rows, found.shots)
    return [DETECTOR, GEOM, MOVED, *tables, PICTURE, PAGE]


def as_text(found: Geometry) -> dict[str, Any]:
    """Status, steps, and every free move with its standard deviation, in mm and degrees."""
    which = found.groups.which
    return {
        "status": found.status,
        "reason": found.reason,
        "steps": list(found.history),
        "groups": [
            {
                "name": name,
                **{MOVES[m]: float(found.groups.moves[g, m]) for m in which},
                **{f"{MOVES[m]}_sigma": float(found.sigma[g, m]) for m in which},
            }
            for g, name in enumerate(found.groups.names)
        ],
    }


def draw_residuals(rows: Sequence[Mapping[str, Any]], detector: DetectorData, target: BinaryIO) -> None:
    """Mean residual of every panel as an arrow where the panel stands, and its root mean square, before and after."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1))
    middle = np.stack([p.positions_mm(p.image_size[0] / 2, p.image_size[1] / 2) for p in detector.panels])
    for column, word in enumerate(("before", "after")):
        axis = figure.add_subplot(grid[0, column])
        mean = np.array([[row[f"fast_{word}"], row[f"slow_{word}"]] for row in rows], float)
        along = np.stack([m[0] * p.fast + m[1] * p.slow for m, p in zip(mean, detector.panels, strict=True)])
        axis.scatter(middle[:, 0], middle[:, 1], s=8, c="0.6")
        arrows = axis.quiver(middle[:, 0], middle[:, 1], along[:, 0], along[:, 1], angles="xy", scale=None)
        longest = np.nanmax(np.linalg.norm(mean, axis=1), initial=0.0)
        axis.quiverkey(arrows, 0.8, 1.03, max(longest, 1e-6), f"{longest:.3g} pixels")
        axis.set(title=f"mean residual {word}", aspect="equal", xlabel="x (mm)", ylabel="y (mm)")
    axis = figure.add_subplot(grid[1, :])
    for word, colour in (("before", "C3"), ("after", "C0")):
        axis.semilogy(
            [row["panel"] for row in rows], [row[f"rms_{word}"] or np.nan for row in rows], ".", c=colour, label=word
        )
    axis.set(xlabel="panel", ylabel="rms (pixels)")
    axis.legend()
    figure.savefig(target, dpi=90, format="png")
