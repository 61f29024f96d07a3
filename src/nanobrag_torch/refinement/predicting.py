"""Which reflections of an experiment a shot shows, with boxes: a start for a refinement without a spot finder."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.records.tables import ReflectionData
from nanobrag_torch.refinement.prediction import Prediction, predict
from nanobrag_torch.refinement.setup import (
    DEFAULT_CELLS,
    DEFAULT_SPREAD_DEG,
    along_scan,
    array_index,
    exposure,
    held_rows,
)
from nanobrag_torch.refinement.shoeboxes import Spots
from nanobrag_torch.units import ANGSTROM, MM

PREDICTED, INDEXED = 1, 4
REACH = 1.2
"""Excitation up to which a reflection is seen, in units of its width."""


def visible(
    data: ExperimentData,
    frame: int,
    hkl: NDArray[np.int64],
    reach: NDArray[np.float64],
    number: int = 0,
) -> tuple[Spots, list[Prediction]]:
    """Reflections [n, 3] within `reach` [n] (radians) of the Ewald sphere and on a panel; predictions of each panel."""
    data.need("beam", "detector", "crystal", where="a prediction")
    assert data.detector is not None and data.beam is not None
    spindle, rotation, angle = exposure(data, frame)
    rows = torch.from_numpy(held_rows(data, frame, angle))
    wavelength = torch.tensor(data.beam.wavelength_A * ANGSTROM, dtype=torch.float64)
    spots, predictions = [], []
    for place, panel in enumerate(data.detector.panels):
        vectors = torch.from_numpy(np.stack([panel.origin_mm * MM, panel.fast, panel.slow, panel.normal]))
        size = torch.tensor(panel.pixel_size_mm, dtype=torch.float64) * MM
        everywhere = vectors.expand(len(hkl), 4, 3), size.expand(len(hkl), 2)
        along = torch.from_numpy(-data.beam.direction)
        where = predict(
            torch.from_numpy(hkl), rows, along, wavelength, *everywhere, spindle=spindle, rotation=rotation
        )  # fmt: skip
        slow, fast = panel.shape
        centre = where.centre.numpy()
        inside = where.forward.numpy() & (centre > 0).all(1) & (centre[:, 0] < fast) & (centre[:, 1] < slow)
        kept = np.flatnonzero(inside & (np.abs(where.excitation.numpy()) < reach))
        ones = np.ones(len(kept), np.int64)
        spots.append(Spots(hkl[kept], ones * number, ones * place, centre[kept], -ones))
        predictions.append(Prediction(*(part[torch.from_numpy(kept)] for part in where)))
    return together(spots), predictions


def together(parts: list[Spots]) -> Spots:
    """Spots one after the other."""
    return Spots(
        *(np.concatenate([getattr(s, f) for s in parts]) for f in ("hkl", "crystal", "panel", "centre", "row"))
    )


def reach_of(
    rows: NDArray[np.float64],
    hkl: NDArray[np.int64],
    cells: NDArray[np.float64],
    spread_deg: float,
    bandwidth: float = 0.0,
) -> NDArray[np.float64]:
    """Excitation [n] (radians) up to which reflections of a crystal are seen; bandwidth is relative."""
    length = np.linalg.norm(hkl @ np.linalg.inv(rows).T, axis=1).clip(1e-6)
    size = (cells * np.linalg.norm(rows, axis=1)).min()
    sphere = np.asarray(bandwidth * np.ones(len(hkl)))
    return np.asarray(REACH / size / length + REACH * np.radians(spread_deg) + sphere, np.float64)


def all_indices(data: ExperimentData, d_min: float) -> NDArray[np.int64]:
    """Indices [n, 3] of every reflection of the crystal to a resolution, mates too; absences left out."""
    assert data.crystal is not None
    if not d_min > 0:
        raise InputError("d_min", d_min, "a number above 0")
    rows = data.crystal.real_space
    limits = np.floor(np.linalg.norm(rows, axis=1) / d_min).astype(int)
    grids = np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij")
    hkl = np.stack(grids, -1).reshape(-1, 3)
    length = np.linalg.norm(hkl @ np.linalg.inv(rows).T, axis=1)
    return np.asarray(
        hkl[(length > 0) & (length <= 1 / d_min) & ~_absent(hkl, data.crystal.space_group_hall)], np.int64
    )


def _absent(hkl: NDArray[np.int64], hall: str | None) -> NDArray[np.bool_]:
    if hall is None:
        return np.zeros(len(hkl), bool)
    import gemmi

    operations = gemmi.symops_from_hall(hall)
    return np.asarray(operations.systematic_absences(np.ascontiguousarray(hkl, np.int32)), bool)


def predicted_table(
    data: ExperimentData,
    *,
    frame: int = 0,
    d_min: float,
    cells: NDArray[np.float64] | None = None,
    spread_deg: float | None = None,
    half: int = 7,
) -> ReflectionData:
    """The spots of one frame of an experiment as a reflection table with boxes of 2 half + 1 pixels.

    cells and spread: those of the file's crystal unless given, else 30 and 0.05 degrees. Raises InputError for numbers
    that make no sense, and a frame that is not there.
    """
    data.need("beam", "detector", "crystal", where="a prediction")
    assert data.crystal is not None
    frames = 1 if data.scan is None else data.scan.frames
    if not 0 <= frame < frames:
        raise InputError("frame", frame, f"0 to {frames - 1}" if frames > 1 else "0: the experiment has no more")
    if half < 1:
        raise InputError("box", half, "1 or more")
    if spread_deg is not None and not 0 <= spread_deg < np.inf:
        raise InputError("spread", spread_deg, "degrees from 0 on")
    if cells is not None and not ((cells > 0) & (cells < np.inf)).all():
        raise InputError("N", cells.tolist(), "numbers above 0")
    crystal = data.crystal
    edges = np.array(crystal.cell[:3])
    if cells is None:
        cells = np.full(3, DEFAULT_CELLS) if not crystal.domain_size_A else crystal.domain_size_A / edges
    spread = spread_deg if spread_deg is not None else crystal.half_mosaicity_deg or DEFAULT_SPREAD_DEG
    hkl = all_indices(data, d_min)
    spots, parts = visible(data, frame, hkl, reach_of(crystal.real_space, hkl, cells, spread))
    where = Prediction(*(torch.cat([getattr(part, name) for part in parts]) for name in Prediction._fields))
    return _table(data, spots, where, frame, half)


def _table(data: ExperimentData, spots: Spots, where: Prediction, frame: int, half: int) -> ReflectionData:
    assert data.detector is not None and data.crystal is not None
    count = len(spots)
    sizes = np.array([panel.pixel_size_mm for panel in data.detector.panels])[spots.panel]
    whole = np.floor(spots.centre).astype(np.int64)
    frames = np.full(count, array_index(data, frame))
    z, turned = along_scan(data, frame, where.angle)
    bbox = np.column_stack([whole - half, whole + half + 1])[:, [0, 2, 1, 3]]
    s1: Tensor = where.s1
    return ReflectionData(
        rows=count,
        identifiers={0: data.identifier} if data.identifier else {},
        columns={
            "miller_index": spots.hkl,
            "id": np.zeros(count, np.int64),
            "panel": spots.panel,
            "flags": np.full(count, PREDICTED | INDEXED, np.uint64),
            "bbox": np.column_stack([bbox, frames, frames + 1]),
            "xyzcal.px": np.column_stack([spots.centre, z]),
            "xyzcal.mm": np.column_stack([spots.centre * sizes, turned]),
            "s1": s1.numpy(),
            "delpsical.rad": where.excitation.numpy(),
            "d": 1 / np.linalg.norm(spots.hkl @ np.linalg.inv(data.crystal.real_space).T, axis=1),
        },
    )
