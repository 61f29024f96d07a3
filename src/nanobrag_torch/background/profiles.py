"""Profiles of amorphous materials: F of one molecule over sin(theta)/lambda, and what the material is made of.

Water: as it was measured, with Compton scattering in it; the profile that J. Holton's programs are used with. Its
forward value is that of the compressibility of water, 10 sqrt(n k T chi). Air: N2 and O2 by Debye's formula (Ann.
Phys. 351 (1915), 809) and argon, with the form factors of International Tables C and the bond lengths of Huber
and Herzberg (1979); coherent scattering alone. Ice Ih: powder rings of the cell of Kuhs and Lehmann (J. Phys. Chem. 87
(1983), 4312) with the atoms of Goto, Hondoh and Mae (J. Chem. Phys. 93 (1990), 1412), on an absolute scale.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nanobrag_torch.crystallography.form_factors import dispersion, gaussian_coefficients, scattering_factors
from nanobrag_torch.errors import InputError
from nanobrag_torch.units import AVOGADRO

Reals = NDArray[np.float64]

WATER = np.array([
    (0.0, 2.57), (0.0365, 2.58), (0.07, 2.8), (0.12, 5.0), (0.162, 8.0), (0.18, 7.32), (0.2, 6.75), (0.216, 6.75),
    (0.236, 6.5), (0.28, 4.5), (0.3, 4.3), (0.345, 4.36), (0.436, 3.77), (0.5, 3.17),
])  # fmt: skip
AIR_SHARES = {"N2": 0.7808, "O2": 0.2095, "Ar": 0.0097}
BONDS_A = {"N2": 1.09768, "O2": 1.20752}
ICE_CELL_A = (4.4975, 7.3224)
ICE_ATOMS = {
    "O": ((1 / 3, 2 / 3, 0.06226, 1.0, 3.7),),
    "H": ((1 / 3, 2 / 3, 0.178, 0.5, 2.5), (0.439, 0.878, 0.020, 0.5, 2.9)),
}
"""x, y, z, occupancy and B (Angstrom^2) of the sites."""
RING_WIDTH = 0.0012
"""Standard deviation of a ring in sin(theta)/lambda (1/A): crystallites of some 150 Angstrom."""
FINEST_STOL = 0.6
STEPS = 400
CLASSICAL_RADIUS_M = 2.8179403262e-15
PER_CUBIC_CENTIMETRE, MM_PER_M = 1e6, 1000.0


@dataclass(frozen=True)
class Substance:
    """A built-in material: its profile, density (g/cm^3), molecular weight (g/mol) and atoms in a molecule."""

    profile: Reals  # [n, 2] sin(theta)/lambda (1/A), F
    density: float
    weight: float
    atoms: dict[str, float]

    def attenuation_per_mm(self, wavelength_A: float, density: float | None = None) -> float:
        """Linear coefficient (1/mm) of photoelectric absorption, 2 r_e lambda f'' an atom (Cromer and Liberman)."""
        _, absorptive = dispersion(list(self.atoms), wavelength_A)
        area = 2 * CLASSICAL_RADIUS_M * wavelength_A * 1e-10 * float(absorptive @ np.array(list(self.atoms.values())))
        number = (self.density if density is None else density) * PER_CUBIC_CENTIMETRE * AVOGADRO / self.weight
        return number * area / MM_PER_M


@functools.cache
def substance(name: str) -> Substance:
    """A built-in material by name. Raises InputError."""
    if name not in SUBSTANCES:
        raise InputError("material", name, ", ".join(SUBSTANCES))
    return SUBSTANCES[name]()


def _water() -> Substance:
    return Substance(WATER, 1.0, 18.015, {"H": 2.0, "O": 1.0})


def _air() -> Substance:
    stol = np.linspace(0, 2.0, STEPS)
    squares = sum(share * molecule_squared(name, stol) for name, share in AIR_SHARES.items())
    atoms = {"N": 2 * AIR_SHARES["N2"], "O": 2 * AIR_SHARES["O2"], "Ar": AIR_SHARES["Ar"]}
    return Substance(np.stack((stol, np.sqrt(squares)), 1), 1.2041e-3, 28.965, atoms)


def molecule_squared(name: str, stol: Reals) -> Reals:
    """F^2 of N2, O2 or argon, averaged over orientations: 2 f^2 (1 + sin(q d) / (q d)), or f^2."""
    element = name.rstrip("2")
    factor = _form_factors([element], stol)[:, 0]
    if name not in BONDS_A:
        return np.asarray(factor**2)
    return np.asarray(2 * factor**2 * (1 + np.sinc(4 * stol * BONDS_A[name])))


def _form_factors(elements: Sequence[str], stol: Reals) -> Reals:
    coefficients = torch.from_numpy(gaussian_coefficients(elements))
    return np.asarray(scattering_factors(coefficients, torch.from_numpy(stol**2)).numpy())


def _ice() -> Substance:
    spacings, strengths = ice_rings()
    stol = np.arange(0, FINEST_STOL, RING_WIDTH / 4)
    rings = np.exp(-0.5 * ((stol[:, None] - 0.5 / spacings) / RING_WIDTH) ** 2) / (RING_WIDTH * math.sqrt(2 * math.pi))
    return Substance(np.stack((stol, np.sqrt(rings @ strengths)), 1), 0.917, 18.015, {"H": 2.0, "O": 1.0})


def ice_rings() -> tuple[Reals, Reals]:
    """d (Angstrom) of ice's reflections down to 0.84 A, and the integral of F^2 of a molecule over sin(theta)/lambda.

    A powder of crystals scatters sum |F|^2 delta(s - 1/d) / (4 pi s^2 V) a cell, with s = 2 sin(theta)/lambda.
    """
    a, c = ICE_CELL_A
    h, k, l = (x.reshape(-1) for x in np.meshgrid(*(np.arange(-n, n + 1) for n in (6, 6, 9)), indexing="ij"))
    inverse = np.sqrt(4 / 3 * (h * h + h * k + k * k) / a**2 + (l / c) ** 2)
    wanted = (inverse > 0) & (inverse < 2 * FINEST_STOL)
    h, k, l, inverse = h[wanted], k[wanted], l[wanted], inverse[wanted]
    squares = np.abs(_ice_structure_factor(h, k, l, inverse / 2)) ** 2
    volume = a * a * c * math.sqrt(3) / 2
    strength = squares / (4 * math.pi * inverse**2 * volume) / 2 / 4  # ds = 2 dstol; four molecules a cell
    places, member = np.unique(inverse.round(6), return_inverse=True)
    summed = np.bincount(member, strength)
    strong = summed > 1e-6 * summed.max()
    return 1 / places[strong], summed[strong]


def _ice_structure_factor(h: Reals, k: Reals, l: Reals, stol: Reals) -> Any:
    """F of P6_3/mmc for the sites of ICE_ATOMS."""
    factors = dict(zip("OH", _form_factors(["O", "H"], stol).T, strict=True))
    total = np.zeros(len(h), complex)
    for element, sites in ICE_ATOMS.items():
        for x, y, z, occupancy, b in sites:
            images = _equivalent(x, y, z)
            phase = np.exp(2j * np.pi * (np.stack((h, k, l), 1) @ images.T))
            total += occupancy * factors[element] * np.exp(-b * stol**2) * phase.sum(1)
    return total


def _equivalent(x: float, y: float, z: float) -> Reals:
    """Positions of a site in P6_3/mmc, each once."""
    import gemmi

    group = gemmi.SpaceGroup("P 63/m m c")
    points = np.array([op.apply_to_xyz([x, y, z]) for op in group.operations()]) % 1.0
    return np.unique((points % 1.0).round(9) % 1.0, axis=0)


SUBSTANCES = {"water": _water, "air": _air, "ice": _ice}
