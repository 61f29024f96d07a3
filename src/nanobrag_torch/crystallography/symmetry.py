"""Reflections under symmetry: expansion to P1 with the map back to unique reflections, and what is missing.

A reflection h goes to h R (row times matrix) under an operation x -> R x + t, and to -h by Friedel's law. Its place in
a table [H, K, L] is a dot product, h . (R strides) + offset, so that no index triple is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    import gemmi
    import torch

    from nanobrag_torch.records.reflections import Reflections

Integers = NDArray[np.int64]
Whole = NDArray[np.int32]

LARGEST_TABLE = 2**29


@dataclass(frozen=True)
class Expansion:
    """Where every reflection of P1 lies in a table [H, K, L], and which unique reflection gives its amplitude."""

    shape: tuple[int, int, int]
    first: tuple[int, int, int]  # h, k, l of the first cell
    flat: Integers  # [m] places in the flattened table, ascending
    unique: Integers  # [m] rows of the reflections that were expanded
    space_group: str | None = None
    absent: int = 0  # rows left out because the space group extinguishes them

    @property
    def metadata(self) -> dict[str, int]:
        """h_min h_max k_min k_max l_min l_max of the table."""
        limits = zip("hkl", self.first, self.shape, strict=True)
        return {f"{axis}_{end}": value for axis, low, size in limits for end, value in _ends(low, size)}

    @property
    def hkl(self) -> Whole:
        """Indices [m, 3] of the reflections of P1."""
        place = np.stack(np.unravel_index(self.flat, self.shape), -1)
        return np.asarray(place + np.array(self.first), np.int32)

    def absences(self) -> Integers:
        """Places in the flattened table of every cell that the space group extinguishes."""
        if self.space_group is None:
            return np.zeros(0, np.int64)
        axes = [np.arange(low, low + size, dtype=np.int32) for low, size in zip(self.first, self.shape, strict=True)]
        cells = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        return np.flatnonzero(space_group(self.space_group).operations().systematic_absences(cells))


def _ends(low: int, size: int) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("min", low), ("max", low + size - 1)


def space_group(name: str, cell: tuple[float, ...] | None = None) -> gemmi.SpaceGroup:
    """A space group by any usual name; the cell decides between R settings. Raises InputError for an unknown name."""
    import gemmi

    angles = (cell[3], cell[5]) if cell is not None else (0.0, 0.0)
    group = gemmi.find_spacegroup_by_name(name.strip(), *angles)
    if group is None and name.strip().isdigit():
        group = gemmi.find_spacegroup_by_number(int(name))
    if group is None:
        raise InputError("space group", name, "a Hermann-Mauguin name such as P212121, or a number from 1 to 230")
    return group


def require_compatible(cell: tuple[float, float, float, float, float, float], name: str) -> None:
    """Raise InputError unless the operations of the space group leave a cell (Angstrom, degrees) as it is."""
    import gemmi

    if not gemmi.UnitCell(*cell).is_compatible_with_spacegroup(space_group(name, cell)):
        raise InputError("cell", cell, f"a cell with the symmetry of {name}")


def rotations(name: str | None) -> NDArray[np.int64]:
    """Rotation parts [n, 3, 3] of a space group's operations, the identity first; that alone for None."""
    if name is None:
        return np.eye(3, dtype=np.int64)[None]
    operations = space_group(name).operations()
    return np.array([op.rot for op in operations.sym_ops], np.int64) // 24


def expand_to_p1(reflections: Reflections) -> Expansion:
    """Every reflection that symmetry and Friedel's law make of the unique ones, in the smallest table that holds them.

    A mate -h that has a row of its own keeps it. Rows that the space group extinguishes are left out and counted.
    Without a space group the rows are taken as they are. Raises InputError for no reflection at all, for rows that
    symmetry makes equal (see `merge_equivalents`), and for a table of more than LARGEST_TABLE cells.
    """
    if len(reflections) == 0:
        raise InputError("reflections", 0, "at least one reflection")
    name, hkl = reflections.space_group, np.asarray(reflections.hkl, np.int64)
    turns, signs = rotations(name), (1,) if name is None else (-1, 1)
    first, shape = _bounds(hkl, turns, friedel=len(signs) == 2)
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    offset = -int(strides @ first)
    present = ~_absent(reflections.hkl, name)
    rows = np.flatnonzero(present).astype(np.int32)
    owner = np.full(shape[0] * shape[1] * shape[2], -1, np.int32)
    for sign in signs:  # mates first, so that rows of their own overwrite them
        for turn in turns[::-1]:
            owner[hkl[rows] @ (sign * turn @ strides) + offset] = rows
    lost = np.zeros(len(rows), bool)
    for turn in turns:
        lost |= owner[hkl[rows] @ (turn @ strides) + offset] != rows
    if lost.any():
        raise InputError("reflections", f"{int(lost.sum())} rows equal by symmetry", "each unique reflection once")
    flat = np.flatnonzero(owner >= 0)
    low = (int(first[0]), int(first[1]), int(first[2]))
    return Expansion(shape, low, flat, owner[flat].astype(np.int64), name, int((~present).sum()))


