"""Values of single groups of pixels for single lattices, as kernels.cpu.bounds found them: stages of the CPU kernel.

Pairs of a group and a lattice are dealt into the slots of a block, GROUPS at a time, whatever lattices they are of.
Then the stages of whole blocks work on all of them at once. Where float32 differences from the anchors are precise
enough for all lattices, hkl is formed from these, as kernels.cpu.lattice has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.geometry import offsets
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import (
    EXACT_FLOAT32,
    gather_or_default,
    narrow_distances,
    narrow_phases,
    place_or_none,
    six,
)
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch
from nanobrag_torch.kernels.cpu.products import nine, times
from nanobrag_torch.kernels.cpu.profiles import GRATING, form_squares, grating_squares, phases


@stage()
def add_pairs(scratch: Scratch, scene: Packed, lanes: int, step: int) -> None:
    """TOTAL += FACTOR times the sum over the pairs that were found for a layer and source."""
    v, w, slots, used, added = scratch.v, scratch.w, scratch.slots, at.FIRST, at.FIRST
    if scene.numbers[at.NARROW_BOUND] > 0:
        offsets(v, w, lanes, scratch.box, at.FIRST)
    narrow = _is_narrow(scratch.box, scene)
    for j in range(lanes):
        w[at.SUM + j] = 0
    for entry in range(scratch.first[step], scratch.first[step + 1]):
        bits, g = scratch.groups[entry], at.FIRST
        while bits:
            if bits & 1:
                slots[used], slots[at.GROUPS + used] = g, scratch.found[entry]
                used += 1
            bits, g = bits >> 1, g + 1
            if used == at.GROUPS:
                _add_slots(v, w, scratch.places, slots, used, scene, narrow)
                used, added = at.FIRST, added + 1
                if added % at.BATCH == 0:  # few enough for float32 sums, whatever groups they are of
                    _move(v, w, lanes)
    if used:
        _add_slots(v, w, scratch.places, slots, used, scene, narrow)
    _move(v, w, lanes)


@stage(inline="always")
def _add_slots(v: Array, w: Array, places: Array, slots: Array, used: int, scene: Packed, narrow: bool) -> None:
    """SUM of the groups in the slots."""
    lanes, profile = used * at.GROUP, scene.whole[at.PROFILE]
    if narrow:
        _peel_near(v, w, places, slots, used, scene.lattice, scene.narrow, scene.grid)
    else:
        _peel_pairs(v, places, slots, used, scene.lattice, scene.grid)
        narrow_distances(v, w, lanes)
    if profile == GRATING:
        if scene.numbers[at.PHASED] > 0 and not narrow:
            narrow_phases(v, w, lanes, scene.numbers)
        else:
            phases(w, lanes, scene.shape)
        grating_squares(w, lanes, scene.shape)
    else:
        form_squares(w, lanes, scene.shape, profile)
    if scene.table.size:
        gather_or_default(w, places, lanes, scene.table, w.dtype.type(scene.numbers[at.DEFAULT_F]))
    else:
        for j in range(lanes):
            w[at.AMPLITUDE + j] = scene.numbers[at.DEFAULT_F]
    _hand_back(w, slots, used, scene.narrow)


@stage()
def _is_narrow(box: Array, scene: Packed) -> bool:
    """Whether differences from the anchors are precise enough in float32, for any lattice, and table indices exact."""
    numbers, middle, some = scene.numbers, scene.envelope[0], scene.envelope[1]
    if numbers[at.NARROW_BOUND] <= 0 or box[at.GROUPED] <= 0 or scene.table.size >= EXACT_FLOAT32:
        return False
    for axis in range(3):
        reach = 0.0
        for i in range(3):
            reach += (abs(middle[3 * axis + i]) + some[3 * axis + i]) * box[at.REACH + i]
        if numbers[at.CELLS + axis] * reach > numbers[at.NARROW_BOUND]:
            return False
    return True


@stage(fastmath=FAST)
def _peel_near(
    v: Array, w: Array, index: Array, slots: Array, used: int, lattice: Array, narrow: Array, grid: Array
) -> None:
    """float32: what `_peel_pairs` and `narrow_distances` do, from the anchors of the groups in float64."""
    vector_code()
    real = w.dtype.type
    half, none, zero = real(0.5), real(-1), real(0)
    size_h, size_k, size_l = real(grid[3]), real(grid[4]), real(grid[5])
    for slot in range(used):
        a, b, g = lattice[slots[at.GROUPS + slot]], narrow[slots[at.GROUPS + slot]], slots[slot]
        x, y, z = v[at.ANCHOR_X + g], v[at.ANCHOR_Y + g], v[at.ANCHOR_Z + g]
        h, k, l = a[0] * x + a[1] * y + a[2] * z, a[3] * x + a[4] * y + a[5] * z, a[6] * x + a[7] * y + a[8] * z
        near_h, near_k, near_l = np.ceil(h - 0.5), np.ceil(k - 0.5), np.ceil(l - 0.5)
        rest_h, rest_k, rest_l = real(h - near_h), real(k - near_k), real(l - near_l)
        base_h, base_k, base_l = real(near_h - grid[0]), real(near_k - grid[1]), real(near_l - grid[2])
        b0, b1, b2, b3, b4, b5, b6, b7, b8 = b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8]
        origin, to = g * at.GROUP, slot * at.GROUP
        for t in range(at.GROUP):
            dx, dy, dz = w[at.DX + origin + t], w[at.DY + origin + t], w[at.DZ + origin + t]
            fh = rest_h + b0 * dx + b1 * dy + b2 * dz
            fk = rest_k + b3 * dx + b4 * dy + b5 * dz
            fl = rest_l + b6 * dx + b7 * dy + b8 * dz
            nh, nk, nl = np.ceil(fh - half), np.ceil(fk - half), np.ceil(fl - half)
            w[at.DH + to + t], w[at.DK + to + t], w[at.DL + to + t] = fh - nh, fk - nk, fl - nl
            ih, ik, il = base_h + nh, base_k + nk, base_l + nl
            inside = (ih >= zero) & (ih < size_h) & (ik >= zero) & (ik < size_k) & (il >= zero) & (il < size_l)
            index[to + t] = np.int32((ih * size_k + ik) * size_l + il if inside else none)


@stage(fastmath=FAST)
def _peel_pairs(v: Array, index: Array, slots: Array, used: int, lattice: Array, grid: Array) -> None:
    """float64: distances to the nearest reflections and their table indices, -1 outside the table."""
    vector_code()
    table = six(grid)
    for slot in range(used):
        m = nine(lattice[slots[at.GROUPS + slot]])
        origin, to = slots[slot] * at.GROUP, slot * at.GROUP
        xs, ys, zs = v[at.X + origin :], v[at.Y + origin :], v[at.Z + origin :]  # numba looks for negative places once
        for t in range(at.GROUP):
            h, k, l = times(m, xs[t], ys[t], zs[t])
            near_h, near_k, near_l = np.ceil(h - 0.5), np.ceil(k - 0.5), np.ceil(l - 0.5)
            v[at.FAR_H + to + t], v[at.FAR_K + to + t], v[at.FAR_L + to + t] = h - near_h, k - near_k, l - near_l
            index[to + t] = place_or_none(near_h, near_k, near_l, table)


@stage(fastmath=FAST)
def _hand_back(w: Array, slots: Array, used: int, narrow: Array) -> None:
    """SUM of the groups += weight F^2 SQUARE of their slots."""
    vector_code()
    for slot in range(used):
        weight = narrow[slots[at.GROUPS + slot], at.LATTICE_WEIGHT]
        origin, sums = slot * at.GROUP, w[at.SUM + slots[slot] * at.GROUP :]
        for t in range(at.GROUP):
            amplitude = w[at.AMPLITUDE + origin + t]
            sums[t] += weight * amplitude * amplitude * w[at.SQUARE + origin + t]


@stage(fastmath=FAST)
def _move(v: Array, w: Array, lanes: int) -> None:
    """SUM, times FACTOR, to TOTAL."""
    vector_code()
    zero: Any = w.dtype.type(0)
    for j in range(lanes):
        v[at.TOTAL + j] += v[at.FACTOR + j] * w[at.SUM + j]
        w[at.SUM + j] = zero
