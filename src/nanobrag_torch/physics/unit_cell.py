"""Cells and lattice vectors (sections 6.1 and 6.3). Rows of a 3 x 3 matrix are a, b, c or a*, b*, c*."""

from __future__ import annotations

import torch
from torch import Tensor


def cell_volume(lengths: Tensor, angles: Tensor) -> Tensor:
    """Volume (Angstrom^3) of a cell of `lengths` [3] (Angstrom) and `angles` [3] (radians).

    >>> round(cell_volume(torch.tensor([10.0, 20.0, 30.0]), torch.deg2rad(torch.tensor([90.0, 90.0, 90.0]))).item())
    6000
    """
    half = angles.sum() / 2
    product = torch.sin(half) * torch.sin(half - angles).prod()
    volume: Tensor = 2 * lengths.prod() * torch.sqrt(torch.abs(product))
    return volume


def reciprocal_from_cell(lengths: Tensor, angles: Tensor, *, skewed: bool = False) -> Tensor:
    """Reciprocal vectors [3, 3] (1/Angstrom) of a cell, a* along x and b* in the xy plane.

    skewed: the last component of c* as the C program forms it, from the volume of the direct cell instead of the
    reciprocal one; wrong unless V / abc = sin(alpha) sin(beta) sin(gamma).
    """
    volume = cell_volume(lengths, angles)
    sines, cosines = torch.sin(angles), torch.cos(angles)
    star = lengths.prod() / lengths * sines / volume  # [3] lengths of a*, b*, c*
    others = torch.roll(sines, -1), torch.roll(sines, -2)
    cos_star = (torch.roll(cosines, -1) * torch.roll(cosines, -2) - cosines) / (others[0] * others[1])
    cos_alpha, cos_beta, cos_gamma = cos_star.clamp(-1, 1).unbind()
    sin_gamma = (lengths[2] / (volume * star[0] * star[1])).clamp(-1, 1)
    unit_volume = torch.sqrt(1 - (cos_star**2).sum() + 2 * cos_star.prod())
    height = volume / lengths.prod() if skewed else unit_volume
    zero = torch.zeros_like(volume)
    a_star = torch.stack((star[0], zero, zero))
    b_star = star[1] * torch.stack((cos_gamma, sin_gamma, zero))
    c_star = star[2] * torch.stack((cos_beta, (cos_alpha - cos_beta * cos_gamma) / sin_gamma, height / sin_gamma))
    return torch.stack((a_star, b_star, c_star))


def cross_products(rows: Tensor) -> Tensor:
    """[3, 3] -> [3, 3]: b x c, c x a, a x b of the rows a, b, c."""
    crossed: Tensor = torch.linalg.cross(torch.roll(rows, -1, 0), torch.roll(rows, -2, 0), dim=-1)
    return crossed


def dual(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The dual basis [3, 3] of a lattice and the volume of that lattice: row i . dual row j is 1 or 0."""
    crossed = cross_products(rows)
    volume = (rows[0] * crossed[0]).sum()
    return crossed / volume, volume


def with_lengths(rows: Tensor, lengths: Tensor) -> Tensor:
    """The same directions with other `lengths` [3]."""
    scale: Tensor = lengths / torch.linalg.vector_norm(rows, dim=-1)
    return rows * scale[:, None]