def _bounds(hkl: Integers, turns: Integers, *, friedel: bool) -> tuple[Integers, tuple[int, int, int]]:
    corners = np.array([[(hkl @ turn).min(0), (hkl @ turn).max(0)] for turn in turns]).reshape(-1, 3)
    corners = np.concatenate([corners, -corners]) if friedel else corners
    low, size = corners.min(0), corners.max(0) - corners.min(0) + 1
    if float(np.prod(size.astype(float))) > LARGEST_TABLE:
        raise InputError("reflections", f"indices that span {size.tolist()} cells", f"at most {LARGEST_TABLE} cells")
    return low, (int(size[0]), int(size[1]), int(size[2]))


def _absent(hkl: Whole, name: str | None) -> NDArray[np.bool_]:
    if name is None:
        return np.zeros(len(hkl), bool)
    return np.asarray(space_group(name).operations().systematic_absences(np.ascontiguousarray(hkl, np.int32)), bool)


def equivalence_keys(hkl: Whole, name: str | None, *, friedel: bool = True) -> Integers:
    """A number [n] that is the same for equivalent reflections, and for no others of an array."""
    turns = rotations(name)
    signs = (1, -1) if friedel and name is not None else (1,)
    largest = int(np.abs(hkl).max(initial=0)) * 6 + 1  # an index becomes at most the sum of three
    strides = np.array([largest * largest, largest, 1])
    wide = np.asarray(hkl, np.int64)
    keys = np.asarray(wide @ strides, np.int64)
    for turn in turns:
        for sign in signs:
            np.maximum(keys, wide @ (sign * turn @ strides), out=keys)
    return keys


def merge_equivalents(reflections: Reflections) -> Reflections:
    """The same reflections with rows that symmetry makes equal averaged into the first of them; sigmas in quadrature.

    Mates by Friedel's law are averaged too unless the reflections are anomalous.
    """
    from dataclasses import replace

    keys = equivalence_keys(reflections.hkl, reflections.space_group, friedel=not reflections.anomalous)
    _, first, group, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == len(reflections):
        return reflections
    order = np.argsort(first)
    amplitude = np.bincount(group, reflections.amplitude)[order] / count[order]
    sigma = reflections.sigma
    if sigma is not None:
        sigma = np.sqrt(np.bincount(group, sigma**2)[order]) / count[order]
    kept = first[order]
    return replace(reflections, hkl=reflections.hkl[kept], amplitude=amplitude, sigma=sigma, phase_deg=None)


def table_maker(
    expansion: Expansion,
    *,
    default_F: float | torch.Tensor = 0.0,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from unique amplitudes [n] to the table [H, K, L]; gradients act on them, and on default_F [].

    Cells without a reflection hold default_F, those that the space group extinguishes 0. The index stays on `device`,
    so that the function is quick in a loop. dtype: that of the amplitudes unless given.
    """
    import torch

    flat = torch.from_numpy(expansion.flat).to(device)
    unique = torch.from_numpy(expansion.unique).to(device)
    cells = expansion.shape[0] * expansion.shape[1] * expansion.shape[2]
    present = torch.ones(cells, dtype=torch.float64, device=device)
    if isinstance(default_F, torch.Tensor) or default_F != 0:
        present[torch.from_numpy(expansion.absences()).to(device)] = 0.0
    default = torch.as_tensor(default_F, dtype=torch.float64, device=device)

    def make(amplitudes: torch.Tensor) -> torch.Tensor:
        values = amplitudes.to(device=device, dtype=dtype or amplitudes.dtype)
        return (present * default).to(values.dtype).index_copy(0, flat, values[unique]).reshape(expansion.shape)

    return make


def amplitude_table(
    expansion: Expansion, amplitudes: torch.Tensor, *, default_F: float | torch.Tensor = 0.0
) -> torch.Tensor:
    """The table [H, K, L] of unique amplitudes [n], on their device and differentiable by them; see `table_maker`."""
    return table_maker(expansion, default_F=default_F, device=amplitudes.device)(amplitudes)
