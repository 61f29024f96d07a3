"""What is true of an image: its spots, what each pixel shows, how far it reaches. All of the noiseless photons.

The photons of a spot are those of its reflection inside its box; `photons_total` are those on the whole detector.
`partiality` is the square of the lattice factor where the Ewald sphere comes nearest to the reflection over that at its
centre, a mean over everything that was rendered: wavelengths, steps of the rotation, mosaic domains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.datasets import spots
from nanobrag_torch.datasets.render import Frame, Lattice, Renderer
from nanobrag_torch.physics.lattice_factor import PROFILES
from nanobrag_torch.units import ANGSTROM

Reals = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]

VISIBLE_SIGMAS = 3.0
"""A spot is visible whose photons are this many times the square root of all photons in its box."""
VISIBLE_SHARE = 0.95
"""The resolution of an image is the spacing that this share of its visible spots does not exceed in fineness."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of one image: a column an array, a row a spot; and its pixels, flat over [panel, slow, fast]."""

    spots: Columns
    classes: NDArray[np.uint8] | None  # of spots.BACKGROUND ...
    spot_of_pixel: NDArray[np.int32] | None  # row of the spot table that a pixel shows, or -1
    resolution_A: float  # NaN where no spot is visible


@dataclass(frozen=True, eq=False)
class _Assigned:
    """The lit pixels of a lattice, in runs, and the reflections that they belong to."""

    runs: NDArray[np.int32]  # [n, 2]
    owners: NDArray[np.int64]  # [n] row of the lattice's spots, or -1
    hkl: NDArray[np.int32]
    sums: Reals
    boxes: NDArray[np.int32]


def labels_of(
    renderer: Renderer, frame: Frame, recorded: NDArray[np.generic] | None, *, pixels: bool | None = None
) -> Labels:
    """The labels of a frame. recorded: its pixels as the detector has them, for what is saturated.

    pixels: whether to say what each pixel shows; None: as the recipe says.
    """
    shape = np.array(renderer.image_shape[-2:])
    assigned = [_assign(renderer, frame, lattice, shape) for lattice in frame.lattices]
    tables = [
        _table(renderer, frame, lattice, found, recorded)
        for lattice, found in zip(frame.lattices, assigned, strict=True)
    ]
    table = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]} if tables else _no_spots()
    classes, owner = None, None
    if renderer.recipe.labels.pixels if pixels is None else pixels:
        classes, owner = _pixel_labels(renderer, frame, assigned, recorded)
    return Labels(table, classes, owner, _resolution(table))


def _assign(renderer: Renderer, frame: Frame, lattice: Lattice, shape: NDArray[np.int64]) -> _Assigned:
    codes, runs = np.empty(lattice.photons.size), np.empty((lattice.photons.size, 2), np.int32)
    place = frame.panels, renderer.pixel_size, frame.incident, frame.plan.wavelength_A * ANGSTROM, lattice.middle
    count = spots.runs_of(lattice.photons, shape, *place, codes, runs)
    unique, owners = np.unique(codes[:count], return_inverse=True)
    hkl, runs = spots.unpacked(unique), runs[:count].copy()
    sums, boxes = spots.measured(lattice.photons, runs, owners, len(unique), shape)
    kept = (sums[:, spots.TOTAL] >= renderer.recipe.labels.min_photons) & hkl.any(axis=1)
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    return _Assigned(runs, number[owners], hkl[kept], sums[kept], boxes[kept])


def _table(
    renderer: Renderer,
    frame: Frame,
    lattice: Lattice,
    found: _Assigned,
    recorded: NDArray[np.generic] | None,
) -> Columns:
    shape, count = np.array(renderer.image_shape[-2:]), len(found.hkl)
    inside = found.sums[:, spots.INSIDE]
    images = _unmasked(renderer, frame), frame.background, frame.expected if recorded is None else recorded
    limit = np.inf if recorded is None else renderer.saturation
    boxed = spots.box_sums(*images, found.boxes, shape, limit)
    background = boxed[:, spots.BEHIND]
    everything = boxed[:, spots.ALL] - background
    position, partiality, angle, spacing = predicted(renderer, frame, lattice, found.hkl, found.boxes[:, spots.PANEL])
    centroid = found.sums[:, [spots.FAST_MOMENT, spots.SLOW_MOMENT]] / inside[:, None]
    whole = {
        "lattice": np.full(count, lattice.plan.number, np.int16),
        "piece": np.full(count, lattice.plan.piece, np.int16),
        **{name: found.hkl[:, axis] for axis, name in enumerate("hkl")},
        "panel": found.boxes[:, spots.PANEL],
        "fast": position[:, 0],
        "slow": position[:, 1],
        "angle_deg": angle,
        "d_A": spacing,
        "photons": inside,
        "photons_total": found.sums[:, spots.TOTAL],
        "peak": found.sums[:, spots.PEAK],
        "background": background,
        "partiality": partiality,
        "overlap": np.clip(1 - inside / np.maximum(everything, inside), 0, 1),
        "centroid_fast": centroid[:, 0],
        "centroid_slow": centroid[:, 1],
        "saturated": boxed[:, spots.REACHED].astype(np.int32),
    }
    edges = ("fast0", "fast1", "slow0", "slow1")
    return whole | {name: found.boxes[:, column] for column, name in enumerate(edges)}


