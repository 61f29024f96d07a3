"""Sums over lattices of F^2 L^2, of its slopes, and of its gradients by structure factors: Triton device functions."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from nanobrag_torch.kernels.cuda.columns import LATTICE
from nanobrag_torch.kernels.cuda.factor_sums import add_factors, node_of, write_factors
from nanobrag_torch.kernels.cuda.jit import BOUND, FACTORS, GRADIENTS, SLOPES, VALUE, jit
from nanobrag_torch.kernels.cuda.lattice import (
    Amplitude,
    Spot,
    amplitude,
    anchors,
    close_enough,
    cubic_corner,
    gather,
    place_of,
    spot_of,
)
from nanobrag_torch.kernels.cuda.math import axpy, cast, largest, scaled
from nanobrag_torch.kernels.cuda.profiles import load_cells, slopes, square
from nanobrag_torch.kernels.cuda.records import ROW, Given, Sink, load9
from nanobrag_torch.kernels.cuda.sinks import add_row, first_of, no_slopes, scaled_sum

WEIGHT = tl.constexpr(LATTICE.first("lattice_weights"))
BATCH = tl.constexpr(64)
"""Lattices whose sums are taken in the image's type; these are then added up in float64."""


class Flow(NamedTuple):
    """Gradient by the sum over lattices, and what float32 holds of it: a share of the largest, alone and times q."""

    whole: tl.tensor
    unit: tl.tensor
    share: tl.tensor
    share_q: tl.tensor
    q: tl.tensor  # in the image's type


class Step(NamedTuple):
    """Where hkl is taken of a sample and source: q, or that of anchors and the way from there; what flows; pixels."""

    at: tl.tensor
    offset: tl.tensor
    flow: Flow
    there: tl.tensor


class Sums(NamedTuple):
    """Sums over lattices of weight F^2 L^2, its slopes by q (3), shape (6) and default F, and along directions."""

    value: tl.tensor
    by_q: tl.tensor
    by_shape: tl.tensor
    by_default: tl.tensor
    along: tl.tensor


@jit
def flow_of(whole: tl.tensor, q: tl.tensor, way: tl.constexpr) -> Any:
    """The flow by q of a sample and source; its largest is taken out, to stay within the range of float32."""
    unit = largest(tl.abs(whole))
    unit = tl.where(unit > 0.0, unit, 1.0)
    share = whole / unit
    return Flow(whole, unit, share.to(way.real), cast(scaled(share, q), way.real), cast(q, way.real))


@jit
def add_values(step: Step, given: Given, sink: Sink, way: tl.constexpr, wide: tl.constexpr) -> Any:
    """Sum of weight F^2 L^2, float64; or a bound of its slopes by F; or these slopes times the flow to the sink."""
    cells, default = load_cells(given.shape, way), tl.load(given.default_F).to(way.real)
    total = tl.full([way.group, way.lanes], 0.0, tl.float64)
    for start in range(given.first, given.last, BATCH):
        part = tl.full([way.group, way.lanes], 0.0, way.real)
        for k in range(start, tl.minimum(start + BATCH, given.last)):
            spot = spot_of(k, step.at, step.offset, given, way, wide)
            f = amplitude(given.table, spot, default, given.grid, way).f
            weight = tl.load(given.lattice_weights + k)
            if way.job == VALUE:
                part += weight * (f * f) * square(spot.d, cells, way)
            else:
                slope = 2.0 * weight * f * square(spot.d, cells, way)
                if way.job == BOUND:
                    part += tl.abs(slope)
                elif way.job == FACTORS:
                    flow = step.flow.whole * slope.to(tl.float64)
                    add_factors(sink.table.start, flow, spot, given.grid, step.there, way)
                else:
                    flow = step.flow.whole * slope.to(tl.float64)
                    write_factors(sink, flow, spot, given.grid, step.there, way)
        total += part.to(tl.float64)
    return total


