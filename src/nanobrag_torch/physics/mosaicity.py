"""Mosaic domains as rotations of the lattice: the C program's random ones (reference-behaviour section 9.4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nanobrag_torch.physics.random_streams import Streams, random_axes
from nanobrag_torch.physics.rotations import axis_rotation


class MosaicDomains(NamedTuple):
    """Random domains before their spread is known: domain m turns by spread * angles[m] about axes[m]."""

    axes: Tensor  # [M, 3], unit length, float64
    angles: Tensor  # [M], for a spread of one, float32 as the C program draws them; the first is 0
    next_state: int  # of the stream, for who draws on


def random_domains(streams: Streams, state: int, count: int) -> MosaicDomains:
    """Draw `count` domains. The first takes its three deviates like the others, and then is not turned."""
    axes, angles, next_state = random_axes(streams, state, count)
    angles[:1] = 0.0
    return MosaicDomains(torch.from_numpy(axes), torch.from_numpy(angles), next_state)


def domain_angles(spread: float | Tensor, unit_angles: Tensor) -> Tensor:
    """Angles [M] in radians, float64, from a spread in radians.

    A number gives the C program's angles, rounded to float32. A tensor gives them unrounded, 6e-8 apart and
    differentiable: rounded, they would climb in steps, which finite differences see and gradients do not.
    """
    if isinstance(spread, Tensor):
        return spread.to(torch.float64) * unit_angles.to(spread.device, torch.float64)
    rounded: Tensor = torch.tensor(spread, dtype=torch.float32) * unit_angles
    return rounded.to(torch.float64)


def domain_rotations(axes: Tensor, angles: Tensor) -> Tensor:
    """Rotation matrices [M, 3, 3], applied to column vectors, by angles [M] about unit axes [M, 3]."""
    return axis_rotation(axes.to(angles), angles)
