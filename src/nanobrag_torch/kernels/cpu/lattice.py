"""hkl of a block of pixels for one lattice, and F of the nearest reflections: stages of the compiled CPU kernel.

Within a group of neighbouring pixels hkl varies little: it is formed in float64 at one pixel, split into integer and
rest, and the others add lattice (q - q_anchor) in float32. Where that would cost too much precision (`survey`), or the
image is float64, hkl is formed in float64 throughout.

Each stage is a loop short enough for LLVM to turn into vector code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.cubic import interpolate
from nanobrag_torch.kernels.cpu.intrinsics import FAST, larger, stage, vector_code
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Rows, Scratch, Terms
from nanobrag_torch.kernels.cpu.products import nine, times, times_from

NOTHING, OUTSIDE, INSIDE, PARTLY = -2, 0, 2, 4
"""Where a block lies in the table of structure factors, or that it has nothing to add."""
NARROW = 1
"""Added where float32 differences from anchors are precise enough."""
EXACT_FLOAT32 = 2.0**23


@stage(inline="always")
def terms_of(scene: Packed) -> Terms:
    """What a sum over lattices is made of."""
    of = scene
    return Terms(of.whole, of.numbers, of.lattice, of.narrow, of.shape, of.grid, of.table, of.envelope)


@stage(inline="always")
def rows_of(scratch: Scratch) -> Rows:
    """What a sum over lattices works with."""
    room = scratch
    return Rows(room.v, room.w, room.places, room.box, room.where, room.first, room.found, room.reach, room.until)


@stage()
def survey(rows: Rows, terms: Terms, lanes: int, step: int) -> None:
    """How a block is to be treated for each lattice, into where [K]: at a glance for all of them, or one by one.

    step: number of layer and source among those that bounds were found for, where they were.
    """
    where, envelope = rows.where, terms.envelope
    everywhere = _look(rows, terms, lanes, envelope[0], envelope[1])
    each = everywhere == PARTLY or (rows.box[at.BOUND] > 0 and not everywhere & NARROW)
    each = each and where.size > 1 and not terms.whole[at.CUBIC]
    if at.COMPLETE and terms.whole[at.SPARSE]:
        for k in range(where.size):
            where[k] = NOTHING
        for entry in range(rows.first[2 * step], rows.first[2 * step + 1]):
            k = rows.found[entry]
            rows.until[k] = rows.reach[entry]
            _treat(rows, terms, lanes, k, everywhere, each)
    else:
        for k in range(where.size):
            _treat(rows, terms, lanes, k, everywhere, each)


@stage(inline="always")
def _treat(rows: Rows, terms: Terms, lanes: int, k: int, everywhere: int, each: bool) -> None:
    """How a block is to be treated for one lattice; looked at if what holds everywhere is not the best there is."""
    where = rows.where
    where[k] = _look(rows, terms, lanes, terms.lattice[k], terms.envelope[2]) if each else everywhere
    if where[k] < INSIDE and terms.numbers[at.DEFAULT_F] == 0:
        where[k] = NOTHING


@stage()
def _look(rows: Rows, terms: Terms, lanes: int, a: Array, spread: Array) -> int:
    """Bounds on hkl over a block, for all lattices within `spread` of `a`, element by element.

    The error of hkl is about 2^-24 times the reach of a group, that of the image N times as much: so N times the
    reach is bounded. Table indices relative to an anchor's must be exact in float32 too.
    """
    box, numbers, grid, has_table = rows.box, terms.numbers, terms.grid, terms.whole[at.HAS_TABLE] > 0
    narrow, inside, touches, span = True, has_table, has_table, 0.0
    if at.COMPLETE and terms.whole[at.CUBIC]:
        return PARTLY
    for axis in range(3):
        reach, margin = 0.0, 0.51
        for i in range(3):
            some = spread[3 * axis + i]
            reach += (abs(a[3 * axis + i]) + some) * box[at.REACH + i]
            margin += some * (abs(box[at.CENTRE + i]) + box[at.HALF + i])
        narrow = narrow and numbers[at.CELLS + axis] * reach <= box[at.BOUND]
        if has_table:
            low, high = _range_of_anchors(rows.v, lanes, a[3 * axis], a[3 * axis + 1], a[3 * axis + 2])
            low, high = low - reach - margin - grid[axis], high + reach + margin - grid[axis]
            inside = inside and low >= 0 and high <= grid[3 + axis] - 1
            touches = touches and high >= 0 and low <= grid[3 + axis] - 1
            span = span * grid[3 + axis] + reach + 1
    if not touches:
        return OUTSIDE + (NARROW if narrow else 0)
    if inside:
        return INSIDE + (NARROW if narrow and span < EXACT_FLOAT32 else 0)
    return PARTLY


@stage(forceinline=True, fastmath=FAST)
def _range_of_anchors(v: Array, lanes: int, x: float, y: float, z: float) -> Any:
    """Least and largest x q_x + y q_y + z q_z of the anchors."""
    first = x * v[at.ANCHOR_X] + y * v[at.ANCHOR_Y] + z * v[at.ANCHOR_Z]
    low, high = -first, first
    for g in range(lanes // at.GROUP):
        value = x * v[at.ANCHOR_X + g] + y * v[at.ANCHOR_Y + g] + z * v[at.ANCHOR_Z + g]
        low, high = larger(-value, low), larger(value, high)
    return -low, high


@stage(fastmath=FAST)
def split_anchors(v: Array, w: Array, index: Array, lanes: int, a: Array, grid: Array) -> None:
    """float64: hkl at the anchor of each group, as float32 rest and table index of the nearest integers."""
    vector_code()
    m, low_h, low_k, low_l, size_k, size_l = nine(a), grid[0], grid[1], grid[2], grid[4], grid[5]
    for g in range(lanes // at.GROUP):
        h, k, l = times(m, v[at.ANCHOR_X + g], v[at.ANCHOR_Y + g], v[at.ANCHOR_Z + g])
        near_h, near_k, near_l = np.ceil(h - 0.5), np.ceil(k - 0.5), np.ceil(l - 0.5)
        w[at.REST_H + g], w[at.REST_K + g], w[at.REST_L + g] = h - near_h, k - near_k, l - near_l
        index[at.BASE + g] = np.int32(((near_h - low_h) * size_k + near_k - low_k) * size_l + near_l - low_l)


@stage(forceinline=True, fastmath=FAST)
def _peel_lane(w: Array, j: int, rest: Any, m: Any, half: Any) -> Any:
    """float32: distances of a lane to the nearest integers, counted from those of its anchor; these integers."""
    h, k, l = times_from(rest, m, w[at.DX + j], w[at.DY + j], w[at.DZ + j])
    near_h, near_k, near_l = np.ceil(h - half), np.ceil(k - half), np.ceil(l - half)
    w[at.DH + j], w[at.DK + j], w[at.DL + j] = h - near_h, k - near_k, l - near_l
    return near_h, near_k, near_l


@stage(fastmath=FAST)
def peel(w: Array, lanes: int, a: Array) -> None:
    """float32: distance to the nearest integers, from the offsets to the anchors."""
    vector_code()
    half, m = w.dtype.type(0.5), nine(a)
    for g in range(lanes // at.GROUP):
        rest = w[at.REST_H + g], w[at.REST_K + g], w[at.REST_L + g]
        for j in range(g * at.GROUP, g * at.GROUP + at.GROUP):
            _peel_lane(w, j, rest, m, half)


@stage(fastmath=FAST)
def peel_indexed(w: Array, index: Array, lanes: int, a: Array, grid: Array) -> None:
    """The same, with the table index of the nearest integers."""
    vector_code()
    half, m, size_k, size_l = w.dtype.type(0.5), nine(a), w.dtype.type(grid[4]), w.dtype.type(grid[5])
    for g in range(lanes // at.GROUP):
        rest, base = (w[at.REST_H + g], w[at.REST_K + g], w[at.REST_L + g]), index[at.BASE + g]
        for j in range(g * at.GROUP, g * at.GROUP + at.GROUP):
            near_h, near_k, near_l = _peel_lane(w, j, rest, m, half)
            index[j] = np.int32((near_h * size_k + near_k) * size_l + near_l) + base


@stage(forceinline=True, fastmath=FAST)
def _peel_wide_lane(v: Array, j: int, m: Any) -> Any:
    """float64: distances of a lane to the nearest integers; these integers."""
    h, k, l = times(m, v[at.X + j], v[at.Y + j], v[at.Z + j])
    near_h, near_k, near_l = np.ceil(h - 0.5), np.ceil(k - 0.5), np.ceil(l - 0.5)
    v[at.FAR_H + j], v[at.FAR_K + j], v[at.FAR_L + j] = h - near_h, k - near_k, l - near_l
    return near_h, near_k, near_l


@stage(fastmath=FAST)
def peel_wide(v: Array, lanes: int, a: Array) -> None:
    """float64: distance to the nearest integers."""
    vector_code()
    m = nine(a)
    for j in range(lanes):
        _peel_wide_lane(v, j, m)


@stage(fastmath=FAST)
def peel_wide_indexed(v: Array, index: Array, lanes: int, a: Array, grid: Array) -> None:
    """The same, with the table index of reflections that are all in the table."""
    vector_code()
    m, size_k, size_l = nine(a), grid[4], grid[5]
    base = (grid[0] * size_k + grid[1]) * size_l + grid[2]
    for j in range(lanes):
        near_h, near_k, near_l = _peel_wide_lane(v, j, m)
        index[j] = np.int32((near_h * size_k + near_k) * size_l + near_l - base)


@stage(forceinline=True)
def six(grid: Array) -> Any:
    """The first hkl of a table and its size, read before a loop over lanes."""
    return grid[0], grid[1], grid[2], grid[3], grid[4], grid[5]


@stage(forceinline=True, fastmath=FAST)
def place_or_none(near_h: Any, near_k: Any, near_l: Any, table: Any) -> Any:
    """Table index of a reflection, -1 outside the table."""
    low_h, low_k, low_l, size_h, size_k, size_l = table
    ih, ik, il = near_h - low_h, near_k - low_k, near_l - low_l
    inside = (ih >= 0) & (ih < size_h) & (ik >= 0) & (ik < size_k) & (il >= 0) & (il < size_l)
    return np.int32((ih * size_k + ik) * size_l + il if inside else -1.0)


@stage(fastmath=FAST)
def peel_wide_checked(v: Array, index: Array, lanes: int, a: Array, grid: Array) -> None:
    """The same, with the table index of the nearest reflections, -1 outside the table."""
    vector_code()
    m, table = nine(a), six(grid)
    for j in range(lanes):
        near_h, near_k, near_l = _peel_wide_lane(v, j, m)
        index[j] = place_or_none(near_h, near_k, near_l, table)


@stage(fastmath=FAST)
def narrow_distances(v: Array, w: Array, lanes: int) -> None:
    """Distances in the image's type."""
    vector_code()
    for j in range(lanes):
        w[at.DH + j], w[at.DK + j], w[at.DL + j] = v[at.FAR_H + j], v[at.FAR_K + j], v[at.FAR_L + j]


