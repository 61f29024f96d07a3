"""Profiles of amorphous materials: lines of sin(theta)/lambda and the structure factor of a molecule."""

from __future__ import annotations

import os
import re

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output, read_input
from nanobrag_torch.io.ctext import format_g

ACCEPTED = "lines of two numbers, sin(theta)/lambda (1/A, from 0 up) and F; # starts a comment"
_SEPARATORS = re.compile(r"[ \t\r\f\v,;:!]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]++\.?[0-9]*+|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def read_stol_file(path: str | os.PathLike[str], *, flag: str = "-stol") -> NDArray[np.float64]:
    """The table [n, 2] of a file as it stands, whatever the unit of its first column; a missing F is NaN.

    Raises InputError naming the file and line for a word that is no number, and for a file without rows.
    """
    text = read_input(path, flag, "a readable file with " + ACCEPTED).decode("ascii", "replace")
    lines = enumerate(re.split(r"\r?\n|\r", text), 1)
    rows = [row for number, line in lines if (row := _row(line, f"{path} line {number}", flag)) is not None]
    table = np.array(rows, np.float64).reshape(-1, 2)
    if len(table) == 0 or np.isnan(table[:, 1]).all():
        raise InputError(flag, str(path), "at least one row: " + ACCEPTED)
    return table


def write_stol_file(target: Target, rows: NDArray[np.float64], *, title: str = "", flag: str = "-stolout") -> None:
    """Write rows of sin(theta)/lambda, F and any further columns, under a comment."""
    lines = [f"# {title}\n"] if title else []
    lines += [" ".join(format_g(value) for value in row) + "\n" for row in rows]
    with open_output(target, flag) as file:
        file.write("".join(lines).encode())


def _row(line: str, place: str, flag: str) -> tuple[float, float] | None:
    words = [word for word in _SEPARATORS.split(line.partition("#")[0]) if word][:2]
    if not words:
        return None
    if not all(map(_NUMBER.fullmatch, words)):
        raise InputError(flag, f"{place}: {line.strip()[:60]}", ACCEPTED)
    return float(words[0]), float(words[1]) if len(words) > 1 else np.nan
