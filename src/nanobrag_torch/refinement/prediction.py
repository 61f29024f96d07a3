"""Where a lattice puts its spots: the nearest point of the Ewald sphere, and how far a reflection is from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nanobrag_torch.physics.rotations import axis_rotation
from nanobrag_torch.physics.unit_cell import dual
from nanobrag_torch.units import ANGSTROM


class Prediction(NamedTuple):
    """Of reflections [n] on panels [n]."""

    centre: Tensor  # [n, 2] fast, slow pixels from the outer edge of the panel
    excitation: Tensor  # [n] radians that the reflection must still turn to reach the sphere; signed
    angle: Tensor  # [n] radians of the exposure, about its middle, where it is nearest
    s1: Tensor  # [n, 3] 1/Angstrom
    forward: Tensor  # [n] whether the ray meets the panel's plane in front of the sample


def predict(
    hkl: Tensor,
    rows: Tensor,
    incident: Tensor,
    wavelength: Tensor,
    panels: Tensor,
    pixel_size: Tensor,
    *,
    spindle: Tensor,
    rotation: float = 0.0,
) -> Prediction:
    """Spots of reflections [n, 3] of a lattice with rows a, b, c [3, 3] (Angstrom) at the middle of the exposure.

    incident [3] unit, wavelength [] (m); panels [n, 4, 3] and pixel_size [n, 2] (m) of the panel of each. rotation
    (radians): of the whole exposure about spindle [3]; a reflection that crosses the sphere meanwhile is there, another
    at the end that is nearer. Differentiable by all but hkl.
    """
    stars, _ = dual(rows)
    k = ANGSTROM / wavelength  # 1/Angstrom
    q = hkl.to(rows.dtype) @ stars
    angle = torch.zeros(len(q), dtype=rows.dtype)
    if rotation:
        lacking = 2 * k * (q @ incident) + (q * q).sum(-1)
        speed = 2 * k * (torch.linalg.cross(spindle.expand_as(q), q) @ incident)
        safe = torch.where(speed.abs() > 1e-9, speed, torch.full_like(speed, 1e-9))
        angle = (-lacking / safe).clamp(-abs(rotation) / 2, abs(rotation) / 2)
        q = (axis_rotation(spindle.expand_as(q), angle) @ q[..., None])[..., 0]
    reached, excitation = _onto_sphere(q, incident, k)
    s1 = reached + k * incident
    origin, fast, slow, normal = panels.unbind(1)
    along = (s1 * normal).sum(-1)
    distance = (origin * normal).sum(-1) / torch.where(along.abs() > 1e-12, along, torch.full_like(along, 1e-12))
    spot = distance[:, None] * s1 - origin
    centre = torch.stack(((spot * fast).sum(-1), (spot * slow).sum(-1)), -1) / pixel_size
    return Prediction(centre, excitation, angle, s1, distance > 0)


def _onto_sphere(q: Tensor, incident: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """q [n, 3] turned onto the Ewald sphere in the plane of q and the beam, and the angle [n] of that turn."""
    squared = (q * q).sum(-1)
    length = torch.sqrt(squared.clamp(min=1e-24))
    along = q @ incident
    across = q - along[:, None] * incident
    width = torch.linalg.vector_norm(across, dim=-1).clamp(min=1e-12)
    wanted = -squared / (2 * k)
    left = torch.sqrt((squared - wanted * wanted).clamp(min=1e-24))
    reached = wanted[:, None] * incident + left[:, None] * across / width[:, None]
    excitation = torch.atan2(along, width) - torch.atan2(wanted, left)
    return torch.where(length[:, None] > 1e-12, reached, q), excitation


def resolution(hkl: Tensor, rows: Tensor) -> Tensor:
    """d [n] (Angstrom) of reflections [n, 3]."""
    length: Tensor = torch.linalg.vector_norm(hkl.to(rows.dtype) @ dual(rows)[0], dim=-1)
    return 1 / length.clamp(min=1e-12)
