"""The reflections of a shot that get a box: out of a reflection table, whatever columns it has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.records.tables import ReflectionData
from nanobrag_torch.refinement.frames import Frame
from nanobrag_torch.refinement.shoeboxes import Spots

FLAGS = {
    "predicted": 1 << 0, "observed": 1 << 1, "indexed": 1 << 2, "used_in_refinement": 1 << 3, "strong": 1 << 5,
    "reference_spot": 1 << 6, "integrated_sum": 1 << 8, "integrated_prf": 1 << 9, "integrated": 3 << 8,
}  # fmt: skip
"""What DIALS says of a reflection: bits of its column `flags`."""
SMALLEST_HALF, LARGEST_HALF = 4, 12
LOOKED_AT = 60


@dataclass(frozen=True, eq=False)
class Listed:
    """Spots of a table with what it says of them: observed tells which centres were measured, strength ranks them."""

    spots: Spots
    observed: NDArray[np.bool_]
    strength: NDArray[np.float64]
    extent: NDArray[np.int64] | None  # [b, 2] fast, slow size of the bounding boxes


def listed_spots(table: ReflectionData, crystals: dict[int, int], frame: int | None, flag: str = "indexed") -> Listed:
    """The reflections of some experiments of a table that have an index, on one frame of a scan (None: all).

    crystals: number of the experiment in the table -> number of the crystal of the shot. flag: one of FLAGS, of which
    every bit must be set; a table without any that is `indexed` is taken whole. Raises InputError for a table without
    indices, or where no reflection is left.
    """
    if flag not in FLAGS:
        raise InputError("flag", flag, ", ".join(FLAGS))
    columns = table.columns
    hkl = table.column("miller_index").astype(np.int64)
    identity = columns["id"].astype(np.int64) if "id" in columns else np.zeros(table.rows, np.int64)
    kept = (hkl != 0).any(1) & np.isin(identity, list(crystals))
    flags = columns.get("flags")
    wanted = FLAGS[flag]
    if flags is not None and (flag != "indexed" or (flags & wanted).any()):
        kept &= (flags & wanted) == wanted
    centre, observed, z = _centres(table)
    if frame is not None:
        kept &= _on_frame(table, z, frame)
    if not kept.any():
        raise InputError("reflections", f"{table.rows} rows", f"some that are {flag}, of this experiment and frame")
    panel = columns["panel"].astype(np.int64) if "panel" in columns else np.zeros(table.rows, np.int64)
    crystal = np.array([crystals.get(int(i), 0) for i in identity], np.int64)
    spots = Spots(hkl, crystal, panel, centre, np.arange(table.rows)).rows(kept)
    strength = _strength(table)[kept]
    extent = None
    if "bbox" in columns:
        box = columns["bbox"].astype(np.int64)
        extent = np.stack([box[:, 1] - box[:, 0], box[:, 3] - box[:, 2]], 1)[kept]
        extent = extent if (extent > 0).all() else None
    first = _first_of_each(spots, strength)
    return Listed(spots.rows(first), observed[kept][first], strength[first], None if extent is None else extent[first])


def _centres(table: ReflectionData) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Centres (fast, slow), where they were measured, and the frame coordinate."""
    columns = table.columns
    centre, z = np.full((table.rows, 2), np.nan), np.full(table.rows, np.nan)
    observed = np.zeros(table.rows, bool)
    if "xyzobs.px.value" in columns:
        seen = columns["xyzobs.px.value"]
        observed = np.isfinite(seen).all(1) & (seen[:, :2] != 0).any(1)
        centre[observed], z[observed] = seen[observed, :2], seen[observed, 2]
    if "bbox" in columns:
        box = columns["bbox"].astype(np.float64)
        there = np.isnan(centre[:, 0]) & (box[:, 1] > box[:, 0])
        centre[there] = np.stack([box[:, :2].mean(1), box[:, 2:4].mean(1)], 1)[there]
        z[there] = box[there, 4:].mean(1)
    if "xyzcal.px" in columns:
        there = np.isnan(centre[:, 0])
        centre[there], z[there] = columns["xyzcal.px"][there, :2], columns["xyzcal.px"][there, 2]
    return centre, observed, z


def _on_frame(table: ReflectionData, z: NDArray[np.float64], frame: int) -> NDArray[np.bool_]:
    """Reflections whose box or centre is on a frame, counted from 0 from the first of the array of images."""
    if "bbox" in table.columns:
        box = table.columns["bbox"]
        if (box[:, 5] > box[:, 4]).any():
            return np.asarray((box[:, 4] <= frame) & (frame < box[:, 5]), bool)
    return np.asarray(np.isnan(z) | (np.floor(z) == frame), bool)


def _strength(table: ReflectionData) -> NDArray[np.float64]:
    for name in ("intensity.sum.value", "intensity.prf.value"):
        if name in table.columns:
            return np.nan_to_num(table.columns[name].astype(np.float64))
    return np.zeros(table.rows)


def _first_of_each(spots: Spots, strength: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows without those that repeat a reflection of the same crystal at the same place; the strongest stays."""
    order = np.argsort(-strength, kind="stable")
    where = np.nan_to_num(np.round(spots.centre[order] / 20), nan=-1)
    keys = np.column_stack([spots.hkl[order], spots.crystal[order], spots.panel[order], where])
    _, first = np.unique(keys, axis=0, return_index=True)
    return np.sort(order[first])


def half_size(listed: Listed, frame: Frame) -> tuple[int, int]:
    """Half the size of a box, fast and slow: from the bounding boxes of the table, else from the image itself."""
    if listed.extent is not None:
        usual = np.quantile(listed.extent, 0.9, axis=0)
        return _limited(usual[0] / 2 + 3), _limited(usual[1] / 2 + 3)
    radius = spot_radius(listed.spots, frame)
    half = _limited(3.5 * radius + 2)
    return half, half


def _limited(value: float) -> int:
    return int(np.clip(np.ceil(value), SMALLEST_HALF, LARGEST_HALF))


def spot_radius(spots: Spots, frame: Frame) -> float:
    """Root mean square radius (pixels, along one axis) of the brighter spots; one where none stands out."""
    found = []
    for panel, (fast, slow) in zip(spots.panel, spots.centre, strict=True):
        if not np.isfinite(fast):
            continue
        s, f = int(np.floor(slow)), int(np.floor(fast))
        place = (panel, slice(max(s - 10, 0), s + 11), slice(max(f - 10, 0), f + 11))
        values, good = frame.photons(place), frame.good[place]
        if good.sum() < 100:
            continue
        level = np.median(values[good])
        net = np.where(good, values - level, 0.0)
        strong = net > np.maximum(6 * np.sqrt(max(level, 1.0)), 0.05 * net.max())
        total = net[strong].sum()
        if strong.sum() < 2:
            continue
        a, b = np.nonzero(strong)
        weight = net[strong] / total
        centre = (weight * a).sum(), (weight * b).sum()
        found.append((total, np.sqrt((weight * ((a - centre[0]) ** 2 + (b - centre[1]) ** 2)).sum() / 2 + 1 / 12)))
    found = sorted(found, reverse=True)[:LOOKED_AT]
    return float(np.median([radius for _, radius in found])) if found else 1.0
