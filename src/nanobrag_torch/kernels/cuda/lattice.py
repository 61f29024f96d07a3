"""hkl, its distance to the nearest integers and F of a lattice: Triton device functions.

Within a group of neighbouring pixels hkl varies little: it is formed in float64 at one pixel, split into integers and
rest, and the others add lattice (q - q_anchor) in float32. The error of hkl is about 2^-24 times the reach of a group,
that of the image N times as much, so N times the reach is bounded; beyond the bound, and in
float64, hkl is formed in float64 throughout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from nanobrag_torch.kernels.cuda.jit import jit
from nanobrag_torch.kernels.cuda.math import HALFWAY, dot, half_down, largest
from nanobrag_torch.kernels.cuda.profiles import effective_cells
from nanobrag_torch.kernels.cuda.records import Given, Grid, load9

NARROW_BOUND = tl.constexpr(48.0)
"""Largest number of cells times reach of a group in hkl for which float32 differences are taken (kernels.cpu too)."""


class Spot(NamedTuple):
    """A lattice at the pixels: distance to the nearest reflection in hkl, its indices, and hkl for interpolation."""

    d: tl.tensor
    near: tl.tensor
    hkl: tl.tensor


class Amplitude(NamedTuple):
    """F, its slopes by hkl (zero for the nearest reflection), and 1.0 where it is the default."""

    f: tl.tensor
    slopes: tl.tensor
    outside: tl.tensor


@jit
def of_middle(x: tl.tensor, way: tl.constexpr) -> Any:
    """The value of the middle pixel of each group: [group, lanes] -> [1, lanes]."""
    middle = tl.arange(0, way.group)[:, None] == way.group // 2
    return tl.reduce(tl.where(middle, x, 0), 0, tl.standard._sum_combine, True)


@jit
def anchors(q: tl.tensor, way: tl.constexpr) -> Any:
    """q of the middle pixel of each group [1, lanes]."""
    return of_middle(q[0], way), of_middle(q[1], way), of_middle(q[2], way)


@jit
def close_enough(offset: tl.tensor, given: Given, way: tl.constexpr) -> Any:
    """Whether number of cells times reach in hkl, over all lattices, is within the bound for float32 differences."""
    x = largest(tl.abs(offset[0])).to(tl.float64)
    y = largest(tl.abs(offset[1])).to(tl.float64)
    z = largest(tl.abs(offset[2])).to(tl.float64)
    a, b, c = effective_cells(given.shape, way)
    m = load9(given.longest)
    along_a, along_b = m[0] * x + m[1] * y + m[2] * z, m[3] * x + m[4] * y + m[5] * z
    along_c = m[6] * x + m[7] * y + m[8] * z
    return (a * along_a <= NARROW_BOUND) & (b * along_b <= NARROW_BOUND) & (c * along_c <= NARROW_BOUND)


@jit
def hkl_wide(lattice: tl.tensor, q: tl.tensor) -> Any:
    """hkl in float64."""
    m = load9(lattice)
    return dot((m[0], m[1], m[2]), q), dot((m[3], m[4], m[5]), q), dot((m[6], m[7], m[8]), q)


@jit
def nearest_wide(h: tl.tensor, way: tl.constexpr) -> Any:
    """Distance to the nearest integer, half down, and that integer."""
    near = tl.ceil(h - 0.5)
    return (h - near).to(way.real), near.to(tl.int32)


@jit
def nearest_narrow(h: tl.tensor, along: tl.tensor, way: tl.constexpr) -> Any:
    """The same for an anchor's float64 h and the float32 differences to it along the group."""
    shifted = h + HALFWAY
    base = shifted - HALFWAY
    near, number = half_down((h - base).to(tl.float32) + along, way)
    return (h - base).to(tl.float32) + along - near, number + base.to(tl.int32)


@jit
def spot_of(k: tl.tensor, at: tl.tensor, offset: tl.tensor, given: Given, way: tl.constexpr, wide: tl.constexpr) -> Any:
    """Lattice k where q is `at`; unless hkl is `wide`, that is q of the anchors, and `offset` the way from there."""
    h = hkl_wide(given.lattice + 9 * k, at)
    if wide:
        dh, nh = nearest_wide(h[0], way)
        dk, nk = nearest_wide(h[1], way)
        dl, nl = nearest_wide(h[2], way)
    else:
        m = load9(given.narrow + 9 * k)
        dh, nh = nearest_narrow(h[0], m[0] * offset[0] + m[1] * offset[1] + m[2] * offset[2], way)
        dk, nk = nearest_narrow(h[1], m[3] * offset[0] + m[4] * offset[1] + m[5] * offset[2], way)
        dl, nl = nearest_narrow(h[2], m[6] * offset[0] + m[7] * offset[1] + m[8] * offset[2], way)
    return Spot((dh, dk, dl), (nh, nk, nl), h)


@jit
def place_of(near: tl.tensor, grid: Grid) -> Any:
    """Place in the table of the nearest reflection, and whether it is in there."""
    h, k, l = near[0] - grid.first_h, near[1] - grid.first_k, near[2] - grid.first_l
    inside = (h >= 0) & (h < grid.size_h) & (k >= 0) & (k < grid.size_k) & (l >= 0) & (l < grid.size_l)
    return (h * grid.size_k + k) * grid.size_l + l, inside


