"""Values of single groups of pixels for single lattices, in float32 about anchors: stages of the compiled CPU kernel.

What kernels.cpu.pairs does in float64. hkl of an anchor is formed once for all sub-pixels of its group. Where all of
them have the same nearest reflection, as about a spot, its F is looked up once; and where that is zero, nothing is done
at all. Gaussians and gratings are then summed in one loop.

Far from a reflection N d is the anchor's, from float64, and N times the difference from it: so it is as precise for any
N as that difference is. Near one it is N times d, from which the main peak must not differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.geometry import LOG2_E
from nanobrag_torch.kernels.cpu.intrinsics import FAST, ORDERED, horner, power_of_two, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import gather_or_default
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch
from nanobrag_torch.kernels.cpu.products import nine, times, times_from
from nanobrag_torch.kernels.cpu.profiles import GAUSS, GRATING, form_squares, grating, grating_squares
from nanobrag_torch.polynomials import POWER_32, POWER_64

LEAST_POWER = -100.0
"""Octaves below a spot from which a pixel has nothing of it: products with smaller numbers would be slow."""
ALIKE = 0.4999
"""Distance from a reflection below which no other one is nearer, less what float32 may be off."""


@stage(fastmath=FAST)
def settle(scratch: Scratch, scene: Packed, start: int, stop: int, per_length: float) -> tuple[int, int, int]:
    """Pairs of the entries from `start` on, until rows are full: the next entry, how many pairs are alike, and others.

    Those all of whose lanes have the same nearest reflection stand first in the PAIR rows, and are left out where its F
    is zero; the others stand last. per_length: what box [REACH] is multiplied by to be that of q.
    """
    box, entry, alike, others = scratch.box, start, at.FIRST, at.FIRST
    while entry < stop and entry - start < at.BATCH and alike + others <= at.LANES - at.GROUPS:
        k, bits, g = scratch.found[entry], scratch.groups[entry], at.FIRST
        a = nine(scene.lattice[k])
        reach = _farthest(a, box[at.REACH] * per_length, box[at.REACH + 1] * per_length, box[at.REACH + 2] * per_length)
        while bits:
            if bits & 1:
                if _settle_one(scratch, scene, alike, k, g, a, reach):
                    alike += scratch.w[at.STRENGTH + alike] != 0
                else:
                    others += 1
                    _set_apart(scratch.w, scratch.places, alike, at.LANES - others)
            bits, g = bits >> 1, g + 1
        entry += 1
    return entry, alike, others


@stage(forceinline=True, fastmath=FAST)
def _farthest(a: Any, x: float, y: float, z: float) -> Any:
    """The most that hkl differs from an anchor's where q differs by so much."""
    return (
        abs(a[0]) * x + abs(a[1]) * y + abs(a[2]) * z,
        abs(a[3]) * x + abs(a[4]) * y + abs(a[5]) * z,
        abs(a[6]) * x + abs(a[7]) * y + abs(a[8]) * z,
    )


@stage(forceinline=True, fastmath=FAST)
def _settle_one(scratch: Scratch, scene: Packed, to: int, k: int, g: int, a: Any, reach: Any) -> Any:
    """hkl of the anchor of a pair in float32; STRENGTH for all lanes, where all have the same: whether they have."""
    v, w, places, grid, numbers = scratch.v, scratch.w, scratch.places, scene.grid, scene.numbers
    h, k_, l = times(a, v[at.ANCHOR_X + g], v[at.ANCHOR_Y + g], v[at.ANCHOR_Z + g])
    near_h, near_k, near_l = np.ceil(h - 0.5), np.ceil(k_ - 0.5), np.ceil(l - 0.5)
    h, k_, l = h - near_h, k_ - near_k, l - near_l
    w[at.PAIR_H + to], w[at.PAIR_K + to], w[at.PAIR_L + to] = h, k_, l
    alone = (abs(h) + reach[0] < ALIKE) & (abs(k_) + reach[1] < ALIKE) & (abs(l) + reach[2] < ALIKE)
    h, k_, l = h * numbers[at.CELLS], k_ * numbers[at.CELLS + 1], l * numbers[at.CELLS + 2]
    w[at.PAIR_PHASE_H + to], w[at.PAIR_PHASE_K + to] = h - np.rint(h), k_ - np.rint(k_)
    w[at.PAIR_PHASE_L + to] = l - np.rint(l)
    h, k_, l = near_h - grid[0], near_k - grid[1], near_l - grid[2]
    w[at.PAIR_LOW_H + to], w[at.PAIR_LOW_K + to], w[at.PAIR_LOW_L + to] = h, k_, l
    base = np.int32((h * grid[4] + k_) * grid[5] + l)
    places[at.PAIR_GROUP + to], places[at.PAIR_LATTICE + to], places[at.PAIR_BASE + to] = g, k, base
    inside = (h >= 0) & (h < grid[3]) & (k_ >= 0) & (k_ < grid[4]) & (l >= 0) & (l < grid[5])
    amplitude: Any = w.dtype.type(numbers[at.DEFAULT_F])
    if inside and alone:
        amplitude = scene.table[np.uint32(base)]
    w[at.STRENGTH + to] = scene.narrow[k, at.LATTICE_WEIGHT] * amplitude * amplitude
    return alone


