"""DIALS reflection tables (`.refl`): MessagePack, columns as raw little-endian numbers, and shoeboxes."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io import refl_shoebox
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.fileformat import FileFormat
from nanobrag_torch.records.tables import ReflectionData

_LOG = logging.getLogger(__name__)
ACCEPTED = "a DIALS reflection table (MessagePack)"
KIND = "dials::af::reflection_table"
VERSIONS = 1, 2
SHOEBOX = "shoebox"

COLUMN_TYPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "bool": ("?", ()),
    "int": ("<i4", ()),
    "std::size_t": ("<u8", ()),
    "double": ("<f8", ()),
    "int6": ("<i4", (6,)),
    "vec2<double>": ("<f8", (2,)),
    "vec3<double>": ("<f8", (3,)),
    "mat3<double>": ("<f8", (3, 3)),
    "cctbx::miller::index<>": ("<i4", (3,)),
}
"""Type of a column -> numbers of a row: numpy type and shape."""

ASKED_FOR = {"s1", "d", "xyzobs.px.value", "xyzcal.px", "dials.xyzcal.px", "partiality", "delpsical.rad"}
FAMILIES_ASKED_FOR = {"intensity", "background", "nb"}
"""Columns of real numbers that some reader works with, and beginnings of such. In others DIALS may have 0 over 0."""


def read_refl(path: str | os.PathLike[str], *, shoeboxes: bool = False) -> ReflectionData:
    """The columns of a `.refl` file, with the pixels of its shoeboxes if wanted.

    miller_index (n, 3), panel (n,), bbox (n, 6) as fast0 fast1 slow0 slow1 frame0 frame1, s1 (n, 3) in 1/Angstrom,
    xyzobs.px.value (n, 3) as fast, slow, frame, flags (n,), and whatever else the file holds. A column with a nan or
    an infinity is skipped when nobody works with it.
    Raises InputError if the file cannot be read, is cut short, is no reflection table, or for a nan in such a column.
    """
    tree = _unpacked(read_input(path, "reflection table", ACCEPTED), str(path))
    if not (isinstance(tree, list) and len(tree) == 3 and tree[0] == KIND and isinstance(tree[2], dict)):
        raise InputError(str(path), "MessagePack of another kind", ACCEPTED)
    if tree[1] not in VERSIONS:
        raise InputError(f"{path}: version", tree[1], "version 1 or 2 of the reflection table")
    content = tree[2]
    rows, data = content.get("nrows"), content.get("data")
    if not isinstance(rows, int) or not isinstance(data, dict):
        raise InputError(f"{path}: nrows, data", (type(rows).__name__, type(data).__name__), ACCEPTED)
    kinds = {name: _kind(entry, name, str(path)) for name, entry in data.items()}
    known = {name: _column(e, name, rows, str(path)) for name, e in data.items() if kinds[name] in COLUMN_TYPES}
    columns = {name: values for name, values in known.items() if _is_finite(name, values, str(path))}
    boxes = kinds.get(SHOEBOX) == refl_shoebox.KIND and shoeboxes
    return ReflectionData(
        rows=rows,
        identifiers={int(key): str(value) for key, value in (content.get("identifiers") or {}).items()},
        columns=columns,
        skipped=tuple(name for name in data if name not in columns and not (boxes and name == SHOEBOX)),
        shoeboxes=refl_shoebox.shoeboxes_of(data[SHOEBOX], rows, f"{path}: column {SHOEBOX}") if boxes else (),
    )


def _unpacked(content: bytes, path: str) -> Any:
    import msgpack

    try:
        return msgpack.unpackb(content, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise InputError(path, f"{len(content)} bytes ({reason})", ACCEPTED) from error


def _kind(entry: Any, name: str, path: str) -> str:
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
        raise InputError(f"{path}: column {name}", type(entry).__name__, "a type and the numbers")
    return entry[0]


def _column(entry: Any, name: str, rows: int, path: str) -> NDArray[Any]:
    number, shape = COLUMN_TYPES[entry[0]]
    body = entry[1]
    if not (isinstance(body, list) and len(body) == 2 and isinstance(body[1], bytes)):
        raise InputError(f"{path}: column {name}", type(body).__name__, "a number of rows and bytes")
    size = rows * int(np.prod(shape, dtype=int)) * np.dtype(number).itemsize
    if body[0] != rows or len(body[1]) != size:
        found = f"{body[0]} rows in {len(body[1])} bytes"
        raise InputError(f"{path}: column {name}", found, f"{rows} rows in {size} bytes")
    return np.frombuffer(body[1], number).reshape(rows, *shape).copy()


def _is_finite(name: str, values: NDArray[Any], path: str) -> bool:
    wrong = ~np.isfinite(values)
    if not wrong.any():
        return True
    row = int(np.argwhere(wrong)[0, 0])
    if name in ASKED_FOR or name.partition(".")[0] in FAMILIES_ASKED_FOR:
        raise InputError(f"{path}: column {name}, row {row}", values[row].tolist(), "finite numbers")
    _LOG.warning("%s: column %s is not read: it holds %s in row %d", path, name, values[row].tolist(), row)
    return False


FORMAT = FileFormat(
    name="refl",
    title="DIALS .refl",
    recognises=lambda file: KIND.encode() in file.start[:64],
    read_table=read_refl,
)
