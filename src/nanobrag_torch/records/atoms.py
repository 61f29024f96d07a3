"""The atoms of a crystal as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.records.reflections import Cell, Floats


@dataclass(frozen=True, kw_only=True)
class AtomicModel:
    """The atoms of an asymmetric unit.

    occupancy counts an atom on a special position as the fraction that belongs to one asymmetric unit, so that a sum
    over all operations is the cell. u_star: mean-square displacement in the basis of h, k, l, so that an atom's
    Debye-Waller factor is exp(-2 pi^2 h U h).
    """

    cell: Cell
    space_group: str
    elements: tuple[str, ...]  # one an atom
    charges: NDArray[np.int8]  # [n]; 0 for macromolecules, as refinement programs take them
    fractional: Floats  # [n, 3]
    occupancy: Floats  # [n]
    u_star: Floats  # [n, 3, 3]
    resolution: float | None = None  # Angstrom, of the experiment behind the model
    structure: Any = None  # gemmi.Structure of a macromolecule

    def __len__(self) -> int:
        """Number of atoms."""
        return len(self.occupancy)
