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
from nanobrag_torch.kernels.cpu.near_pairs import add_near_pairs, settle
from nanobrag_torch.kernels.cpu.products import nine, times
from nanobrag_torch.kernels.cpu.profiles import GRATING, form_squares, grating_squares, phases


@stage()
def add_pairs(scratch: Scratch, scene: Packed, lanes: int, step: int) -> None:
    """TOTAL += FACTOR times the sum over the pairs that were found for a layer and source."""
    v, w = scratch.v, scratch.w
    if scene.numbers[at.PAIRS_BOUND] > 0:
        offsets(v, w, lanes, scratch.box, at.FIRST)
    for j in range(lanes):
        w[at.SUM + j] = 0
    entry, stop = scratch.first[2 * step], scratch.first[2 * step + 1]
    if not is_narrow(scratch.box, scene):
        _add_in_slots(scratch, scene, lanes, entry, stop)
        return
    while entry < stop:
        entry, alike, others = settle(scratch, scene, entry, stop, 1.0)
        if alike + others:
            add_near_pairs(w, scratch.places, alike, others, scene)
            _move(v, w, lanes)


@stage()
def _add_in_slots(scratch: Scratch, scene: Packed, lanes: int, start: int, stop: int) -> None:
    """The same in float64."""
    v, w, slots, used, added = scratch.v, scratch.w, scratch.slots, at.FIRST, at.FIRST
    for entry in range(start, stop):
        bits, g = scratch.groups[entry], at.FIRST
        while bits:
            if bits & 1:
                slots[used], slots[at.GROUPS + used] = g, scratch.found[entry]
                used += 1
            bits, g = bits >> 1, g + 1
            if used == at.GROUPS:
                _add_slots(v, w, scratch.places, slots, used, scene)
                used, added = at.FIRST, added + 1
                if added % at.BATCH == 0:  # few enough for float32 sums, whatever groups they are of
                    _move(v, w, lanes)
    if used:
        _add_slots(v, w, scratch.places, slots, used, scene)
    _move(v, w, lanes)


@stage(inline="always")
def _add_slots(v: Array, w: Array, places: Array, slots: Array, used: int, scene: Packed) -> None:
    """SUM of the groups in the slots."""
    lanes, profile = used * at.GROUP, scene.whole[at.PROFILE]
    _peel_pairs(v, places, slots, used, scene.lattice, scene.grid)
    narrow_distances(v, w, lanes)
    if profile == GRATING:
        if scene.numbers[at.PHASED] > 0:
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
def is_narrow(box: Array, scene: Packed) -> bool:
    """Whether differences from the anchors are precise enough in float32, for any lattice, and table indices exact."""
    numbers, middle, some = scene.numbers, scene.envelope[0], scene.envelope[1]
    if numbers[at.PAIRS_BOUND] <= 0 or box[at.GROUPED] <= 0 or scene.table.size >= EXACT_FLOAT32:
        return False
    for axis in range(3):
        reach = 0.0
        for i in range(3):
            reach += (abs(middle[3 * axis + i]) + some[3 * axis + i]) * box[at.REACH + i]
        if numbers[at.CELLS + axis] * reach > numbers[at.PAIRS_BOUND]:
            return False
    return True


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
