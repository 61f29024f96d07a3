"""Plain lists of reflections, text of h k l F and Fdump files: all of P1, without cell or symmetry."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.io.dump import read_dump_file, write_dump_file
from nanobrag_torch.io.fileformat import Choice, FileFormat, FileStart
from nanobrag_torch.io.hkl import LIMITS, read_hkl_arrays
from nanobrag_torch.records.reflections import Floats, Indices, Reflections

_DUMP = re.compile(rb"(-?[0-9]+ ){5}-?[0-9]+\n\f")
_NUMBERS = re.compile(rb"(\s|#[^\n]*\n)*+[-+]?[0-9]")
_LINE = re.compile(rb"^[ \t]*(?:[-+]?[0-9]+[ \t]+){3}[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?(?=[ \t\r\n]|\Z)", re.MULTILINE)
_ABSENT = -np.finfo(np.float64).max


def _read_hkl(path: Path, choice: Choice) -> Reflections:
    def read() -> tuple[Floats, dict[str, int]]:
        table = read_hkl_arrays(path, default_F=_ABSENT)
        return table.grid, table.metadata

    return _listed(path, choice, read)


def _read_dump(path: Path, choice: Choice) -> Reflections:
    return _listed(path, choice, lambda: read_dump_file(path))


def _listed(path: Path, choice: Choice, read: Callable[[], tuple[Floats, dict[str, int]]]) -> Reflections:
    if choice.column is not None:
        raise InputError("column", choice.column, f"no column for {path}, which has only one")
    grid, metadata = read()
    present = grid != _ABSENT
    low = np.array([metadata[f"{axis}_min"] for axis in "hkl"])
    hkl = (np.argwhere(present) + low).astype(np.int32)
    return Reflections(hkl=hkl, amplitude=grid[present], anomalous=True, source=f"h k l F of {path}")


def write_hkl_lines(target: Target, hkl: Indices | NDArray[np.int64], amplitude: Floats, *, flag: str = "-o") -> None:
    """Write reflections [n, 3], [n] as lines h k l F of nine digits, which the C program reads too.

    Raises InputError if the file cannot be written.
    """
    columns: list[list[Any]] = [*hkl.T.tolist(), amplitude.tolist()]
    with open_output(target, flag) as file:
        file.write("".join(map("%d %d %d %.9g\n".__mod__, zip(*columns, strict=True))).encode())


def _write_hkl(target: Target, reflections: Reflections, label: str) -> None:
    write_hkl_lines(target, reflections.hkl, reflections.amplitude)


def _write_dump(target: Target, reflections: Reflections, label: str) -> None:
    low, high = reflections.hkl.min(axis=0), reflections.hkl.max(axis=0)
    grid = np.zeros(high - low + 1)
    grid[tuple((reflections.hkl - low).T)] = reflections.amplitude
    bounds = [int(bound) for pair in zip(low, high, strict=True) for bound in pair]
    write_dump_file(target, grid, dict(zip(LIMITS, bounds, strict=True)), flag="-o")


def _is_list(file: FileStart) -> bool:
    """Whether a file begins with a number, or is text with a line of h k l F after titles."""
    start = file.start
    return _NUMBERS.match(start) is not None or (start.isascii() and _LINE.search(start) is not None)


HKL = FileFormat(
    name="hkl",
    title="text of h k l F",
    recognises=_is_list,
    suffixes=(".hkl",),
    read_reflections=_read_hkl,
    write_reflections=_write_hkl,
    listed_in_P1=True,
)
DUMP = FileFormat(
    name="dump",
    title="Fdump file",
    recognises=lambda file: _DUMP.match(file.start) is not None,
    suffixes=(".bin",),
    read_reflections=_read_dump,
    write_reflections=_write_dump,
    listed_in_P1=True,
)
