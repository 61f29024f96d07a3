"""Rotations as 3 x 3 matrices that act on column vectors, right-handed, differentiable (section 0)."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(vector: Tensor) -> Tensor:
    """Unit vector along the last axis; the zero vector stays zero."""
    length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return vector / torch.where(length > 0, length, torch.ones_like(length))


def cross_matrix(vector: Tensor) -> Tensor:
    """[..., 3] -> [..., 3, 3], the matrix that takes w to vector x w."""
    axes = torch.eye(3, dtype=vector.dtype, device=vector.device)
    repeated = vector[..., None, :].expand(*vector.shape, 3)
    crossed: Tensor = torch.linalg.cross(repeated, axes.expand_as(repeated))
    return crossed.transpose(-1, -2)


def axis_rotation(axis: Tensor, angle: Tensor) -> Tensor:
    """Rodrigues rotation by `angle` [...] radians about `axis` [..., 3], which is used as given, not normalised.

    n (n.v) (1 - cos t) + v cos t + (n x v) sin t: a proper rotation only for a unit axis.

    >>> turn = axis_rotation(torch.tensor([0.0, 0.0, 1.0]), torch.deg2rad(torch.tensor(90.0)))
    >>> [round(x, 6) + 0.0 for x in (turn @ torch.tensor([1.0, 0.0, 0.0])).tolist()]
    [0.0, 1.0, 0.0]
    """
    sine, cosine = torch.sin(angle)[..., None, None], torch.cos(angle)[..., None, None]
    outer = axis[..., :, None] * axis[..., None, :]
    identity = torch.eye(3, dtype=axis.dtype, device=axis.device).expand_as(outer)
    parts = torch.stack((outer, identity, cross_matrix(axis)), -3) * torch.stack((1 - cosine, cosine, sine), -3)
    along, across, turned = parts.unbind(-3)  # one product of all: in forward mode each takes long
    return along + across + turned


def xyz_rotation(angles: Tensor) -> Tensor:
    """Rotation about x by angles[0], then y by angles[1], then z by angles[2] (radians): Rz Ry Rx."""
    axes = torch.eye(3, dtype=angles.dtype, device=angles.device)
    about_x, about_y, about_z = axis_rotation(axes, angles).unbind(0)
    return about_z @ about_y @ about_x


def vector_rotation(vector: Tensor) -> Tensor:
    """Rotation vector [..., 3] (axis times radians) -> matrix [..., 3, 3]; smooth at zero, to second order."""
    squared = (vector * vector).sum(-1)
    tiny = squared < 1e-12
    angle = torch.sqrt(torch.where(tiny, torch.ones_like(squared), squared))
    first = torch.where(tiny, 1 - squared / 6, torch.sin(angle) / angle)[..., None, None]
    second = torch.where(tiny, 0.5 - squared / 24, (1 - torch.cos(angle)) / angle**2)[..., None, None]
    cross = cross_matrix(vector)
    return torch.eye(3, dtype=vector.dtype, device=vector.device) + first * cross + second * (cross @ cross)


def quaternion_rotation(quaternion: Tensor) -> Tensor:
    """Quaternion (w, x, y, z), normalised here -> rotation matrix [3, 3]."""
    normalised = unit(quaternion)
    w, cross = normalised[:1], cross_matrix(normalised[1:])
    identity = torch.eye(3, dtype=quaternion.dtype, device=quaternion.device)
    return identity + 2 * w * cross + 2 * cross @ cross
