"""What a refinement leaves in its folder: files that DIALS, careless and people read; all of them, or none."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import nanobrag_torch
from nanobrag_torch.io.atomic import OutputSet
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.mtz_unmerged import Unmerged, write_unmerged_mtz
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.records.tables import ReflectionData
from nanobrag_torch.refinement.build import predicted_resolution
from nanobrag_torch.refinement.centroids import predicted
from nanobrag_torch.refinement.setup import FloatArray, along_scan, array_index, space_group_of
from nanobrag_torch.refinement.targets import LEAST

if TYPE_CHECKING:
    from nanobrag_torch.refinement.result import StillResult

INDEXED, INTEGRATED_PROFILE = 1 << 2, 1 << 9
PARAMETERS = "parameters.json"
EXPERIMENTS, REFLECTIONS, UNMERGED = "refined.expt", "refined.refl", "unmerged.mtz"
BOXES = "boxes.npz"
FIGURES = ("boxes.png", "fit.png")
FILES_OF_A_SHOT = (EXPERIMENTS, REFLECTIONS, UNMERGED, BOXES, *FIGURES, PARAMETERS)


def write_result(
    result: StillResult,
    folder: str | os.PathLike[str],
    *,
    figures: bool = True,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write the files of one shot into a folder, which is made if need be.

    more: entries of parameters.json beside `record`. That file is always there; the experiments, the table, the MTZ and
    the figures where there is a fit.
    Raises InputError for a file that cannot be written, and then writes none.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    with OutputSet() as outputs:
        if result.fit is not None and result.intensities is not None:
            write_expt(outputs.open(place / EXPERIMENTS, "-o"), list(result.experiments))
            table = reflection_table(result)
            group = _space_group(result)
            write_refl(outputs.open(place / REFLECTIONS, "-o"), table)
            write_unmerged_mtz(outputs.open(place / UNMERGED, "-o"), observations(table, result.experiment, group, 1))
            np.savez_compressed(outputs.open(place / BOXES, "-o"), **box_arrays(result))
            if figures:
                from nanobrag_torch.refinement.figures import draw_boxes, draw_fit

                draw_boxes(result, outputs.open(place / FIGURES[0], "-o"))
                draw_fit(result, outputs.open(place / FIGURES[1], "-o"))
        text = json.dumps({**record(result), **(more or {})}, indent=1, allow_nan=False)
        outputs.open(place / PARAMETERS, "-o").write(text.encode() + b"\n")


def record(result: StillResult) -> dict[str, Any]:
    """Everything about a shot but its pixels, as plain numbers and words."""
    return {
        "status": result.status,
        "reason": result.reason,
        "sigma_z": _number(result.sigma_z),
        "steps": result.steps,
        "shape": result.shape.value,
        "shapes_loss_above_best": {name: _number(loss) for name, loss in result.shapes.items()},
        "fluence_per_m2": _number(result.fluence),
        "parameters": [
            {
                "name": p.name,
                "value": p.value,
                "sigma": p.sigma,
                "unit": p.unit,
                "free": p.free and p.tied_to is None,
                "tied_to": p.tied_to,
                "start": result.start[p.name].value if p.name in result.start else None,
                "prior": list(p.prior) if p.prior else None,
            }
            for p in result.parameters
        ],
        "history": [asdict(step) for step in result.history],
        "correlated": [list(entry) for entry in result.correlations],
        "notes": list(result.notes),
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
        "reflections": 0 if result.intensities is None else len(result.intensities),
        "space_group": _space_group(result),
        "frame": None if result.shot is None else result.shot.frame,
        "identifiers": [data.identifier for data in result.experiments],
        "versions": {
            "nanobrag_torch": nanobrag_torch.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def box_arrays(result: StillResult) -> dict[str, Any]:
    """The pixels that were fitted and their boxes, by name.

    A row a pixel: `pixel` (flat index over [panel, slow, fast]), `box`, and in photons `data`, `model`, `spot` (the
    model without its background) and `variance` (of the data about the model). A row a box: `hkl`, `crystal`, `panel`,
    `centre` (fast, slow), `corners` (fast0 fast1 slow0 slow1, ends excluded), `sigma_z` (NaN for a box that
    the fit left out, which has no pixels). `image_shape`: panel, slow, fast.
    """
    assert result.fit is not None
    problem, state = result.fit.problem, result.fit.state
    boxes, model = problem.boxes, problem.expected(state)
    pixels = {
        "data": boxes.data,
        "model": model,
        "spot": problem.spots(state),
        "variance": (model + boxes.readout).clamp(min=LEAST),
    }
    return {
        "pixel": boxes.pixels.numpy(),
        "box": boxes.box.numpy().astype(np.int32),
        **{name: values.numpy().astype(np.float32) for name, values in pixels.items()},
        "hkl": boxes.spots.hkl.astype(np.int32),
        "crystal": boxes.spots.crystal.astype(np.int32),
        "panel": boxes.spots.panel.astype(np.int32),
        "centre": boxes.spots.centre,
        "corners": boxes.corners().astype(np.int32),
        "sigma_z": result.box_sigma_z,
        "image_shape": np.array([len(problem.model.base.panels), *problem.model.options.image_shape]),
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def reflection_table(result: StillResult) -> ReflectionData:
    """Integrated spots as DIALS names them; where its columns were given, positions before the fit under `dials.`."""
    assert result.fit is not None and result.intensities is not None
    fit, found = result.fit, result.intensities
    spots, model, values = fit.problem.boxes.spots, fit.problem.model, fit.problem.parameters.unpack(fit.state.raw)
    where = predicted(model, values, spots)
    size = model.base.pixel_size[spots.panel].numpy() * 1e3
    place, frames, turned = 0, np.full(len(spots), 0.5), where.angle.numpy()
    if result.shot is not None:
        first, frame = result.shot.experiments[0], result.shot.frame
        place = array_index(first, frame)
        frames, turned = along_scan(first, frame, where.angle)
    centre = where.centre.numpy()
    corners = fit.problem.boxes.corners()
    number = np.full(len(spots), place)
    columns: dict[str, Any] = {
        "miller_index": found.hkl,
        "id": found.crystal,
        "panel": spots.panel,
        "flags": np.full(len(spots), INDEXED | INTEGRATED_PROFILE, np.uint64),
        "bbox": np.column_stack([corners, number, number + 1]),
        "xyzcal.px": np.column_stack([centre, frames]),
        "xyzcal.mm": np.column_stack([centre * size, turned]),
        "xyzobs.px.value": np.column_stack([spots.centre, number + 0.5]),
        "s1": where.s1.numpy(),
        "d": predicted_resolution(model, fit.problem.parameters.at(fit.state.raw), spots).numpy(),
        "delpsical.rad": where.excitation.numpy(),
        "intensity.prf.value": found.photons,
        "intensity.prf.variance": found.photons_sigma**2,
        "partiality": found.partiality,
        "background.mean": found.background,
        "nb.sigz": np.nan_to_num(result.box_sigma_z),  # 0 is what is not known, as in other columns
        "nb.scale": found.intensity / found.start,
        "nb.intensity": found.intensity,
        "nb.intensity.sigma": found.sigma,
    }
    old = {} if result.shot is None else result.shot.table.columns
    if "xyzcal.px" in old and (spots.row >= 0).all():
        columns["dials.xyzcal.px"] = old["xyzcal.px"][spots.row]
    identifiers = {i: data.identifier for i, data in enumerate(result.experiments) if data.identifier}
    return ReflectionData(rows=len(spots), identifiers=identifiers, columns=columns)


def _space_group(result: StillResult) -> str | None:
    """The crystal's, for whoever merges; structure factors may be of a subgroup."""
    return None if result.shot is None else space_group_of(result.experiment, result.shot.factors[0])


