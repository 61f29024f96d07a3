"""Vectors [..., 3] and rotations of them."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobrag_torch.physics.rotations import axis_rotation, unit, xyz_rotation


def dot_product(x: Tensor, y: Tensor) -> Tensor:
    """x . y [...]."""
    return (x * y).sum(-1)


def cross_product(x: Tensor, y: Tensor) -> Tensor:
    """x x y [..., 3]."""
    crossed: Tensor = torch.linalg.cross(x, y, dim=-1)
    return crossed


def magnitude(vector: Tensor) -> Tensor:
    """Length [...]."""
    length: Tensor = torch.linalg.vector_norm(vector, dim=-1)
    return length


def unitize(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vector [..., 3] and length [...]; the zero vector stays zero."""
    return unit(vector), magnitude(vector)


def rotate_axis(v: Tensor, axis: Tensor, phi: Tensor) -> Tensor:
    """v [..., 3] turned by phi [...] (radians) about an axis [..., 3] of any length."""
    return rotate_umat(v, axis_rotation(unit(axis), torch.as_tensor(phi, dtype=v.dtype, device=v.device)))


def rotate_umat(v: Tensor, umat: Tensor) -> Tensor:
    """Matrices [..., 3, 3] times v [..., 3]."""
    return (umat @ v[..., None]).squeeze(-1)


def angles_to_rotation_matrix(angle_x: Tensor, angle_y: Tensor, angle_z: Tensor) -> Tensor:
    """Rotation [3, 3] about x, then y, then z (radians): Rz Ry Rx."""
    return xyz_rotation(torch.stack([torch.as_tensor(angle) for angle in (angle_x, angle_y, angle_z)]))
