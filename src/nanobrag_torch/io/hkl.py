"""Structure factors as text: a line of h k l F each (section 7.2)."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output, read_input
from nanobrag_torch.io.dump import read_dump_file, require_finite, warn_of_signs, write_dump_file
from nanobrag_torch.io.numbertable import parse_table
from nanobrag_torch.memory import require_memory
from nanobrag_torch.records.images import as_array
from nanobrag_torch.records.reflections import IndexLimits

if TYPE_CHECKING:
    import torch

Grid = NDArray[np.float64]
Metadata = dict[str, int]

FLAG = "-hkl"
ACCEPTED = "lines of h k l F: three integers and a number"
LIMITS = ("h_min", "h_max", "k_min", "k_max", "l_min", "l_max")
LARGEST_GRID, SPARSE_GRID, CELLS_A_LINE = 2**29, 2**26, 1000
"""Cells of the range of indices: at most; for any list; and for each line of a longer one."""
BYTES_A_CELL = 8

_INTEGER = rb"[+-]?[0-9]++"
_REAL = rb"[+-]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?[0-9]++|(?![eE]))"
_BLANK = rb"[ \t\r\f\v]"
_NEXT = rb"(?:%b++|(?=[+-]))" % _BLANK  # columns of fixed width may touch: -10-12
_MALFORMED_LINE = re.compile(
    rb"^(?!%b*+(?:%b)?%b*$).*$" % (_BLANK, _NEXT.join([_INTEGER, _INTEGER, _INTEGER, _REAL]), _BLANK), re.MULTILINE
)
_COMMENT = re.compile(rb"#[^\n]*")
_TEXT_LINE = re.compile(rb"^%b*+[^0-9+.\s-][^\n]*$" % _BLANK, re.MULTILINE)  # begins with what begins no number
_LONG_LINE = re.compile(
    rb"^(%b*+%b)%b++[^\s][^\n]*$" % (_BLANK, _NEXT.join([_INTEGER, _INTEGER, _INTEGER, _REAL]), _BLANK), re.MULTILINE
)
_LOG = logging.getLogger(__name__)

_C_REAL = rb"(?:%b|[+-]?(?i:inf(?:inity)?|nan))" % _REAL
_C_COLUMNS = (_INTEGER, _INTEGER, _INTEGER, _C_REAL)
_QUADRUPLE = re.compile(rb"\s*+(%b)\s*+(%b)\s*+(%b)\s*+(%b)" % _C_COLUMNS)
_QUADRUPLES = re.compile(rb"(?:\s*+%b\s*+%b\s*+%b\s*+%b)*+" % _C_COLUMNS)
_NUMBER = re.compile(_C_REAL)
_NUMBERS = re.compile(rb"(?:\s*+%b)*+" % _C_REAL)


@dataclass(frozen=True)
class HklTable:
    """A reflection file: the grid [H, K, L] of amplitudes over the index range, and what was met while reading."""

    grid: Grid
    metadata: Metadata  # h_min h_max k_min k_max l_min l_max
    count: int  # lines counted, also those that a C reader never reaches
    non_integer: list[tuple[str, float]]  # axis and value of indices that the C program warns about
    tidied: bool = False  # lines of text were skipped, or columns past the fourth
    commented: bool = False


def read_hkl_file(
    path: str | os.PathLike[str],
    default_F: float = 0.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    stop_at_text: bool = False,
) -> tuple[torch.Tensor, Metadata]:
    """Structure factors of a text file of h k l F: the grid [H, K, L] (electrons) and the index limits.

    The grid spans exactly the indices met; those without a line hold default_F; of duplicates the last one counts.
    Lines may end in a # comment. Lines of text are skipped, and columns past the fourth, with a line in the log. With
    stop_at_text reading ends for good at the first thing that is no number, as in the C program. dtype: float64 unless
    given. Raises InputError naming the file and line. Section 7.2.
    """
    import torch

    table = read_hkl_arrays(path, default_F, stop_at_text=stop_at_text)
    return torch.from_numpy(table.grid).to(device, dtype or torch.float64), table.metadata


def read_fdump(
    path: str | os.PathLike[str], device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, Metadata]:
    """The grid [H, K, L] and index limits of the C program's binary cache, as read_hkl_file gives them."""
    import torch

    grid, metadata = read_dump_file(path)
    return torch.from_numpy(grid).to(device, dtype or torch.float64), metadata


