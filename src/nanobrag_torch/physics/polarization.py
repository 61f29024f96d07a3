"""Polarization as a quadratic form: P = (1 + d^T M d) / 2 (section 8.2), without an angle and with derivative M d."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobrag_torch.physics.rotations import unit


def polarization_matrix(
    incident: Tensor, axis: Tensor, kahn_factor: Tensor, *, polarized_along_beam: bool = False
) -> Tensor:
    """M [S, 3, 3] for incident directions [S, 3], polarization axis [3] and Kahn factor [].

    M = s s^T - K (E E^T - B B^T) with B = unit(axis x s) and E = unit(s x B). A source along the axis has no plane of
    polarization: it counts as unpolarized, or, polarized_along_beam, as in the C program, with 1 - s s^T (D54).
    """
    b = unit(_across(incident, axis))
    e = unit(torch.linalg.cross(incident, b, dim=-1))
    along, of_e, of_b = (v[..., :, None] * v[..., None, :] for v in (incident, e, b))
    plane = of_e - of_b
    if polarized_along_beam:
        identity = torch.eye(3, dtype=incident.dtype, device=incident.device)
        plane = torch.where((b == 0).all(-1)[..., None, None], identity - along, plane)
    return along - kahn_factor * plane


def along_axis(incident: Tensor, axis: Tensor) -> Tensor:
    """Which of the incident directions [S, 3] have no plane of polarization, as they are along the axis [3]: [S]."""
    return (_across(incident, axis) == 0).all(-1)


def _across(incident: Tensor, axis: Tensor) -> Tensor:
    crossed: Tensor = torch.linalg.cross(axis.expand_as(incident), incident, dim=-1)
    return crossed


def unpolarized_matrix(incident: Tensor) -> Tensor:
    """M [S, 3, 3] that makes P one for every direction."""
    return torch.eye(3, dtype=incident.dtype, device=incident.device).expand(incident.shape[0], 3, 3)


def polarization_factor(direction: Tensor, matrix: Tensor) -> Tensor:
    """P [..., S] of unit directions [..., 3] under the matrices M [S, 3, 3]."""
    return (1 + torch.einsum("...i,sij,...j->...s", direction, matrix, direction)) / 2
