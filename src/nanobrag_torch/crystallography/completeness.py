"""Resolution of reflections, and how many of those that a crystal has are there, shell by shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.crystallography.symmetry import equivalence_keys, space_group
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from nanobrag_torch.records.reflections import Reflections

Floats = NDArray[np.float64]
Cell = tuple[float, float, float, float, float, float]

LARGEST_COUNT = 5e8
EDGE = 1e-6  # relative widening of resolution limits, so that a reflection on the limit is inside


@dataclass(frozen=True)
class Shell:
    """Reflections between two resolutions (Angstrom), merged by symmetry and Friedel's law."""

    d_max: float
    d_min: float
    possible: int
    present: int
    mean_amplitude: float  # NaN where none is present

    @property
    def missing(self) -> int:
        """How many are not there."""
        return self.possible - self.present


def inverse_square_spacing(hkl: NDArray[np.int32], cell: Cell) -> Floats:
    """1/d^2 (1/Angstrom^2) of reflections [n, 3]."""
    import gemmi

    indices = np.ascontiguousarray(hkl, np.int32)
    return np.asarray(gemmi.UnitCell(*cell).calculate_1_d2_array(indices), np.float64)


def within(reflections: Reflections, dmin: float | None, dmax: float | None) -> Reflections:
    """The reflections of spacing dmin to dmax (Angstrom; None: no limit). Raises InputError without a cell."""
    for name, value in (("dmin", dmin), ("dmax", dmax)):
        if value is not None and not value > 0:
            raise InputError(name, value, "a resolution above 0 Angstrom")
    if dmin is None and dmax is None:
        return reflections
    if reflections.cell is None:
        raise InputError("cell", None, "a unit cell: without it reflections have no resolution")
    squared = inverse_square_spacing(reflections.hkl, reflections.cell)
    low = 0.0 if dmax is None else (1 - EDGE) / dmax**2
    high = np.inf if dmin is None else (1 + EDGE) / dmin**2
    return reflections.rows((squared >= low) & (squared <= high))


def possible_reflections(cell: Cell, group: str, dmin: float, dmax: float | None = None) -> NDArray[np.int32]:
    """Unique reflections [n, 3] that a crystal has between two resolutions, absences and 0 0 0 left out.

    Raises InputError for more than can be held.
    """
    import gemmi

    if not dmin > 0:
        raise InputError("dmin", dmin, "a resolution above 0 Angstrom")
    lattice = gemmi.UnitCell(*cell)
    expected = 4 / 3 * np.pi * lattice.volume / dmin**3
    if not expected < LARGEST_COUNT:
        raise InputError("dmin", dmin, f"fewer than {LARGEST_COUNT:g} reflections in P1, not {expected:.3g}")
    limits = dmin * (1 - EDGE), 0.0 if dmax is None else dmax * (1 + EDGE)
    return np.array(gemmi.make_miller_array(lattice, space_group(group, cell), *limits), np.int32).reshape(-1, 3)


def missing_reflections(
    reflections: Reflections, dmin: float | None = None, dmax: float | None = None
) -> NDArray[np.int32]:
    """Unique reflections [n, 3] that are possible but not there; limits (Angstrom) as in `resolution_shells`."""
    cell, group, finest, coarsest = _limits(reflections, dmin, dmax)
    possible = possible_reflections(cell, group, finest, coarsest)
    both = np.concatenate([possible, reflections.hkl])
    keys = equivalence_keys(both, group)
    return possible[~np.isin(keys[: len(possible)], keys[len(possible) :])]


def resolution_shells(
    reflections: Reflections, count: int = 10, dmin: float | None = None, dmax: float | None = None
) -> tuple[Shell, ...]:
    """Shells of equal volume from dmax (None: no limit) to dmin (None: the finest reflection there is; Angstrom).

    Raises InputError if the reflections have no cell or no space group.
    """
    cell, group, finest, coarsest = _limits(reflections, dmin, dmax)
    possible = inverse_square_spacing(possible_reflections(cell, group, finest, coarsest), cell) ** 1.5
    kept = within(reflections, finest, coarsest)
    present = inverse_square_spacing(kept.hkl, cell) ** 1.5
    _, once = np.unique(equivalence_keys(kept.hkl, group), return_index=True)
    start = min((array.min() for array in (possible, present) if array.size), default=0.0)
    edges = np.linspace(start * (1 - EDGE), finest**-3 * (1 + 3 * EDGE), count + 1)
    totals = np.histogram(possible, edges)[0]
    found = np.histogram(present[once], edges)[0]
    rows = np.histogram(present, edges)[0]
    sums = np.histogram(present, edges, weights=kept.amplitude)[0]
    spacing = edges ** (-1 / 3) if start > 0 else np.append(np.inf, edges[1:] ** (-1 / 3))
    return tuple(
        Shell(
            float(spacing[i]),
            float(spacing[i + 1]),
            int(totals[i]),
            int(found[i]),
            float(sums[i] / rows[i]) if rows[i] else float("nan"),
        )
        for i in range(count)
    )


def shell_table(shells: tuple[Shell, ...]) -> str:
    """The shells as text that people read: limits, what is there and what is missing, and the sum of it."""
    lines = ["   d max    d min   possible    present    missing  complete     mean F"]
    for shell in shells:
        limits = f"{shell.d_max:8.3f} {shell.d_min:8.3f}"
        lines.append(_row(limits, shell.possible, shell.present, f"{shell.mean_amplitude:10.2f}"))
    possible, present = sum(s.possible for s in shells), sum(s.present for s in shells)
    return "\n".join([*lines, _row("all".rjust(17), possible, present, "")])


def _row(limits: str, possible: int, present: int, mean: str) -> str:
    part = 100 * present / possible if possible else 100.0
    return f"{limits} {possible:10d} {present:10d} {possible - present:10d} {part:8.2f}% {mean}".rstrip()


def _limits(reflections: Reflections, dmin: float | None, dmax: float | None) -> tuple[Cell, str, float, float | None]:
    if reflections.cell is None or reflections.space_group is None:
        raise InputError("reflections", reflections.source, "reflections with a unit cell and a space group")
    if dmin is None and len(reflections) == 0:
        raise InputError("reflections", 0, "at least one reflection")
    if dmin is None:
        dmin = float(inverse_square_spacing(reflections.hkl, reflections.cell).max() ** -0.5)
    return reflections.cell, reflections.space_group, dmin, dmax
