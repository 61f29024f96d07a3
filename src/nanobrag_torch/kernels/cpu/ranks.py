"""Which groups of a block stay, and in what order, once it is known what may add to them: stages of the CPU kernel."""

from __future__ import annotations

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.layout import Array, Scratch


@stage()
def close_ranks(scratch: Scratch, groups: int, count: int, touched: int) -> int:
    """Close ranks: only touched groups stay in the block, those first that most lattices touch; lanes left.

    A lattice then needs the lanes up to its last group alone, and few in between that it does not touch. Runs of pixels
    stay in their order, in which they are stored.
    """
    left, in_order = _set_order(scratch, groups, count, touched)
    if left < groups or not in_order:
        _move_lanes(scratch, left)
        _move_bits(scratch.reach, scratch.groups, scratch.slots, count, left)
    lanes: int = left * at.GROUP
    return lanes


@stage()
def _set_order(scratch: Scratch, groups: int, count: int, touched: int) -> tuple[int, bool]:
    """SLOTS: the groups that stay, as they are to stand; how many they are, and whether they stand so already."""
    slots, often, left, in_order = scratch.slots, scratch.slots[at.GROUPS :], at.FIRST, not at.NO
    for g in range(groups):
        if touched >> g & 1:
            slots[left], often[left] = g, 0
            if scratch.box[at.SQUARED] > 0:
                often[left] = _count(scratch.groups, count, g)
            left += 1
    for to in range(left):
        best = to
        for other in range(to + 1, left):
            best = other if often[other] > often[best] else best
        g, times = slots[best], often[best]
        for between in range(best, to, -1):
            slots[between], often[between] = slots[between - 1], often[between - 1]
        slots[to], often[to] = g, times
        in_order = in_order and g == to
    return left, in_order


@stage(fastmath=FAST)
def _count(bits: Array, count: int, g: int) -> int:
    """Entries that have a group among theirs."""
    vector_code()
    total, place, one = np.int32(0), np.int32(g), np.int32(1)
    for entry in range(count):
        total += bits[entry] >> place & one
    return int(total)


@stage()
def _move_lanes(scratch: Scratch, left: int) -> None:
    """Pixels of the groups in SLOTS to the front, by way of rows that nothing is in yet."""
    v, place, slots, by_way = scratch.v, scratch.place, scratch.slots, scratch.places
    for to in range(left):
        for t in range(at.GROUP):
            lane, origin = to * at.GROUP + t, slots[to] * at.GROUP + t
            v[at.X + lane], v[at.Y + lane] = v[at.FAST_INDEX + origin], v[at.SLOW_INDEX + origin]
            by_way[lane] = place[origin]
    for j in range(left * at.GROUP):
        v[at.FAST_INDEX + j], v[at.SLOW_INDEX + j], place[j] = v[at.X + j], v[at.Y + j], by_way[j]


@stage(fastmath=FAST)
def _move_bits(moved: Array, bits: Array, slots: Array, count: int, left: int) -> None:
    """BITS of entries for the groups in SLOTS, as these stand now."""
    vector_code()
    one = np.int32(1)
    for entry in range(count):
        moved[entry] = 0
    for to in range(left):
        origin, place = slots[to], np.int32(to)
        for entry in range(count):
            moved[entry] |= (bits[entry] >> origin & one) << place
    for entry in range(count):
        bits[entry] = moved[entry]


@stage(fastmath=FAST)
def set_reach(reach: Array, bits: Array, count: int, groups: int) -> None:
    """Lanes up to which entries need a block: those of the last group that they have."""
    vector_code()
    one = np.int32(1)
    for entry in range(count):
        reach[entry] = 0
    for g in range(groups):
        place, lanes = np.int32(g), np.int32((g + 1) * at.GROUP)
        for entry in range(count):
            reach[entry] = lanes if bits[entry] >> place & one else reach[entry]
