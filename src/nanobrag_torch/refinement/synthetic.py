"""Made-up exposures with a known truth, to try a refinement on: rendered by the Simulator, then counted.

Only pixels near spots are rendered; the rest is background, so that a large detector costs little. The truth has its
own number of mosaic domains and samples, never those of a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nanobrag_torch.crystallography.wilson import wilson_reflections
from nanobrag_torch.experiment import Experiment
from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    PanelData,
    ScanData,
    rotation_matrix,
)
from nanobrag_torch.records.reflections import Cell, Reflections
from nanobrag_torch.records.tables import ReflectionData
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.predicting import reach_of, together, visible
from nanobrag_torch.refinement.setup import exposure, held_rows
from nanobrag_torch.refinement.shoeboxes import Spots
from nanobrag_torch.refinement.symmetry import direct_rows

REACH = 14  # pixels about a spot that are rendered
DARK, ROUGH_DOMAINS = 1e-3, 400
"""Photons of a pixel that is not summed finely, by a sum over so many domains."""
INDEXED = 1 << 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What is true of an exposure. options: fields of the Simulator's configurations, for size, shape and sampling.

    background (photons a pixel) in the middle between d = 5 A and the edge, readout (photons) of the detector.
    whole_pixels: from what `oversample` and half as many samples give to the integral over each pixel.
    """

    experiments: tuple[ExperimentData, ...]
    factors: Reflections
    options: dict[str, Any]
    background: float = 4.0
    ring: float = 0.0
    readout: float = 0.0
    frame: int = 0
    most_spots: int = 400
    whole_pixels: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Exposure:
    """A counted image, the table of its spots, and what was expected without noise."""

    counts: NDArray[np.float64]  # (slow, fast), or (panel, slow, fast)
    table: ReflectionData
    expected: NDArray[np.float64]  # the crystals alone
    spots: Spots


def rendered(truth: Truth) -> Exposure:
    """The exposure without noise: counts are what is expected."""
    detector = truth.experiments[0].detector
    assert detector is not None
    shape = (len(detector.panels), *detector.shape[-2:])
    total = np.zeros(int(np.prod(shape)))
    spots = [expected_spots(truth, number) for number in range(len(truth.experiments))]
    for number, data in enumerate(truth.experiments):
        pixels = _around(spots[number], shape)
        total[pixels] += _photons(truth, data, pixels)
    spot = total.reshape(shape)
    level = _background(truth, shape)
    joined = together(spots)
    table = _table(joined, spot, spot + level, truth)
    final = detector.shape
    return Exposure((spot + level).reshape(final), table, spot.reshape(final), joined)


