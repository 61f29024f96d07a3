"""Cells that obey their space group: which of the six numbers are free, which are tied, and which are fixed.

Nothing here knows the names of systems. A metric tensor averaged over the rotations of the group has the group's
symmetry, and what two such averages have in common is what the group fixes: so every setting is right, with any unique
axis and with either axes of a rhombohedral lattice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.crystallography.symmetry import rotations
from nanobrag_torch.errors import InputError

NAMES = ("a", "b", "c", "alpha", "beta", "gamma")
GENERIC = ((61.0, 67.0, 71.0, 83.0, 97.0, 103.0), (53.0, 79.0, 59.0, 88.0, 79.0, 94.0))
SAME = 1e-9
COMPATIBLE = 0.02
"""Relative difference of lengths, and radians, that a cell may be away from its symmetry before it is refused."""


@dataclass(frozen=True)
class CellParameters:
    """The free numbers of a cell, and how the six are made of them.

    owners: for each of the six the name of the free number that it has, or None where it is fixed at `fixed`.
    """

    owners: tuple[str | None, ...]
    fixed: tuple[float, ...]  # degrees; of use where there is no owner

    @property
    def names(self) -> tuple[str, ...]:
        """The free numbers, in the order a, b, c, alpha, beta, gamma."""
        return tuple(dict.fromkeys(owner for owner in self.owners if owner is not None))

    def cell(self, values: Mapping[str, Tensor], suffix: str = "") -> Tensor:
        """All six [6], Angstrom and degrees, from the free ones by name; differentiable."""
        like = values[f"{self.names[0]}{suffix}"]
        pairs = zip(self.owners, self.fixed, strict=True)
        return torch.stack([like.new_tensor(f) if o is None else values[f"{o}{suffix}"] for o, f in pairs])

    def start(self, cell: tuple[float, ...]) -> dict[str, float]:
        """Values of the free numbers for a cell: the mean of those that are tied. Raises InputError if far off."""
        found = {}
        for name in self.names:
            members = [value for value, owner in zip(cell, self.owners, strict=True) if owner == name]
            found[name] = float(np.mean(members))
        for value, owner, fixed in zip(cell, self.owners, self.fixed, strict=True):
            expected = fixed if owner is None else found[owner]
            angle = owner in NAMES[3:] or owner is None
            if abs(value - expected) > (np.degrees(COMPATIBLE) if angle else COMPATIBLE * expected):
                raise InputError(
                    "cell", tuple(round(x, 4) for x in cell), "a cell with the symmetry of its space group"
                )
        return found


def cell_parametrisation(space_group: str | None) -> CellParameters:
    """Free numbers of the cell of a space group, by any usual name with its setting; None: all six.

    Raises InputError for a name that is no space group.
    """
    turns = rotations(space_group)
    first, second = (np.array(_averaged(cell, turns)) for cell in GENERIC)
    owners: list[str | None] = []
    for place, name in enumerate(NAMES):
        group = range(3) if place < 3 else range(3, 6)
        constant = place >= 3 and abs(first[place] - second[place]) < SAME * 100
        alike = [i for i in group if abs(first[i] - first[place]) + abs(second[i] - second[place]) < SAME * 100]
        owners.append(None if constant else NAMES[alike[0]] if alike else name)
    return CellParameters(tuple(owners), tuple(round(float(x), 6) for x in first))


def metric(cell: tuple[float, ...]) -> NDArray[np.float64]:
    """Metric tensor (3, 3) of a cell in Angstrom and degrees."""
    lengths, cosines = np.array(cell[:3]), np.cos(np.radians(cell[3:]))
    shape = np.array([[1, cosines[2], cosines[1]], [cosines[2], 1, cosines[0]], [cosines[1], cosines[0], 1]])
    return np.asarray(shape * lengths[:, None] * lengths, np.float64)


def _averaged(cell: tuple[float, ...], turns: NDArray[np.int64]) -> tuple[float, ...]:
    """The nearest cell that all rotations leave as it is."""
    found = np.mean([turn.T @ metric(cell) @ turn for turn in turns], axis=0)
    lengths = np.sqrt(np.diag(found))
    pairs = ((1, 2), (0, 2), (0, 1))
    angles = [np.degrees(np.arccos(found[i, j] / lengths[i] / lengths[j])) for i, j in pairs]
    return tuple(float(x) for x in (*lengths, *angles))


def direct_rows(cell: Tensor) -> Tensor:
    """Rows a, b, c [3, 3] of a cell [6] (Angstrom, degrees): a along x, b in the xy plane; differentiable."""
    a, b, c = cell[:3].unbind()
    cosines, sine = torch.cos(torch.deg2rad(cell[3:])), torch.sin(torch.deg2rad(cell[5]))
    ca, cb, cg = cosines.unbind()
    zero = torch.zeros_like(a)
    height = (ca - cb * cg) / sine
    rest = torch.sqrt((1 - cb * cb - height * height).clamp(min=1e-12))
    rows = (torch.stack((a, zero, zero)), torch.stack((b * cg, b * sine, zero)), torch.stack((cb, height, rest)) * c)
    return torch.stack(rows)


def nearest_turn(rows: NDArray[np.float64], cell: Tensor) -> Tensor:
    """The rotation U [3, 3] that brings direct_rows(cell) @ U closest to a, b, c; improper for left-handed ones."""
    left, _, right = np.linalg.svd(np.linalg.inv(direct_rows(cell).numpy()) @ rows)
    return torch.from_numpy(np.ascontiguousarray(left @ right))
