"""How strong a reflection can be that a group of pixels has something of: stages of the compiled CPU kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
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
    row, plane = size_l + 2, (size_k + 2) * (size_l + 2)
    above, two = (size_h + 2) * plane, low_h - low_h + 1.5
    for g in range(groups):
        h, most_h = _first_and_count(v, at.HERE_H + g, at.WIDTH_H + g)
        k, most_k = _first_and_count(v, at.HERE_K + g, at.WIDTH_K + g)
        l, most_l = _first_and_count(v, at.HERE_L + g, at.WIDTH_L + g)
        h = min(max(h - low_h + 1, 0.0), size_h + 1)
        k = min(max(k - low_k + 1, 0.0), size_k + 1)
        l = min(max(l - low_l + 1, 0.0), size_l + 1)
        place = h * plane + k * row + l
        place += above if most_h + most_k + most_l > 0 else 0.0
        known = (most_h < two) & (most_k < two) & (most_l < two)
        places[at.BASE + g] = np.int32(place if known else -1.0)
    least: int = places[at.BASE]
    for g in range(groups):
        least = min(places[at.BASE + g], least)
        v[at.STRONG + g] = ceiling[np.uint32(max(places[at.BASE + g], 0))]
    return least


@stage(forceinline=True, fastmath=FAST)
def _first_and_count(v: Array, here: int, width: int) -> Any:
    """The first reflection along an axis that may be the nearest, and how many more may be."""
    first = np.ceil(v[here] - v[width] - NEAREST_ONE)
    return first, np.floor(v[here] + v[width] + NEAREST_ONE) - first


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
