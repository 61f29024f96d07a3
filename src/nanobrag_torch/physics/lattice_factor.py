"""The lattice factor L(hkl) of the six spot shapes, as functions of the distance to the nearest integers (section 8.1).

Five of the six shapes depend on one quadratic form x = d^T Q d of the distance d = (dh, dk, dl); Q holds the numbers
of cells, the fudge factor and, for shapes of constant width in reciprocal space, the reciprocal metric. So six shapes
are four profiles, each with an amplitude that does not depend on hkl. Everything is even in d: L is used squared.

N_cells may be real: then L is the smooth extension in d, continuous at half-integers for whole N alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from math import factorial, pi

import torch
from torch import Tensor

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.polynomials import BALL_64

SPHERE_AMPLITUDE = 0.723601254558268
GAUSS_WIDTH = 0.63
TOPHAT_LIMIT = 0.3969
TOPHAT_WIDTH = TOPHAT_LIMIT * (4 * pi / 3) ** (2 / 3)
"""What makes the ball of the top hat, d^T Q d < TOPHAT_LIMIT, as large as one over the number of cells."""
STAR_WIDTH = 1.75
WIDE_BY_PRODUCT = (CrystalShape.GAUSS, CrystalShape.TOPHAT)
"""Shapes whose spots are as wide along every axis as the product of the cells says, in the C program."""


class Profile(IntEnum):
    """What a kernel evaluates; the shape matrix [3, 3] is diag(N) for GRATING and Q for the others."""

    GRATING = 0  # product of sin(pi N d) / sin(pi d)
    SPHERE = 1  # 3 (sin x - x cos x) / x^3, x = pi sqrt(d^T Q d)
    GAUSS = 2  # exp(-d^T Q d)
    TOPHAT = 3  # 1 where d^T Q d < 0.3969


PROFILES = {
    CrystalShape.SQUARE: Profile.GRATING,
    CrystalShape.ROUND: Profile.SPHERE,
    CrystalShape.GAUSS: Profile.GAUSS,
    CrystalShape.TOPHAT: Profile.TOPHAT,
    CrystalShape.GAUSS_HKL: Profile.GAUSS,
    CrystalShape.GAUSS_STAR: Profile.GAUSS,
}


def shape_matrix(
    shape: CrystalShape,
    cells: Tensor,
    fudge: Tensor,
    stars: Tensor,
    volume: Tensor,
    *,
    product_widths: bool = False,
) -> Tensor:
    """Shape matrix [3, 3] for cells N, fudge [], unrotated a*, b*, c* [3, 3] (1/A) and cell volume [] (A^3).

    cells: [3], or a symmetric matrix [3, 3] whose square takes the place of the squares; a square crystal has no use
    for what is off its diagonal. Gaussian and top-hat spots of fudge 1 integrate to N over their hkl, as the grating
    does: that is Darwin's intensity (Phil. Mag. 27, 1914, 315). product_widths: their widths as in the C program, by
    the product of the cells (D38).
    """
    matrix = torch.diag(cells) if cells.dim() == 1 else cells
    if shape is CrystalShape.SQUARE:
        return matrix
    per_axis, metric, number = matrix @ matrix, stars @ stars.T, cell_number(cells)
    if product_widths and shape in WIDE_BY_PRODUCT:
        scaled: Tensor = metric * number**2 * fudge
        return torch.div(scaled, GAUSS_WIDTH if shape is CrystalShape.GAUSS else 1.0)
    forms: dict[CrystalShape, Callable[[], Tensor]] = {
        CrystalShape.ROUND: lambda: per_axis * fudge,
        CrystalShape.GAUSS: lambda: per_axis * fudge * (pi / 2),
        CrystalShape.TOPHAT: lambda: per_axis * fudge * TOPHAT_WIDTH,
        CrystalShape.GAUSS_HKL: lambda: per_axis * fudge / GAUSS_WIDTH,
        CrystalShape.GAUSS_STAR: lambda: metric * (number * volume) ** (2 / 3) * STAR_WIDTH * fudge,
    }
    return forms[shape]()


def amplitude(shape: CrystalShape, cells: Tensor) -> Tensor:
    """The factor of L [] that does not depend on hkl, for cells N [3] or [3, 3]."""
    if shape is CrystalShape.SQUARE:
        return torch.ones_like(cells.reshape(-1)[0])
    return cell_number(cells) * (SPHERE_AMPLITUDE if shape is CrystalShape.ROUND else 1.0)


def cell_number(cells: Tensor) -> Tensor:
    """How many cells [] a crystal has: the product of N [3], or the determinant of a symmetric matrix [3, 3]."""
    found: Tensor = cells.prod() if cells.dim() == 1 else torch.linalg.det(cells)
    return found


def lattice_factor(
    distance: Tensor, profile: Profile, matrix: Tensor, record: dict[str, Tensor] | None = None
) -> Tensor:
    """L without its amplitude, [...], for distances to the nearest integers [..., 3] and a shape matrix [3, 3].

    record takes the factors of the three axes of a grating, F_latt_axes [..., 3].
    """
    if profile is Profile.GRATING:
        axes = axis_factors(distance, matrix.diagonal())
        if record is not None:
            record.update(F_latt_axes=axes)
        return axes.prod(-1)
    x = torch.einsum("...i,ij,...j->...", distance, matrix, distance)
    if profile is Profile.SPHERE:
        return sphere(x * pi**2)
    if profile is Profile.GAUSS:
        return torch.exp(-x)
    return (x < TOPHAT_LIMIT).to(x.dtype)


def axis_factors(distance: Tensor, cells: Tensor) -> Tensor:
    """sin(pi N d) / sin(pi d), N at d = 0, for each axis: distances [..., 3], |d| <= 1/2, cells [3] -> [..., 3]."""
    return cells * sinc(cells * distance) / sinc(distance)


def sinc(x: Tensor) -> Tensor:
    """sin(pi x) / (pi x), by its series near zero so that the derivative keeps its digits there too."""
    near = x.abs() < 0.25
    y = torch.where(near, (pi * x) ** 2, torch.zeros_like(x))
    away = pi * torch.where(near, torch.ones_like(x), x)
    return torch.where(near, _series(y, [(-1) ** k / factorial(2 * k + 1) for k in range(10)]), torch.sin(away) / away)


def sphere(x2: Tensor) -> Tensor:
    """3 (sin x - x cos x) / x^3 of x squared: the transform of a ball, one at zero; series below x = 1."""
    near = x2 < 1
    y = torch.where(near, x2, torch.zeros_like(x2))
    x = torch.sqrt(torch.where(near, torch.ones_like(x2), x2))
    return torch.where(near, _series(y, BALL_64), 3 * (torch.sin(x) / x - torch.cos(x)) / (x * x))


def _series(y: Tensor, coefficients: Sequence[float]) -> Tensor:
    total = torch.full_like(y, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * y + coefficient
    return total