@stage()
def _set_apart(w: Array, places: Array, origin: int, to: int) -> None:
    """Move a pair to another place of the rows."""
    for row in range(at.PAIR_H, at.STRENGTH, at.ROW):
        w[row + to] = w[row + origin]
    for row in (at.PAIR_GROUP, at.PAIR_LATTICE, at.PAIR_BASE):
        places[row + to] = places[row + origin]


@stage(inline="always")
def add_near_pairs(w: Array, places: Array, alike: int, others: int, scene: Packed) -> None:
    """SUM of the groups += weight F^2 L^2 of the lattices that they are paired with."""
    profile = scene.whole[at.PROFILE]
    if profile == GRATING:
        _add_gratings(w, places, alike, scene.narrow, scene.shape)
    elif profile == GAUSS:
        _add_gaussians(w, places, alike, scene.narrow, scene.shape)
    else:
        _add_in_stages(w, places, at.FIRST, alike, scene)
    _add_in_stages(w, places, at.LANES - others, at.LANES, scene)


@stage(fastmath=FAST)
def _add_gaussians(w: Array, places: Array, alike: int, narrow: Array, shape: Array) -> None:
    vector_code()
    real = w.dtype.type
    zero, rate, least = real(0), real(-2 * LOG2_E), real(LEAST_POWER)
    hh, kk, ll = rate * shape[0], rate * shape[4], rate * shape[8]
    hk, hl, kl = rate * (shape[1] + shape[3]), rate * (shape[2] + shape[6]), rate * (shape[5] + shape[7])
    for p in range(alike):
        origin, m = places[at.PAIR_GROUP + p] * at.GROUP, nine(narrow[places[at.PAIR_LATTICE + p]])
        rest, strength = (w[at.PAIR_H + p], w[at.PAIR_K + p], w[at.PAIR_L + p]), w[at.STRENGTH + p]
        xs, ys, zs = w[at.DX + origin :], w[at.DY + origin :], w[at.DZ + origin :]
        sums = w[at.SUM + origin :]
        for t in range(at.GROUP):
            h, k, l = times_from(rest, m, xs[t], ys[t], zs[t])
            power = h * (hh * h + hk * k + hl * l) + k * (kk * k + kl * l) + ll * (l * l)
            octaves = max(power, least)
            whole = np.rint(octaves)
            square = horner(octaves - whole, POWER_32, POWER_64) * power_of_two(whole)
            sums[t] += strength * (square if power > least else zero)


@stage(forceinline=True, fastmath=ORDERED)
def _fringe(d: Any, cells: Any, far: Any, half: Any) -> Any:
    """N d less the nearest integer: near a reflection from the distance d, else from N d as formed about the anchor."""
    near = cells * d
    return near if abs(near) < half else far - np.rint(far)


