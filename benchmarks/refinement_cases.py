"""One case of every claim about refinements: a truth, a draw of noise and a start from a seed, and what came of it.

The truth has other domains and samples than the model. A case is a dict of plain numbers, so that cases can be kept
as they come and added up later.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from typing import Any

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray

from nanobrag_torch.records.experiment import BeamData, DetectorData, GroupData, PanelData
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.result import StillResult
from nanobrag_torch.refinement.solver import levenberg_marquardt
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import (
    Exposure,
    Start,
    Truth,
    counted,
    errors,
    oriented_crystal,
    rendered,
    rotation_truth,
    still_truth,
    wrong_factors,
    wrong_start,
)
from nanobrag_torch.response.config import SpreadConfig
from nanobrag_torch.response.spread import Spread
from nanobrag_torch.units import EV_ANGSTROM

Case = dict[str, Any]
SYSTEMS: dict[str, tuple[float, float, float, float, float, float]] = {
    "P 1": (61, 72, 43, 81, 97, 104),
    "P 1 21 1": (61, 72, 43, 90, 97, 90),
    "P 21 21 21": (61, 72, 43, 90, 90, 90),
    "P 43 21 2": (79.1, 79.1, 38, 90, 90, 90),
    "P 61": (70, 70, 95, 90, 90, 120),
    "R 3:H": (82, 82, 60, 90, 90, 120),
    "R 3:R": (55, 55, 55, 97, 97, 97),
    "F 4 3 2": (120, 120, 120, 90, 90, 90),
}
LARGE = 4150
"""Pixels along each edge where spots at high angles count: what tells the distance from the cell."""
BEHIND_FAINT = 10.0
"""Photons of background in every pixel of faint spots."""
CRYSTALS = 10
"""Orientations that cases of a campaign go through in turn."""


@cache
def scene(**options: Any) -> tuple[Truth, Exposure]:
    """A mosaic still: truth of 100 quadrature domains, pixels integrated from 4 x 4 samples, rendered once."""
    fine = {"domains": 100, "mosaic_sampling": "quadrature", "oversample": 4, "whole_pixels": True}
    truth = still_truth(**{**fine, **options})
    return truth, rendered(truth)


@cache
def triclinic_frame() -> tuple[Truth, Exposure]:
    """The 0.1-degree frame of triclinic lysozyme."""
    truth = rotation_truth()
    return truth, rendered(truth)


def refine(truth: Truth, exposure: Exposure, seed: int, wrong: float = 0.0, **options: Any) -> StillResult:
    """One fit to a draw of noise, from a start of that seed."""
    start = options.pop("start_off", Start())
    noisy = counted(exposure, truth, seed)
    factors = wrong_factors(truth.factors, wrong, seed + 1000) if wrong else truth.factors
    chosen = {"readout_noise": truth.readout or None, "shape": "gauss_hkl", **options}
    return refine_still(list(wrong_start(truth, start, seed)), noisy.table, noisy.counts, factors, **chosen)


def outcome(truth: Truth, result: StillResult) -> Case:
    """Verdict, figures of the fit, and how far the worst crystal is from the truth."""
    offs = [errors(true, found) for true, found in zip(truth.experiments, result.experiments, strict=True)]
    return {
        "status": result.status,
        "reason": result.reason,
        "sigma_z": None if np.isnan(result.sigma_z) else result.sigma_z,
        "steps": result.steps,
        "rotation_deg": max(o.rotation_deg for o in offs),
        "cell_percent": max(o.cell_percent for o in offs),
        "distance_um": max(o.distance_um for o in offs),
    }


def dbex(seed: int) -> Case:
    """The triclinic frame, F wrong by 15%."""
    truth, exposure = triclinic_frame()
    return outcome(truth, refine(truth, exposure, seed, 0.15))


def convergence(seed: int) -> Case:
    """From 1 degree, 0.3% cell, 0.3 mm, N and spread times 1.5 or divided by it."""
    truth, exposure = scene()
    either = np.random.default_rng(seed + 5000).choice([1.5, 1 / 1.5], 3)
    begin = {"N_a": 42 * either[0], "N_c": 55 * either[1], "spread": 0.05 * either[2]}
    start = Start(rotation_deg=1.0, cell=0.003, distance_mm=0.3)
    return outcome(truth, refine(truth, exposure, seed, 0.15, start_off=start, start=begin, check_sampling=False))


def good_start(seed: int) -> Case:
    """A usual start on one of ten crystals, everything by default but the readout noise."""
    truth, exposure = scene(seed=1 + seed % CRYSTALS)
    return outcome(truth, refine(truth, exposure, seed, 0.15, shape="auto"))


def accuracy(wrong: float) -> Any:
    """Errors of geometry, N and spread, with F wrong by some part, on a frame of 16 million pixels at 200 mm."""

    def case(seed: int) -> Case:
        truth, exposure = scene(size=LARGE)
        result = refine(truth, exposure, seed, wrong)
        true = {"N_a": 42.0, "N_c": 55.0, "spread": 0.05}
        off = {f"{n}_percent": 100 * abs(result.parameters[n].value / value - 1) for n, value in true.items()}
        assert result.intensities is not None
        return {**outcome(truth, result), **off, "photons": float(np.median(result.intensities.photons))}

    return case


def mirrored(seed: int) -> Case:
    """The detector's fast axis reversed."""
    truth, exposure = scene()
    data = truth.experiments[0]
    assert data.detector is not None
    panel = data.detector.panels[0]
    width = panel.image_size[0] * panel.pixel_size_mm[0]
    turned = replace(panel, origin_mm=panel.origin_mm + width * panel.fast, fast=-panel.fast)
    begin = replace(wrong_start(truth, Start(), seed)[0], detector=replace(data.detector, panels=(turned,)))
    noisy = counted(exposure, truth, seed)
    result = refine_still([begin], noisy.table, noisy.counts, truth.factors, readout_noise=truth.readout)
    return outcome(replace(truth, experiments=(replace(data, detector=begin.detector),)), result)


