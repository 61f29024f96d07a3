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


def domain_angles(spread: Tensor, unit_angles: Tensor) -> Tensor:
    """Angles [M] in radians, float64, from a scalar spread in radians; differentiable by the spread.

    Without requires_grad they are the C program's, rounded to float32; with it they stay unrounded, 6e-8 apart,
    since a function of steps has no finite differences.
    """
    unit_angles = unit_angles.to(spread.device)
    if spread.requires_grad:
        return spread.to(torch.float64) * unit_angles
    return (spread.to(torch.float32) * unit_angles).to(torch.float64)


def domain_rotations(axes: Tensor, angles: Tensor) -> Tensor:
    """Rotation matrices [M, 3, 3], applied to column vectors, by angles [M] about unit axes [M, 3]."""
    return axis_rotation(axes.to(angles), angles)
