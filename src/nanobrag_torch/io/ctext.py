"""Numbers in text as the C library reads them: the longest valid prefix, zero when there is none (section 0)."""

from __future__ import annotations

import re

_BLANK = r"[ \t\n\v\f\r]*"
_WORD = re.compile(_BLANK + r"([+-]?)(inf(?:inity)?|nan)", re.IGNORECASE)
_HEX = re.compile(_BLANK + r"([+-]?0x(?:[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(?:p[+-]?[0-9]+)?)", re.IGNORECASE)
_DECIMAL = re.compile(_BLANK + r"([+-]?(?:[0-9]++\.?[0-9]*+|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")
_INTEGER = re.compile(_BLANK + r"([+-]?)0*([0-9]+)")
_LONG_MIN, _LONG_MAX = -(2**63), 2**63 - 1


def c_atof(text: str) -> float:
    """The real number that C `atof` reads at the start of text, be it inf, nan, hexadecimal; 0.0 if there is none.

    >>> c_atof("1.5e2mm"), c_atof("mm")
    (150.0, 0.0)
    """
    if word := _WORD.match(text):
        return float(word[1] + word[2])
    if hexadecimal := _HEX.match(text):
        return _from_hex(hexadecimal[1])
    if decimal := _DECIMAL.match(text):
        return float(decimal[1])
    return 0.0


def c_atoi(text: str) -> int:
    """The integer that C `atoi` reads at the start of text; 0 if there is none. Wraps to 32 bits as glibc does."""
    found = _INTEGER.match(text)
    if found is None:
        return 0
    digits = found[2][:20]  # 20 digits saturate already
    held = min(max(int(found[1] + digits), _LONG_MIN), _LONG_MAX)
    return (held + 2**31) % 2**32 - 2**31


def format_g(value: float) -> str:
    """C `%g`: six significant digits."""
    return f"{value:g}"


def _from_hex(text: str) -> float:
    try:
        return float.fromhex(text)
    except OverflowError:
        return -float("inf") if text.startswith("-") else float("inf")
