"""The benchmark scenes for a GPU, and their timing: `python benchmarks/cuda_scenes.py [name ...]`.

f: 1024 x 1024 pixels with 1000 and 20 000 mosaic domains, constant F and N = 5, and with a table and N = 40.
g: 9 million pixels, 100 wavelengths, 25 domains, with a table.
Scenes are built by the package's models; a pixel-step is one pixel, source and lattice.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector

REPEATS = 5
HALF_TABLE = 32  # |h|, |k| and |l| up to this: 274 625 structure factors
REFINED = ("panels", "wavelengths", "source_weights", "lattice", "lattice_weights", "shape")


@dataclass(frozen=True)
class Case:
    """A scene on a device, ready for the operation."""

    name: str
    scene: Scene
    options: Options

    @property
    def steps(self) -> int:
        """Pixel-steps of an image."""
        slow, fast = self.options.image_shape
        pixels = self.scene.panels.shape[0] * slow * fast * self.options.oversample**2 * self.options.layers
        return pixels * self.scene.incident.shape[0] * self.scene.lattice.shape[0]


def case(
    name: str, *, pixels: int, domains: int, cells: int, table: bool, wavelengths: int, device: torch.device
) -> Case:
    """A cell of 80 x 90 x 100 Angstrom, 0.1 mm pixels 150 mm away, domains over 0.3 degrees."""
    crystal = Crystal(
        CrystalConfig(
            cell_a=80.0,
            cell_b=90.0,
            cell_c=100.0,
            misset_deg=(10.0, 20.0, 30.0),
            N_cells=(cells,) * 3,
            mosaic_spread_deg=0.3,
            mosaic_domains=domains,
            default_F=100.0,
            interpolate=False,
        ),
        device=device,
    )
    if table:
        size = 2 * HALF_TABLE + 1
        values = 1000 * torch.rand(size, size, size, generator=torch.Generator().manual_seed(1))
        crystal.hkl_data = values.to(device)
        crystal.hkl_metadata = {
            f"{axis}_{end}": sign * HALF_TABLE for axis in "hkl" for end, sign in (("min", -1), ("max", 1))
        }
    detector = Detector(
        DetectorConfig(distance_mm=150.0, pixel_size_mm=0.1, spixels=pixels, fpixels=pixels, oversample=1),
        device=device,
    )
    beam = BeamConfig(wavelength_A=1.0, dispersion_pct=1.0 if wavelengths > 1 else 0.0, dispersion_steps=wavelengths)
    simulator = Simulator(crystal, detector, beam_config=beam, device=device)
    return Case(name, simulator.scene(), simulator.options())


def cases(device: torch.device) -> dict[str, Callable[[], Case]]:
    """The scenes by name; each is built when it is called."""

    def made(name: str, pixels: int, domains: int, cells: int, table: bool, wavelengths: int = 1) -> Callable[[], Case]:
        return lambda: case(
            name, pixels=pixels, domains=domains, cells=cells, table=table, wavelengths=wavelengths, device=device
        )

    found: dict[str, Any] = {
        "f-1000-constant": (1024, 1000, 5, False),
        "f-20000-constant": (1024, 20_000, 5, False),
        "f-1000-table": (1024, 1000, 40, True),
        "f-20000-table": (1024, 20_000, 40, True),
        "g": (3000, 25, 40, True, 100),
        "overhead": (64, 1, 5, False),
    }
    return {name: made(name, *arguments) for name, arguments in found.items()}


def seconds(work: Callable[[], object]) -> list[float]:
    """Times of REPEATS runs on a GPU, after one that compiles, in order."""
    work()
    times = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return sorted(times)


def measured(chosen: Case) -> dict[str, object]:
    """Median times of the value, and of value and gradients, with pixel-steps a second and the peak of memory."""
    leaves = Scene(
        **{
            name: tensor.detach().requires_grad_(name in REFINED)
            for name, tensor in zip(chosen.scene.__dataclass_fields__, chosen.scene.tensors(), strict=True)
        }
    )

    def gradients() -> None:
        image = operation.intensity(None, leaves, chosen.options, kernel="fused")
        torch.autograd.grad(image.sum(), [getattr(leaves, name) for name in REFINED])

    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        value = seconds(lambda: operation.intensity(None, chosen.scene, chosen.options, kernel="fused"))
    both = seconds(gradients)
    middle = REPEATS // 2
    return {
        "scene": chosen.name,
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "value_s": value[middle],
        "value_and_gradients_s": both[middle],
        "value_steps_per_s": chosen.steps / value[middle],
        "value_and_gradients_steps_per_s": chosen.steps / both[middle],
        "peak_memory_MB": torch.cuda.max_memory_allocated() / 2**20,
    }


def main(names: list[str]) -> int:
    """Time the named scenes, or all, one line of JSON each."""
    if not torch.cuda.is_available():
        print("these scenes are for a CUDA GPU, and torch finds none", file=sys.stderr)
        return 2
    known = cases(torch.device("cuda"))
    for name in names or list(known):
        print(json.dumps(measured(known[name]())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
