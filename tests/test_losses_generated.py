"""loss_and_gradient over a generated matrix of options: the loss and every gradient of one backward pass."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator, loss_and_gradient
from nanobrag_torch.background.materials import MaterialConfig
from nanobrag_torch.compat import Compat
from nanobrag_torch.config import CrystalShape, MosaicSampling, PanelConfig
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.refinement import losses
from nanobrag_torch.testing import random_table

D = torch.float64
SIDE = 13
SWITCHES = (
    "last_layer_capture", "front_solid_angle", "water_once", "skewed_cell", "product_widths", "layers_overshoot",
    "curved_by_lab_axes", "curved_sensor_is_flat", "distance_before_twotheta", "negative_photons",
)  # fmt: skip
"""Rows of compat that change what is summed, or what its parts are."""
RATHER = ("distance_mm", "close_distance_mm", "detector_rotx_deg", "detector_twotheta_deg", "beam_center_s")
"""Parameters that given panels take the place of."""
PANEL = {"fast_axis": (0.0, 0.0, 1.0), "fpixels": SIDE, "spixels": SIDE, "pixel_size_mm": 0.5}


class Generated:
    """A simulator drawn at random, and the parameters that its gradients are by."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.r, self.seed, self.parameters = random.Random(seed), seed, {}
        crystal, detector, beam = self.crystal(), self.detector(), self.beam()
        made = Crystal(CrystalConfig(**crystal))
        if self.r.random() < 0.6:
            made.hkl_data = random_table(17)
            made.hkl_metadata = {f"{axis}_{end}": sign * 8 for axis in "hkl" for end, sign in (("min", -1), ("max", 1))}
        self.simulator = Simulator(
            made,
            Detector(DetectorConfig(**detector)),
            beam_config=BeamConfig(**beam),
            dtype=dtype,
            compat=Compat(**{name: self.r.random() < 0.2 for name in SWITCHES}),
            background=(MaterialConfig(thickness_mm=1.0),)
            if self.often(0.15) and not detector["curved_detector"]
            else (),
            tolerance=self.r.choice((0.0, 0.0, 0.0, 1e-6)),
        )

    def often(self, share: float) -> bool:
        return self.r.random() < share

    def number(self, name: str, value: float | tuple[float, ...], share: float = 0.5) -> Any:
        """A value of a configuration, or a parameter that starts there."""
        if not self.often(share):
            return value
        self.parameters[name] = torch.tensor(value, dtype=D, requires_grad=True)
        return self.parameters[name]

    def crystal(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "cell_a": self.number("cell_a", 60.0, 0.8),
            "cell_b": 71.0,
            "cell_gamma": self.number("cell_gamma", 97.0),
            "misset_deg": self.number("misset_deg", (3.0, 5.0, 7.0), 0.8),
            "N_cells": self.r.choice(((6, 7, 8), (1, 2, 4), (4.3, 5.6, 7.0), (60, 40, 50))),
            "default_F": self.number("default_F", 40.0, 0.2),
            "F_scale": self.number("F_scale", 1.1, 0.2),
            "interpolate": self.often(0.15),
            "shape": CrystalShape.SQUARE if self.often(0.7) else self.r.choice(list(CrystalShape)),
        }
        if self.often(0.4):
            found |= {"phi_steps": self.r.choice((2, 3)), "osc_range_deg": self.number("osc_range_deg", 0.4, 0.15)}
        if self.often(0.4):
            spread: Any = (0.3, 0.1, 0.2) if self.often(0.15) else self.number("mosaic_spread_deg", 0.3, 0.15)
            found |= {
                "mosaic_spread_deg": spread,
                "mosaic_domains": 3,
                "mosaic_sampling": self.r.choice(list(MosaicSampling)),
            }
        return found

    def detector(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "oversample": self.r.choice((1, 1, 2)),
            "curved_detector": self.often(0.1),
            **{
                name: self.often(0.25)
                for name in ("point_pixel", "oversample_omega", "oversample_polar", "oversample_thick")
            },
        }
        if self.often(0.2):
            panels = [
                PanelConfig(**PANEL, origin_mm=(80.0, s, -3.25), slow_axis=(0.1, 1.0, 0.0), detector_thick_um=thick)
                for s, thick in ((-7.0, 150.0), (1.0, 300.0))
            ]
            return found | {"panels": panels, "curved_detector": False}
        if self.often(0.4):
            depth = self.number("detector_abs_um", 200.0, 0.3)
            found |= {
                "detector_thick_um": 300.0,
                "detector_abs_um": depth,
                "detector_thicksteps": self.r.choice((2, 3)),
            }
        if self.often(0.3):
            mask = torch.rand((SIDE, SIDE), generator=torch.Generator().manual_seed(self.seed)) < 0.8
            found |= {"mask_array": mask.numpy(), "roi_xmin": 2}
        placed = {
            "distance_mm": self.number("distance_mm", 80.0, 0.7),
            "detector_rotx_deg": self.number("detector_rotx_deg", 4.0),
            "detector_twotheta_deg": self.number("detector_twotheta_deg", 9.0, 0.3),
        }
        return found | placed | {"pixel_size_mm": 0.5, "spixels": SIDE, "fpixels": SIDE}

    def beam(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "wavelength_A": self.number("wavelength_A", 1.1, 0.7),
            "polarization_factor": self.number("polarization_factor", 0.7, 0.3),
            "nopolar": self.often(0.15),
            "fluence": self.number("fluence", 1e28, 0.2),
            "dmin": 1.6 if self.often(0.15) else 0.0,
            "water_size_um": self.number("water_size_um", 4.0, 0.5) if self.often(0.2) else 0.0,
        }
        if self.often(0.3):
            found |= {"dispersion_pct": self.number("dispersion_pct", 3.0, 0.3), "dispersion_steps": 3}
        if self.often(0.2):
            found |= {"hdiv_range_mrad": 2.0, "hdiv_steps": 2, "round_div": False}
        if self.often(0.15):
            weights = torch.tensor([1.0, 0.0, 0.4], dtype=D, requires_grad=True)
            self.parameters["source_weights"] = weights
            directions = [[-1.0, 0.0, 0.0], [-1.0, 0.01, 0.0], [-1.0, 0.0, 0.02]]
            found |= {"source_directions": directions, "source_weights": weights}
        return found