def write_fdump(grid: Any, metadata: Metadata, path: Target) -> None:
    """Write a grid [H, K, L], array or tensor, as the C program's binary cache. Raises InputError."""
    write_dump_file(path, as_array(grid).astype(np.float64), metadata)


def try_load_hkl_or_fdump(
    hkl_path: str | os.PathLike[str] | None = None,
    fdump_path: str | os.PathLike[str] = "Fdump.bin",
    default_F: float = 0.0,
    write_cache: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor | None, Metadata | None]:
    """The table of a text file, kept in `fdump_path` for the next time; else that of `fdump_path`; else None, None."""
    if hkl_path is not None:
        grid, metadata = read_hkl_file(hkl_path, default_F, device, dtype)
        if write_cache:
            write_fdump(grid, metadata, fdump_path)
        return grid, metadata
    return read_fdump(fdump_path, device, dtype) if Path(fdump_path).exists() else (None, None)


def read_hkl_arrays(path: str | os.PathLike[str], default_F: float = 0.0, *, stop_at_text: bool = False) -> HklTable:
    """As read_hkl_file, as plain arrays and with the count of lines and the indices that were not whole."""
    text = read_input(path, FLAG, "a readable file with " + ACCEPTED)
    # a comment ends the C program's reading, wherever it stands
    bare = text.partition(b"#")[0] if stop_at_text else _COMMENT.sub(b"", text)
    regular = parse_table(bare, 4)
    tidied = False
    if regular is None and not stop_at_text:
        bare, tidied = _tidied(bare, path)
    if regular is not None and regular[1][:, :3].all():
        met, indices, amplitudes = regular[0][:, :3], regular[0][:, :3], regular[0][:, 3]
    elif stop_at_text:
        met, indices, amplitudes = _quadruples_until_text(bare)
    else:
        _require_quadruples(bare, text, path)
        indices, amplitudes = _as_arrays(_QUADRUPLE.findall(bare))
        met = indices
    if met.size == 0:
        raise InputError(FLAG, str(path), "at least one line of h k l F")
    metadata = _limits(met, path)
    grid = _fill(metadata, indices, amplitudes, default_F)
    require_finite(grid, metadata, path, FLAG)
    if not stop_at_text:
        _warn_of_signs(indices, amplitudes, path)
    return HklTable(grid, metadata, len(met), _not_whole(met), tidied, b"#" in text)


def write_hkl_file(target: Target, grid: Grid, metadata: Metadata, *, flag: str = "hkl file") -> None:
    """Write every cell of a grid [H, K, L] as a line h k l F that reads back to the same number.

    Raises InputError if the file cannot be written or the grid does not fit its limits.
    """
    values = np.asarray(grid, dtype=np.float64)
    axes = [np.arange(metadata[f"{axis}_min"], metadata[f"{axis}_max"] + 1) for axis in "hkl"]
    if values.shape != tuple(map(len, axes)):
        raise InputError("grid", values.shape, f"shape {tuple(map(len, axes))}, as the limits say")
    columns = [*(axis.ravel().tolist() for axis in np.meshgrid(*axes, indexing="ij")), values.ravel().tolist()]
    with open_output(target, flag) as file:
        file.write("".join(map("%d %d %d %s\n".__mod__, zip(*columns, strict=True))).encode())


def _tidied(bare: bytes, path: str | os.PathLike[str]) -> tuple[bytes, bool]:
    """The text without lines of text and without what follows the fourth column, and whether there was any."""
    bare, texts = _TEXT_LINE.subn(b"", bare)
    bare, longer = _LONG_LINE.subn(rb"\1", bare)
    if texts and bare.strip():  # a file of nothing else is refused by its reader
        _LOG.warning("%s: lines that begin with no number are skipped: %d", path, texts)
    if longer:
        _LOG.warning("%s: h k l F are the first four columns; more are not read, in lines: %d", path, longer)
    return bare, bool(texts or longer)