def misindexed(seed: int) -> Case:
    """Every index wrong by one along an axis."""
    truth, exposure = scene()
    noisy = counted(exposure, truth, seed)
    shift = np.random.default_rng(seed).choice([-1, 1]) * np.eye(3, dtype=np.int32)[seed % 3]
    columns = {**noisy.table.columns, "miller_index": noisy.table.columns["miller_index"] + shift}
    table = replace(noisy.table, columns=columns)
    start = list(wrong_start(truth, Start(), seed))
    return outcome(truth, refine_still(start, table, noisy.counts, truth.factors, readout_noise=truth.readout))


def swollen(seed: int) -> Case:
    """A cell that is 3% too large or too small in every length."""
    truth, exposure = scene()
    begin = wrong_start(truth, Start(), seed)[0]
    assert begin.crystal is not None
    factor = 1 + 0.03 * np.random.default_rng(seed).choice([-1, 1])
    crystal = replace(begin.crystal, real_space=begin.crystal.real_space * factor)
    noisy, start = counted(exposure, truth, seed), [replace(begin, crystal=crystal)]
    return outcome(truth, refine_still(start, noisy.table, noisy.counts, truth.factors, readout_noise=truth.readout))


def blank(seed: int) -> Case:
    """Nothing but background."""
    truth, exposure = scene()
    counts = np.random.default_rng(seed).poisson(4.0, exposure.counts.shape).astype(float)
    start, noisy = list(wrong_start(truth, Start(), seed)), counted(exposure, truth, seed)
    return outcome(truth, refine_still(start, noisy.table, counts, truth.factors, readout_noise=truth.readout))


def shape_named(seed: int) -> Case:
    """A square crystal, whose shape is to be named."""
    truth, exposure = scene(shape="square", seed=1 + seed % CRYSTALS)
    result = refine(truth, exposure, seed, 0.15, shape="auto")
    return {**outcome(truth, result), "shape": result.shape.value}


def shape_wrong(seed: int) -> Case:
    """A square crystal and a Gaussian model, on a detector of 4150 x 4150 pixels."""
    truth, exposure = scene(shape="square", seed=1 + seed % CRYSTALS, size=LARGE)
    return outcome(truth, refine(truth, exposure, seed, 0.15, check_sampling=False))