@stage(fastmath=FAST)
def narrow_phases(v: Array, w: Array, lanes: int, numbers: Array) -> None:
    """N d less the nearest integer: float32 distances would leave an error of N times theirs, far from a reflection."""
    vector_code()
    na, nb, nc = numbers[at.CELLS], numbers[at.CELLS + 1], numbers[at.CELLS + 2]
    for j in range(lanes):
        h, k, l = na * v[at.FAR_H + j], nb * v[at.FAR_K + j], nc * v[at.FAR_L + j]
        w[at.PHASE_H + j], w[at.PHASE_K + j], w[at.PHASE_L + j] = h - np.rint(h), k - np.rint(k), l - np.rint(l)


@stage(fastmath=FAST)
def gather(w: Array, index: Array, lanes: int, table: Array) -> None:
    """F of reflections that are all in the table."""
    for j in range(lanes):
        w[at.AMPLITUDE + j] = table[np.uint32(index[j])]  # unsigned: numba need not look for negative ones


@stage(fastmath=FAST)
def gather_or_default(w: Array, index: Array, lanes: int, table: Array, default: Any) -> None:
    """F of reflections, default where the index is -1."""
    for j in range(lanes):
        i = index[j]
        value = table[np.uint32(i if i >= 0 else 0)]
        w[at.AMPLITUDE + j] = value if i >= 0 else default