def _require_quadruples(bare: bytes, text: bytes, path: str | os.PathLike[str]) -> None:
    """Raise InputError for the first line that is neither a reflection nor blank once comments are gone."""
    if malformed := _MALFORMED_LINE.search(bare):
        number = bare.count(b"\n", 0, malformed.start()) + 1
        line = text.split(b"\n")[number - 1].strip().decode("ascii", "replace")
        raise InputError(FLAG, f"{path} line {number}: {line[:60]}", ACCEPTED + "; # starts a comment")


def _quadruples_until_text(text: bytes) -> tuple[Grid, Grid, Grid]:
    """The C program's two passes: indices as reals [m, 3]; then indices and amplitudes while indices are integers."""
    numbers = _NUMBERS.match(text)
    quadruples = _QUADRUPLES.match(text)
    assert numbers is not None and quadruples is not None  # both match nothing at least
    reals = np.array(_NUMBER.findall(text, 0, numbers.end()), dtype=np.float64)
    met = reals[: reals.size // 4 * 4].reshape(-1, 4)[:, :3]
    indices, amplitudes = _as_arrays(_QUADRUPLE.findall(text, 0, quadruples.end()))
    if len(met):
        # an index past the limits would be written outside the C program's array: reading ends there
        outside = ((indices < np.trunc(met.min(0))) | (indices > np.trunc(met.max(0)))).any(1)
        good = int(outside.argmax()) if outside.any() else len(indices)
        indices, amplitudes = indices[:good], amplitudes[:good]
    return met, indices, amplitudes


def _as_arrays(quadruples: list[tuple[bytes, bytes, bytes, bytes]]) -> tuple[Grid, Grid]:
    numbers = np.array(quadruples, dtype=np.bytes_).astype(np.float64).reshape(-1, 4)
    return numbers[:, :3], numbers[:, 3]


def _limits(met: Grid, path: str | os.PathLike[str]) -> Metadata:
    low, high = np.trunc(met.min(0)), np.trunc(met.max(0))
    with np.errstate(invalid="ignore", over="ignore"):  # indices may be anything; what is too much is refused
        cells = float(np.prod(high - low + 1))
    most = min(LARGEST_GRID, max(SPARSE_GRID, CELLS_A_LINE * len(met)))
    if not cells <= most:
        raise InputError(FLAG, str(path), f"indices of {len(met)} lines that span at most {most} cells, not {cells:g}")
    require_memory(FLAG, str(path), 2 * BYTES_A_CELL * cells)
    bounds = [int(bound) for pair in zip(low, high, strict=True) for bound in pair]
    return IndexLimits(zip(LIMITS, bounds, strict=True))


def _fill(metadata: Metadata, indices: Grid, amplitudes: Grid, default_F: float) -> Grid:
    shape = tuple(metadata[f"{axis}_max"] - metadata[f"{axis}_min"] + 1 for axis in "hkl")
    low = np.array([metadata[f"{axis}_min"] for axis in "hkl"])
    grid = np.full(shape, float(default_F))
    cells = indices.astype(np.int64) - low
    grid.reshape(-1)[(cells[:, 0] * shape[1] + cells[:, 1]) * shape[2] + cells[:, 2]] = amplitudes
    return grid


def _warn_of_signs(indices: Grid, amplitudes: Grid, path: str | os.PathLike[str]) -> None:
    below = amplitudes < 0
    if below.any():
        warn_of_signs(path, int(below.sum()), indices[np.argmax(below)])


def _not_whole(met: Grid) -> list[tuple[str, float]]:
    rows, axes = np.nonzero(met != np.ceil(met - 0.4))
    return [("hkl"[axis], float(met[row, axis])) for row, axis in zip(rows, axes, strict=True)]
