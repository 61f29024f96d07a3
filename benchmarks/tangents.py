"""What slopes along many directions cost: `python benchmarks/tangents.py`, results beside it under results/.

A 512 x 512 still, 3 wavelengths, 50 mosaic domains, a table, float32. 16 directions: six of the cell and two of the
misset; distance, three rotations, two-theta, beam centre and wavelength of the detector and the beam. The value alone,
the value with the gradients by the same parameters, and the 16 slopes take turns; medians are compared.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator, __version__
from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.refinement.normal_equations import scene_directions
from nanobrag_torch.testing import random_table

REPEATS = 15
PIXELS, DOMAINS, WAVELENGTHS = 512, 50, 3
HALF_TABLE = 28
LATTICE = {"cell_a": 60.0, "cell_b": 74.0, "cell_c": 91.0, "cell_alpha": 88.0, "cell_beta": 95.0, "cell_gamma": 101.0}
GEOMETRY = {
    "distance_mm": 150.0,
    "detector_rotx_deg": 1.0,
    "detector_roty_deg": -2.0,
    "detector_rotz_deg": 3.0,
    "detector_twotheta_deg": 4.0,
    "beam_center_s": 26.0,
    "beam_center_f": 25.0,
}
SINGLY = ("mosaic_spread_deg",)
"""Parameters that move every lattice its own way, which costs the most for each direction."""


def leaf(*values: float) -> Tensor:
    """A parameter to refine."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64, requires_grad=True)


def still(leaves: dict[str, Tensor]) -> Simulator:
    """The scene, its parameters replaced by leaves."""
    lattice: dict[str, Any] = {**LATTICE, "misset_deg": (10.0, 20.0, 30.0), "mosaic_spread_deg": 0.3}
    crystal = CrystalConfig(
        **{**lattice, **of(leaves, CrystalConfig)},
        N_cells=(20, 20, 20),
        mosaic_domains=DOMAINS,
        default_F=0.0,
        interpolate=False,
    )
    shape: dict[str, Any] = {"spixels": PIXELS, "fpixels": PIXELS, "pixel_size_mm": 0.1, "oversample": 1}
    detector = DetectorConfig(**{**shape, **GEOMETRY, **of(leaves, DetectorConfig)})
    spectrum: dict[str, Any] = {"wavelength_A": 1.0, "dispersion_pct": 0.5, "dispersion_steps": WAVELENGTHS}
    beam = BeamConfig(**{**spectrum, **of(leaves, BeamConfig)})
    model = Crystal(crystal, dtype=torch.float32)
    model.hkl_data = random_table(2 * HALF_TABLE + 1)
    model.hkl_metadata = {f"{axis}_min": -HALF_TABLE for axis in "hkl"}
    return Simulator(model, Detector(detector), beam_config=beam, dtype=torch.float32)


def of(leaves: dict[str, Tensor], config: type[CrystalConfig | DetectorConfig | BeamConfig]) -> dict[str, Any]:
    """Those leaves that are fields of a configuration."""
    return {name: value for name, value in leaves.items() if name in config.__dataclass_fields__}


def parameters() -> dict[str, Tensor]:
    """17 numbers; the last of the misset is left out of the directions."""
    leaves = {name: leaf(value) for name, value in {**LATTICE, **GEOMETRY}.items()}
    return {**leaves, "misset_deg": leaf(10.0, 20.0, 30.0), "wavelength_A": leaf(1.0)}


def scene_and_directions(leaves: dict[str, Tensor], drop: int | None) -> tuple[Scene, Options, dict[str, Tensor]]:
    """A scene and how its tensors move with the leaves; without direction number `drop`."""
    simulator = still(leaves)
    scene = simulator.scene()
    directions, _ = scene_directions(scene, list(leaves.values()))
    if drop is not None:
        directions = {name: torch.cat([d[:drop], d[drop + 1 :]]) for name, d in directions.items()}
    return scene, simulator.options(), directions


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median times of works that take turns, after one round that compiles."""
    for work in works.values():
        work()
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(REPEATS)]
    return {name: statistics.median(times[name] for times in rounds) for name in works}


def measure(threads: int) -> dict[str, float]:
    """Median seconds of the value, of it with gradients, of 16 and 1 slopes and of 16 that move domains singly."""
    leaves = parameters()
    scene, options, directions = scene_and_directions(leaves, drop=len(LATTICE) + len(GEOMETRY) + 2)
    spread = {"mosaic_spread_deg": leaf(0.3)}
    _, _, singly = scene_and_directions(spread, drop=None)
    singly = {name: d.expand(16, *d.shape[1:]) for name, d in singly.items()}
    fixed, options = Scene(*(t.detach() for t in scene.tensors())), replace(options, threads=threads)
    upstream = torch.ones(PIXELS * PIXELS)
    one = {name: d[:1] for name, d in directions.items()}
    return interleaved(
        {
            "value": lambda: operation.intensity(None, fixed, options, kernel="fused"),
            "value and gradients": lambda: operation.gradients(upstream, None, fixed, options, directions, value=True),
            "1 slope": lambda: operation.tangents(None, fixed, one, options, kernel="fused"),
            "16 slopes": lambda: operation.tangents(None, fixed, directions, options, kernel="fused"),
            "16 slopes, each domain its own way": lambda: operation.tangents(None, fixed, singly, options),
        }
    )


def machine() -> str:
    """Name of the processor."""
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.*)", described)
    return found.group(1) if found else platform.processor() or platform.machine()


def main() -> None:
    """Measure, print, write."""
    threads = len(os.sched_getaffinity(0))
    medians, processor = measure(threads), machine()
    report = {
        "machine": processor,
        "threads": threads,
        "versions": {"nanobrag_torch": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "scene": f"{PIXELS} x {PIXELS}, {WAVELENGTHS} wavelengths, {DOMAINS} domains, table, float32",
        "median_seconds": medians,
        "times_the_value": {name: median / medians["value"] for name, median in medians.items()},
    }
    for name, median in medians.items():
        print(f"{name:36s} {median * 1e3:9.1f} ms {median / medians['value']:6.2f} times the value")
    file_name = re.sub(r"[^a-z0-9]+", "-", f"tangents-{processor}".lower()).strip("-")
    path = Path(__file__).parent / "results" / f"{file_name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