@stage(fastmath=ORDERED)
def _add_gratings(w: Array, places: Array, alike: int, narrow: Array, shape: Array) -> None:
    vector_code()
    na, nb, nc, bias, half = shape[0], shape[4], shape[8], shape[at.BIAS], w.dtype.type(0.5)
    for p in range(alike):
        origin, m = places[at.PAIR_GROUP + p] * at.GROUP, nine(narrow[places[at.PAIR_LATTICE + p]])
        rest_h, rest_k, rest_l = w[at.PAIR_H + p], w[at.PAIR_K + p], w[at.PAIR_L + p]
        phase_h, phase_k, phase_l = w[at.PAIR_PHASE_H + p], w[at.PAIR_PHASE_K + p], w[at.PAIR_PHASE_L + p]
        xs, ys, zs = w[at.DX + origin :], w[at.DY + origin :], w[at.DZ + origin :]
        sums, strength = w[at.SUM + origin :], w[at.STRENGTH + p]
        for t in range(at.GROUP):
            h, k, l = times(m, xs[t], ys[t], zs[t])
            dh, dk, dl = (rest_h + h) + bias, (rest_k + k) + bias, (rest_l + l) + bias
            uh, uk = _fringe(dh, na, phase_h + na * h, half), _fringe(dk, nb, phase_k + nb * k, half)
            value = grating(dh, dk, dl, uh, uk, _fringe(dl, nc, phase_l + nc * l, half))
            sums[t] += strength * (value * value)


@stage()
def _add_in_stages(w: Array, places: Array, first: int, last: int, scene: Packed) -> None:
    """The same for pairs of any kind, F looked up for each lane."""
    profile, default = scene.whole[at.PROFILE], w.dtype.type(scene.numbers[at.DEFAULT_F])
    for start in range(first, last, at.GROUPS):
        used = min(last - start, at.GROUPS)
        lanes = used * at.GROUP
        peel_pairs(w, places, start, used, scene.narrow, scene.grid)
        if profile == GRATING:
            _set_phases(w, places, start, used, scene.narrow, scene.shape)
            grating_squares(w, lanes, scene.shape)
        else:
            form_squares(w, lanes, scene.shape, profile)
        if scene.table.size:
            gather_or_default(w, places, lanes, scene.table, default)
        else:
            for j in range(lanes):
                w[at.AMPLITUDE + j] = default
        _hand_back(w, places, start, used, scene.narrow)


@stage(fastmath=FAST)
def peel_pairs(w: Array, places: Array, first: int, used: int, narrow: Array, grid: Array) -> None:
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


@stage(fastmath=ORDERED)
def _set_phases(w: Array, places: Array, first: int, used: int, narrow: Array, shape: Array) -> None:
    """PHASE rows of some pairs, from the distances and from the phases of their anchors."""
    vector_code()
    na, nb, nc, half = shape[0], shape[4], shape[8], w.dtype.type(0.5)
    for slot in range(used):
        p, to = first + slot, slot * at.GROUP
        origin, m = places[at.PAIR_GROUP + p] * at.GROUP, nine(narrow[places[at.PAIR_LATTICE + p]])
        h0, k0, l0 = w[at.PAIR_H + p], w[at.PAIR_K + p], w[at.PAIR_L + p]
        phase_h, phase_k, phase_l = w[at.PAIR_PHASE_H + p], w[at.PAIR_PHASE_K + p], w[at.PAIR_PHASE_L + p]
        xs, ys, zs = w[at.DX + origin :], w[at.DY + origin :], w[at.DZ + origin :]
        for t in range(at.GROUP):
            h, k, l = times(m, xs[t], ys[t], zs[t])
            dh, dk, dl = w[at.DH + to + t], w[at.DK + to + t], w[at.DL + to + t]
            h_far = phase_h + na * h - (na - np.rint(na)) * np.rint(h0 + h - dh)
            k_far = phase_k + nb * k - (nb - np.rint(nb)) * np.rint(k0 + k - dk)
            l_far = phase_l + nc * l - (nc - np.rint(nc)) * np.rint(l0 + l - dl)
            w[at.PHASE_H + to + t] = _fringe(dh, na, h_far, half)
            w[at.PHASE_K + to + t] = _fringe(dk, nb, k_far, half)
            w[at.PHASE_L + to + t] = _fringe(dl, nc, l_far, half)


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
