"""Tables of plain decimal numbers, parsed column by column as arrays: an order faster than word by word."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ALLOWED = b"0123456789+-. \t\r\n"
_POWERS = 10.0 ** np.arange(19)  # exact
_EXACT_MANTISSA = 2**53
_LONGEST = 2**31 - 3  # positions are 32-bit


def parse_table(text: bytes, columns: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """The numbers [n, columns] of a regular table, rounded as `float` rounds them, and which are written as integers.

    Regular: every line that is not blank holds exactly `columns` decimals without exponent, up to 18 characters long
    and 2**53 in digits. None for any other text; the caller then reads it the long way.
    """
    if len(text) > _LONGEST or text.translate(None, _ALLOWED):
        return None
    letters = np.frombuffer(b"\n" + text + b"\n", np.uint8)
    dark = letters > ord(" ")
    edges = np.flatnonzero(dark[1:] != dark[:-1]).astype(np.int32) + 1
    starts, ends = edges[0::2], edges[1::2]
    if starts.size == 0 or starts.size % columns or not _one_row_a_line(letters, starts, ends, columns):
        return None
    values = np.empty((starts.size // columns, columns))
    whole = np.empty(values.shape, bool)
    for column in range(columns):
        parsed = _parse_words(letters, starts[column::columns], ends[column::columns])
        if parsed is None:
            return None
        values[:, column], whole[:, column] = parsed
    return values, whole


def _one_row_a_line(
    letters: NDArray[np.uint8], starts: NDArray[np.int32], ends: NDArray[np.int32], columns: int
) -> bool:
    line = np.cumsum(letters == ord("\n"), dtype=np.int32)
    first, last = line[starts[0::columns]], line[ends[columns - 1 :: columns] - 1]
    return bool((first == last).all() and (np.diff(first) > 0).all())


def _parse_words(
    letters: NDArray[np.uint8], starts: NDArray[np.int32], ends: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """One column: an exact integer over an exact power of ten, so that the division rounds once, and correctly."""
    lead = letters[starts]
    signed = (lead == ord("-")) | (lead == ord("+"))
    starts = starts + signed
    length = ends - starts
    if length.max() > 18:
        return None
    mantissa = np.zeros(length.size, np.int64)
    digits, decimals = np.zeros(length.size, np.int8), np.zeros(length.size, np.int8)
    pointed = np.zeros(length.size, bool)
    for place in range(int(length.max())):
        letter = letters[np.minimum(starts + place, ends - 1)]
        inside = place < length
        digit = letter - np.uint8(ord("0"))
        is_digit = inside & (digit < 10)
        is_point = inside & (letter == ord("."))
        if not (is_digit | is_point | ~inside).all() or (is_point & pointed).any():
            return None
        mantissa = np.where(is_digit, mantissa * 10 + digit, mantissa)
        digits += is_digit
        decimals += is_digit & pointed
        pointed |= is_point
    if not digits.all() or mantissa.max() > _EXACT_MANTISSA:
        return None
    return np.where(lead == ord("-"), -1.0, 1.0) * mantissa / _POWERS[decimals], ~pointed