@stage()
def fill_amplitude(w: Array, lanes: int, default: Any) -> None:
    """The same F everywhere."""
    for j in range(lanes):
        w[at.AMPLITUDE + j] = default


@stage(inline="always")
def reflections(rows: Rows, terms: Terms, lanes: int, k: int, default: Any, filled: bool, slopes: bool) -> bool:
    """Distances to the nearest reflections of lattice k and F there, or F in between and its slopes by hkl.

    Whether F is the default everywhere; `filled` says whether it was so before, and `where` which ways are precise
    enough.
    """
    w, index, where = rows.w, rows.places, rows.where[k]
    if where & NARROW:
        split_anchors(rows.v, w, index, lanes, terms.lattice[k], terms.grid)
        if where & INSIDE:
            peel_indexed(w, index, lanes, terms.narrow[k], terms.grid)
        else:
            peel(w, lanes, terms.narrow[k])
    else:
        _wide_distances(rows, terms, lanes, k)
    if where & INSIDE:
        gather(w, index, lanes, terms.table)
    elif where & PARTLY:
        gather_or_default(w, index, lanes, terms.table, default)
    elif not filled:
        fill_amplitude(w, at.LANES, default)  # of all lanes, since the next lattice may need more of them
    if at.COMPLETE and terms.whole[at.CUBIC]:
        interpolate(rows.v, w, index, lanes, terms.lattice[k], terms.grid, terms.table, slopes)
    return bool(where & (INSIDE | PARTLY) == 0)


@stage(inline="always")
def has_phases(rows: Rows, terms: Terms, k: int) -> Any:
    """Whether PHASE rows were set with the distances of lattice k."""
    return terms.numbers[at.PHASED] > 0 and rows.where[k] & NARROW == 0


@stage(inline="always")
def _wide_distances(rows: Rows, terms: Terms, lanes: int, k: int) -> None:
    v, index, where, a = rows.v, rows.places, rows.where[k], terms.lattice[k]
    if where & INSIDE:
        peel_wide_indexed(v, index, lanes, a, terms.grid)
    elif where & PARTLY:
        peel_wide_checked(v, index, lanes, a, terms.grid)
    else:
        peel_wide(v, lanes, a)
    narrow_distances(v, rows.w, lanes)
    if terms.numbers[at.PHASED] > 0:
        narrow_phases(v, rows.w, lanes, terms.numbers)
