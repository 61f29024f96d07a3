"""The benchmark scenes for a GPU: what benchmarks/gpu_check.py times.

f: 1024 x 1024 pixels with 1000 and 20 000 mosaic domains, constant F and N = 5, and with a table and N = 40.
g: 9 million pixels, 100 wavelengths, 25 domains, with a table.
R: 4148 x 4362 pixels, 10 phi steps, 30 domains, 2 x 2 sub-pixels, N = 60, with a table.
e: 500 boxes of 10 x 10 pixels, 2 wavelengths, 50 domains, with a table.
Scenes are built by the package's models; a pixel-step is one pixel, sub-pixel, source and lattice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from benchmarks.scenes import shoeboxes
from torch import Tensor

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
from nanobrag_torch.kernels.problem import Options, Scene, pixel_count, step_count
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector

HALF_TABLE = 32  # |h|, |k| and |l| up to this: 274 625 structure factors
LATTICE: dict[str, Any] = {"cell_a": 80.0, "cell_b": 90.0, "cell_c": 100.0, "misset_deg": (10.0, 20.0, 30.0)}
"""A cell of 80 x 90 x 100 Angstrom."""
PLATE: dict[str, Any] = {"distance_mm": 150.0, "pixel_size_mm": 0.1, "oversample": 1}


@dataclass(frozen=True)
class Case:
    """A scene on a device, ready for the operation."""

    name: str
    scene: Scene
    options: Options
    pixels: Tensor | None = None

    @property
    def steps(self) -> int:
        """Pixel-steps of an image."""
        return pixel_count(self.pixels, self.scene, self.options) * step_count(self.scene, self.options)


def crystal(device: torch.device, *, domains: int, cells: int, table: bool, **more: Any) -> Crystal:
    """A mosaic crystal; domains over 0.3 degrees unless `more` says otherwise."""
    mosaic: dict[str, Any] = {"mosaic_spread_deg": 0.3, "mosaic_domains": domains, "default_F": 100.0}
    config = {**LATTICE, **mosaic, "N_cells": (cells,) * 3, "interpolate": False, **more}
    made = Crystal(CrystalConfig(**config), device=device)
    if table:
        size = 2 * HALF_TABLE + 1
        values = 1000 * torch.rand(size, size, size, generator=torch.Generator().manual_seed(1))
        made.hkl_data = values.to(device)
        made.hkl_metadata = {
            f"{axis}_{end}": sign * HALF_TABLE for axis in "hkl" for end, sign in (("min", -1), ("max", 1))
        }
    return made


def still(name: str, side: int, domains: int, cells: int, table: bool, wavelengths: int, device: torch.device) -> Case:
    """`side` x `side` pixels of 0.1 mm, 150 mm away, at 1 Angstrom."""
    detector = Detector(DetectorConfig(**PLATE, spixels=side, fpixels=side), device=device)
    spread = 1.0 if wavelengths > 1 else 0.0
    beam = BeamConfig(wavelength_A=1.0, dispersion_pct=spread, dispersion_steps=wavelengths)
    sample = crystal(device, domains=domains, cells=cells, table=table)
    simulator = Simulator(sample, detector, beam_config=beam, device=device, dtype=torch.float32)
    return Case(name, simulator.scene(), simulator.options())


def rotation(slow: int, fast: int, device: torch.device) -> Case:
    """0.1 degree in 10 phi steps of a well ordered tetragonal crystal, on a large detector."""
    cell: dict[str, Any] = {"cell_a": 79.1, "cell_b": 79.1, "cell_c": 38.0, "mosaic_spread_deg": 0.05}
    turned: dict[str, Any] = {"osc_range_deg": 0.1, "phi_steps": 10, "default_F": 0.0}
    sample = crystal(device, domains=30, cells=60, table=True, **cell, **turned)
    plate: dict[str, Any] = {"distance_mm": 200.0, "pixel_size_mm": 0.075, "oversample": 2}
    detector = Detector(DetectorConfig(**plate, spixels=slow, fpixels=fast), device=device)
    beam = BeamConfig(wavelength_A=0.9795)
    simulator = Simulator(sample, detector, beam_config=beam, device=device, dtype=torch.float32)
    return Case("R", simulator.scene(), simulator.options())


def boxed(device: torch.device) -> Case:
    """Listed pixels: what refinement asks for."""
    whole = still("e", 512, 50, 20, True, 2, device)
    return replace(whole, pixels=shoeboxes(512).to(device))


def cases(device: torch.device, *, tiny: bool = False) -> dict[str, Callable[[], Case]]:
    """The scenes by name; each is built when it is called. tiny: a few pixels and domains, for the same code."""
    side, large, few, many = (32, 32, 3, 4) if tiny else (1024, 3000, 1000, 20_000)
    plate = (40, 36) if tiny else (4148, 4362)
    return {
        "f-1000-constant": lambda: still("f-1000-constant", side, few, 5, False, 1, device),
        "f-1000-table": lambda: still("f-1000-table", side, few, 40, True, 1, device),
        "f-20000-constant": lambda: still("f-20000-constant", side, many, 5, False, 1, device),
        "f-20000-table": lambda: still("f-20000-table", side, many, 40, True, 1, device),
        "g": lambda: still("g", large, 25 if not tiny else 2, 40, True, 100 if not tiny else 2, device),
        "R": lambda: rotation(*plate, device),
        "e": lambda: boxed(device),
        "overhead": lambda: still("overhead", 64, 1, 5, False, 1, device),
    }
