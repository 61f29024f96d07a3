"""Invented amplitudes that look like a protein's: Wilson's statistics, a B factor, a scale from what fills the cell.

Intensities of acentric reflections are exponential, those of centric ones chi-squared with one degree of freedom, about
epsilon times the sum of f^2 over the cell (Wilson (1949), Acta Cryst. 2, 318), times exp(-2 B s^2).
"""

from __future__ import annotations

from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.crystallography.completeness import inverse_square_spacing, possible_reflections
from nanobrag_torch.crystallography.symmetry import space_group
from nanobrag_torch.errors import InputError

Floats = NDArray[np.float64]
Whole = NDArray[np.int32]
Cell = tuple[float, float, float, float, float, float]

PROTEIN_DENSITY = 1.35 * 0.602214076
"""Dalton a cubic Angstrom: 1.35 g/cm^3 (Fischer, Polikarpov & Craievich (2004), Protein Sci. 13, 2825)."""
ATOMS_PER_DALTON = {"C": 5.0 / 112, "N": 1.35 / 112, "O": 1.5 / 112, "S": 0.03 / 112, "H": 8.0 / 112}
"""An average residue of 112 Da."""
SOLVENT_CONTENT = 0.47
"""The part of a cell that is solvent, on average (Matthews (1968), J. Mol. Biol. 33, 491)."""
LARGEST_LIMIT = 1000


def content_intensity(stol2: Floats, volume: float, solvent_content: float = SOLVENT_CONTENT) -> Floats:
    """Sum of f^2 (electrons^2) over the protein in a cell of `volume` (Angstrom^3), at stol2 = (sin theta / lambda)^2.

    Atoms are at rest; ordered or flat solvent is not counted. Raises InputError for a content outside 0..1.
    """
    import gemmi

    if not 0 <= solvent_content < 1:
        raise InputError("solvent_content", solvent_content, "a number from 0 to below 1")
    dalton = volume * (1 - solvent_content) * PROTEIN_DENSITY
    total = np.zeros_like(stol2)
    for name, number in ATOMS_PER_DALTON.items():
        table = gemmi.Element(name).it92
        f = table.c + sum(a * np.exp(-b * stol2) for a, b in zip(table.a, table.b, strict=True))
        total += dalton * number * f**2
    return total


def wilson_amplitudes(
    hkl: Whole,
    cell: Cell,
    group: str,
    *,
    b_iso: float = 20.0,
    seed: int = 0,
    solvent_content: float = SOLVENT_CONTENT,
) -> Floats:
    """F [n] (electrons) drawn for unique reflections [n, 3]; the same seed gives the same numbers.

    Raises InputError for a B factor (Angstrom^2) that is not finite or a negative seed.
    """
    operations = space_group(group, cell).operations()
    indices = np.ascontiguousarray(hkl, np.int32)
    generator = _generator(seed)
    acentric, centric = generator.standard_exponential(len(hkl)), generator.standard_normal(len(hkl)) ** 2
    drawn = np.where(operations.centric_flag_array(indices), centric, acentric)
    expected = _expected(inverse_square_spacing(indices, cell) / 4, cell, b_iso, solvent_content)
    return np.asarray(np.sqrt(operations.epsilon_factor_array(indices) * drawn) * expected, np.float64)


class Drawn(TypedDict, total=False):
    """How amplitudes are drawn, as wilson_amplitudes takes it."""

    b_iso: float
    seed: int
    solvent_content: float


def wilson_reflections(cell: Cell, group: str, dmin: float, **drawn: Unpack[Drawn]) -> tuple[Whole, Floats]:
    """Unique reflections [n, 3] of a crystal to `dmin` (Angstrom) and `wilson_amplitudes` [n] for them."""
    hkl = possible_reflections(cell, group, dmin)
    if len(hkl) == 0:
        raise InputError("dmin", dmin, "a resolution at which the cell has reflections")
    return hkl, wilson_amplitudes(hkl, cell, group, **drawn)


def wilson_box(
    cell: Cell,
    limits: tuple[int, int, int],
    *,
    b_iso: float = 20.0,
    seed: int = 0,
    solvent_content: float = SOLVENT_CONTENT,
) -> tuple[Floats, dict[str, int]]:
    """Amplitudes for all of h -limit..limit, k, l of a crystal in P1: the grid [H, K, L] and its limits.

    F(-h) = F(h) and F(0 0 0) = 0. Raises InputError for limits that are not from 0 to LARGEST_LIMIT.
    """
    hkl = half_box(limits)
    drawn = _generator(seed).standard_exponential(len(hkl))
    amplitude = np.sqrt(drawn) * _expected(inverse_square_spacing(hkl, cell) / 4, cell, b_iso, solvent_content)
    grid = np.concatenate([amplitude, [0.0], amplitude[::-1]]).reshape([2 * limit + 1 for limit in limits])
    return grid, {f"{axis}_{end}": sign * n for axis, n in zip("hkl", limits, strict=True) for end, sign in _SIGNS}


def half_box(limits: tuple[int, int, int]) -> Whole:
    """Indices [n, 3] of the first half of a box -limit..limit, which ends before 0 0 0; the other half are its mates.

    Counted from the other end of the box, a cell is its own mate. Raises InputError for limits that are not from 0 to
    LARGEST_LIMIT.
    """
    if len(limits) != 3 or not all(0 <= limit <= LARGEST_LIMIT for limit in limits) or sum(limits) == 0:
        raise InputError("limits", limits, f"three largest indices, 0 to {LARGEST_LIMIT}, not all 0")
    shape = tuple(2 * limit + 1 for limit in limits)
    half = shape[0] * shape[1] * shape[2] // 2
    place = np.stack(np.unravel_index(np.arange(half), shape), -1)
    return np.asarray(place - np.array(limits), np.int32)


_SIGNS = (("min", -1), ("max", 1))


def _expected(stol2: Floats, cell: Cell, b_iso: float, solvent_content: float) -> Floats:
    """Root mean square amplitude [n] of a general reflection."""
    import gemmi

    if not np.isfinite(b_iso):
        raise InputError("b_iso", b_iso, "a finite number")
    content = content_intensity(stol2, gemmi.UnitCell(*cell).volume, solvent_content)
    return np.asarray(np.sqrt(content) * np.exp(-b_iso * stol2), np.float64)


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise InputError("seed", seed, "a number from 0 up")
    return np.random.default_rng(seed)
