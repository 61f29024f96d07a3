"""The C program's binary cache of structure factors, `Fdump.bin` (section 7.3)."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output, read_input
from nanobrag_torch.records.reflections import IndexLimits

FLAG = "-dump"
LIMITS = ("h_min", "h_max", "k_min", "k_max", "l_min", "l_max")
ACCEPTED = "a dump file: h_min h_max k_min k_max l_min l_max, newline, form feed, and doubles"

_LOG = logging.getLogger(__name__)
_HEADER = re.compile(rb"(-?[0-9]+) (-?[0-9]+) (-?[0-9]+) (-?[0-9]+) (-?[0-9]+) (-?[0-9]+)\n\f")


def read_dump_file(path: str | os.PathLike[str]) -> tuple[NDArray[np.float64], dict[str, int]]:
    """The grid [H, K, L] and index limits of a dump file, without the file's plane of padding on each upper side.

    Data start right after the form feed, also when the first bytes look like white space, which the C program skips.
    Raises InputError naming the file if it is malformed, of the wrong length or not finite.
    """
    content = read_input(path, FLAG, ACCEPTED)
    header = _HEADER.match(content)
    if header is None:
        raise InputError(FLAG, str(path), ACCEPTED)
    metadata = IndexLimits(zip(LIMITS, map(int, header.groups()), strict=True))
    shape = _shape(metadata)
    padded = tuple(n + 1 for n in shape)
    expected = header.end() + 8 * padded[0] * padded[1] * padded[2]
    if min(shape) < 1 or len(content) != expected:
        raise InputError(FLAG, f"{path} ({len(content)} bytes)", f"{expected} bytes for the limits {metadata}")
    grid = np.frombuffer(content, np.float64, offset=header.end()).reshape(padded)[:-1, :-1, :-1].copy()
    require_finite(grid, metadata, path, FLAG)
    below = grid < 0
    if below.any():
        first = np.argwhere(below)[0] + [metadata[f"{axis}_min"] for axis in "hkl"]
        warn_of_signs(path, int(below.sum()), first)
    return grid, metadata


def warn_of_signs(path: str | os.PathLike[str], count: int, first: NDArray[Any]) -> None:
    """Say that amplitudes have a sign, and where the first one is."""
    place = " ".join(f"{index:.0f}" for index in first)
    line = "%s: amplitudes below 0: %d, the first is F of %s; what counts is F^2, as in the C program"
    _LOG.warning(line, path, count, place)


def require_finite(
    grid: NDArray[np.float64], metadata: dict[str, int], path: str | os.PathLike[str], flag: str
) -> None:
    """Raise InputError naming file, place and value of the first amplitude of a grid that is not finite."""
    wrong = ~np.isfinite(grid)
    if wrong.any():
        cell = np.unravel_index(int(np.argmax(wrong)), grid.shape)
        place = " ".join(str(int(i) + metadata[f"{axis}_min"]) for i, axis in zip(cell, "hkl", strict=True))
        raise InputError(flag, f"{path}: F of {place} = {grid[cell]:g}", "finite structure factors")


def write_dump_file(target: Target, grid: NDArray[np.float64], metadata: dict[str, int], *, flag: str = FLAG) -> None:
    """Write a grid [H, K, L] as the C program's dump file.

    Raises InputError if the file cannot be written or the grid does not fit its limits.
    """
    values = np.asarray(grid, np.float64)
    if values.shape != _shape(metadata):
        raise InputError("grid", values.shape, f"shape {_shape(metadata)}, as the limits say")
    limits = " ".join(str(metadata[name]) for name in LIMITS)
    with open_output(target, flag) as file:
        file.write(limits.encode() + b"\n\f")
        file.write(np.pad(values, (0, 1)).tobytes())


def _shape(metadata: dict[str, int]) -> tuple[int, int, int]:
    h, k, l = (metadata[f"{axis}_max"] - metadata[f"{axis}_min"] + 1 for axis in "hkl")
    return h, k, l
