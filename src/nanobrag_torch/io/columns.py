"""Which column of a reflection file holds the amplitudes: the one that was named, or the only sensible one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

from nanobrag_torch.errors import InputError
from nanobrag_torch.records.reflections import (
    Floats,
    Indices,
    amplitudes_of_intensities,
    mean_of_pair,
    paired_rows,
)

if TYPE_CHECKING:
    import gemmi

_CALCULATED = re.compile(r"(?i)^(f[-_]?c(alc)?([-_(].*)?|fc[-_]?all.*|f[-_]?model.*|f_squared_calc|intensity_calc)$")
_MAP = re.compile(r"(?i)fwt|^ph?2?fofc|2?fo-?fc|^fill|fom|^f_?map|delf|f_part")
_USUAL = ("F-obs-filtered", "F-obs", "FOBS", "FP", "F", "IMEAN", "I-obs", "I")


@dataclass(frozen=True)
class Quantity:
    """Amplitudes or intensities that a file offers: one column, or two for h and -h."""

    labels: tuple[str, ...]
    sigmas: tuple[str, ...]  # as many as labels, or none
    intensity: bool

    @property
    def paired(self) -> bool:
        """Whether h and -h have columns of their own."""
        return len(self.labels) == 2

    @property
    def calculated(self) -> bool:
        """Whether the name says that a model gave it."""
        return _CALCULATED.match(self.labels[0]) is not None

    @property
    def name(self) -> str:
        """The columns as people write them."""
        return "/".join(self.labels)

    def amplitudes(self, read: Callable[[str], Floats]) -> list[tuple[Floats, Floats | None]]:
        """Amplitudes and their standard deviations, for h and, where these are apart, for -h. read: a column."""
        values = [read(label) for label in self.labels]
        sigmas: list[Floats | None] = [read(label) for label in self.sigmas] or [*repeat(None, len(values))]
        pairs = list(zip(values, sigmas, strict=True))
        return [amplitudes_of_intensities(*pair) for pair in pairs] if self.intensity else pairs

    def rows(
        self, hkl: Indices, values: Sequence[tuple[Floats, Floats | None]], operations: gemmi.GroupOps, *, split: bool
    ) -> tuple[Indices, Floats, Floats | None]:
        """Indices, amplitudes and their standard deviations: of h, then of -h of acentric ones where they are split."""
        if split:
            return paired_rows(hkl, values[0], values[1], operations.centric_flag_array(hkl))
        return (hkl, *(mean_of_pair(*values) if self.paired else values[0]))


@dataclass(frozen=True)
class Chosen:
    """A quantity, and why it was taken."""

    quantity: Quantity
    reason: str

    @property
    def remark(self) -> str:
        """One line for people: what was read, why, and what was made of it."""
        made = "; F = sqrt(I), 0 where I is not positive" if self.quantity.intensity else ""
        kind = "intensities" if self.quantity.intensity else "amplitudes"
        return f"{kind} {self.quantity.name}, {self.reason}{made}"


def choose(offered: Sequence[Quantity], column: str | None, anomalous: bool | None, path: str) -> Chosen:
    """The quantity that `column` names, else the best: amplitudes before intensities, pairs before means, measured
    before calculated, map coefficients never. anomalous False puts means before pairs.

    Raises InputError listing what the file offers where nothing fits, or several do alike.
    """
    names = ", ".join(quantity.name for quantity in offered) or "none"
    if column is not None:
        return Chosen(_named(offered, column, names, path), "the column asked for")
    usable = [quantity for quantity in offered if not _MAP.search(quantity.labels[0])]
    for group in _ranked(usable, anomalous):
        if len(group) == 1:
            return Chosen(group[0], _reason(group[0], offered))
        usual = [q for label in _USUAL for q in group if q.labels[0] == label]
        if usual:
            return Chosen(usual[0], _reason(usual[0], offered))
        if group:
            several = ", ".join(quantity.name for quantity in group)
            raise InputError("column", f"none for {path}", f"one of {several}: the file has several alike")
    raise InputError("column", f"none for {path}", f"a column of amplitudes or intensities; the file has: {names}")


def _reason(taken: Quantity, offered: Sequence[Quantity]) -> str:
    others = [quantity.name for quantity in offered if quantity != taken]
    if not others:
        return "the only ones in the file"
    kind = ("calculated" if taken.calculated else "measured") + (" and for h and -h apart" if taken.paired else "")
    return f"taken because they are {kind}, before {', '.join(others)}"


def _named(offered: Sequence[Quantity], column: str, names: str, path: str) -> Quantity:
    for fold in (str, str.lower):
        for quantity in offered:
            if fold(column) in {fold(text) for text in (*quantity.labels, quantity.name, ",".join(quantity.labels))}:
                return quantity
    raise InputError("column", f"{column} of {path}", f"one of {names}")


def _ranked(usable: Sequence[Quantity], anomalous: bool | None) -> list[list[Quantity]]:
    """Groups of equal rank, best first."""
    pairs_first = (True, False) if anomalous is not False else (False, True)
    return [
        [q for q in usable if q.calculated == calculated and q.intensity == intensity and q.paired == paired]
        for calculated in (False, True)
        for intensity in (False, True)
        for paired in pairs_first
    ]
