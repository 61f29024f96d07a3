"""Writing DIALS reflection tables; `refl.py` says how they are made and reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.io.refl import COLUMN_TYPES, KIND
from nanobrag_torch.records.tables import ReflectionData

NAMED = {
    "miller_index": "cctbx::miller::index<>",
    "flags": "std::size_t",
    "panel": "std::size_t",
    "id": "int",
    "imageset_id": "int",
    "entering": "bool",
    "bbox": "int6",
}
"""Columns whose type DIALS asks for by name."""
_BY_KIND = {"b": "bool", "i": "int", "u": "std::size_t", "f": "double"}
_VECTORS = {(2,): "vec2<double>", (3,): "vec3<double>", (3, 3): "mat3<double>", (6,): "int6"}


def write_refl(target: Target, table: ReflectionData, *, flag: str = "output file") -> None:
    """Write a `.refl` file that DIALS reads.

    Raises InputError for a column whose shape or type the format has no name for, or a file that cannot be written.
    """
    import msgpack

    data = {name: _entry(name, values, table.rows) for name, values in table.columns.items()}
    tree = [KIND, 1, {"identifiers": dict(table.identifiers), "nrows": table.rows, "data": data}]
    with open_output(target, flag) as file:
        file.write(msgpack.packb(tree, use_bin_type=True))


def _entry(name: str, values: NDArray[Any], rows: int) -> list[Any]:
    kind = column_type(name, values)
    number, shape = COLUMN_TYPES[kind]
    if values.shape != (rows, *shape):
        raise InputError(f"column {name}", values.shape, f"shape {(rows, *shape)}")
    return [kind, [rows, np.ascontiguousarray(values, dtype=number).tobytes()]]


def column_type(name: str, values: NDArray[Any]) -> str:
    """The name of the format for a column. Raises InputError where it has none."""
    if name in NAMED:
        return NAMED[name]
    kind = _BY_KIND.get(values.dtype.kind) if values.ndim == 1 else _VECTORS.get(values.shape[1:])
    if kind is None:
        raise InputError(f"column {name}", f"{values.dtype} of shape {values.shape}", ", ".join(COLUMN_TYPES))
    return kind
