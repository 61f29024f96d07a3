"""How atoms scatter X-rays: f0 by a sum of Gaussians, f' and f'' by Cromer and Liberman.

f0 = sum of a exp(-b s^2) + c with s = sin(theta) / lambda, coefficients of International Tables for Crystallography C
(1992) table 6.1.1.4, good to s = 2 / Angstrom. f' and f'' as in Cromer & Liberman (1981), Acta Cryst. A37, 267.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    import gemmi

Floats = NDArray[np.float64]

HC_EV_ANGSTROM = 12398.419843320026
"""Photon energy (eV) times wavelength (Angstrom), of the exact constants of 2019."""


def gaussian_coefficients(elements: Sequence[str], charges: Sequence[int] | None = None) -> Floats:
    """a1..a4, b1..b4, c of each element or ion, [n, 9]; an ion that is not tabulated scatters as the neutral atom.

    Raises InputError for an element without coefficients.
    """
    import gemmi

    charges = [0] * len(elements) if charges is None else charges
    ignored = gemmi.IT92_get_ignore_charge()
    gemmi.IT92_set_ignore_charge(False)
    try:
        found = [_tabulated(gemmi.Element(name), int(q)) for name, q in zip(elements, charges, strict=True)]
    finally:
        gemmi.IT92_set_ignore_charge(ignored)
    for name, coefficients in zip(elements, found, strict=True):
        if coefficients is None:
            raise InputError("element", name, "an element with X-ray form factors, H to Cf")
    return np.array([c.get_coefs() for c in found if c is not None], np.float64).reshape(-1, 9)


def _tabulated(element: gemmi.Element, charge: int) -> gemmi.IT92Coef | None:
    import gemmi

    if element.atomic_number == 0:
        return None
    coefficients: gemmi.IT92Coef | None = gemmi.IT92_get_exact(element, charge) if charge else None
    return coefficients or element.it92


def scattering_factors(coefficients: Tensor, stol2: Tensor) -> Tensor:
    """f0 [..., n] (electrons) of coefficients [n, 9] at stol2 [...] = (sin(theta) / lambda)^2 (1/Angstrom^2)."""
    a, b, c = coefficients[:, :4], coefficients[:, 4:8], coefficients[:, 8]
    return (a * torch.exp(-b * stol2[..., None, None])).sum(-1) + c


def dispersion(elements: Sequence[str], wavelength_A: float) -> tuple[Floats, Floats]:
    """f' and f'' [n] (electrons) of elements at a wavelength (Angstrom), for free atoms, away from any edge structure.

    0 for hydrogen and helium. Raises InputError for a wavelength that is not above 0.
    """
    import gemmi

    if not (np.isfinite(wavelength_A) and wavelength_A > 0):
        raise InputError("wavelength_A", wavelength_A, "a number above 0")
    energy = HC_EV_ANGSTROM / wavelength_A
    pairs = [gemmi.cromer_liberman(z=gemmi.Element(name).atomic_number, energy=energy) for name in elements]
    values = np.array(pairs, np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]
