"""Factors of an intensity as functions of plain tensors."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from nanobrag_torch.physics import polarization
from nanobrag_torch.physics.lattice_factor import axis_factors, sphere
from nanobrag_torch.physics.rotations import unit
from nanobrag_torch.physics.structure_factors import nearest_integers


def sincg(u: Tensor, N: Tensor | float) -> Tensor:
    """sin(N u) / sin(u) [...], radians; N, up to a sign, where sin(u) is zero."""
    cells = torch.as_tensor(N, dtype=u.dtype, device=u.device)
    nearest = nearest_integers(u / pi)
    sign = torch.where(torch.remainder((cells - 1) * nearest, 2) == 1, -1.0, 1.0)
    return axis_factors(u / pi - nearest, cells) * sign.to(u)


def sinc3(x: Tensor) -> Tensor:
    """3 (sin x - x cos x) / x^3 [...], the transform of a ball; one at zero."""
    return sphere(x * x)


def polarization_factor(kahn_factor: Tensor | float, incident: Tensor, diffracted: Tensor, axis: Tensor) -> Tensor:
    """P [...] of directions [..., 3] of any length; axis [3] or [..., 3] of the polarization."""
    shape = torch.broadcast_shapes(incident.shape, axis.shape, diffracted.shape)  # type: ignore[no-untyped-call]
    incident, axis, diffracted = (unit(x).expand(shape) for x in (incident, axis, diffracted))
    kahn = torch.as_tensor(kahn_factor, dtype=diffracted.dtype, device=diffracted.device)

    def of_one(s: Tensor, e: Tensor, d: Tensor) -> Tensor:
        return polarization.polarization_factor(d, polarization.polarization_matrix(s[None], e, kahn))[0]

    flat = (x.reshape(-1, 3) for x in (incident, axis, diffracted))
    factors: Tensor = torch.func.vmap(of_one)(*flat)
    return factors.reshape(diffracted.shape[:-1])