@jit
def lattice_gradients(row: tl.tensor, by_hkl: tl.tensor, by_weight: tl.tensor, flow: Flow, way: tl.constexpr) -> None:
    """Add the gradients by a lattice and its weight to their row."""
    h, k, l = by_hkl
    q = flow.share_q
    by_a, by_b, by_c = scaled(h, q), scaled(k, q), scaled(l, q)
    add_row(row, 0, by_a + by_b + by_c + (by_weight * flow.share,), 10, flow.unit)


@jit
def lattice_slopes(
    along: tl.tensor,
    k: tl.tensor,
    by_hkl: tl.tensor,
    by_weight: tl.tensor,
    q: tl.tensor,
    sink: Sink,
    way: tl.constexpr,
) -> Any:
    """Slopes where a lattice and its weight move."""
    directions: tl.constexpr = way.directions
    found = first_of(along[0] + one_lattice_slope(sink.lattices.start + ROW * k, by_hkl, by_weight, q))
    for t in tl.static_range(1, directions):
        row = sink.lattices.start + t * sink.lattices.stride + ROW * k
        found = found + (along[t] + one_lattice_slope(row, by_hkl, by_weight, q),)
    return found


@jit
def one_lattice_slope(row: tl.tensor, by_hkl: tl.tensor, by_weight: tl.tensor, q: tl.tensor) -> Any:
    """Slope along one direction, of which `row` holds what moves a lattice."""
    m = load9(row)
    h, k = m[0] * q[0] + m[1] * q[1] + m[2] * q[2], m[3] * q[0] + m[4] * q[1] + m[5] * q[2]
    l = m[6] * q[0] + m[7] * q[1] + m[8] * q[2]
    return by_hkl[0] * h + by_hkl[1] * k + by_hkl[2] * l + by_weight * tl.load(row + WEIGHT)


@jit
def one_factor_slope(
    along: tl.tensor, by_factor: tl.tensor, place: tl.tensor, mask: tl.tensor, sink: Sink, way: tl.constexpr
) -> Any:
    """Slopes where the structure factors at some places move."""
    found = first_of(along[0] + by_factor * gather(sink.table.start + place, mask, way))
    directions: tl.constexpr = way.directions
    for t in tl.static_range(1, directions):
        moved = gather(sink.table.start + t * sink.table.stride + place, mask, way)
        found = found + (along[t] + by_factor * moved,)
    return found


@jit
def table_slopes(
    along: tl.tensor, spot: Spot, by_amplitude: tl.tensor, given: Given, sink: Sink, way: tl.constexpr
) -> Any:
    """Slopes where structure factors move; the default F has its own."""
    place, inside = place_of(spot.near, given.grid)
    if way.cubic:
        allowed, corner, t = cubic_corner(spot.hkl, given.grid)
        inside = inside & (allowed == 0)
        for number in range(64):
            node, weight = node_of(number, corner, t, given.grid)
            along = one_factor_slope(along, by_amplitude * weight.to(way.real), node, allowed, sink, way)
    return one_factor_slope(along, by_amplitude, place, inside, sink, way)


@jit
def by_hkl_of(term: tl.tensor, by_d: tl.tensor, twice: tl.tensor, found: Amplitude, way: tl.constexpr) -> Any:
    """Slopes of a lattice's part by hkl: through L^2, and through F where it is interpolated."""
    h, k, l = term * by_d[0], term * by_d[1], term * by_d[2]
    if way.cubic:
        h, k, l = h + twice * found.slopes[0], k + twice * found.slopes[1], l + twice * found.slopes[2]
    return h, k, l


