"""Gradients by structure factors: whole numbers that are added up in memory, or a list for a sorted sum.

Many steps fall on one reflection, in an order that no two runs share. Whole numbers have the same sum in any order, so
atomic additions of them repeat bit for bit; the caller has brought the flow to a scale at which no sum overflows.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from nanobrag_torch.kernels.cuda.jit import jit
from nanobrag_torch.kernels.cuda.lattice import Spot, cubic_corner, lagrange, place_of
from nanobrag_torch.kernels.cuda.math import largest
from nanobrag_torch.kernels.cuda.records import Grid, Sink


@jit
def add_at(sums: tl.tensor, place: tl.tensor, value: tl.tensor, mask: tl.tensor, way: tl.constexpr) -> None:
    """Add to places of a table; pixels of a group that share the place of their middle one do it together.

    As one row of lanes, for the reason that lattice.gather gives.
    """
    number = tl.where(mask, value, 0.0).to(tl.int64)
    middle = tl.arange(0, way.group)[:, None] == way.group // 2
    shared = tl.reduce(tl.where(middle & mask, place, -1), 0, tl.standard._elementwise_max, True)
    whole = tl.reduce(tl.where(place == shared, number, 0), 0, tl.standard._sum_combine, True)
    tl.atomic_add(
        sums + tl.reshape(shared, [way.lanes]),
        tl.reshape(whole, [way.lanes]),
        mask=tl.reshape(shared, [way.lanes]) >= 0,
        sem="relaxed",
    )
    alone = mask & (place != shared)
    if largest(alone.to(tl.int32)) > 0:
        tl.atomic_add(
            sums + tl.reshape(place, [way.group * way.lanes]),
            tl.reshape(number, [way.group * way.lanes]),
            mask=tl.reshape(alone, [way.group * way.lanes]),
            sem="relaxed",
        )


@jit
def node_weight(t: tl.tensor, node: tl.tensor) -> Any:
    """The weight of lattice.lagrange for a node that is known when running: 64 nodes written out are too many."""
    first, second = lagrange(t, 0)[0], lagrange(t, 1)[0]
    third, fourth = lagrange(t, 2)[0], lagrange(t, 3)[0]
    return tl.where(node < 2, tl.where(node == 0, first, second), tl.where(node == 2, third, fourth))


@jit
def node_of(number: tl.tensor, corner: tl.tensor, t: tl.tensor, grid: Grid) -> Any:
    """Place and weight of one of the 64 nodes of an interpolation."""
    a, b, c = number // 16, (number // 4) % 4, number % 4
    weight = node_weight(t[0], a) * node_weight(t[1], b) * node_weight(t[2], c)
    return corner + (a * grid.size_k + b) * grid.size_l + c, weight


@jit
def add_factors(
    sums: tl.tensor, by_amplitude: tl.tensor, spot: Spot, grid: Grid, there: tl.tensor, way: tl.constexpr
) -> None:
    """Add the gradients by a spot's amplitude to the structure factors it is made of."""
    place, inside = place_of(spot.near, grid)
    if way.cubic:
        allowed, corner, t = cubic_corner(spot.hkl, grid)
        for number in range(64):
            node, weight = node_of(number, corner, t, grid)
            add_at(sums, node, by_amplitude * weight, there & allowed, way)
        inside = inside & (allowed == 0)
    add_at(sums, place, by_amplitude, there & inside, way)


@jit
def write_factors(
    sink: Sink, by_amplitude: tl.tensor, spot: Spot, grid: Grid, there: tl.tensor, way: tl.constexpr
) -> None:
    """The same as records of place and value; the place after the last for the default F."""
    place, inside = place_of(spot.near, grid)
    place = tl.where(inside, place, grid.size_h * grid.size_k * grid.size_l)
    if way.cubic:
        allowed, corner, t = cubic_corner(spot.hkl, grid)
        for number in range(64):
            node, weight = node_of(number, corner, t, grid)
            weight = tl.where(allowed, weight, tl.where(number == 0, 1.0, 0.0))
            step = number * sink.table.stride
            tl.store(sink.table.start + step, tl.where(allowed, node, place), mask=there)
            tl.store(sink.amounts + step, by_amplitude * weight, mask=there)
    else:
        tl.store(sink.table.start, place, mask=there)
        tl.store(sink.amounts, by_amplitude, mask=there)
