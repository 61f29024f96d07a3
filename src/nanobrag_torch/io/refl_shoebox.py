"""The pixels that DIALS keeps with each reflection: the column `shoebox` of a reflection table.

Rows follow one another without an index: panel (uint32), bounding box (6 int32), a byte that says what follows, and
then, if anything, data (float32), mask (int32 after a byte of 1, uint8 after 2) and background (float32), each over
frame, slow, fast. As dials/array_family/reflection_table_msgpack_adapter.h writes them.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.records.tables import ShoeboxData

KIND = "Shoebox<>"
HEAD = struct.Struct("<I6iB")
MASK_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<i4"), 2: np.dtype("u1")}
FLOAT: np.dtype[Any] = np.dtype("<f4")


def shoeboxes_of(entry: Any, rows: int, where: str) -> tuple[ShoeboxData, ...]:
    """The boxes of a packed column, one a row. Raises InputError naming `where` for bytes that are no such column."""
    body = entry[1]
    if not (isinstance(body, list) and len(body) == 2 and isinstance(body[1], bytes) and body[0] == rows):
        raise InputError(where, type(body).__name__, f"{rows} shoeboxes as bytes")
    found, place, content = [], 0, body[1]
    for row in range(rows):
        box, place = _one(content, place, f"{where}, row {row}")
        found.append(box)
    if place != len(content):
        raise InputError(where, f"{len(content)} bytes", f"{place} bytes for {rows} shoeboxes")
    return tuple(found)


def _one(content: bytes, place: int, where: str) -> tuple[ShoeboxData, int]:
    """One box, and where the next begins."""
    if place + HEAD.size > len(content):
        raise InputError(where, f"{len(content) - place} bytes", "a shoebox")
    panel, *bbox, kind = HEAD.unpack_from(content, place)
    place += HEAD.size
    sizes = bbox[5] - bbox[4], bbox[3] - bbox[2], bbox[1] - bbox[0]
    if min(sizes) < 0 or kind not in (0, *MASK_TYPES):
        raise InputError(where, (tuple(bbox), kind), "ends behind beginnings, and data of kind 0, 1 or 2")
    if not kind:
        return ShoeboxData(panel, np.array(bbox), None, None, None), place
    parts = []
    for number in (FLOAT, MASK_TYPES[kind], FLOAT):
        values, place = _values(content, place, number, sizes, where)
        parts.append(values)
    return ShoeboxData(panel, np.array(bbox), parts[0], parts[1].astype(np.uint8), parts[2]), place


def _values(
    content: bytes, place: int, number: np.dtype[Any], sizes: tuple[int, int, int], where: str
) -> tuple[NDArray[Any], int]:
    count = sizes[0] * sizes[1] * sizes[2]
    end = place + count * number.itemsize
    if end > len(content):
        raise InputError(where, f"{len(content) - place} bytes", f"{count} pixels of {number}")
    return np.frombuffer(content, number, count, place).reshape(sizes), end
