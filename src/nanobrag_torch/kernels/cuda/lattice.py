"""hkl, its distance to the nearest integers and F of a lattice: Triton device functions.

Within a group of neighbouring pixels hkl varies little: it is formed in float64 at one pixel, split into integers and
rest, and the others add lattice (q - q_anchor) in float32. The error of hkl is about 2^-24 times the reach of a group,
that of the image N times as much, so N times the reach is bounded (kernels.cuda_tables); beyond the bound, and in
float64, hkl is formed in float64 throughout.

`grid` is a tuple: sizes of the table of structure factors, then its first indices.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from nanobrag_torch.kernels.cuda.jit import jit
from nanobrag_torch.kernels.cuda.math import HALFWAY, dot, largest, load9


@jit
def of_middle(x: tl.tensor, way: tl.constexpr) -> Any:
    """The value of the middle pixel of each group: [group, lanes] -> [1, lanes]."""
    middle = tl.arange(0, way.group)[:, None] == way.group // 2
    return tl.reduce(tl.where(middle, x, 0.0), 0, tl.standard._sum_combine, True)


@jit
def anchors(q: tl.tensor, way: tl.constexpr) -> Any:
    """q of the middle pixel of each group [1, lanes]."""
    return of_middle(q[0], way), of_middle(q[1], way), of_middle(q[2], way)


@jit
def close_enough(offset: tl.tensor, scene: tl.tensor) -> Any:
    """Whether number of cells times reach in hkl, over all lattices, is within the bound for float32 differences."""
    x = largest(tl.abs(offset[0])).to(tl.float64)
    y = largest(tl.abs(offset[1])).to(tl.float64)
    z = largest(tl.abs(offset[2])).to(tl.float64)
    m = load9(scene + 15)
    along_a, along_b = m[0] * x + m[1] * y + m[2] * z, m[3] * x + m[4] * y + m[5] * z
    return (along_a <= 1.0) & (along_b <= 1.0) & (m[6] * x + m[7] * y + m[8] * z <= 1.0)


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
def nearest_narrow(h: tl.tensor, offset: tl.tensor, a: tl.tensor, b: tl.tensor, c: tl.tensor) -> Any:
    """The same for an anchor's float64 h and the float32 lattice vector times the offsets to the anchor."""
    base = (h + HALFWAY) - HALFWAY
    value = (h - base).to(tl.float32) + a * offset[0] + b * offset[1] + c * offset[2]
    near = tl.ceil(value - 0.5)
    return value - near, near.to(tl.int32) + base.to(tl.int32)


@jit
def distances(lattice: tl.tensor, narrow: tl.tensor, q: tl.tensor, offset: tl.tensor, way: tl.constexpr) -> Any:
    """Distances to the nearest integers and those; `narrow` None or the float32 row.

    q is that of the anchors where float32 differences are taken, else of the pixels.
    """
    h, k, l = hkl_wide(lattice, q)
    if way.wide:
        dh, nh = nearest_wide(h, way)
        dk, nk = nearest_wide(k, way)
        dl, nl = nearest_wide(l, way)
    else:
        m = load9(narrow)
        dh, nh = nearest_narrow(h, offset, m[0], m[1], m[2])
        dk, nk = nearest_narrow(k, offset, m[3], m[4], m[5])
        dl, nl = nearest_narrow(l, offset, m[6], m[7], m[8])
    return (dh, dk, dl), (nh, nk, nl)


@jit
def place_of(near: tl.tensor, grid: tl.tensor) -> Any:
    """Place in the table of the nearest reflection, and whether it is in there."""
    h, k, l = near[0] - grid[3], near[1] - grid[4], near[2] - grid[5]
    inside = (h >= 0) & (h < grid[0]) & (k >= 0) & (k < grid[1]) & (l >= 0) & (l < grid[2])
    return (h * grid[1] + k) * grid[2] + l, inside


@jit
def reflection(table: tl.tensor, near: tl.tensor, default: tl.tensor, grid: tl.tensor, way: tl.constexpr) -> Any:
    """F of the nearest reflection, and 1.0 where it is the default."""
    if way.table:
        place, inside = place_of(near, grid)
        amplitude = tl.load(table + place, mask=inside, other=0.0)
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
def cubic_corner(h: tl.tensor, k: tl.tensor, l: tl.tensor, grid: tl.tensor) -> Any:
    """Where interpolation is allowed, the place of its first node, and the shares of the way to the next integers."""
    allowed = (h - grid[3] + 3.0 <= grid[0]) & (h - 2.0 >= grid[3])
    allowed = allowed & (k - grid[4] + 3.0 <= grid[1]) & (k - 2.0 >= grid[4])
    allowed = allowed & (l - grid[5] + 3.0 <= grid[2]) & (l - 2.0 >= grid[5])
    fh, fk, fl = tl.floor(h), tl.floor(k), tl.floor(l)
    ph, pk, pl = fh.to(tl.int32) - grid[3] - 1, fk.to(tl.int32) - grid[4] - 1, fl.to(tl.int32) - grid[5] - 1
    return allowed, (ph * grid[1] + pk) * grid[2] + pl, (h - fh, k - fk, l - fl)


@jit
def interpolated(table: tl.tensor, hkl: tl.tensor, grid: tl.tensor, way: tl.constexpr) -> Any:
    """Tricubic F (float64), its slopes by hkl, and where it is allowed; meaningless elsewhere."""
    allowed, corner, t = cubic_corner(hkl[0], hkl[1], hkl[2], grid)
    zero = tl.full([way.group, way.lanes], 0.0, tl.float64)
    amplitude, by_h, by_k, by_l = zero, zero, zero, zero
    for a in tl.static_range(4):
        wa, sa = lagrange(t[0], a)
        for b in tl.static_range(4):
            wb, sb = lagrange(t[1], b)
            row, row_slope = zero, zero
            nodes = table + (corner + (a * grid[1] + b) * grid[2])  # a pointer: the steps along it need no arithmetic
            for c in tl.static_range(4):
                wc, sc = lagrange(t[2], c)
                value = tl.load(nodes + c, mask=allowed, other=0.0).to(tl.float64)
                row += value * wc
                row_slope += value * sc
            amplitude += wa * wb * row
            by_h += sa * wb * row
            by_k += wa * sb * row
            by_l += wa * wb * row_slope
    return amplitude, (by_h, by_k, by_l), allowed


@jit
def amplitude(
    table: tl.tensor, near: tl.tensor, hkl: tl.tensor, default: tl.tensor, grid: tl.tensor, way: tl.constexpr
) -> Any:
    """F, its slopes by hkl (zero for the nearest reflection), and 1.0 where it is the default."""
    value, outside = reflection(table, near, default, grid, way)
    zero = value * 0.0
    slopes = zero, zero, zero
    if way.cubic:
        smooth, by, allowed = interpolated(table, hkl, grid, way)
        value = tl.where(allowed, smooth.to(way.real), value)
        outside = tl.where(allowed, 0.0, outside)
        x, y, z = tl.where(allowed, by[0], 0.0), tl.where(allowed, by[1], 0.0), tl.where(allowed, by[2], 0.0)
        slopes = x.to(way.real), y.to(way.real), z.to(way.real)
    return value, slopes, outside