def system(seed: int) -> Case:
    """One of seven crystal systems, R in both settings, on a detector of 4150 x 4150 pixels."""
    group = list(SYSTEMS)[seed % len(SYSTEMS)]
    alike = {"N_cells": (45.0, 45.0, 45.0)} if group in ("R 3:R", "F 4 3 2") else {}
    truth, exposure = scene(cell=SYSTEMS[group], group=group, size=LARGE, **alike)
    return {"group": group, **outcome(truth, refine(truth, exposure, seed, 0.15))}


@cache
def _two() -> tuple[Truth, Exposure]:
    one, _ = scene()
    data = one.experiments[0]
    assert data.crystal is not None
    second = oriented_crystal(_six(data.crystal.cell), 77, hall=data.crystal.space_group_hall)
    truth = replace(one, experiments=(data, replace(data, crystal=second)))
    return truth, rendered(truth)


def _six(cell: tuple[float, ...]) -> tuple[float, float, float, float, float, float]:
    return (cell[0], cell[1], cell[2], cell[3], cell[4], cell[5])


def two_crystals(seed: int) -> Case:
    """Two crystals on one shot."""
    truth, exposure = _two()
    return outcome(truth, refine(truth, exposure, seed, 0.15))


def overlapping(seed: int) -> Case:
    """A long axis across the beam: spots of neighbouring reflections share pixels."""
    options = {"N_cells": (42.0, 42.0, 12.0), "mosaic_spread_deg": 0.05, "fluence": 1.5e26}
    truth, exposure = scene(cell=(79.1, 79.1, 260.0, 90, 90, 90), **options)
    result = refine(truth, exposure, seed, 0.15)
    shared = 0.0
    if result.fit is not None:
        boxes = result.fit.problem.boxes
        shared = float((torch.bincount(boxes.block)[boxes.block] > 1).double().mean())
    return {**outcome(truth, result), "boxes_that_overlap": shared}


