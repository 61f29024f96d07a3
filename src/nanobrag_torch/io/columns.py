"""Which column of a reflection file holds the amplitudes: the one that was named, or the only sensible one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nanobrag_torch.errors import InputError

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


def choose(offered: Sequence[Quantity], column: str | None, anomalous: bool | None, path: str) -> Quantity:
    """The quantity that `column` names, else the best: amplitudes before intensities, pairs before means, measured
    before calculated, map coefficients never. anomalous False puts means before pairs.

    Raises InputError listing what the file offers where nothing fits, or several do alike.
    """
    names = ", ".join(quantity.name for quantity in offered) or "none"
    if column is not None:
        return _named(offered, column, names, path)
    usable = [quantity for quantity in offered if not _MAP.search(quantity.labels[0])]
    for group in _ranked(usable, anomalous):
        if len(group) == 1:
            return group[0]
        usual = [q for label in _USUAL for q in group if q.labels[0] == label]
        if usual:
            return usual[0]
        if group:
            several = ", ".join(quantity.name for quantity in group)
            raise InputError("column", f"none for {path}", f"one of {several}: the file has several alike")
    raise InputError("column", f"none for {path}", f"a column of amplitudes or intensities; the file has: {names}")


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