@jit
def gather(pointer: tl.tensor, mask: tl.tensor, way: tl.constexpr) -> Any:
    """Numbers that lie anywhere, zero outside the mask, loaded as one row of lanes.

    Versions of Triton that find no order in memory would share the lanes of a group out among threads for the load, and
    carry them there and back through shared memory; of a row they leave every lane in its thread.
    """
    row = tl.load(tl.reshape(pointer, [way.group * way.lanes]), tl.reshape(mask, [way.group * way.lanes]), 0.0)
    return tl.reshape(row, [way.group, way.lanes])


@jit
def reflection(table: tl.tensor, near: tl.tensor, default: tl.tensor, grid: Grid, way: tl.constexpr) -> Any:
    """F of the nearest reflection, and 1.0 where it is the default."""
    if way.table:
        place, inside = place_of(near, grid)
        amplitude = gather(table + place, inside, way)
        amplitude = tl.where(inside, amplitude, default)
        outside = tl.where(inside, 0.0, 1.0).to(way.real)
    else:
        amplitude = tl.full([way.group, way.lanes], 0.0, way.real) + default
        outside = tl.full([way.group, way.lanes], 1.0, way.real)
    return amplitude, outside


@jit
def lagrange(t: tl.tensor, node: tl.constexpr) -> Any:
    """Weight of node -1, 0, 1, 2 (counted from 0) of the cubic through four points at t in 0..1, and its slope."""
    b, a, f = t + 1.0, t - 1.0, t - 2.0
    if node == 0:
        weight, slope = t * a * f * (-1.0 / 6.0), (a * f + t * f + t * a) * (-1.0 / 6.0)
    elif node == 1:
        weight, slope = b * a * f * 0.5, (a * f + b * f + b * a) * 0.5
    elif node == 2:
        weight, slope = b * t * f * -0.5, (t * f + b * f + b * t) * -0.5
    else:
        weight, slope = b * t * a * (1.0 / 6.0), (t * a + b * a + b * t) * (1.0 / 6.0)
    return weight, slope


@jit
def cubic_corner(hkl: tl.tensor, grid: Grid) -> Any:
    """Where interpolation is allowed, the place of its first node, and the shares of the way to the next integers."""
    h, k, l = hkl[0] - grid.first_h, hkl[1] - grid.first_k, hkl[2] - grid.first_l
    allowed = (h + 3.0 <= grid.size_h) & (h >= 2.0) & (k + 3.0 <= grid.size_k) & (k >= 2.0)
    allowed = allowed & (l + 3.0 <= grid.size_l) & (l >= 2.0)
    fh, fk, fl = tl.floor(h), tl.floor(k), tl.floor(l)
    corner = ((fh.to(tl.int32) - 1) * grid.size_k + fk.to(tl.int32) - 1) * grid.size_l + fl.to(tl.int32) - 1
    return allowed, corner, (h - fh, k - fk, l - fl)


@jit
def interpolated(table: tl.tensor, hkl: tl.tensor, grid: Grid, way: tl.constexpr) -> Any:
    """Tricubic F (float64), its slopes by hkl, and where it is allowed; meaningless elsewhere."""
    allowed, corner, t = cubic_corner(hkl, grid)
    zero = tl.full([way.group, way.lanes], 0.0, tl.float64)
    amplitude, by_h, by_k, by_l = zero, zero, zero, zero
    for a in tl.static_range(4):
        wa, sa = lagrange(t[0], a)
        for b in tl.static_range(4):
            wb, sb = lagrange(t[1], b)
            row, row_slope = zero, zero
            nodes = table + (corner + (a * grid.size_k + b) * grid.size_l)  # a pointer: steps need no arithmetic
            for c in tl.static_range(4):
                wc, sc = lagrange(t[2], c)
                value = gather(nodes + c, allowed, way).to(tl.float64)
                row += value * wc
                row_slope += value * sc
            amplitude += wa * wb * row
            by_h += sa * wb * row
            by_k += wa * sb * row
            by_l += wa * wb * row_slope
    return amplitude, (by_h, by_k, by_l), allowed


@jit
def amplitude(table: tl.tensor, spot: Spot, default: tl.tensor, grid: Grid, way: tl.constexpr) -> Any:
    """F of a spot."""
    value, outside = reflection(table, spot.near, default, grid, way)
    zero = value * 0.0
    slopes = zero, zero, zero
    if way.cubic:
        smooth, by, allowed = interpolated(table, spot.hkl, grid, way)
        value = tl.where(allowed, smooth.to(way.real), value)
        outside = tl.where(allowed, 0.0, outside)
        x, y, z = tl.where(allowed, by[0], 0.0), tl.where(allowed, by[1], 0.0), tl.where(allowed, by[2], 0.0)
        slopes = x.to(way.real), y.to(way.real), z.to(way.real)
    return Amplitude(value, slopes, outside)
