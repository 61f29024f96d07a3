"""Values of single groups of pixels for single lattices, in float32 about anchors: stages of the compiled CPU kernel.

What kernels.cpu.pairs does in float64. hkl of an anchor is formed once for all sub-pixels of its group. A Gaussian,
which is most of what is left out elsewhere, is summed in one loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.geometry import LOG2_E
from nanobrag_torch.kernels.cpu.intrinsics import FAST, horner, power_of_two, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import gather_or_default
from nanobrag_torch.kernels.cpu.layout import Array, Packed
from nanobrag_torch.kernels.cpu.products import nine, times, times_from
from nanobrag_torch.kernels.cpu.profiles import GAUSS, GRATING, form_squares, grating_squares, phases
from nanobrag_torch.polynomials import POWER_32, POWER_64

LEAST_POWER = -100.0
"""Octaves below a spot from which a pixel has nothing of it: products with smaller numbers would be slow."""


@stage(fastmath=FAST)
def settle(v: Array, w: Array, places: Array, pairs: int, lattice: Array, grid: Array) -> None:
    """hkl of the anchor of each pair, as float32 rest and place in the table."""
    for p in range(pairs):
        a, g = lattice[places[at.PAIR_LATTICE + p]], places[at.PAIR_GROUP + p]
        x, y, z = v[at.ANCHOR_X + g], v[at.ANCHOR_Y + g], v[at.ANCHOR_Z + g]
        h, k, l = times(nine(a), x, y, z)
        near_h, near_k, near_l = np.ceil(h - 0.5), np.ceil(k - 0.5), np.ceil(l - 0.5)
        w[at.PAIR_H + p], w[at.PAIR_K + p], w[at.PAIR_L + p] = h - near_h, k - near_k, l - near_l
        h, k, l = near_h - grid[0], near_k - grid[1], near_l - grid[2]
        w[at.PAIR_LOW_H + p], w[at.PAIR_LOW_K + p], w[at.PAIR_LOW_L + p] = h, k, l
        places[at.PAIR_BASE + p] = np.int32((h * grid[4] + k) * grid[5] + l)


@stage(inline="always")
def add_near_pairs(w: Array, places: Array, pairs: int, scene: Packed) -> None:
    """SUM of the groups += weight F^2 L^2 of the lattices that they are paired with."""
    profile, default = scene.whole[at.PROFILE], w.dtype.type(scene.numbers[at.DEFAULT_F])
    if profile == GAUSS and scene.table.size:
        _add_gaussians(w, places, pairs, scene.narrow, scene.shape, scene.table, scene.grid, default)
        return
    for first in range(0, pairs, at.GROUPS):
        used = min(pairs - first, at.GROUPS)
        lanes = used * at.GROUP
        _peel(w, places, first, used, scene.narrow, scene.grid)
        if profile == GRATING:
            phases(w, lanes, scene.shape)
            grating_squares(w, lanes, scene.shape)
        else:
            form_squares(w, lanes, scene.shape, profile)
        if scene.table.size:
            gather_or_default(w, places, lanes, scene.table, default)
        else:
            for j in range(lanes):
                w[at.AMPLITUDE + j] = default
        _hand_back(w, places, first, used, scene.narrow)


@stage(fastmath=FAST)
def _add_gaussians(
    w: Array, places: Array, pairs: int, narrow: Array, shape: Array, table: Array, grid: Array, default: Any
) -> None:
    vector_code()
    real = w.dtype.type
    size_h, size_k, size_l, half = real(grid[3]), real(grid[4]), real(grid[5]), real(0.5)
    zero, rate, least = real(0), real(-2 * LOG2_E), real(LEAST_POWER)
    hh, kk, ll = rate * shape[0], rate * shape[4], rate * shape[8]
    hk, hl, kl = rate * (shape[1] + shape[3]), rate * (shape[2] + shape[6]), rate * (shape[5] + shape[7])
    for p in range(pairs):
        origin, n = places[at.PAIR_GROUP + p] * at.GROUP, narrow[places[at.PAIR_LATTICE + p]]
        m, rest = nine(n), (w[at.PAIR_H + p], w[at.PAIR_K + p], w[at.PAIR_L + p])
        low_h, low_k, low_l = w[at.PAIR_LOW_H + p], w[at.PAIR_LOW_K + p], w[at.PAIR_LOW_L + p]
        base, weight = places[at.PAIR_BASE + p], n[at.LATTICE_WEIGHT]
        xs, ys, zs = w[at.DX + origin :], w[at.DY + origin :], w[at.DZ + origin :]
        sums = w[at.SUM + origin :]
        for t in range(at.GROUP):
            h, k, l = times_from(rest, m, xs[t], ys[t], zs[t])
            near_h, near_k, near_l = np.ceil(h - half), np.ceil(k - half), np.ceil(l - half)
            h, k, l = h - near_h, k - near_k, l - near_l
            power = h * (hh * h + hk * k + hl * l) + k * (kk * k + kl * l) + ll * (l * l)
            octaves = max(power, least)
            whole = np.rint(octaves)
            square = horner(octaves - whole, POWER_32, POWER_64) * power_of_two(whole)
            place = np.int32((near_h * size_k + near_k) * size_l + near_l) + base
            near_h, near_k, near_l = near_h + low_h, near_k + low_k, near_l + low_l
            inside = (near_h >= zero) & (near_h < size_h) & (near_k >= zero) & (near_k < size_k)
            inside = inside & (near_l >= zero) & (near_l < size_l)
            amplitude = table[np.uint32(place if inside else 0)]
            amplitude = amplitude if inside else default
            sums[t] += weight * amplitude * amplitude * (square if power > least else zero)


@stage(fastmath=FAST)
def _peel(w: Array, places: Array, first: int, used: int, narrow: Array, grid: Array) -> None:
    """Distances to the nearest reflections of some pairs and their table indices, -1 outside the table."""
    vector_code()
    real = w.dtype.type
    size_h, size_k, size_l, half, zero = real(grid[3]), real(grid[4]), real(grid[5]), real(0.5), real(0)
    for slot in range(used):
        p, to = first + slot, slot * at.GROUP
        origin, n = places[at.PAIR_GROUP + p] * at.GROUP, narrow[places[at.PAIR_LATTICE + p]]
        m, rest = nine(n), (w[at.PAIR_H + p], w[at.PAIR_K + p], w[at.PAIR_L + p])
        low_h, low_k, low_l = w[at.PAIR_LOW_H + p], w[at.PAIR_LOW_K + p], w[at.PAIR_LOW_L + p]
        base = places[at.PAIR_BASE + p]
        xs, ys, zs = w[at.DX + origin :], w[at.DY + origin :], w[at.DZ + origin :]
        for t in range(at.GROUP):
            h, k, l = times_from(rest, m, xs[t], ys[t], zs[t])
            near_h, near_k, near_l = np.ceil(h - half), np.ceil(k - half), np.ceil(l - half)
            w[at.DH + to + t], w[at.DK + to + t], w[at.DL + to + t] = h - near_h, k - near_k, l - near_l
            place = np.int32((near_h * size_k + near_k) * size_l + near_l) + base
            near_h, near_k, near_l = near_h + low_h, near_k + low_k, near_l + low_l
            inside = (near_h >= zero) & (near_h < size_h) & (near_k >= zero) & (near_k < size_k)
            inside = inside & (near_l >= zero) & (near_l < size_l)
            places[to + t] = place if inside else np.int32(-1)


@stage(fastmath=FAST)
def _hand_back(w: Array, places: Array, first: int, used: int, narrow: Array) -> None:
    """SUM of the groups += weight F^2 SQUARE of their pairs."""
    vector_code()
    for slot in range(used):
        weight = narrow[places[at.PAIR_LATTICE + first + slot], at.LATTICE_WEIGHT]
        origin = slot * at.GROUP
        sums = w[at.SUM + places[at.PAIR_GROUP + first + slot] * at.GROUP :]
        for t in range(at.GROUP):
            amplitude = w[at.AMPLITUDE + origin + t]
            sums[t] += weight * amplitude * amplitude * w[at.SQUARE + origin + t]
