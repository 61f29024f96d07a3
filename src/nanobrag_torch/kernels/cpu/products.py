"""Products of small vectors and matrices in one lane, which values, adjoint and tangents share (compiled CPU kernel).

The adjoint sums them over lanes, the tangents keep them apart in rows.
"""

from __future__ import annotations

from typing import Any

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage
from nanobrag_torch.kernels.cpu.layout import Array


@stage(forceinline=True)
def nine(a: Array) -> Any:
    """The elements of a matrix, row by row: read before a loop over lanes, they stay in registers."""
    return a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]


@stage(forceinline=True, fastmath=FAST)
def times(m: Any, x: Any, y: Any, z: Any) -> Any:
    """Matrix times vector."""
    return m[0] * x + m[1] * y + m[2] * z, m[3] * x + m[4] * y + m[5] * z, m[6] * x + m[7] * y + m[8] * z


@stage(forceinline=True, fastmath=FAST)
def times_from(start: Any, m: Any, x: Any, y: Any, z: Any) -> Any:
    """The same, added to a vector."""
    return (
        start[0] + m[0] * x + m[1] * y + m[2] * z,
        start[1] + m[3] * x + m[4] * y + m[5] * z,
        start[2] + m[6] * x + m[7] * y + m[8] * z,
    )


@stage(forceinline=True, fastmath=FAST)
def square(c: Any, x: Any, y: Any, z: Any) -> Any:
    """c (x, y, z) (x, y, z)^T: its elements xx, xy, xz, yy, yz, zz."""
    cx, cy = c * x, c * y
    return cx * x, cx * y, cx * z, cy * y, cy * z, c * z * z


@stage(forceinline=True, fastmath=FAST)
def add_six(a: Any, b: Any) -> Any:
    """Sum of two of these."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5]


@stage(forceinline=True, fastmath=FAST)
def plus(sums: Any, c: Any, x: Any) -> Any:
    """A vector, and c times another."""
    return sums[0] + c * x[0], sums[1] + c * x[1], sums[2] + c * x[2]


@stage(forceinline=True)
def symmetric(six: Any) -> Any:
    """The nine elements of a symmetric matrix."""
    xx, xy, xz, yy, yz, zz = six
    return xx, xy, xz, xy, yy, yz, xz, yz, zz


@stage(forceinline=True, fastmath=FAST)
def put_times(rows: Array, place: int, c: Any, x: Any) -> None:
    """c times a vector, into three rows from a place on."""
    rows[place], rows[place + at.ROW], rows[place + 2 * at.ROW] = c * x[0], c * x[1], c * x[2]


@stage(forceinline=True, fastmath=FAST)
def add_times(rows: Array, place: int, c: Any, x: Any) -> None:
    """The same, added to them."""
    rows[place] += c * x[0]
    rows[place + at.ROW] += c * x[1]
    rows[place + 2 * at.ROW] += c * x[2]
