"""For tests of this package and of programs built on it: named tolerances, a comparator, small scenes.

The comparator is tight in the smooth interior of an image and lets a declared share of pixels flip where the model
itself jumps: at the boundary between two nearest reflections, the edge of a top-hat spot, a resolution limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig, DetectorConvention
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator


@dataclass(frozen=True)
class Tolerance:
    """How far apart two images may be: largest difference over largest value, and the share of pixels that may flip."""

    of_maximum: float
    flips: float = 0.0


PARITY = Tolerance(1e-6)
"""Against the C program, in float64."""
PARITY_ROUND = Tolerance(1e-4)
"""The same for round crystals, whose reference values lose digits close to peaks."""
SINGLE = Tolerance(1e-5)
"""float32 against float64."""
FUSED = Tolerance(1e-12, flips=1e-4)
"""A fused kernel against the reference kernel, in float64."""
FUSED_SINGLE = Tolerance(1e-5, flips=1e-3)
"""A fused kernel in float32 against the reference kernel in float64."""


def largest_difference(actual: Tensor, expected: Tensor, flips: float = 0.0) -> float:
    """Largest |actual - expected| over the largest |expected|, after the worst `flips` share of pixels is left out.

    >>> largest_difference(torch.tensor([1.0, 2.0, 4.5]), torch.tensor([1.0, 2.0, 4.0]))
    0.125
    """
    difference = (actual.double() - expected.double()).abs().flatten()
    left = difference.sort().values[: difference.numel() - int(flips * difference.numel())]
    top = expected.double().abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return float(left.max() / top) if left.numel() else 0.0


def assert_close(actual: Tensor, expected: Tensor, tolerance: Tolerance, what: str = "image") -> None:
    """Raise AssertionError with the figures when two images of the same shape are further apart than allowed."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    assert bool(torch.isfinite(actual).all()), f"{what}: not finite"
    found = largest_difference(actual, expected, tolerance.flips)
    assert found <= tolerance.of_maximum, (
        f"{what}: off by {found:.2e} of the maximum, allowed {tolerance.of_maximum:.0e}"
    )


@dataclass(frozen=True)
class Example:
    """A small scene: three configurations and a table of amplitudes; `with_fields` changes any field by its name."""

    crystal: CrystalConfig
    detector: DetectorConfig
    beam: BeamConfig = field(default_factory=BeamConfig)
    table: Tensor | None = None  # [H, K, L], centred on 0 0 0

    def with_fields(self, **fields: Any) -> Example:
        """The same scene with some fields of its configurations replaced; every name must belong to one of them."""
        parts = {name: getattr(self, name) for name in ("crystal", "detector", "beam")}
        for name, part in parts.items():
            mine = {key: fields.pop(key) for key in list(fields) if hasattr(part, key)}
            parts[name] = replace(part, **mine)
        assert not fields, f"no configuration has {', '.join(fields)}"
        return replace(self, **parts)

    def simulator(self, *, dtype: torch.dtype = torch.float64, **options: Any) -> Simulator:
        """A simulator of the scene; `options` are those of Simulator."""
        crystal = Crystal(self.crystal, dtype=dtype)
        if self.table is not None:
            crystal.hkl_data = self.table
            half = [size // 2 for size in self.table.shape]
            crystal.hkl_metadata = {f"{axis}_min": -n for axis, n in zip("hkl", half, strict=True)}
        return Simulator(crystal, Detector(self.detector), beam_config=self.beam, dtype=dtype, **options)


def random_table(size: int = 21, seed: int = 0) -> Tensor:
    """A table of positive amplitudes [size, size, size], float64."""
    generator = torch.Generator().manual_seed(seed)
    return 20 + 80 * torch.rand((size, size, size), generator=generator, dtype=torch.float64)


def _values(names: str, *values: Any) -> dict[str, Any]:
    """Fields of a configuration, their names as the words of one text."""
    return dict(zip(names.split(), values, strict=True))


_CELL = "cell_a cell_b cell_c cell_alpha cell_beta cell_gamma"
_TURNS = "detector_rotx_deg detector_roty_deg detector_rotz_deg detector_twotheta_deg"
_SENSOR = "detector_thick_um detector_abs_um detector_thicksteps"
_SPREADS = "hdiv_range_mrad vdiv_range_mrad dispersion_pct hdiv_steps vdiv_steps dispersion_steps"
_FACE = "pixel_size_mm spixels fpixels oversample"


def cubic_still() -> Example:
    """A cubic crystal, still, flat detector: the simplest thing."""
    return Example(
        CrystalConfig(cell_a=90.0, N_cells=(5, 5, 5), default_F=100.0, misset_deg=(11.0, 22.0, 33.0)),
        DetectorConfig(distance_mm=100.0, **_values(_FACE, 0.8, 24, 20, 1)),
    )


def triclinic_turned() -> Example:
    """A triclinic crystal with a table, a thick detector turned about every axis and by two-theta, a polarized beam."""
    return Example(
        CrystalConfig(
            **_values(_CELL, 62.0, 71.0, 83.0, 75.0, 97.0, 112.0),
            N_cells=(4, 5, 3),
            misset_deg=(5.0, -17.0, 29.0),
        ),
        DetectorConfig(
            distance_mm=90.0,
            detector_convention=DetectorConvention.ADXV,
            **_values(_FACE, 0.8, 20, 24, 2),
            **_values(_TURNS, 5.0, -7.0, 11.0, 8.0),
            **_values(_SENSOR, 450.0, 250.0, 3),
        ),
        BeamConfig(wavelength_A=1.1, polarization_factor=0.8),
        random_table(),
    )


def phi_sweep() -> Example:
    """An orthorhombic crystal turning through two degrees, mosaic, in a divergent beam of two wavelengths."""
    return Example(
        CrystalConfig(
            **_values(_CELL, 60.0, 75.0, 90.0, 90.0, 90.0, 90.0),
            N_cells=(5, 4, 3),
            misset_deg=(4.0, 5.0, 6.0),
            phi_start_deg=3.0,
            osc_range_deg=2.0,
            phi_steps=3,
            mosaic_spread_deg=0.8,
            mosaic_domains=4,
            spindle_axis=(0.1, 0.2, 1.0),
        ),
        DetectorConfig(
            close_distance_mm=85.0, detector_convention=DetectorConvention.XDS, **_values(_FACE, 0.8, 20, 20, 1)
        ),
        BeamConfig(wavelength_A=1.0, polarization_factor=0.5, **_values(_SPREADS, 4.0, 3.0, 1.0, 2, 2, 2)),
        random_table(seed=1),
    )


EXAMPLES = {"cubic still": cubic_still, "triclinic turned": triclinic_turned, "phi sweep": phi_sweep}
"""Makers of the scenes by name."""
