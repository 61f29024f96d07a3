"""What becomes of gradients that a lane has worked out: sums over pixels, or slopes of each pixel along directions.

A row of gradients belongs to one program, which adds to it always in the same order. A slope
is the product of a pixel's own gradients with the direction, so one kernel works out both.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from nanobrag_torch.kernels.cuda.jit import jit
from nanobrag_torch.kernels.cuda.math import total
from nanobrag_torch.kernels.cuda.records import ROW, Rows


@jit
def first_of(slope: tl.tensor) -> Any:
    """A tuple of slopes with one in it."""
    return (slope,)


@jit
def no_slopes(kind: tl.constexpr, way: tl.constexpr) -> Any:
    """Slopes of zero along all directions; where gradients are summed over pixels, one that nobody reads."""
    zero = tl.full([way.group, way.lanes], 0.0, kind)
    directions: tl.constexpr = way.directions
    found = first_of(zero)
    for _ in tl.static_range(1, directions):
        found = found + (zero,)
    return found


@jit
def scaled_sum(along: tl.tensor, factor: tl.tensor, more: tl.tensor, way: tl.constexpr) -> Any:
    """Slopes and `factor` times others, which may be of the image's type."""
    directions: tl.constexpr = way.directions
    found = first_of(along[0] + factor * more[0].to(tl.float64))
    for t in tl.static_range(1, directions):
        found = found + (along[t] + factor * more[t].to(tl.float64),)
    return found


@jit
def give(
    along: tl.tensor, rows: Rows, first: tl.constexpr, by: tl.tensor, count: tl.constexpr, way: tl.constexpr
) -> Any:
    """Gradients `by` the `count` columns from `first` of a row: added to it, or as slopes to `along`."""
    if way.directions == 0:
        add_row(rows.start, first, by, count, 1.0)
        found = along
    else:
        directions: tl.constexpr = way.directions
        found = first_of(along[0] + product(rows.start + first, by, count))
        for t in tl.static_range(1, directions):
            found = found + (along[t] + product(rows.start + t * rows.stride + first, by, count),)
    return found


@jit
def product(row: tl.tensor, by: tl.tensor, count: tl.constexpr) -> Any:
    """Sum of the products of numbers in a row of memory with as many lanes."""
    found = tl.load(row) * by[0]
    for i in tl.static_range(1, count):
        found += tl.load(row + i) * by[i]
    return found


@jit
def add_row(row: tl.tensor, first: tl.constexpr, by: tl.tensor, count: tl.constexpr, unit: tl.tensor) -> None:
    """Add sums over all lanes, in multiples of `unit`, to the columns from `first` of a row of this program.

    No other program adds to the row, so the order of the additions is that of this one. They are atomic because such
    additions return nothing: the program does not wait for what was in memory.
    """
    column = tl.arange(0, ROW)
    sums = tl.where(column == first, total(by[0]), 0.0)
    for i in tl.static_range(1, count):
        sums = tl.where(column == first + i, total(by[i]), sums)
    mine = (column >= first) & (column < first + count)
    tl.atomic_add(row + column, sums.to(tl.float64) * unit, mask=mine, sem="relaxed")
