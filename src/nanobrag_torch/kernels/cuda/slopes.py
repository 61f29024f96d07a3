"""Sums over lattices of F^2 L^2 and of its slopes: device functions of the adjoint Triton kernel."""

from __future__ import annotations

from typing import Any

import triton.language as tl

from nanobrag_torch.kernels.cuda.jit import jit
from nanobrag_torch.kernels.cuda.lattice import amplitude, anchors, close_enough, distances, hkl_wide
from nanobrag_torch.kernels.cuda.math import add_row, cast, largest, load9, total
from nanobrag_torch.kernels.cuda.profiles import slopes


@jit
def add_lattice_row(row: tl.tensor, by_hkl: tl.tensor, q: tl.tensor, by_weight: tl.tensor, unit: tl.tensor) -> None:
    """Add the gradients by a lattice and its weight, summed over the program's pixels, in multiples of `unit`."""
    h, k, l = by_hkl
    a = total(h * q[0]), total(h * q[1]), total(h * q[2])
    b = total(k * q[0]), total(k * q[1]), total(k * q[2])
    c = total(l * q[0]), total(l * q[1]), total(l * q[2])
    a = a[0].to(tl.float64) * unit, a[1].to(tl.float64) * unit, a[2].to(tl.float64) * unit
    b = b[0].to(tl.float64) * unit, b[1].to(tl.float64) * unit, b[2].to(tl.float64) * unit
    c = c[0].to(tl.float64) * unit, c[1].to(tl.float64) * unit, c[2].to(tl.float64) * unit
    weight = total(by_weight).to(tl.float64) * unit
    add_row(row, (a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2], weight), 10)


@jit
def add_slopes(
    q: tl.tensor,
    offset: tl.tensor,
    q_share: tl.tensor,
    share: tl.tensor,
    unit: tl.tensor,
    tables: tl.tensor,
    chunk: tl.tensor,
    cells: tl.tensor,
    default: tl.tensor,
    grid: tl.tensor,
    rows: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """Sums of weight F^2 L^2, its slopes by q (3), shape (6) and default F; `share` times those by lattice to rows."""
    lattice, narrow, table = tables
    zero = tl.full([way.group, way.lanes], 0.0, way.real)
    value, x, y, z, by_default = zero, zero, zero, zero, zero
    s0, s1, s2, s3, s4, s5 = zero, zero, zero, zero, zero, zero
    for k in range(chunk[0], chunk[1]):
        d, near = distances(lattice + 10 * k, narrow + 10 * k, q, offset, way)
        hkl = d
        if way.cubic:
            hkl = hkl_wide(lattice + 10 * k, q)
        f, by_place, outside = amplitude(table, near, hkl, default, grid, way)
        square, by_d, by_shape = slopes(d, cells, way)
        weight = tl.load(narrow + 10 * k + 9)
        term = weight * (f * f)
        value += term * square
        twice = 2.0 * weight * f * square
        h, k_, l = term * by_d[0], term * by_d[1], term * by_d[2]
        if way.cubic:
            h, k_, l = h + twice * by_place[0], k_ + twice * by_place[1], l + twice * by_place[2]
        m = load9(narrow + 10 * k)
        x += h * m[0] + k_ * m[3] + l * m[6]
        y += h * m[1] + k_ * m[4] + l * m[7]
        z += h * m[2] + k_ * m[5] + l * m[8]
        if way.by_shape:
            s0, s1, s2 = s0 + term * by_shape[0], s1 + term * by_shape[1], s2 + term * by_shape[2]
            s3, s4, s5 = s3 + term * by_shape[3], s4 + term * by_shape[4], s5 + term * by_shape[5]
            by_default += outside * twice
        if way.by_lattice:
            add_lattice_row(rows + 16 * k, (h, k_, l), q_share, f * f * square * share, unit)
    by_q = x.to(tl.float64), y.to(tl.float64), z.to(tl.float64)
    return value.to(tl.float64), by_q, (s0, s1, s2, s3, s4, s5), by_default


@jit
def lattice_slopes(
    q: tl.tensor,
    flow: tl.tensor,
    tables: tl.tensor,
    chunk: tl.tensor,
    scene: tl.tensor,
    cells: tl.tensor,
    default: tl.tensor,
    grid: tl.tensor,
    rows: tl.tensor,
    way: tl.constexpr,
    whole: tl.constexpr,
) -> Any:
    """The same, by float32 differences where they are precise enough; `flow`: gradient by the sum over lattices.

    For the sums over pixels the flow is split into the largest and a share of it, to stay within the range of float32.
    """
    unit = largest(tl.abs(flow))
    unit = tl.where(unit > 0.0, unit, 1.0)
    share = (flow / unit).to(way.real)
    q_share = cast((q[0] * (flow / unit), q[1] * (flow / unit), q[2] * (flow / unit)), way.real)
    if way.wide:
        value, by_q, by_shape, by_default = add_slopes(
            q, q, q_share, share, unit, tables, chunk, cells, default, grid, rows, whole
        )
    else:
        middle = anchors(q, way)
        offset = cast((q[0] - middle[0], q[1] - middle[1], q[2] - middle[2]), tl.float32)
        if close_enough(offset, scene):
            value, by_q, by_shape, by_default = add_slopes(
                middle, offset, q_share, share, unit, tables, chunk, cells, default, grid, rows, way
            )
        else:
            value, by_q, by_shape, by_default = add_slopes(
                q, offset, q_share, share, unit, tables, chunk, cells, default, grid, rows, whole
            )
    return value, by_q, by_shape, by_default
