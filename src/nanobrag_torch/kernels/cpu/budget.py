"""What may be left out of spots that never vanish, but only fade: stages of the compiled CPU kernel.

Every group of pixels has a budget, its share of the photons that a pixel may lose. What it would lose without a lattice
is bounded by the envelope of the shape at the nearest that the group comes to a reflection, times F^2 of the strongest
reflection that is the nearest one anywhere in it, times all factors at their largest. Lattices are left out from the
least bound up until the budget is spent: the sum of bounds counts, not the largest, since most lie far below.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import FAST, larger, stage, vector_code
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch
from nanobrag_torch.kernels.cpu.profiles import GRATING
from nanobrag_torch.kernels.cpu.strength import set_strongest

BOUNDLESS = np.inf
"""What a ray that meets a sensor from behind captures of a photon, with a sign, may be any number (D58, D60)."""
HALVINGS = 6
"""Steps of the search for the threshold, which is then known to the 2^-6th part of its range of exponents."""


@stage()
def spend(scratch: Scratch, scene: Packed, lanes: int, p: int, source: Array) -> None:
    """Loss of every group without each lattice, in photons, and the THRESHOLD below which it goes without."""
    v, groups, lattices = scratch.v, lanes // at.GROUP, scratch.off.size
    scale = _most_photons(v, lanes, scene.panels[p], source, scene.whole)
    for k in range(lattices):
        a, loss = scene.lattice[k], scratch.loss[k * at.GROUPS : (k + 1) * at.GROUPS]
        _approach(v, groups, a, scratch.box, source, scene.limits, scene.whole[at.PROFILE])
        amount = scale * abs(a[at.LATTICE_WEIGHT])
        set_strongest(scratch, groups, scene)
        for g in range(groups):
            loss[g] = amount * v[at.OFF + g] * v[at.STRONG + g]
        for g in range(groups, at.GROUPS):
            loss[g] = 0.0
    share = scene.limits[at.BUDGET] / (scene.whole[at.LAYERS] * scene.sources.shape[0])
    _set_thresholds(v, scratch.loss, lattices, share)


@stage()
def _most_photons(v: Array, lanes: int, panel: Array, source: Array, whole: Array) -> float:
    """No less than weight, solid angle, capture and polarization of any place in the block, multiplied."""
    inverse, form = 0.0, 0.0
    for j in range(lanes):
        inverse = max(inverse, v[at.INVERSE + j])
    for i in range(9):
        form += source[at.POLARIZATION + i] * source[at.POLARIZATION + i]
    corner = (panel[at.FAST_SIZE] + panel[at.SLOW_SIZE]) * inverse  # from the middle of a pixel, as an angle
    inverse *= 1 + corner
    faced = panel[at.AREA] * max(abs(panel[at.CLOSE]) * inverse, 1.0)
    omega = inverse * inverse * (1.0 if whole[at.POINT_PIXEL] else faced)
    most: float = abs(source[at.SOURCE_WEIGHT]) * omega * (1 + np.sqrt(form)) / 2
    if panel[at.LAYER_STEP] > 0 and not whole[at.UPRIGHT] and _least_cosine(v, lanes, panel) <= corner:
        most *= BOUNDLESS
    return most


@stage()
def _least_cosine(v: Array, lanes: int, panel: Array) -> float:
    """Of the angles at which rays meet the sensor."""
    least = 1.0
    for j in range(lanes):
        x, y, z = v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j]
        least = min(least, x * panel[at.NORMAL] + y * panel[at.NORMAL + 1] + z * panel[at.NORMAL + 2])
    return least


@stage(fastmath=FAST)
def _approach(v: Array, groups: int, a: Array, box: Array, source: Array, limits: Array, profile: int) -> None:
    """OFF: the envelope of L^2 where a group is nearest to a reflection; HERE rows: hkl of its middle; WIDTH: span."""
    vector_code()
    f, inverse = at.FRAME, source[at.INVERSE_LAMBDA]
    for g in range(groups):
        v[at.OFF + g] = 1.0 if profile == GRATING else 0.0
    for axis in range(3):
        weight, ux, uy, uz = limits[at.NEAREST + axis], a[3 * axis], a[3 * axis + 1], a[3 * axis + 2]
        ux, uy, uz, floor = ux * inverse, uy * inverse, uz * inverse, limits[at.FLOOR + axis]
        start = ux * source[at.INCIDENT] + uy * source[at.INCIDENT + 1] + uz * source[at.INCIDENT + 2]
        by_1 = abs(ux * box[f] + uy * box[f + 1] + uz * box[f + 2])
        by_2 = abs(ux * box[f + 3] + uy * box[f + 4] + uz * box[f + 5])
        by_3 = abs(ux * box[f + 6] + uy * box[f + 7] + uz * box[f + 8])
        here, width = at.HERE_H + axis * at.GROUPS, at.WIDTH_H + axis * at.GROUPS
        for g in range(groups):
            h = ux * v[at.MIDDLE_X + g] + uy * v[at.MIDDLE_Y + g] + uz * v[at.MIDDLE_Z + g] - start
            span = by_1 * v[at.SPAN_1 + g] + by_2 * v[at.SPAN_2 + g] + by_3 * v[at.SPAN_3 + g]
            v[here + g], v[width + g] = h, span
            d = larger(abs(h - np.rint(h)) - span, h - h)
            if profile == GRATING:
                v[at.OFF + g] *= _axis_envelope(d, floor)
            else:
                v[at.OFF + g] += weight * d * d
    if profile != GRATING:
        for g in range(groups):
            v[at.OFF + g] = _ball_envelope(v[at.OFF + g])


@stage(forceinline=True, fastmath=FAST)
def _axis_envelope(d: Any, floor: Any) -> Any:
    """No less than (sin(pi N d) / sin(pi d))^2 from a distance d on: sin(pi d) >= d (3 - 4 d^2) up to 1/2."""
    sine = larger(d * (3.0 - 4.0 * d * d), floor)
    return 1.0 / (sine * sine)


@stage(forceinline=True, fastmath=FAST)
def _ball_envelope(x: Any) -> Any:
    """No less than (3 (sin t - t cos t) / t^3)^2 of t = pi sqrt(x): (sin t - t cos t)^2 <= 1 + t^2, and one at most."""
    t2 = larger(9.869604401089358 * x, x - x + 1.0)
    return min(9.0 * (1.0 + t2) / (t2 * t2 * t2), 1.0)


@stage()
def _set_thresholds(v: Array, loss: Array, lattices: int, budget: float) -> None:
    """THRESHOLD: the sum of all losses below it is within the budget, as that of `lattices` losses below their mean is.

    The logarithm of the threshold over the budget is searched for between minus that of the number of lattices and 0.
    """
    for g in range(at.GROUPS):
        v[at.LEAST + g], v[at.GREATEST + g], v[at.THRESHOLD + g] = -np.log2(max(lattices, 1)), 1e-9, np.inf
    _sum_losses(v, loss, lattices)
    for g in range(at.GROUPS):
        if v[at.LOST + g] <= budget:  # the group can do without any
            v[at.LEAST + g] = np.inf
    for _ in range(HALVINGS):
        for g in range(at.GROUPS):
            v[at.THRESHOLD + g] = budget * 2.0 ** ((v[at.LEAST + g] + v[at.GREATEST + g]) / 2)
        _sum_losses(v, loss, lattices)
        for g in range(at.GROUPS):
            middle = (v[at.LEAST + g] + v[at.GREATEST + g]) / 2
            if v[at.LOST + g] <= budget:
                v[at.LEAST + g] = max(middle, v[at.LEAST + g])
            else:
                v[at.GREATEST + g] = middle
    for g in range(at.GROUPS):
        v[at.THRESHOLD + g] = budget * 2.0 ** v[at.LEAST + g]


@stage(fastmath=FAST)
def _sum_losses(v: Array, loss: Array, lattices: int) -> None:
    """LOST: of every group, the sum of its losses below THRESHOLD."""
    vector_code()
    for g in range(at.GROUPS):
        v[at.LOST + g] = 0.0
    for k in range(lattices):
        for g in range(at.GROUPS):
            one = loss[k * at.GROUPS + g]
            v[at.LOST + g] += one if one < v[at.THRESHOLD + g] else 0.0


@stage()
def kept(v: Array, loss: Array, k: int, groups: int) -> int:
    """Groups, as bits, that cannot do without lattice k."""
    bits = at.FIRST
    for g in range(groups):
        bits |= (1 << g) if loss[k * at.GROUPS + g] >= v[at.THRESHOLD + g] else 0
    return bits
