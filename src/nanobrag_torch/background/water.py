"""Scattering by water around the crystal, rendered through the same operation as the crystal (section 8, D7)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.models.beam import Beam
from nanobrag_torch.physics.lattice_factor import Profile
from nanobrag_torch.units import AVOGADRO, R_E_SQUARED, WATER_F, WATER_WEIGHT

GRAMS_PER_CUBIC_METRE = 1e6


def water_amplitude(size: Tensor) -> Tensor:
    """Square root of the incoherent sum of F^2 over the molecules in a cube of water with edge `size` (m)."""
    per_volume: float = WATER_F**2 * GRAMS_PER_CUBIC_METRE * AVOGADRO / WATER_WEIGHT
    return math.sqrt(per_volume) * size * torch.sqrt(size)


def water_scene(scene: Scene, options: Options, beam: Beam) -> tuple[Scene, Options]:
    """A scene whose every step scatters like the water: one cell, one lattice, no table, no resolution limit."""
    one = torch.ones_like(scene.lattice_weights[:1])
    fluence = R_E_SQUARED * beam.fluence().to(one.device)
    flat = replace(
        scene,
        source_weights=fluence * _shares(scene.source_weights),
        lattice=scene.lattice[:1],
        lattice_weights=one,
        shape=torch.eye(3, dtype=one.dtype, device=one.device),
        structure_factors=scene.structure_factors.new_zeros((0, 0, 0)),
        default_F=water_amplitude(beam.water_size()).to(one.device),
    )
    return flat, replace(options, profile=Profile.GRATING, dmin=0.0, interpolate=False)


def water_once(beam: Beam, steps: int) -> Tensor:
    """What the C program adds once a pixel, r_e^2 fluence twice in it, already divided by the steps []."""
    return (R_E_SQUARED * beam.fluence() * water_amplitude(beam.water_size())) ** 2 / steps


def _shares(weights: Tensor) -> Tensor:
    return weights / weights.sum()