def data(count: int, seed: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=D) * 50


def squares(photons: Tensor, at: Tensor) -> Tensor:
    return (data(1000, 1)[at] * (photons - data(1000, 0)[at]) ** 2).sum()


def poisson(photons: Tensor, at: Tensor) -> Tensor:
    return torch.nn.functional.poisson_nll_loss(photons + 1, data(1000, 0)[at], log_input=False, reduction="sum")


def deviations(made: Generated, nothing: float) -> list[float]:
    """Of the loss and of every gradient, over the largest element.

    nothing: share of the loss over the parameter below which a gradient is what is left of larger parts.
    """
    loss, pixels = made.r.choice((squares, poisson)), made.simulator.wanted_pixels()
    whole = loss(made.simulator.pixel_values(pixels), pixels)
    through = torch.autograd.grad(whole, list(made.parameters.values()), allow_unused=True)
    wanted = {name: g for name, g in zip(made.parameters, through, strict=True) if g is not None}
    found = loss_and_gradient(made.simulator, loss, [made.parameters[name] for name in wanted])
    lost = float(whole.detach())
    away = [abs(float(found.loss) / lost - 1)]
    for (name, true), ours in zip(wanted.items(), found.gradients, strict=True):
        least = nothing * abs(lost) / float(made.parameters[name].detach().abs().max())
        away.append(float((ours - true).abs().max()) / max(float(true.abs().max()), least))
    return away


@pytest.mark.parametrize("dtype", [D, torch.float32], ids=str)
@pytest.mark.parametrize("block", range(4))
def test_over_a_generated_matrix(block, dtype, kept_or_not, monkeypatch):
    """A hundred simulators in either type; what is kept serves a quarter of them, the others have two passes."""
    monkeypatch.setattr(losses, "PIXELS_AT_ONCE", 70)
    kept = passed = 0
    for seed in range(25 * block, 25 * block + 25):
        made, before = Generated(seed, dtype), len(kept_or_not)
        if not made.parameters:
            continue
        away = deviations(made, 1e-5 if dtype is D else 1e-2)
        assert max(away) < (1e-9 if dtype is D else 1e-3), (
            seed,
            away,
            made.simulator,
        )
        was_kept = any(kept_or_not[before:])
        kept, passed = kept + was_kept, passed + (not was_kept)
    assert kept >= 3 and passed >= 10
