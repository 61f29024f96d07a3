"""What a frame costs when steps that add nothing are left out: `make bench ARGS="sparse [--scale N]"`.

Scene R, a frame of rotation: 4148 x 4362 pixels of 0.075 mm at 200 mm, cell 79.1 79.1 38.0, N = 60, 30 mosaic domains
of 0.05 degrees in 10 phi steps of 0.01, 0.9795 Angstrom, structure factors of Wilson's distribution with B = 18. The
whole frame is rendered with steps left out; the full sum is taken of runs of pixels spread over it and scaled up. Both
take turns, and processor seconds count, which other work on the machine disturbs least. --scale 2 takes every edge half
as long. Beside it, scene e of the other benchmarks with many wavelengths.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from benchmarks.__main__ import _machine, _slug
from benchmarks.page import RESULTS, write_page
from benchmarks.scenes import CASES as SCENES

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
from nanobrag_torch.config import CrystalShape
from nanobrag_torch.kernels import operation
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector

CELL = (79.1, 79.1, 38.0)
HALF_TABLE = (70, 70, 35)
B_FACTOR, SEED = 18.0, 2
REPEATS = 3
RUNS, RUN = 60, 256
"""Pixels of the full sum."""
Maker = Callable[[int], tuple[Simulator, torch.Tensor | None]]
"""Scale of the frame -> a simulator, and the pixels that count."""
MOVING = ("lattice", "panels", "incident", "wavelengths")
"""What cell, misset, distance and wavelength move."""


ABSENT_BEYOND = (20, 20, 10)
"""The last indices of a table that covers the middle of the frame alone."""


def wilson_table() -> torch.Tensor:
    """Amplitudes whose squares are exponentially distributed about exp(-2 B s^2), s = sin(theta) / lambda."""
    axes = [
        torch.arange(-half, half + 1, dtype=torch.float64) / edge for half, edge in zip(HALF_TABLE, CELL, strict=True)
    ]
    h, k, l = torch.meshgrid(*axes, indexing="ij")
    s2 = (h**2 + k**2 + l**2) / 4
    uniform = torch.rand(s2.shape, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    return (-torch.log(uniform) * torch.exp(-2 * B_FACTOR * s2)).sqrt() * 100


def frame(shape: CrystalShape, oversample: int, scale: int) -> Simulator:
    """Scene R, or its corner."""
    crystal = Crystal(
        CrystalConfig(
            cell_a=CELL[0],
            cell_b=CELL[1],
            cell_c=CELL[2],
            cell_alpha=90.0,
            cell_beta=90.0,
            cell_gamma=90.0,
            misset_deg=(11.0, 22.0, 33.0),
            N_cells=(60, 60, 60),
            shape=shape,
            mosaic_spread_deg=0.05,
            mosaic_domains=30,
            osc_range_deg=0.1,
            phi_steps=10,
            interpolate=False,
        )
    )
    crystal.hkl_data = wilson_table()
    crystal.hkl_metadata = {
        f"{axis}_{end}": sign * half
        for axis, half in zip("hkl", HALF_TABLE, strict=True)
        for end, sign in (("min", -1), ("max", 1))
    }
    detector = Detector(
        DetectorConfig(
            distance_mm=200.0,
            pixel_size_mm=0.075,
            oversample=oversample,
            spixels=4148 // scale,
            fpixels=4362 // scale,
        )
    )
    return Simulator(
        crystal, detector, beam_config=BeamConfig(wavelength_A=0.9795), dtype=torch.float32, kernel="fused"
    )


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def half_absent(simulator: Simulator) -> Simulator:
    """The same without every second reflection, at random."""
    table = wilson_table()
    kept = torch.rand(table.shape, generator=torch.Generator().manual_seed(SEED + 1)) < 0.5
    simulator.crystal.hkl_data = table * kept
    return simulator


def covered_in_part(simulator: Simulator) -> Simulator:
    """The same with a table of the low resolutions alone, and nothing outside of it."""
    middle = tuple(slice(half - to, half + to + 1) for half, to in zip(HALF_TABLE, ABSENT_BEYOND, strict=True))
    simulator.crystal.hkl_data = wilson_table()[middle]
    simulator.crystal.hkl_metadata = {
        f"{axis}_{end}": sign * half
        for axis, half in zip("hkl", ABSENT_BEYOND, strict=True)
        for end, sign in (("min", -1), ("max", 1))
    }
    return simulator


def compare(simulator: Simulator, share: float | None, boxes: torch.Tensor | None) -> dict[str, float]:
    """Median seconds with steps left out and of the full sum, of the value and with the gradients.

    share: what a pixel may lose of the brightest; None where the shape vanishes. boxes: flat indices of all pixels that
    count; None for a whole frame, whose full sum is taken of runs of pixels.
    """
    with torch.no_grad():
        scene = simulator.scene()
    full = replace(simulator.options(), cut=0.0, threads=1)
    sparse = replace(simulator.options(), threads=1, tolerance=(share or 0.0) * simulator.brightest())
    count = full.image_shape[0] * full.image_shape[1] if boxes is None else boxes.numel()
    starts = torch.arange(RUNS) * (count // RUNS)
    some = (starts[:, None] + torch.arange(RUN)).flatten() if boxes is None else boxes
    works: dict[str, tuple[Callable[[], object], float]] = {
        "value": (lambda: operation.intensity(boxes, scene, sparse), 1.0),
        "value_full": (lambda: operation.intensity(some, scene, full), count / some.numel()),
        "gradients": (lambda: operation.gradients(torch.ones(count), boxes, scene, sparse, MOVING, value=True), 1.0),
        "gradients_full": (
            lambda: operation.gradients(torch.ones(some.numel()), some, scene, full, MOVING, value=True),
            count / some.numel(),
        ),
    }
    operation.intensity(some, scene, sparse)
    for name in ("value_full", "gradients_full"):
        works[name][0]()
    rounds = [{name: seconds(work) * times for name, (work, times) in works.items()} for _ in range(REPEATS)]
    found = {f"{name}_s": statistics.median(one[name] for one in rounds) for name in works}
    found["steps"] = float(count * simulator.steps)
    for name in ("value", "gradients"):
        found[f"{name}_ratio"] = statistics.median(one[f"{name}_full"] / one[name] for one in rounds)
    return found


def _shoeboxes(_: int) -> tuple[Simulator, torch.Tensor | None]:
    case = SCENES["e, 100 wavelengths"]()
    return case.simulator, case.pixels


def _frame(shape: CrystalShape, oversample: int, change: Callable[[Simulator], Simulator] | None = None) -> Maker:
    def make(scale: int) -> tuple[Simulator, torch.Tensor | None]:
        made = frame(shape, oversample, scale)
        return made if change is None else change(made), None

    return make


CASES: dict[str, tuple[Maker, float | None]] = {
    "gauss_hkl, 2 x 2 sub-pixels": (_frame(CrystalShape.GAUSS_HKL, 2), None),
    "gauss_hkl, 10 x 10 sub-pixels": (_frame(CrystalShape.GAUSS_HKL, 10), None),
    "the same, half of the reflections absent": (_frame(CrystalShape.GAUSS_HKL, 10, half_absent), None),
    "the same, table of |h|, |k| up to 20, |l| up to 10": (_frame(CrystalShape.GAUSS_HKL, 10, covered_in_part), None),
    "square, 2 x 2, tolerance 1e-6": (_frame(CrystalShape.SQUARE, 2), 1e-6),
    "square, 2 x 2, tolerance 1e-5": (_frame(CrystalShape.SQUARE, 2), 1e-5),
    "scene e, 100 wavelengths, 25 domains, gauss_hkl": (_shoeboxes, None),
}


def main(arguments: list[str] | None = None) -> None:
    """Measure, keep, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=1)
    scale = parser.parse_args(arguments).scale
    found = {**_machine(), "scale": scale, "cases": {}}
    for name, (make, share) in CASES.items():
        simulator, boxes = make(scale)
        found["cases"][name] = compare(simulator, share, boxes)
        print(name, json.dumps(found["cases"][name]), flush=True)
    path = RESULTS / f"sparse-{_slug(found['machine'])}-{found['cores']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    write_page()


if __name__ == "__main__":
    main()
