"""Words for units in files, as people and programs spell them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from nanobrag_torch.errors import InputError

_PREFIXES = {
    "": 1.0, "k": 1e3, "kilo": 1e3, "d": 1e-1, "deci": 1e-1, "c": 1e-2, "centi": 1e-2, "m": 1e-3, "milli": 1e-3,
    "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "micro": 1e-6, "n": 1e-9, "nano": 1e-9, "p": 1e-12, "pico": 1e-12,
}  # fmt: skip
_SHORT = ("", "k", "d", "c", "m", "u", "µ", "μ", "n", "p")


@dataclass(frozen=True)
class Units:
    """Unit words of one kind of quantity: short names take short prefixes, long ones long prefixes and a plural s."""

    what: str
    short: dict[str, float]
    long: dict[str, float]

    def factor(self, word: str) -> float | None:
        """What a number in this unit is multiplied by; None for a word that is no such unit."""
        word = re.sub(r"\s+", "", word)
        for prefix, scale in _PREFIXES.items():
            if not word.startswith(prefix):
                continue
            name = word[len(prefix) :]
            if prefix in _SHORT and name in self.short:
                return scale * self.short[name]
            if (prefix == "" or prefix not in _SHORT) and (name in self.long or name.removesuffix("s") in self.long):
                return scale * (self.long[name] if name in self.long else self.long[name.removesuffix("s")])
        return None


_ANGSTROM = {"angstrom": 1e-10, "Angstrom": 1e-10, "ångström": 1e-10, "ångstrom": 1e-10}
LENGTHS_MM = Units(
    "a length such as m, mm, um, micrometers",
    {"m": 1e3, "Å": 1e-7, "\u212b": 1e-7},
    {"meter": 1e3, "metre": 1e3, "micron": 1e-3, "inch": 25.4} | {k: v * 1e3 for k, v in _ANGSTROM.items()},
)
WAVELENGTHS_A = Units(
    "a wavelength in angstrom, nm or m",
    {"m": 1e10, "A": 1.0, "Å": 1.0, "\u212b": 1.0},
    {"meter": 1e10, "metre": 1e10} | dict.fromkeys(_ANGSTROM, 1.0),
)
ANGLES_DEG = Units(
    "an angle such as deg or rad",
    {"deg": 1.0, "rad": 180 / np.pi, "°": 1.0},
    {"degree": 1.0, "radian": 180 / np.pi, "arcminute": 1 / 60, "arcsecond": 1 / 3600, "arcmin": 1 / 60,
     "arcsec": 1 / 3600, "turn": 360.0},
)  # fmt: skip
TIMES_S = Units(
    "a time such as s or ms",
    {"s": 1.0, "sec": 1.0},
    {"second": 1.0, "minute": 60.0, "min": 60.0, "hour": 3600.0, "h": 3600.0},
)
PIXELS = ("", "pixel", "pixels", "px", "count", "dimensionless")

_NUMBER = r"[-+]?(?:[0-9]++\.?[0-9]*+|\.[0-9]+)(?:[eEdD][-+]?[0-9]+)?"
_QUANTITY = re.compile(rf"({_NUMBER})[ \t]*+(?:x(?![A-Za-z]))?[ \t]*+([^-+0-9.,;()\s][^\s,;()]*)?")


def quantities(text: str, units: Units, default: str, place: str, count: int = 1) -> list[float]:
    """The first numbers of a text such as "0.172 mm x 0.172 mm", each by its unit, the last one's, or the default.

    Raises InputError naming the place where there are fewer, or a word is no unit of the kind.
    """
    matches = _QUANTITY.finditer(re.sub(r"[()]", " ", text))
    found = [(match[1], (match[2] or "").rstrip(".")) for match in matches][:count]
    if len(found) < count:
        raise InputError(place, text, f"{count} numbers" if count > 1 else "a number")
    last = next((word for _, word in reversed(found) if word), default)
    factors = [units.factor(word or last) for _, word in found]
    wrong = next((word or last for (_, word), factor in zip(found, factors, strict=True) if factor is None), None)
    if wrong is not None:
        raise InputError(place, text, f"{units.what}, not {wrong}")
    return [
        float(number.upper().replace("D", "E")) * factor
        for (number, _), factor in zip(found, factors, strict=True)
        if factor is not None
    ]
