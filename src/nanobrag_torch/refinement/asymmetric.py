"""The reflections that shots share: a list of the asymmetric unit, and where an observation belongs in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.crystallography.completeness import inverse_square_spacing, possible_reflections
from nanobrag_torch.crystallography.symmetry import equivalence_keys, merge_equivalents, space_group
from nanobrag_torch.errors import InputError
from nanobrag_torch.records.reflections import Cell, Reflections

SHELLS = 10


@dataclass(frozen=True, eq=False)
class Asymmetric:
    """Unique reflections [N, 3], a Friedel mate of its own where they are anomalous, and their start F^2 [N].

    pairs [2, m]: rows that are Friedel mates.
    """

    hkl: NDArray[np.int64]
    intensity: Tensor
    cell: Cell
    space_group: str
    anomalous: bool
    pairs: Tensor

    def __len__(self) -> int:
        return len(self.hkl)

    @classmethod
    def of(cls, factors: Reflections, *, anomalous: bool = False) -> Asymmetric:
        """All reflections that are possible to the resolution of a list; those without an amplitude get their shell's.

        Raises InputError for a list without cell or space group.
        """
        if factors.cell is None or factors.space_group is None:
            raise InputError("structure factors", factors.source, "a list with its cell and space group (MTZ, CIF)")
        finest = float(inverse_square_spacing(factors.hkl, factors.cell).max() ** -0.5)
        hkl = possible_reflections(factors.cell, factors.space_group, finest).astype(np.int64)
        mates = np.zeros((2, 0), np.int64)
        if anomalous:
            acentric = np.flatnonzero(~space_group(factors.space_group).operations().centric_flag_array(_whole(hkl)))
            mates = np.stack((acentric, len(hkl) + np.arange(len(acentric))))
            hkl = np.concatenate([hkl, -hkl[acentric]])
        known = merge_equivalents(factors)
        place = _find(_keys(hkl, known.hkl, factors.space_group, friedel=not (anomalous and known.anomalous)))
        squared = np.full(len(hkl), np.nan)
        squared[place >= 0] = known.amplitude[place[place >= 0]] ** 2
        squared = _filled(squared, inverse_square_spacing(_whole(hkl), factors.cell))
        pairs = torch.from_numpy(mates)
        return cls(hkl, torch.from_numpy(squared), factors.cell, factors.space_group, anomalous, pairs)

    def reflections(self) -> Reflections:
        """The list with the amplitudes of the start, none of which is zero."""
        amplitude = np.sqrt(self.intensity.numpy())
        hkl, cell, group = self.hkl.astype(np.int32), self.cell, self.space_group
        return Reflections(hkl=hkl, amplitude=amplitude, cell=cell, space_group=group, anomalous=self.anomalous)

    def knows(self, hkl: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which observations [r] are in the list."""
        return _find(_keys(hkl, self.hkl, self.space_group, friedel=not self.anomalous)) >= 0

    def places(self, hkl: NDArray[np.int64]) -> Tensor:
        """The row [r] of each observation. Raises InputError for one that is not in the list."""
        found = _find(_keys(hkl, self.hkl, self.space_group, friedel=not self.anomalous))
        if (found < 0).any():
            accepted = "reflections that the space group allows, within the resolution of the structure factors"
            raise InputError("reflections", tuple(hkl[found < 0][0].tolist()), accepted)
        return torch.from_numpy(found)

    def shells(self) -> NDArray[np.int64]:
        """The shell of each, 0 to SHELLS - 1 from the inside out, of equal numbers."""
        inverse = self.inverse_square_spacing()
        return np.asarray(np.searchsorted(np.quantile(inverse, np.linspace(0, 1, SHELLS + 1)[1:-1]), inverse), np.int64)

    def inverse_square_spacing(self) -> NDArray[np.float64]:
        """1 / d^2 [N] (1/Angstrom^2)."""
        return np.asarray(inverse_square_spacing(_whole(self.hkl), self.cell), np.float64)


def _whole(hkl: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.ascontiguousarray(hkl, np.int32)


def _keys(
    wanted: NDArray[np.int64], among: NDArray[np.integer], group: str, *, friedel: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    both = equivalence_keys(np.concatenate([_whole(wanted), among.astype(np.int32)]), group, friedel=friedel)
    return both[: len(wanted)], both[len(wanted) :]


def _find(keys: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Rows of the second where the first are, -1 where they are not."""
    wanted, among = keys
    order = np.argsort(among, kind="stable")
    place = order[np.searchsorted(among, wanted, sorter=order).clip(max=len(among) - 1)]
    return np.where(among[place] == wanted, place, -1)


def _filled(squared: NDArray[np.float64], inverse_square: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the shell where there is none, or zero."""
    known = np.isfinite(squared) & (squared > 0)
    if not known.any():
        raise InputError("structure factors", 0, "at least one above 0")
    edges = np.quantile(inverse_square[known], np.linspace(0, 1, SHELLS + 1)[1:-1])
    shell, own = np.searchsorted(edges, inverse_square), np.searchsorted(edges, inverse_square[known])
    mean = np.bincount(own, squared[known], SHELLS) / np.bincount(own, minlength=SHELLS).clip(1)
    return np.where(known, squared, np.where(mean[shell] > 0, mean[shell], mean.max()))