def _photons(truth: Truth, data: ExperimentData, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Photons of one crystal in some pixels; pixels that a coarse sum finds dark keep what that gives."""
    rough = {"oversample": 2, "mosaic_domains": min(int(truth.options.get("mosaic_domains", 1)), ROUGH_DOMAINS)}
    total = _summed(truth, data, pixels, rough)
    lit = total > DARK
    total[lit] = 0.0
    sampling = Sampling(oversample=int(truth.options["oversample"]), extrapolated=truth.whole_pixels)
    for samples, weight in sampling.orders():
        total[lit] += weight * _summed(truth, data, pixels[lit], {"oversample": samples})
    return total


def _summed(
    truth: Truth, data: ExperimentData, pixels: NDArray[np.int64], options: dict[str, Any]
) -> NDArray[np.float64]:
    chosen = {**truth.options, **options}
    simulator = Experiment(data=data, structure_factors=truth.factors, options=chosen).simulator(
        truth.frame, dtype=torch.float64, threads=1
    )
    return np.asarray(simulator.pixel_values(torch.from_numpy(pixels)).numpy(), np.float64)


def counted(exposure: Exposure, truth: Truth, seed: int) -> Exposure:
    """The exposure with counting and readout noise, and the centroids that this gives."""
    generator = np.random.default_rng(seed)
    counts = generator.poisson(exposure.counts).astype(np.float64)
    if truth.readout:
        counts += generator.normal(0, truth.readout, counts.shape)
    detector = truth.experiments[0].detector
    assert detector is not None
    shape = (len(detector.panels), *detector.shape[-2:])
    level = (exposure.counts - exposure.expected).reshape(shape)
    table = _table(exposure.spots, counts.reshape(shape) - level, counts.reshape(shape), truth)
    return replace(exposure, counts=counts, table=table)


def expected_spots(truth: Truth, number: int = 0) -> Spots:
    """The reflections of one crystal that light the detector."""
    data = truth.experiments[number]
    _, _, angle = exposure(data, truth.frame)
    hkl = _whole_sphere(truth.factors)
    cells = np.array(truth.options.get("N_cells", (30, 30, 30)), np.float64)
    cells = cells if cells.ndim == 1 else cells.diagonal()
    spread = float(np.max(truth.options.get("mosaic_spread_deg", 0.0)))
    reach = reach_of(held_rows(data, truth.frame, angle), hkl, cells, spread, truth.extra.get("bandwidth", 0.0))
    return visible(data, truth.frame, hkl, reach, number)[0]


def _whole_sphere(factors: Reflections) -> NDArray[np.int64]:
    from nanobrag_torch.crystallography.symmetry import expand_to_p1

    return expand_to_p1(factors).hkl.astype(np.int64)


def _around(spots: Spots, shape: tuple[int, ...]) -> NDArray[np.int64]:
    slow, fast = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1].reshape(2, -1)
    whole = np.floor(spots.centre).astype(np.int64)
    f, s = whole[:, :1] + fast, whole[:, 1:] + slow
    inside = (f >= 0) & (f < shape[2]) & (s >= 0) & (s < shape[1])
    flat = (spots.panel[:, None] * shape[1] + s) * shape[2] + f
    return np.unique(flat[inside])


def _background(truth: Truth, shape: tuple[int, ...]) -> NDArray[np.float64]:
    detector, beam = truth.experiments[0].detector, truth.experiments[0].beam
    assert detector is not None and beam is not None
    level = np.full(shape, truth.background)
    if truth.ring:
        for number, panel in enumerate(detector.panels):
            slow, fast = panel.shape
            position = panel.positions_mm(np.arange(fast)[None, :] + 0.5, np.arange(slow)[:, None] + 0.5)
            cosine = -(position @ beam.direction) / np.linalg.norm(position, axis=-1)
            d = beam.wavelength_A / (2 * np.sqrt(((1 - cosine) / 2).clip(1e-9)))
            level[number, :slow, :fast] += truth.ring * np.exp(-((d - 3.2) ** 2) / 0.5)
    return level


def _table(spots: Spots, net: NDArray[np.float64], seen: NDArray[np.float64], truth: Truth) -> ReflectionData:
    """Spots with at least 50 net counts, the strongest, with their centroids."""
    centre, total, box = [], [], []
    for panel, (fast, slow) in zip(spots.panel, spots.centre, strict=True):
        s, f = int(slow), int(fast)
        tall, wide = net[panel].shape
        place = slice(max(s - 4, 0), min(s + 5, tall)), slice(max(f - 4, 0), min(f + 5, wide))
        values = net[panel][place]
        strong = np.where(values > 2 * np.sqrt(seen[panel][place].clip(1)), values, 0)
        sum_ = strong.sum()
        a, b = np.mgrid[place]
        centre.append([(strong * (b + 0.5)).sum() / max(sum_, 1), (strong * (a + 0.5)).sum() / max(sum_, 1), 0.5])
        total.append(sum_)
        box.append([place[1].start, place[1].stop, place[0].start, place[0].stop, 0, 1])
    strength = np.array(total)
    order = np.argsort(-strength)[: truth.most_spots]
    rows = np.sort(order[strength[order] > 50])
    return ReflectionData(
        rows=len(rows),
        identifiers={},
        columns={
            "miller_index": spots.hkl[rows].astype(np.int32),
            "id": spots.crystal[rows].astype(np.int32),
            "panel": spots.panel[rows].astype(np.uint64),
            "xyzobs.px.value": np.array(centre)[rows],
            "intensity.sum.value": strength[rows],
            "flags": np.full(len(rows), INDEXED, np.uint64),
        },
    )


def wilson_factors(cell: Cell, group: str, d_min: float, *, b_iso: float, seed: int) -> Reflections:
    """Unique reflections with made-up amplitudes."""
    hkl, amplitude = wilson_reflections(cell, group, d_min, b_iso=b_iso, seed=seed)
    return Reflections(hkl=hkl, amplitude=amplitude, cell=cell, space_group=group, source="Wilson statistics")


def wrong_factors(factors: Reflections, sigma: float, seed: int) -> Reflections:
    """The same with every amplitude wrong by a lognormal of this width."""
    noise = np.random.default_rng(seed).normal(0, sigma, len(factors))
    return replace(factors, amplitude=factors.amplitude * np.exp(noise))


def flat_detector(distance_mm: float, size: tuple[int, int], pixel_mm: float) -> DetectorData:
    """One panel across the beam, hit in its middle; size is fast, slow pixels."""
    fast, slow = size
    origin = np.array([-fast * pixel_mm / 2, slow * pixel_mm / 2, -distance_mm])
    panel = PanelData(
        origin_mm=origin,
        fast=np.array([1.0, 0, 0]),
        slow=np.array([0, -1.0, 0]),
        pixel_size_mm=(pixel_mm, pixel_mm),
        image_size=size,
    )
    return DetectorData(panels=(panel,))


def oriented_crystal(cell: Cell, seed: int, *, hall: str | None = None) -> CrystalData:
    """A crystal in a random orientation."""
    axis = np.random.default_rng(seed).normal(size=3)
    turn = rotation_matrix(axis, 360 * np.random.default_rng(seed + 1).random())
    rows = direct_rows(torch.tensor(cell, dtype=torch.float64)).numpy()
    return CrystalData(real_space=rows @ turn.T, space_group_hall=hall)


def still_truth(
    *,
    cell: Cell = (79.1, 79.1, 38.0, 90.0, 90.0, 90.0),
    group: str = "P 43 21 2",
    size: int = 2000,
    distance_mm: float = 200.0,
    shape: str = "gauss_hkl",
    seed: int = 1,
    domains: int = 300,
    fluence: float = 4e25,
    whole_pixels: bool = False,
    **options: Any,
) -> Truth:
    """A still of a mosaic protein crystal: 0.075 mm pixels, 0.05 degrees of spread, N 42 42 55."""
    import gemmi

    hall = gemmi.SpaceGroup(group).hall
    beam = BeamData(wavelength_A=0.9795, polarization_fraction=0.99, polarization_normal=np.array([0.0, 1.0, 0.0]))
    data = ExperimentData(
        beam=beam,
        detector=flat_detector(distance_mm, (size, size), 0.075),
        crystal=oriented_crystal(cell, seed, hall=hall),
    )
    chosen: dict[str, Any] = {
        "N_cells": (42.0, 42.0, 55.0), "mosaic_spread_deg": 0.05, "mosaic_domains": domains,
        "shape": shape, "fluence": fluence, "oversample": 2, **options,
    }  # fmt: skip
    factors = wilson_factors(cell, group, 1.9, b_iso=18, seed=seed)
    return Truth(
        experiments=(data,), factors=factors, options=chosen, background=2.0, ring=8.0, readout=0.7,
        whole_pixels=whole_pixels,
    )  # fmt: skip


def rotation_truth(*, seed: int = 2, fluence: float = 1e27, size: tuple[int, int] = (2463, 2527)) -> Truth:
    """A 0.1-degree frame of triclinic lysozyme without mosaicity on a Pilatus 6M: the frame that dbex refines."""
    cell = (27.42, 32.13, 34.51, 88.66, 108.46, 111.88)
    beam = BeamData(wavelength_A=0.9768, polarization_fraction=0.999, polarization_normal=np.array([0.0, 1.0, 0.0]))
    data = ExperimentData(
        beam=beam,
        detector=flat_detector(231.29, size, 0.172),
        crystal=oriented_crystal(cell, seed, hall=" P 1"),
        goniometer=GoniometerData(rotation_axis=np.array([-1.0, 0, 0])),
        scan=ScanData(image_range=(1, 1), oscillation_start_deg=0.0, oscillation_width_deg=0.1),
    )
    chosen: dict[str, Any] = {
        "N_cells": (36.0, 28.0, 26.0), "shape": "gauss_hkl", "fluence": fluence, "oversample": 5, "phi_steps": 10,
    }  # fmt: skip
    factors = wilson_factors(cell, "P 1", 1.25, b_iso=12, seed=seed)
    return Truth(experiments=(data,), factors=factors, options=chosen, background=4.0, most_spots=92)


@dataclass(frozen=True, kw_only=True)
class Start:
    """How far off a refinement starts, in units of each: degrees, relative, millimetres."""

    rotation_deg: float = 0.1
    cell: float = 0.002
    distance_mm: float = 0.1


def wrong_start(truth: Truth, off: Start, seed: int) -> tuple[ExperimentData, ...]:
    """The experiments turned about a random axis, with every free length of the cell and the distance off at random.

    Equal lengths stay equal.
    """
    generator = np.random.default_rng(seed)
    found = []
    shift = off.distance_mm * generator.choice([-1.0, 1.0])
    for data in truth.experiments:
        assert data.crystal is not None and data.detector is not None
        axis = generator.normal(size=3)
        turn = rotation_matrix(axis, off.rotation_deg)
        lengths = np.round(data.crystal.cell[:3], 6)
        signs = {length: generator.choice([-1.0, 1.0]) for length in sorted(set(lengths.tolist()))}
        factor = np.array([1 + off.cell * signs[length] for length in lengths.tolist()])
        crystal = replace(data.crystal, real_space=(data.crystal.real_space * factor[:, None]) @ turn.T)
        panels = tuple(replace(p, origin_mm=p.origin_mm + [0, 0, -shift]) for p in data.detector.panels)
        found.append(replace(data, crystal=crystal, detector=replace(data.detector, panels=panels)))
    shared = found[0].detector
    return tuple(replace(data, detector=shared) for data in found)


@dataclass(frozen=True)
class Errors:
    """How far a refined experiment is from the truth."""

    rotation_deg: float
    cell_percent: float
    distance_um: float


def errors(truth: ExperimentData, found: ExperimentData) -> Errors:
    """The angle between the orientations, the worst cell number, and the distance of the first panel's centre."""
    assert truth.crystal and found.crystal and truth.detector and found.detector
    left, _, right = np.linalg.svd(np.linalg.inv(truth.crystal.real_space) @ found.crystal.real_space)
    cosine = (np.trace(left @ right) - 1) / 2
    turn = left @ right
    angle = np.degrees(np.arctan2(np.linalg.norm(turn - turn.T) / np.sqrt(8), cosine))
    ratio = np.array(found.crystal.cell) / np.array(truth.crystal.cell) - 1
    centres = [
        p.positions_mm(p.image_size[0] / 2, p.image_size[1] / 2)
        for p in (truth.detector.panels[0], found.detector.panels[0])
    ]
    normal = truth.detector.panels[0].normal
    return Errors(float(angle), float(100 * np.abs(ratio).max()), float(1000 * abs((centres[1] - centres[0]) @ normal)))
