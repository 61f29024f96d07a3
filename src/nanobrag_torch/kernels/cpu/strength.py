"""How strong a reflection can be that a group of pixels has something of: stages of the compiled CPU kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import FAST, larger, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import place_or_none, six
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch
from nanobrag_torch.kernels.cpu.limits import NEAREST_ONE, OVERSHOOT

MOST_CANDIDATES = 8.0
"""Reflections along an axis above which the strongest of all stands for them."""


@stage()
def set_strongest(scratch: Scratch, groups: int, scene: Packed) -> None:
    """STRONG: F^2 of the strongest reflection that is the nearest one anywhere in each group, or no less."""
    v, places = scratch.v, scratch.places
    if scene.ceiling.size == 0 or _look_up(v, places, groups, scene.ceiling, scene.grid) < 0:
        for g in range(groups):
            if scene.ceiling.size == 0 or places[at.BASE + g] < 0:
                v[at.STRONG + g] = strongest_about(v, g, scene)


@stage(fastmath=FAST)
def _look_up(v: Array, places: Array, groups: int, ceiling: Array, grid: Array) -> int:
    """STRONG from the ceilings, where at most two reflections along each axis may be the nearest; negative elsewhere.

    The least of the places where they are found is returned.
    """
    vector_code()
    low_h, low_k, low_l, size_h, size_k, size_l = six(grid)
    for g in range(groups):
        h, most_h = _first_and_count(v, at.HERE_H + g, at.WIDTH_H + g)
        k, most_k = _first_and_count(v, at.HERE_K + g, at.WIDTH_K + g)
        l, most_l = _first_and_count(v, at.HERE_L + g, at.WIDTH_L + g)
        found = _ceiling_at(h - low_h, k - low_k, l - low_l, most_h, most_k, most_l, size_h, size_k, size_l)
        places[at.BASE + g] = np.int32(found)
    least: int = places[at.BASE]
    for g in range(groups):
        least = min(places[at.BASE + g], least)
        v[at.STRONG + g] = ceiling[np.uint32(max(places[at.BASE + g], 0))]
    return least


@stage()
def is_alone(v: Array, g: int) -> bool:
    """Whether one reflection is the nearest one anywhere in a group, after HERE and WIDTH rows."""
    for axis in range(3):
        row = axis * at.GROUPS + g
        if not _first_and_count(v, at.HERE_H + row, at.WIDTH_H + row)[1] < 1:
            return False
    return True


@stage()
def times_strongest(scratch: Scratch, g: int, place: Any, scene: Packed) -> None:
    """LOSS of every lattice times F^2 of the strongest reflection that is its nearest one anywhere in a group.

    place: of the group, see kernels.cpu.budget. HERE and WIDTH of the group are used up.
    """
    v, loss, off, ceiling = scratch.v, scratch.loss, scratch.off, scene.ceiling
    if ceiling.size and _find_ceilings(off, scene.columns, place, scene.grid) >= 0:
        _times_ceilings(loss, off, ceiling)
        return
    for k in range(loss.size):
        if ceiling.size and off[k] >= 0:
            loss[k] *= ceiling[np.uint32(off[k])]
        else:
            _set_here(v, g, scene.lattice[k], place)
            loss[k] *= strongest_about(v, g, scene)


@stage(forceinline=True, fastmath=FAST)
def along(a: Any, b: Any, c: Any, place: Any) -> Any:
    """An index of the middle of a group, and what it changes by along the three vectors that the group reaches.

    a, b, c: a row of a lattice.
    """
    x, y, z, ax, ay, az, bx, by, bz, cx, cy, cz = place
    return a * x + b * y + c * z, a * ax + b * ay + c * az, a * bx + b * by + c * bz, a * cx + b * cy + c * cz


@stage(forceinline=True, fastmath=FAST)
def _index_and_width(a: Any, b: Any, c: Any, place: Any) -> Any:
    """An index of the middle of a group, and the most that it changes from there."""
    h, first, second, third = along(a, b, c, place)
    return h, abs(first) + abs(second) + abs(third)


@stage()
def _set_here(v: Array, g: int, a: Array, place: Any) -> None:
    """HERE and WIDTH of a group for one lattice."""
    for axis in range(3):
        h, width = _index_and_width(a[3 * axis], a[3 * axis + 1], a[3 * axis + 2], place)
        v[at.HERE_H + axis * at.GROUPS + g], v[at.WIDTH_H + axis * at.GROUPS + g] = h, width


@stage(fastmath=FAST)
def _times_ceilings(loss: Array, off: Array, ceiling: Array) -> None:
    vector_code()
    for k in range(loss.size):
        loss[k] *= ceiling[np.uint32(off[k])]


@stage(fastmath=FAST)
def _find_ceilings(off: Array, columns: Array, place: Any, grid: Array) -> float:
    """OFF: where the ceiling of each lattice is found, negative where it has none; the least of these."""
    vector_code()
    low_h, low_k, low_l, size_h, size_k, size_l = six(grid)
    h0, h1, h2, k0, k1, k2 = columns[0], columns[1], columns[2], columns[3], columns[4], columns[5]
    l0, l1, l2, least = columns[6], columns[7], columns[8], -np.inf
    for n in range(off.size):
        h, most_h = _first_and_more(_index_and_width(h0[n], h1[n], h2[n], place))
        k, most_k = _first_and_more(_index_and_width(k0[n], k1[n], k2[n], place))
        l, most_l = _first_and_more(_index_and_width(l0[n], l1[n], l2[n], place))
        found = _ceiling_at(h - low_h, k - low_k, l - low_l, most_h, most_k, most_l, size_h, size_k, size_l)
        off[n] = found
        least = larger(-found, least)
    return -least


@stage(forceinline=True, fastmath=FAST)
def _ceiling_at(
    h: Any, k: Any, l: Any, most_h: Any, most_k: Any, most_l: Any, size_h: Any, size_k: Any, size_l: Any
) -> Any:
    """Place of a ceiling from the first reflection, counted from that of the table, and how many more there are."""
    row, plane, two, zero = size_l + 2, (size_k + 2) * (size_l + 2), size_h - size_h + 1.5, size_h - size_h
    h = min(max(h + 1, zero), size_h + 1)
    k = min(max(k + 1, zero), size_k + 1)
    l = min(max(l + 1, zero), size_l + 1)
    place = h * plane + k * row + l
    place += (size_h + 2) * plane if most_h + most_k + most_l > 0 else zero
    return place if (most_h < two) & (most_k < two) & (most_l < two) else zero - 1


@stage(forceinline=True, fastmath=FAST)
def _first_and_count(v: Array, here: int, width: int) -> Any:
    return _first_and_more((v[here], v[width]))


@stage(forceinline=True, fastmath=FAST)
def _first_and_more(index: Any) -> Any:
    """The first reflection along an axis that may be the nearest, and how many more may be."""
    h, width = index
    first = np.ceil(h - width - NEAREST_ONE)
    return first, np.floor(h + width + NEAREST_ONE) - first


@stage(inline="always")
def strongest_about(v: Array, g: int, scene: Packed) -> float:
    """F^2 of the strongest reflection that any place of group g may have something of, after HERE and WIDTH rows.

    Of an interpolated F, that of the strongest node. NaN where one of them is.
    """
    if scene.table.size == 0:
        return float(scene.limits[at.STRONGEST])
    if not scene.whole[at.CUBIC]:
        h, k, l = v[at.HERE_H + g], v[at.HERE_K + g], v[at.HERE_L + g]
        near_h, near_k, near_l = np.rint(h), np.rint(k), np.rint(l)
        alone_h = abs(h - near_h) + v[at.WIDTH_H + g] < 1 - scene.limits[at.WITHIN]
        alone_k = abs(k - near_k) + v[at.WIDTH_K + g] < 1 - scene.limits[at.WITHIN + 1]
        if alone_h & alone_k & (abs(l - near_l) + v[at.WIDTH_L + g] < 1 - scene.limits[at.WITHIN + 2]):
            place = place_or_none(near_h, near_k, near_l, six(scene.grid))
            amplitude = float(scene.table[np.uint32(place)]) if place >= 0 else scene.numbers[at.DEFAULT_F]
            return amplitude * amplitude
    return float(_strongest_of_several(v, g, scene))


@stage()
def _strongest_of_several(v: Array, g: int, scene: Packed) -> float:
    grid, cubic = scene.grid, scene.whole[at.CUBIC]
    h0, h1 = _candidates(v, at.HERE_H + g, at.WIDTH_H + g, scene.limits[at.WITHIN], cubic)
    k0, k1 = _candidates(v, at.HERE_K + g, at.WIDTH_K + g, scene.limits[at.WITHIN + 1], cubic)
    l0, l1 = _candidates(v, at.HERE_L + g, at.WIDTH_L + g, scene.limits[at.WITHIN + 2], cubic)
    if not max(h1 - h0, k1 - k0, l1 - l0) < MOST_CANDIDATES:
        return float(scene.limits[at.STRONGEST])
    h0, h1, k0, k1, l0, l1 = h0 - grid[0], h1 - grid[0], k0 - grid[1], k1 - grid[1], l0 - grid[2], l1 - grid[2]
    outside = h0 < 0 or h1 >= grid[3] or k0 < 0 or k1 >= grid[4] or l0 < 0 or l1 >= grid[5]
    most = abs(scene.numbers[at.DEFAULT_F]) if outside else 0.0
    for h in range(int(max(h0, 0.0)), int(min(h1, grid[3] - 1)) + 1):
        for k in range(int(max(k0, 0.0)), int(min(k1, grid[4] - 1)) + 1):
            row = (h * int(grid[4]) + k) * int(grid[5])
            for l in range(int(max(l0, 0.0)), int(min(l1, grid[5] - 1)) + 1):
                amplitude = abs(float(scene.table[row + l]))
                if not amplitude <= most:  # NaN, which then stays
                    most = amplitude if most == most else most
    strongest = most * most * (OVERSHOOT * OVERSHOOT if cubic else 1.0)
    return float(strongest)


@stage(forceinline=True)
def _candidates(v: Array, here: int, width: int, within: float, cubic: int) -> Any:
    """The first and the last of the reflections along an axis, or of the nodes that F is interpolated between."""
    low, high = v[here] - v[width], v[here] + v[width]
    if cubic:
        return np.floor(low) - 1, np.floor(high) + 2
    return np.ceil(low - within), np.floor(high + within)