def observations(table: ReflectionData, data: ExperimentData, space_group: str | None, batch: int) -> Unmerged:
    """The rows of a table that `reflection_table` made as one batch: intensities on the scale of the given F^2."""
    assert data.crystal is not None and data.beam is not None
    columns, cell = table.columns, data.crystal.cell
    further = {
        "PARTIAL": columns["partiality"],
        "FRACTIONCALC": columns["partiality"],  # the reader of careless has a flag of its own called PARTIAL
        "XDET": columns["xyzcal.px"][:, 0],
        "YDET": columns["xyzcal.px"][:, 1],
        "EwaldOffset": ewald_offset(columns["delpsical.rad"], columns["d"], np.linalg.norm(columns["s1"], axis=1)),
        "BG": columns["background.mean"],
    }
    return Unmerged(
        hkl=columns["miller_index"].astype(np.int64),
        batch=np.full(table.rows, batch, np.int64),
        intensity=columns["nb.intensity"],
        sigma=columns["nb.intensity.sigma"],
        cell=(cell[0], cell[1], cell[2], cell[3], cell[4], cell[5]),
        space_group=space_group,
        wavelength_A=data.beam.wavelength_A,
        columns={name: ("R", values) for name, values in further.items()},
    )


def ewald_offset(excitation: FloatArray, d: FloatArray, radius: FloatArray) -> FloatArray:
    """How far [n] (1/A) reflections lie outside the Ewald sphere of a radius (1/A), as the reader of careless has it.

    excitation (radians): the turn that would bring them from inside the sphere to where they are.
    """
    q = 1 / d
    above = excitation - np.arcsin((q / (2 * radius)).clip(max=1))  # the plane across the beam
    return np.asarray(np.sqrt(q**2 + radius**2 + 2 * q * radius * np.sin(above)) - radius)
