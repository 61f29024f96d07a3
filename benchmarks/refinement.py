"""How well refinements find a made-up truth: `make bench ARGS=refinement`, or `python -m benchmarks refinement`.

Every row measures one claim on exposures whose truth has other domains and samples than the model. The table goes into
docs/refinement.md; --count is how many starts, seeds or draws a row takes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanobrag_torch.records.experiment import BeamData, DetectorData
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
from nanobrag_torch.units import EV_ANGSTROM

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "refinement.json", ROOT / "docs" / "refinement.md"
MARKS = "<!-- results -->", "<!-- end of results -->"
SYSTEMS: dict[str, tuple[float, ...]] = {
    "P 1": (61, 72, 43, 81, 97, 104),
    "P 1 21 1": (61, 72, 43, 90, 97, 90),
    "P 21 21 21": (61, 72, 43, 90, 90, 90),
    "P 43 21 2": (79.1, 79.1, 38, 90, 90, 90),
    "P 61": (70, 70, 95, 90, 90, 120),
    "R 3:H": (82, 82, 60, 90, 90, 120),
    "R 3:R": (55, 55, 55, 97, 97, 97),
    "F 4 3 2": (120, 120, 120, 90, 90, 90),
}


@dataclass(frozen=True)
class Found:
    """One row: what was asked of it, what it gave, and whether that is enough."""

    bar: str
    found: str
    met: bool
    count: int


@cache
def scene(**options: Any) -> tuple[Truth, Exposure]:
    """A mosaic still: truth of 150 quadrature domains and 5 x 5 samples, rendered once."""
    truth = still_truth(**{"domains": 150, "mosaic_sampling": "quadrature", "oversample": 5, **options})
    return truth, rendered(truth)


@cache
def triclinic_frame() -> tuple[Truth, Exposure]:
    """The 0.1-degree frame of triclinic lysozyme."""
    truth = rotation_truth()
    return truth, rendered(truth)


def refine(truth: Truth, exposure: Exposure, seed: int, wrong: float = 0.0, **options: Any) -> StillResult:
    """One fit to a draw of noise, from a start of that seed."""
    start, begin = options.pop("start", Start()), options.pop("start_values", {})
    noisy = counted(exposure, truth, seed)
    factors = wrong_factors(truth.factors, wrong, seed + 1000) if wrong else truth.factors
    chosen = {"readout_noise": truth.readout or None, "shape": "gauss_hkl", "start": begin, **options}
    return refine_still(list(wrong_start(truth, start, seed)), noisy.table, noisy.counts, factors, **chosen)


def dbex(count: int) -> Found:
    """F wrong by 15%: sigma-Z and steps."""
    truth, exposure = triclinic_frame()
    results = [refine(truth, exposure, seed, 0.15) for seed in range(count)]
    good = sum(r.sigma_z <= 1.02 and r.steps <= 12 and r.status == "converged" for r in results)
    worst, steps = max(r.sigma_z for r in results), max(r.steps for r in results)
    return Found(
        "sigma-Z 1.02 in 12 steps", f"{good} of {count}: at most {worst:.3f}, {steps} steps", good == count, count
    )


def convergence(count: int) -> Found:
    """From 1 degree, 0.3% cell, 0.3 mm, N and spread off by 1.5."""
    truth, exposure = scene()
    good = 0
    for seed in range(count):
        factor = 1.5 if seed % 2 else 1 / 1.5
        begin = {"N_a": 42 * factor, "N_c": 55 * factor, "spread": 0.05 / factor}
        start = Start(rotation_deg=1.0, cell=0.003, distance_mm=0.3)
        result = refine(truth, exposure, seed, 0.15, start=start, check_sampling=False, start_values=begin)
        off = errors(truth.experiments[0], result.experiment)
        good += off.rotation_deg < 0.005 and off.cell_percent < 0.05
    return Found("98% back at the truth", f"{good} of {count}", good >= 0.98 * count, count)


def accuracy(wrong: float, rotation: float, cell: float) -> Callable[[int], Found]:
    """Errors of the geometry at 1500 photons a spot, with F wrong by some part."""

    def row(count: int) -> Found:
        truth, exposure = scene()
        offs = [errors(truth.experiments[0], refine(truth, exposure, s, wrong).experiment) for s in range(count)]
        turn, edge = (float(np.median([getattr(o, n) for o in offs])) for n in ("rotation_deg", "cell_percent"))
        far = float(np.median([o.distance_um for o in offs]))
        said = f"median {turn:.5f} degrees, {edge:.4f}%, {far:.1f} um"
        return Found(f"{rotation} degrees, {cell}%", said, turn <= rotation and edge <= cell, count)

    return row


def pulls(count: int) -> Found:
    """(found - truth) / sigma of the parameters whose truth is known, and of the photons of all spots."""
    truth, exposure = scene()
    values = {"N_a": 42.0, "N_c": 55.0, "spread": 0.05, "a": 79.1, "c": 38.0, "distance": 200.0}
    found: dict[str, list[float]] = {name: [] for name in values}
    photons = []
    for seed in range(count):
        result = refine(truth, exposure, seed, sampling=Sampling(50, 5), boxes=150)
        for name, value in values.items():
            p = result.parameters[name]
            found[name].append((p.value - value) / (p.sigma or np.nan))
        photons.append(_photon_pulls(result, exposure))
    spread = {name: float(np.std(v)) for name, v in found.items()}
    whole = float(np.std(np.concatenate(photons)))
    inside = all(0.83 <= s <= 1.17 for s in spread.values()) and 0.9 <= whole <= 1.1
    said = ", ".join(f"{name} {s:.2f}" for name, s in spread.items()) + f"; photons {whole:.2f}"
    return Found("0.83 to 1.17; photons 0.9 to 1.1", said, inside, count)


def _photon_pulls(result: StillResult, exposure: Exposure) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert result.fit is not None and result.intensities is not None
    boxes, found = result.fit.problem.boxes, result.intensities
    expected = np.bincount(boxes.box, exposure.expected.reshape(-1)[boxes.pixels], len(boxes))
    return np.asarray((found.photons - expected) / found.photons_sigma)


def failures(count: int) -> Found:
    """Mirrored detector, wrong index, cell off by 3%, blank: failed, or back at the truth."""
    truth, exposure = scene()
    good, tried = 0, 0
    for seed in range(count):
        for spoiled, seen, options in _spoiled(truth, exposure, seed):
            result = refine_still(list(spoiled), seen.table, seen.counts, truth.factors, shape="gauss_hkl", **options)
            off = errors(truth.experiments[0], result.experiment)
            good += result.status == "failed" or (off.rotation_deg < 0.001 and off.cell_percent < 0.005)
            tried += 1
    return Found("all named", f"{good} of {tried}", good == tried, tried)


def _spoiled(truth: Truth, exposure: Exposure, seed: int) -> list[tuple[Any, Exposure, dict[str, Any]]]:
    noisy = counted(exposure, truth, seed)
    data = truth.experiments[0]
    assert data.detector is not None and data.crystal is not None
    panel = data.detector.panels[0]
    width = panel.image_size[0] * panel.pixel_size_mm[0]
    turned = replace(panel, origin_mm=panel.origin_mm + width * panel.fast, fast=-panel.fast)
    mirrored = replace(data, detector=replace(data.detector, panels=(turned,)))
    swollen = replace(data, crystal=replace(data.crystal, real_space=data.crystal.real_space * 1.03))
    shift = np.eye(3, dtype=np.int32)[seed % 3]
    columns = {**noisy.table.columns, "miller_index": noisy.table.columns["miller_index"] + shift}
    other = replace(noisy, table=replace(noisy.table, columns=columns))
    empty = replace(noisy, counts=np.random.default_rng(seed).poisson(4.0, noisy.counts.shape).astype(float))
    start = wrong_start(truth, Start(), seed)
    return [((mirrored,), noisy, {}), (start, other, {}), ((swollen,), noisy, {}), (start, empty, {})]


def shapes(count: int) -> Found:
    """Square crystals under a Gaussian start: the shape named, and the geometry with the Gaussian model."""
    truth, exposure = scene(shape="square", fluence=4e25)
    named, turns, far = 0, [], []
    for seed in range(count):
        named += refine(truth, exposure, seed, shape="auto", check_sampling=False).shape.value == "square"
        off = errors(truth.experiments[0], refine(truth, exposure, seed, check_sampling=False).experiment)
        turns.append(off.rotation_deg)
        far.append(off.distance_um)
    turn, distance = float(np.median(turns)), float(np.median(far))
    met = named >= 0.95 * count and turn <= 0.003 and distance <= 10
    said = f"{named} of {count}; {turn:.4f} degrees, {distance:.1f} um"
    return Found("named in 95%; Gaussian model: 0.003 degrees, 10 um", said, met, count)


def systems(count: int) -> Found:
    """Seven systems and both R settings: twice the accuracy bar."""
    good, said = 0, []
    for group, cell in SYSTEMS.items():
        alike = {"N_cells": (45.0, 45.0, 45.0)} if group in ("R 3:R", "F 4 3 2") else {}
        six = (cell[0], cell[1], cell[2], cell[3], cell[4], cell[5])
        truth, exposure = scene(cell=six, group=group, **alike)
        off = errors(truth.experiments[0], refine(truth, exposure, 1, 0.15).experiment)
        well = off.rotation_deg <= 0.001 and off.cell_percent <= 0.004
        good += well
        said += [] if well else [f"{group} {off.rotation_deg:.4f} degrees {off.cell_percent:.4f}%"]
    found = f"{good} of {len(SYSTEMS)}" + ("; " + ", ".join(said) if said else "")
    return Found("0.001 degrees, 0.004%", found, good == len(SYSTEMS), len(SYSTEMS))


def two_crystals(count: int) -> Found:
    """Two crystals on one shot."""
    one, _ = scene()
    data = one.experiments[0]
    assert data.crystal is not None
    cell = data.crystal.cell
    second = oriented_crystal(
        (cell[0], cell[1], cell[2], cell[3], cell[4], cell[5]), 77, hall=data.crystal.space_group_hall
    )
    truth = replace(one, experiments=(data, replace(data, crystal=second)))
    result = refine(truth, rendered(truth), 1, 0.15)
    offs = [errors(t, f) for t, f in zip(truth.experiments, result.experiments, strict=True)]
    turn, edge = max(o.rotation_deg for o in offs), max(o.cell_percent for o in offs)
    return Found("0.001 degrees, 0.004%", f"{turn:.5f} degrees, {edge:.4f}%", turn <= 0.001 and edge <= 0.004, 1)


def pink(count: int) -> Found:
    """A beam of 100 channels over 30 eV."""
    truth, _ = scene()
    data = truth.experiments[0]
    assert isinstance(data.beam, BeamData) and isinstance(data.detector, DetectorData)
    energy = EV_ANGSTROM / data.beam.wavelength_A
    channels = energy + np.linspace(-40, 40, 100)
    weights = np.exp(-(((channels - energy) / (30 / 2.355)) ** 2) / 2)
    beam = replace(data.beam, spectrum_energies_eV=channels, spectrum_weights=weights)
    fewer = {**truth.options, "mosaic_domains": 60, "oversample": 2}
    lit = replace(truth, experiments=(replace(data, beam=beam),), options=fewer, extra={"bandwidth": 0.003})
    exposure = rendered(lit)
    begun = time.process_time()
    result = refine(lit, exposure, 1, 0.15, boxes=150)
    spent = time.process_time() - begun
    off = errors(lit.experiments[0], result.experiment)
    said = f"{off.rotation_deg:.5f} degrees, {off.cell_percent:.4f}%, {spent:.1f} CPU s"
    return Found("0.001 degrees, 0.004%, 10 s", said, off.rotation_deg <= 0.001 and off.cell_percent <= 0.004, 1)


def seconds(count: int) -> Found:
    """150 boxes, 50 domains, 2 x 2 samples, one thread: Levenberg-Marquardt alone, and everything; best CPU seconds."""
    truth, exposure = scene()
    fits, whole = [], []
    for _ in range(max(count, 2)):
        begun = time.process_time()
        result = refine(truth, exposure, 1, boxes=150, sampling=Sampling(50, 2), shape="auto")
        whole.append(time.process_time() - begun)
        fits.append(_one_fit(result))
    said = f"{min(fits):.2f} s; {min(whole):.2f} s with scan and shapes (CPU)"
    return Found("0.6 s; 2 s", said, min(fits) <= 0.6 and min(whole) <= 2, max(count, 2))


def _one_fit(result: StillResult) -> float:
    """CPU seconds of Levenberg-Marquardt from where the parameters are a tenth of a prior away."""
    assert result.fit is not None
    problem, state = result.fit.problem, result.fit.state
    raw = state.raw + 0.1 * problem.parameters.scales()
    begun = time.process_time()
    levenberg_marquardt(problem, problem.start(raw, state.linear))
    return time.process_time() - begun


ROWS: dict[str, tuple[str, Callable[[int], Found]]] = {
    "dbex": ("triclinic 0.1-degree frame, F wrong by 15%", dbex),
    "convergence": ("start 1 degree, 0.3%, 0.3 mm, factor 1.5 off", convergence),
    "accuracy": ("accuracy at 1500 photons a spot", accuracy(0.0, 0.0005, 0.002)),
    "accuracy20": ("the same, F wrong by 20%", accuracy(0.2, 0.001, 0.005)),
    "accuracy40": ("the same, F wrong by 40%", accuracy(0.4, 0.001, 0.005)),
    "pulls": ("pulls about the truth, rms", pulls),
    "failures": ("mirrored, misindexed, cell +3%, blank", failures),
    "shapes": ("square truth", shapes),
    "systems": ("seven systems, both R settings", systems),
    "two": ("two crystals on one shot", two_crystals),
    "pink": ("100 channels", pink),
    "seconds": ("time on one thread", seconds),
}
"""Name -> what it shows, and its measurement."""


def main(words: list[str] | None = None) -> None:
    """Measure the rows that were asked for, keep them, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"of {', '.join(ROWS)}; default all")
    parser.add_argument("--count", type=int, default=10)
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in given.rows or ROWS:
        found = ROWS[name][1](given.count)
        known[name] = {"bar": found.bar, "found": found.found, "met": found.met, "count": found.count}
        print(f"{name}: {found.found} ({'met' if found.met else 'not met'}: {found.bar})", flush=True)
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    PAGE.write_text(with_table(PAGE.read_text(), known))


def with_table(page: str, known: dict[str, Any]) -> str:
    """The page with the table of results between its marks."""
    lines = ["| what | bar | found | met | fits or seeds |", "|---|---|---|---|---|"]
    for name, (title, _) in ROWS.items():
        if name in known:
            row = known[name]
            lines.append(
                f"| {title} | {row['bar']} | {row['found']} | {'yes' if row['met'] else '**no**'} | {row['count']} |"
            )
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n" + "\n".join(lines) + f"\n{MARKS[1]}{after}"


if __name__ == "__main__":
    main()
