"""Steps of a scan chosen for the user, and the table of sources of a divergent or dispersed beam."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanobrag_torch.config import BeamConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.beam import Beam
from nanobrag_torch.physics.rotations import unit
from nanobrag_torch.sampling import grid_steps
from nanobrag_torch.units import ANGSTROM, MRAD


@dataclass(frozen=True)
class SamplingParams:
    """A scan: how many steps, from the first to the last, and what lies between two."""

    count: int
    range: float
    step: float


def auto_select_sampling(
    count: int | None = None, range: float | None = None, step: float | None = None
) -> SamplingParams:
    """What is missing of a scan, as the C program chooses it; counted steps without a range share one unit."""
    chosen = grid_steps(count, range, step)
    return SamplingParams(chosen.count, chosen.range, chosen.step)


auto_select_divergence = auto_select_sampling
"""Radians."""
auto_select_dispersion = auto_select_sampling
"""Fractions of the wavelength."""
auto_select_thickness = auto_select_sampling
"""Metres."""


def generate_sources_from_divergence_dispersion(
    hdiv_params: SamplingParams,
    vdiv_params: SamplingParams,
    disp_params: SamplingParams,
    central_wavelength_m: float,
    source_distance_m: float = 10.0,
    beam_direction: Tensor | None = None,
    polarization_axis: Tensor | None = None,
    round_div: bool = True,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit directions [S, 3] from the sample, weights [S] of one and wavelengths [S] in metres.

    Divergence in radians, dispersion as a fraction, its steps from end to end. source_distance_m changes no direction.
    beam_direction [3]: (1, 0, 0); polarization_axis [3]: (0, 0, 1), unless given.
    """
    spread, count = disp_params.range, disp_params.count
    if count > 1 and abs(disp_params.step * (count - 1) - spread) > 1e-6 * abs(spread):
        raise InputError("disp_params", disp_params, "a step of range / (count - 1)")
    config = BeamConfig(
        wavelength_A=central_wavelength_m / ANGSTROM,
        dispersion_pct=100 * spread,
        dispersion_steps=count,
        hdiv_range_mrad=hdiv_params.range / MRAD,
        hdiv_steps=hdiv_params.count,
        hdiv_step_mrad=hdiv_params.step / MRAD,
        vdiv_range_mrad=vdiv_params.range / MRAD,
        vdiv_steps=vdiv_params.count,
        vdiv_step_mrad=vdiv_params.step / MRAD,
        round_div=round_div,
    )
    beam, polar = (
        torch.tensor(axis, dtype=torch.float64) if given is None else given.double()
        for given, axis in ((beam_direction, (1.0, 0.0, 0.0)), (polarization_axis, (0.0, 0.0, 1.0)))
    )
    table = Beam(config).sources(unit(beam), unit(polar))
    return unit(table.directions).to(dtype), torch.ones_like(table.weights, dtype=dtype), table.wavelengths.to(dtype)
