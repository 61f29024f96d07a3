"""Tables of sources: X Y Z I lambda, a line each (section 4.2)."""

from __future__ import annotations

import math
import os
import re

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input

FLAG = "-sourcefile"
COLUMNS = 5
ACCEPTED = "lines of X Y Z I lambda (lambda in metres, above 0); columns left out at the end take their defaults"

_SEPARATORS = re.compile(r"[ \t\r\f\v,;:!]+")
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]++\.?[0-9]*+|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:nan))")


def read_sourcefile(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """The table [S, 5] of a source file: direction from the sample (any length), intensity, wavelength (m).

    What a line leaves out is NaN. Columns are separated by blanks, tabs or , ; : !; a # starts a comment; what follows
    the fifth column is not read; line ends may be those of Windows and the last one may be missing.
    Raises InputError naming the file and line for a word that is no number and for a wavelength that is not above 0.
    """
    text = read_input(path, FLAG, "a readable file with " + ACCEPTED).decode("ascii", "replace")
    rows = [_row(line, f"{path} line {number}") for number, line in enumerate(re.split(r"\r?\n|\r", text), 1)]
    table = np.array([row for row in rows if row is not None], dtype=np.float64)
    if not table.size:
        raise InputError(FLAG, str(path), "at least one source: " + ACCEPTED)
    return table


def _row(line: str, place: str) -> list[float] | None:
    words = [word for word in _SEPARATORS.split(line.partition("#")[0]) if word][:COLUMNS]
    if not words:
        return None
    if not all(map(_NUMBER.fullmatch, words)):
        raise InputError(FLAG, f"{place}: {line.strip()[:60]}", ACCEPTED)
    row = [float(word) for word in words] + [math.nan] * (COLUMNS - len(words))
    if any(map(math.isinf, row)) or row[4] <= 0:
        raise InputError(FLAG, f"{place}: {line.strip()[:60]}", ACCEPTED)
    return row