def panelled(detector: DetectorData, fast_count: int, slow_count: int, shift_mm: float, seed: int) -> DetectorData:
    """One panel cut into many, in four groups that are each displaced in their plane; shifts sum to nothing."""
    (panel,) = detector.panels
    size = panel.image_size[0] // fast_count, panel.image_size[1] // slow_count
    shifts = np.random.default_rng(seed).normal(0, shift_mm, (4, 2))
    shifts -= shifts.mean(0)
    panels: list[PanelData] = []
    members: list[list[int]] = [[], [], [], []]
    for i in range(fast_count):
        for j in range(slow_count):
            quadrant = 2 * (2 * i // fast_count) + 2 * j // slow_count
            members[quadrant].append(len(panels))
            place = panel.positions_mm(i * size[0], j * size[1]) + shifts[quadrant] @ np.stack((panel.fast, panel.slow))
            panels.append(replace(panel, origin_mm=place, image_size=size, name=f"panel {i} {j}"))
    frame: dict[str, Any] = {"origin_mm": np.zeros(3), "fast": panel.fast, "slow": panel.slow}
    groups = tuple(GroupData(name=f"quadrant {q}", children=tuple(m), **frame) for q, m in enumerate(members))
    return DetectorData(panels=tuple(panels), root=GroupData(name="all", children=groups, **frame))


@cache
def _tiled() -> tuple[Truth, Exposure, DetectorData]:
    one, _ = scene()
    data = one.experiments[0]
    assert data.detector is not None
    true, flat = (panelled(data.detector, 4, 8, shift, 5) for shift in (0.03, 0.0))
    truth = replace(one, experiments=(replace(data, detector=true),))
    return truth, rendered(truth), flat


def groups(seed: int) -> Case:
    """32 panels in four groups, each shifted by some 0.03 mm that the file does not know."""
    truth, exposure, flat = _tiled()
    begin = [replace(data, detector=flat) for data in wrong_start(truth, Start(), seed)]
    noisy = counted(exposure, truth, seed)
    factors = wrong_factors(truth.factors, 0.15, seed + 1000)
    result = refine_still(
        begin, noisy.table, noisy.counts, factors, readout_noise=truth.readout, shape="gauss_hkl", groups="1",
        free=("shift_fast", "shift_slow"), fix=("distance",),
    )  # fmt: skip
    true, found = truth.experiments[0].detector, result.experiment.detector
    assert true is not None and found is not None
    off = np.array([np.subtract(a.origin_mm, b.origin_mm)[:2] for a, b in zip(true.panels, found.panels, strict=True)])
    return {**outcome(truth, result), "worst_panel_um": float(1000 * np.abs(off).max())}


@cache
def pink_scene(size: int = 2000) -> tuple[Truth, Exposure]:
    """A beam of 100 channels on so many pixels along each edge."""
    truth, _ = scene(size=size)
    data = truth.experiments[0]
    assert isinstance(data.beam, BeamData)
    energy = EV_ANGSTROM / data.beam.wavelength_A
    channels = energy + np.linspace(-40, 40, 100)
    weights = np.exp(-(((channels - energy) / (30 / 2.355)) ** 2) / 2)
    beam = replace(data.beam, spectrum_energies_eV=channels, spectrum_weights=weights)
    fewer = {**truth.options, "mosaic_domains": 60, "oversample": 4}
    lit = replace(truth, experiments=(replace(data, beam=beam),), options=fewer, extra={"bandwidth": 0.003})
    return lit, rendered(lit)


def pink(seed: int) -> Case:
    """A beam of 100 channels, refined as comes by itself, on a detector of 4150 x 4150 pixels."""
    truth, exposure = pink_scene(LARGE)
    return outcome(truth, refine(truth, exposure, seed, 0.15, boxes=150))


def pink_whole(seed: int) -> Case:
    """The same with all of its 100 channels and 25 domains; wall seconds on this machine's cores."""
    truth, exposure = pink_scene()
    noisy = counted(exposure, truth, seed)
    start, factors = list(wrong_start(truth, Start(), seed)), wrong_factors(truth.factors, 0.15, seed + 1000)
    begun, spent = time.perf_counter(), time.process_time()
    result = refine_still(
        start, noisy.table, noisy.counts, factors, readout_noise=truth.readout, shape="gauss_hkl", boxes=150,
        spectrum_channels=100, threads=2,
    )  # fmt: skip
    took = {"wall_s": time.perf_counter() - begun, "cpu_s": time.process_time() - spent}
    return {**outcome(truth, result), **took}


@cache
def _blurred() -> tuple[Truth, Exposure]:
    truth, exposure = scene()
    spread = Spread(SpreadConfig(shape="gauss", fwhm_um=75.0), (75e-6, 75e-6))
    blurred = spread(torch.from_numpy(exposure.expected)).numpy()
    return truth, replace(exposure, counts=exposure.counts - exposure.expected + blurred, expected=blurred)


def psf(seed: int) -> Case:
    """A point spread of one pixel in truth and model, its width free."""
    truth, exposure = _blurred()
    result = refine(truth, exposure, seed, 0.15, psf=1.2, free=("psf",))
    width = result.parameters["psf_width"].value if "psf_width" in result.parameters else 0.0
    return {**outcome(truth, result), "width_pixels": width}


def seconds(seed: int) -> Case:
    """150 boxes, 50 domains, 2 x 2 samples on one thread: CPU seconds of Levenberg-Marquardt, and of everything."""
    truth, exposure = scene()
    noisy = counted(exposure, truth, seed)
    start, factors = list(wrong_start(truth, Start(), seed)), wrong_factors(truth.factors, 0.15, seed + 1000)
    begun = time.process_time()
    result = refine_still(
        start, noisy.table, noisy.counts, factors, readout_noise=truth.readout, boxes=150, sampling=Sampling(50, 2)
    )
    whole = time.process_time() - begun
    begun = time.process_time()
    refine_still(start, noisy.table, noisy.counts, factors, readout_noise=truth.readout, boxes=150)
    checked = time.process_time() - begun
    return {"fit_s": _one_fit(result), "whole_s": whole, "checked_s": checked}


def _one_fit(result: StillResult) -> float:
    """CPU seconds of Levenberg-Marquardt from where the parameters are a tenth of a prior away."""
    assert result.fit is not None
    problem, state = result.fit.problem, result.fit.state
    raw = state.raw + 0.1 * problem.parameters.scales()
    begun = time.process_time()
    levenberg_marquardt(problem, problem.start(raw, state.linear))
    return time.process_time() - begun


def weak(seed: int) -> Case:
    """Spots of about two sigma by summation on a background of 10: bias and sigma against a sum over 99% of the spot.

    Summation knows the background and the profile; the fit knows neither. Sums over spots, to be added up.
    """
    truth, exposure, table = _faint()
    noisy = counted(exposure, truth, seed)
    result = refine_still(
        list(truth.experiments), table, noisy.counts, truth.factors, shape="gauss_hkl", boxes=table.rows, half_box=6,
        sigma_F=float("inf"), sampling=Sampling(50, 4, extrapolated=True), check_sampling=False, centroids=False,
        start={"N_a": 42, "N_c": 55, "spread": 0.05}, fix=("rotation", "cell", "distance", "N", "spread"),
        readout_noise=truth.readout or None,
    )  # fmt: skip
    assert result.fit is not None and result.intensities is not None
    boxes, found = result.fit.problem.boxes, result.intensities
    true, summed = _summation(exposure, boxes)
    kept = (true / summed > 1.5) & (true / summed < 2.5)
    off, sigma = (found.photons - true)[kept], found.photons_sigma[kept]
    return {
        "status": result.status,
        "spots": int(kept.sum()),
        "off": float(off.sum()),
        "off_squared": float((off**2).sum()),
        "photons": float(true[kept].sum()),
        "ratio": float((summed[kept] / sigma).sum()),
        "pulls_squared": float(((off / sigma) ** 2).sum()),
    }


@cache
def _faint() -> tuple[Truth, Exposure, Any]:
    from nanobrag_torch.records.tables import ReflectionData

    truth, exposure = scene()
    factors = _all_faint(truth, exposure)
    truth = replace(truth, factors=factors, background=BEHIND_FAINT, ring=0.0, readout=0.0)
    exposure = rendered(truth)
    spots = exposure.spots
    columns: dict[str, NDArray[Any]] = {
        "miller_index": spots.hkl.astype(np.int32),
        "panel": spots.panel.astype(np.uint64),
        "xyzcal.px": np.column_stack([spots.centre, np.full(len(spots), 0.5)]),
        "intensity.sum.value": np.ones(len(spots)),
        "flags": np.full(len(spots), 4, np.uint64),
    }
    return truth, exposure, ReflectionData(rows=len(spots), identifiers={}, columns=columns)


def _all_faint(truth: Truth, exposure: Exposure) -> Reflections:
    """Structure factors that give every spot twice the sigma of its sum over the pixels that hold 99% of it.

    Of equivalent reflections the last one counts; the others are brighter or fainter than that.
    """
    factors, spots = truth.factors, exposure.spots
    assert factors.space_group is not None
    group = gemmi.SpaceGroup(factors.space_group)
    asu, operations = gemmi.ReciprocalAsu(group), group.operations()
    place = {tuple(asu.to_asu(hkl.tolist(), operations)[0]): row for row, hkl in enumerate(factors.hkl)}
    amplitude = factors.amplitude.copy()
    for hkl, (fast, slow) in zip(spots.hkl, np.floor(spots.centre).astype(int), strict=True):
        rows, columns = (slice(max(middle - 6, 0), middle + 7) for middle in (slow, fast))
        pixels = np.sort(exposure.expected[rows, columns].ravel())[::-1]
        bright = int((np.cumsum(pixels) - pixels < 0.99 * pixels.sum()).sum())
        wanted = 2 + np.sqrt(4 + 4 * BEHIND_FAINT * bright)  # I with I^2 = 4 (I + background)
        row = place[tuple(asu.to_asu(hkl.tolist(), operations)[0])]
        amplitude[row] = factors.amplitude[row] * np.sqrt(wanted / max(pixels.sum(), 1e-30))
    return replace(factors, amplitude=amplitude)


def _summation(exposure: Exposure, boxes: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Photons expected of each box's spot, and the sigma of their sum over the pixels that hold 99% of them."""
    spot, seen = (image.reshape(-1)[boxes.pixels.numpy()] for image in (exposure.expected, exposure.counts))
    box = boxes.box.numpy()
    true = np.bincount(box, spot, len(boxes))
    order = np.lexsort((-spot, box))
    before = np.cumsum(spot[order]) - spot[order]
    first = np.searchsorted(box[order], np.arange(len(boxes)))
    inside = before - before[first][box[order]] < 0.99 * true[box[order]]
    variance = np.bincount(box[order][inside], seen[order][inside], len(boxes))
    return np.asarray(true, np.float64), np.sqrt(variance.astype(np.float64))