@jit
def add_slopes(
    step: Step, first: tl.tensor, last: tl.tensor, given: Given, sink: Sink, way: tl.constexpr, wide: tl.constexpr
) -> Any:
    """Sums of weight F^2 L^2 and of its slopes over some lattices; those by lattice go to the sink."""
    cells, default = load_cells(given.shape, way), tl.load(given.default_F).to(way.real)
    zero = tl.full([way.group, way.lanes], 0.0, way.real)
    value, x, y, z, by_default = zero, zero, zero, zero, zero
    s0, s1, s2, s3, s4, s5 = zero, zero, zero, zero, zero, zero
    along = no_slopes(way.real, way)
    for k in range(first, last):
        spot = spot_of(k, step.at, step.offset, given, way, wide)
        found = amplitude(given.table, spot, default, given.grid, way)
        square, by_d, by_shape = slopes(spot.d, cells, way)
        weight = tl.load(given.lattice_weights + k)
        term = weight * (found.f * found.f)
        value += term * square
        twice = 2.0 * weight * found.f * square
        by_hkl = by_hkl_of(term, by_d, twice, found, way)
        m = load9(given.narrow + 9 * k)
        x += by_hkl[0] * m[0] + by_hkl[1] * m[3] + by_hkl[2] * m[6]
        y += by_hkl[0] * m[1] + by_hkl[1] * m[4] + by_hkl[2] * m[7]
        z += by_hkl[0] * m[2] + by_hkl[1] * m[5] + by_hkl[2] * m[8]
        if way.by_shape:
            s0, s1, s2 = s0 + term * by_shape[0], s1 + term * by_shape[1], s2 + term * by_shape[2]
            s3, s4, s5 = s3 + term * by_shape[3], s4 + term * by_shape[4], s5 + term * by_shape[5]
            by_default += found.outside * twice
        if way.by_lattice:
            by_weight = found.f * found.f * square
            if way.job == GRADIENTS:
                lattice_gradients(sink.lattices.start + ROW * k, by_hkl, by_weight, step.flow, way)
            else:
                along = lattice_slopes(along, k, by_hkl, by_weight, step.flow.q, sink, way)
        if way.by_table:
            along = table_slopes(along, spot, twice, given, sink, way)
    return Sums(value, (x, y, z), (s0, s1, s2, s3, s4, s5), by_default, along)


@jit
def added(a: Sums, b: Sums, way: tl.constexpr) -> Any:
    """Sums in float64 and others of the image's type."""
    p, q, s, t = a.by_q, b.by_q, a.by_shape, b.by_shape
    by_q = axpy(1.0, cast(q, tl.float64), p)
    first = axpy(1.0, cast((t[0], t[1], t[2]), tl.float64), (s[0], s[1], s[2]))
    rest = axpy(1.0, cast((t[3], t[4], t[5]), tl.float64), (s[3], s[4], s[5]))
    by_default = a.by_default + b.by_default.to(tl.float64)
    return Sums(
        a.value + b.value.to(tl.float64), by_q, first + rest, by_default, scaled_sum(a.along, 1.0, b.along, way)
    )


@jit
def all_slopes(step: Step, given: Given, sink: Sink, way: tl.constexpr, wide: tl.constexpr) -> Any:
    """The same over all lattices of this program, float64."""
    none = tl.full([way.group, way.lanes], 0.0, tl.float64)
    found = Sums(none, (none, none, none), (none, none, none, none, none, none), none, no_slopes(tl.float64, way))
    for start in range(given.first, given.last, BATCH):
        last = tl.minimum(start + BATCH, given.last)
        found = added(found, add_slopes(step, start, last, given, sink, way, wide), way)
    return found


@jit
def part_of(step: Step, given: Given, sink: Sink, way: tl.constexpr, wide: tl.constexpr) -> Any:
    """The sums that a job is about."""
    if (way.job == GRADIENTS) or (way.job == SLOPES):
        found = all_slopes(step, given, sink, way, wide)
    else:
        found = add_values(step, given, sink, way, wide)
    return found


@jit
def lattice_sums(q: tl.tensor, whole: tl.tensor, given: Given, sink: Sink, there: tl.tensor, way: tl.constexpr) -> Any:
    """Sums over lattices, by float32 differences where they are precise enough; `whole`: gradient by the sum."""
    flow = flow_of(whole, q, way)
    if way.wide:
        found = part_of(Step(q, q, flow, there), given, sink, way, True)
    else:
        middle = anchors(q, way)
        offset = cast((q[0] - middle[0], q[1] - middle[1], q[2] - middle[2]), tl.float32)
        if close_enough(offset, given, way):
            found = part_of(Step(middle, offset, flow, there), given, sink, way, False)
        else:
            found = part_of(Step(q, offset, flow, there), given, sink, way, True)
    return found