def _unmasked(renderer: Renderer, frame: Frame) -> NDArray[np.float32]:
    """The image with what masked pixels would have: photons and background of a box count them too."""
    if renderer.whole:
        return frame.expected
    image = frame.background.copy()
    for lattice in frame.lattices:
        image += lattice.photons
    return image


def predicted(
    renderer: Renderer, frame: Frame, lattice: Lattice, hkl: NDArray[np.int32], panel: NDArray[np.int32]
) -> tuple[Reals, Reals, Reals, Reals]:
    """Fast and slow position [n, 2] (pixels), partiality [n], angle [n] (deg) and spacing [n] (A) of reflections.

    From the geometry alone: for every wavelength and lattice of the stack the point of the Ewald sphere nearest to the
    reflection, weighted as it contributes.
    """
    plan, count = frame.plan, len(hkl)
    profile = PROFILES[CrystalShape(renderer.recipe.crystal[lattice.plan.crystal].shape)]
    stack = np.ascontiguousarray(lattice.stack)
    stars = np.linalg.inv(stack)  # columns a*, b*, c*
    angles = np.repeat(plan.phi_deg, len(stack) // len(plan.phi_deg))
    sums = np.zeros((count, 5))
    for wavelength, share in zip(plan.wavelengths_A * ANGSTROM, plan.weights, strict=True):
        beam = frame.incident / wavelength
        spots.add_excited(sums, hkl, stack, stars, beam, share * lattice.weights, angles, int(profile), lattice.shape)
    middle = np.linalg.norm(hkl @ np.linalg.inv(lattice.middle).T, axis=1)
    partiality = sums[:, spots.EXCITED]
    angle = sums[:, spots.ANGLE] / np.maximum(partiality, np.finfo(np.float64).tiny)
    depths = np.column_stack((renderer.sensor, np.full(len(renderer.sensor), renderer.layers)))
    position = spots.on_panels(sums[:, :3], frame.panels, panel, depths, renderer.pixel_size)
    return position, partiality, angle, 1 / (middle * ANGSTROM)


def _resolution(table: Columns) -> float:
    """The spacing (A) that nearly all visible spots are coarser than; NaN without any."""
    photons = table["photons"].astype(np.float64)
    inside = photons + table["background"].astype(np.float64)
    visible = photons > VISIBLE_SIGMAS * np.sqrt(inside)
    if not visible.any():
        return float("nan")
    spacings = np.sort(1 / table["d_A"][visible])
    return float(1 / np.interp(VISIBLE_SHARE * (len(spacings) - 1), np.arange(len(spacings)), spacings))


def _no_spots() -> Columns:
    whole = ("h", "k", "l", "panel", "saturated", "fast0", "fast1", "slow0", "slow1")
    real = (
        "fast", "slow", "angle_deg", "d_A", "photons", "photons_total", "peak", "background", "partiality", "overlap",
        "centroid_fast", "centroid_slow",
    )  # fmt: skip
    kinds = [(name, np.int16) for name in ("lattice", "piece")] + [(name, np.int32) for name in whole]
    return {name: np.zeros(0, kind) for name, kind in [*kinds, *((name, np.float64) for name in real)]}


def _pixel_labels(
    renderer: Renderer, frame: Frame, assigned: list[_Assigned], recorded: NDArray[np.generic] | None
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    classes = np.zeros(frame.expected.size, np.uint8)
    owner = np.full(frame.expected.size, -1, np.int32)
    best, first = np.zeros(frame.expected.size, np.float32), 0
    for lattice, found in zip(frame.lattices, assigned, strict=True):
        floors = spots.BORDER * found.sums[:, spots.PEAK]
        spots.classify(lattice.photons, found.runs, found.owners, floors, first, classes, owner, best)
        first += len(found.hkl)
    if not renderer.whole:
        classes[~renderer.good] = spots.MASKED
    values: NDArray[Any] = np.zeros(0) if recorded is None else recorded
    if values.size and values.max() >= renderer.saturation:
        classes[(values >= renderer.saturation) & renderer.good] = spots.SATURATED
    return classes, owner
