"""The scenes that are measured on a CPU, built by the package's models so that gradients reach real parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
from nanobrag_torch.config import CrystalShape
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector

TABLE = (49, 57, 63)
WAVELENGTH_A = 0.9768
BOXES, BOX = 500, 10


@dataclass(frozen=True)
class Case:
    """A scene ready for the operation, and the parameters that its gradients are taken by."""

    name: str
    title: str
    simulator: Simulator
    parameters: dict[str, Tensor]
    pixels: Tensor | None

    @property
    def scene(self) -> Scene:
        """Its tensors; they depend on the parameters."""
        return self.simulator.scene()

    @property
    def options(self) -> Options:
        """What the kernel is told."""
        return self.simulator.options()

    @property
    def count(self) -> int:
        """Pixels."""
        slow, fast = self.options.image_shape
        return slow * fast if self.pixels is None else self.pixels.numel()

    @property
    def steps(self) -> int:
        """Pixel-steps: pixels times sources times lattices."""
        return self.count * self.simulator.steps


def parameters() -> dict[str, Tensor]:
    """Cell, misset, detector and wavelength: what is refined."""
    values = {
        "cell_a": 25.1,
        "cell_b": 29.3,
        "cell_c": 33.2,
        "cell_alpha": 84.0,
        "cell_beta": 77.0,
        "cell_gamma": 81.0,
        "misset_deg": [11.0, 22.0, 33.0],
        "distance_mm": 120.0,
        "detector_rotx_deg": 0.3,
        "detector_roty_deg": -0.2,
        "detector_rotz_deg": 0.1,
        "detector_twotheta_deg": 0.4,
        "wavelength_A": WAVELENGTH_A,
    }
    return {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in values.items()}


def build(
    name: str,
    title: str,
    *,
    side: int,
    pixel_mm: float,
    domains: int,
    wavelengths: int = 1,
    table: bool = False,
    cells: int = 20,
    boxes: bool = False,
    shape: CrystalShape = CrystalShape.SQUARE,
) -> Case:
    """A triclinic still of `side` x `side` pixels; a table of 176 000 structure factors, or one amplitude for all."""
    refined = parameters()
    cell: dict[str, Any] = {key: value for key, value in refined.items() if key.startswith(("cell", "misset"))}
    mosaic: dict[str, Any] = {"mosaic_spread_deg": 0.2, "mosaic_domains": domains, "mosaic_seed": 1}
    crystal = Crystal(
        CrystalConfig(
            N_cells=(cells,) * 3,
            default_F=0.0 if table else 100.0,
            interpolate=False,
            shape=shape,
            **cell,
            **(mosaic if domains > 1 else {}),
        )
    )
    if table:
        generator = torch.Generator().manual_seed(0)
        crystal.hkl_data = 100 * torch.randn(TABLE, generator=generator).abs()
        low = [-(size // 2) for size in TABLE]
        names = [f"{axis}_{end}" for axis in "hkl" for end in ("min", "max")]
        limits = [bound for first, size in zip(low, TABLE, strict=True) for bound in (first, first + size - 1)]
        crystal.hkl_metadata = dict(zip(names, limits, strict=True))
    moved: dict[str, Any] = {key: value for key, value in refined.items() if key.startswith(("distance", "detector"))}
    detector = Detector(DetectorConfig(pixel_size_mm=pixel_mm, spixels=side, fpixels=side, oversample=1, **moved))
    spread = 0.2 if wavelengths > 1 else 0.0
    beam = BeamConfig(wavelength_A=refined["wavelength_A"], dispersion_pct=spread, dispersion_steps=wavelengths)
    simulator = Simulator(crystal, detector, beam_config=beam, kernel="fused", dtype=torch.float32)
    return Case(name, title, simulator, refined, shoeboxes(side) if boxes else None)


def shoeboxes(side: int) -> Tensor:
    """Flat indices of BOXES boxes of BOX x BOX pixels, placed at random, one box after the other."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(0, side - BOX, (BOXES, 2), generator=generator)
    inside = torch.arange(BOX)
    slow, fast = corner[:, :1, None] + inside[:, None], corner[:, 1:, None] + inside
    return (slow * side + fast).reshape(-1)


STILL: dict[str, Any] = {"side": 512, "pixel_mm": 0.172, "domains": 50, "wavelengths": 3, "table": True}
FRAME: dict[str, Any] = {"side": 1024, "pixel_mm": 0.086}
BOXED = STILL | {"wavelengths": 2, "boxes": True}
PINK = BOXED | {"wavelengths": 100, "domains": 25, "shape": CrystalShape.GAUSS_HKL}

CASES: dict[str, Callable[[], Case]] = {
    "a": lambda: build("a", "1024 x 1024, one step", **FRAME, domains=1),
    "c": lambda: build("c", "512 x 512, 3 wavelengths, 50 domains, table", **STILL),
    "c, N = 100": lambda: build("c, N = 100", "the same with 100 cells along each axis", **STILL, cells=100),
    "d 1": lambda: build("d 1", "1024 x 1024, 1 domain", **FRAME, domains=1),
    "d 10": lambda: build("d 10", "1024 x 1024, 10 domains", **FRAME, domains=10),
    "d 100": lambda: build("d 100", "1024 x 1024, 100 domains", **FRAME, domains=100),
    "d 1000": lambda: build("d 1000", "1024 x 1024, 1000 domains", **FRAME, domains=1000),
    "e": lambda: build("e", "500 shoeboxes of 10 x 10, 2 wavelengths, 50 domains, table", **BOXED),
    "e, 100 wavelengths": lambda: build("e", "500 shoeboxes, 100 wavelengths, 25 domains, table, gauss_hkl", **PINK),
}
