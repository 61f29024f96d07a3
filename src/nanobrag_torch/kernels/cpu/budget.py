"""What may be left out of spots that never vanish, but only fade: stages of the compiled CPU kernel.

Every group of pixels has a budget, its share of the photons that a pixel may lose. What it would lose without a lattice
is bounded by the envelope of the shape wherever the group comes nearest to reflections, times F^2 of the strongest
reflection that is the nearest one anywhere in it, times all factors at their largest. Lattices are left out from the
least bound up until the budget is spent: the sum of bounds counts, not the largest, since most lie far below.

Groups are held against all lattices at once first, by the interval of hkl that holds them all. Most can do without any;
only the others are held against each lattice.

A crystal's envelope is the product of (1 / sin(pi h))^2 over the axes, and its logarithm is convex in hkl between
integers. Over a group hkl is linear but for a small rest, so the envelope is largest at one of its four corners: less
than what one axis has at one corner times what another has at the opposite one. An axis that may come so near to an
integer that N^2 is less than the envelope counts as N^2 everywhere; the smaller of both would not be convex.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import FAST, larger, stage, vector_code
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch
from nanobrag_torch.kernels.cpu.profiles import GRATING
from nanobrag_torch.kernels.cpu.strength import along, is_alone, set_strongest, times_strongest

BOUNDLESS = np.inf
"""What a ray that meets a sensor from behind captures of a photon, with a sign, may be any number (D58, D60)."""
HALVINGS = 8
"""Steps of the search for the threshold, which is then known to the 2^-8th part of its range of exponents."""


@stage()
def spend(scratch: Scratch, scene: Packed, lanes: int, p: int, source: Array) -> None:
    """WHERE: the groups, as bits, that cannot do without each lattice."""
    v, where, loss, groups = scratch.v, scratch.where, scratch.loss, lanes // at.GROUP
    grating, weights = scene.whole[at.PROFILE] == GRATING, scene.columns[at.LATTICE_WEIGHT]
    scale = _most_photons(v, lanes, scene.panels[p], source, scene.whole)
    share = scene.limits[at.BUDGET] / (scene.whole[at.LAYERS] * scene.sources.shape[0])
    _approach(v, groups, scene.envelope, scratch.box, source, scene.limits, grating)
    set_strongest(scratch, groups, scene)
    total = scale * _clear(where, weights)
    for g in range(groups):
        if total * v[at.OFF + g] * v[at.STRONG + g] <= share:
            continue
        place = _place(v, g, scratch.box, source)
        if grating:
            _lose_gratings(loss, scene.columns, place, scene.limits)
        else:
            _lose_balls(loss, scene.columns, place, scene.limits)
        if is_alone(v, g):
            _scale(loss, weights, scale * v[at.STRONG + g])
        else:
            _scale(loss, weights, scale)
            times_strongest(scratch, g, place, scene)
        _mark(where, loss, _threshold(loss, share), 1 << g)


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
def _approach(v: Array, groups: int, envelope: Array, box: Array, source: Array, limits: Array, grating: bool) -> None:
    """Of groups and all lattices: HERE rows, the middle of hkl; WIDTH, its span; OFF, the envelope of L^2 at most."""
    vector_code()
    f, inverse = at.FRAME, source[at.INVERSE_LAMBDA]
    sx, sy, sz = source[at.INCIDENT], source[at.INCIDENT + 1], source[at.INCIDENT + 2]
    for g in range(groups):
        v[at.OFF + g] = 1.0 if grating else 0.0
    for axis in range(3):
        ux, uy, uz = envelope[0, 3 * axis], envelope[0, 3 * axis + 1], envelope[0, 3 * axis + 2]
        mx, my, mz = envelope[1, 3 * axis], envelope[1, 3 * axis + 1], envelope[1, 3 * axis + 2]
        weight, floor = limits[at.NEAREST + axis], limits[at.FLOOR + axis]
        by_1 = abs(ux * box[f] + uy * box[f + 1] + uz * box[f + 2])
        by_1 += mx * abs(box[f]) + my * abs(box[f + 1]) + mz * abs(box[f + 2])
        by_2 = abs(ux * box[f + 3] + uy * box[f + 4] + uz * box[f + 5])
        by_2 += mx * abs(box[f + 3]) + my * abs(box[f + 4]) + mz * abs(box[f + 5])
        by_3 = abs(ux * box[f + 6] + uy * box[f + 7] + uz * box[f + 8])
        by_3 += mx * abs(box[f + 6]) + my * abs(box[f + 7]) + mz * abs(box[f + 8])
        here, width = at.HERE_H + axis * at.GROUPS, at.WIDTH_H + axis * at.GROUPS
        for g in range(groups):
            x, y, z = v[at.MIDDLE_X + g] - sx, v[at.MIDDLE_Y + g] - sy, v[at.MIDDLE_Z + g] - sz
            h = (ux * x + uy * y + uz * z) * inverse
            span = by_1 * v[at.SPAN_1 + g] + by_2 * v[at.SPAN_2 + g] + by_3 * v[at.SPAN_3 + g]
            span = (span + mx * abs(x) + my * abs(y) + mz * abs(z)) * inverse
            v[here + g], v[width + g] = h, span
            d = larger(abs(h - np.rint(h)) - span, h - h)
            if grating:
                sine = larger(_least_sine(d), floor)
                v[at.OFF + g] /= sine * sine
            else:
                v[at.OFF + g] += weight * d * d
    if not grating:
        for g in range(groups):
            v[at.OFF + g] = _ball_envelope(v[at.OFF + g])


@stage(forceinline=True, fastmath=FAST)
def _least_sine(d: Any) -> Any:
    """No more than sin(pi d) and growing, for d up to 1/2: by less than 3e-4 of it, as two terms allow."""
    y = d * d
    return d * (3.1409 + y * (2.3262 * y - 5.1453))


@stage(forceinline=True, fastmath=FAST)
def _ball_envelope(x: Any) -> Any:
    """No less than (3 (sin t - t cos t) / t^3)^2 of t = pi sqrt(x): (sin t - t cos t)^2 <= 1 + t^2, and one at most."""
    t2 = larger(9.869604401089358 * x, x - x + 1.0)
    return min(9.0 * (1.0 + t2) / (t2 * t2 * t2), 1.0)


@stage(fastmath=FAST)
def _clear(where: Array, weights: Array) -> float:
    """No group needs any lattice as yet; the sum of all weights."""
    vector_code()
    total = 0.0
    for k in range(where.size):
        where[k] = 0
        total += abs(weights[k])
    return total


@stage()
def _place(v: Array, g: int, box: Array, source: Array) -> Any:
    """q of the middle of a group, and the three vectors that it reaches from there, forth and back."""
    inverse, f = source[at.INVERSE_LAMBDA], at.FRAME
    one, two, three = v[at.SPAN_1 + g] * inverse, v[at.SPAN_2 + g] * inverse, v[at.SPAN_3 + g] * inverse
    return (
        (v[at.MIDDLE_X + g] - source[at.INCIDENT]) * inverse,
        (v[at.MIDDLE_Y + g] - source[at.INCIDENT + 1]) * inverse,
        (v[at.MIDDLE_Z + g] - source[at.INCIDENT + 2]) * inverse,
        box[f] * one,
        box[f + 1] * one,
        box[f + 2] * one,
        box[f + 3] * two,
        box[f + 4] * two,
        box[f + 5] * two,
        box[f + 6] * three,
        box[f + 7] * three,
        box[f + 8] * three,
    )


@stage(forceinline=True, fastmath=FAST)
def _reach(a: Any, b: Any, c: Any, place: Any) -> Any:
    """An index of the middle less the nearest integer; what it changes by along two vectors, and the most by the third.

    a, b, c: a row of a lattice.
    """
    h, first, second, third = along(a, b, c, place)
    return h - np.rint(h), first, second, abs(third)


@stage(forceinline=True, fastmath=FAST)
def _corner_sines(a: Any, b: Any, c: Any, place: Any, floor: Any) -> Any:
    """At four corners of a group no more than |sin(pi h)|; `floor` at all where it may be below that at any place."""
    d, across, down, rest = _reach(a, b, c, place)
    near = larger(abs(d) - (abs(across) + abs(down) + rest), d - d)
    free = _least_sine(near) > floor
    one, other = across + down, across - down
    return (
        _sine_or(abs(d + one), rest, free, floor),
        _sine_or(abs(d - one), rest, free, floor),
        _sine_or(abs(d + other), rest, free, floor),
        _sine_or(abs(d - other), rest, free, floor),
    )


@stage(forceinline=True, fastmath=FAST)
def _sine_or(x: Any, rest: Any, free: Any, floor: Any) -> Any:
    """Of an index between 0 and 1 that may be off by `rest`; `floor` unless it is free of that."""
    sine = _least_sine(_smaller(x, 1.0 - x) - rest)
    return sine if free else floor


@stage(forceinline=True, fastmath=FAST)
def _smaller(x: Any, y: Any) -> Any:
    return -larger(-x, -y)


@stage(fastmath=FAST)
def _lose_gratings(loss: Array, columns: Array, place: Any, limits: Array) -> None:
    """Envelope of L^2 of every lattice at its largest in a group."""
    vector_code()
    floor_h, floor_k, floor_l = limits[at.FLOOR], limits[at.FLOOR + 1], limits[at.FLOOR + 2]
    h0, h1, h2, k0, k1, k2 = columns[0], columns[1], columns[2], columns[3], columns[4], columns[5]
    l0, l1, l2 = columns[6], columns[7], columns[8]
    for n in range(loss.size):
        h = _corner_sines(h0[n], h1[n], h2[n], place, floor_h)
        k = _corner_sines(k0[n], k1[n], k2[n], place, floor_k)
        l = _corner_sines(l0[n], l1[n], l2[n], place, floor_l)
        first, second = h[0] * k[0] * l[0], h[1] * k[1] * l[1]
        third, fourth = h[2] * k[2] * l[2], h[3] * k[3] * l[3]
        least = _smaller(_smaller(first, second), _smaller(third, fourth))
        loss[n] = 1.0 / (least * least)


@stage(fastmath=FAST)
def _lose_balls(loss: Array, columns: Array, place: Any, limits: Array) -> None:
    """The same of round crystals, from the nearest that the group comes to an integer on each axis."""
    vector_code()
    for n in range(loss.size):
        loss[n] = 0.0
    for axis in range(3):
        weight, a, b, c = limits[at.NEAREST + axis], columns[3 * axis], columns[3 * axis + 1], columns[3 * axis + 2]
        for n in range(loss.size):
            d, across, down, rest = _reach(a[n], b[n], c[n], place)
            near = larger(abs(d) - (abs(across) + abs(down) + rest), d - d)
            loss[n] += weight * near * near
    for n in range(loss.size):
        loss[n] = _ball_envelope(loss[n])


@stage(fastmath=FAST)
def _scale(loss: Array, weights: Array, scale: float) -> None:
    vector_code()
    for k in range(loss.size):
        loss[k] *= scale * abs(weights[k])


@stage()
def _threshold(loss: Array, budget: float) -> float:
    """The sum of all losses below it is within the budget, as that of K losses below their K-th part of it is.

    Its logarithm over the budget is searched for between minus that of K and 0.
    """
    total, least = _sum_and_least(loss)
    if total <= budget:
        return np.inf
    if least >= budget:
        return 0.0  # below which nothing is, whatever a NaN made of the least
    low, high = -np.log2(loss.size), 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _sum_below(loss, budget * 2.0**middle) <= budget:
            low = middle
        else:
            high = middle
    return float(budget * 2.0**low)


@stage(fastmath=FAST)
def _sum_and_least(loss: Array) -> tuple[float, float]:
    vector_code()
    total, least = 0.0, -np.inf
    for k in range(loss.size):
        total += loss[k]
        least = larger(-loss[k], least)
    return total, -least


@stage(fastmath=FAST)
def _sum_below(loss: Array, threshold: float) -> float:
    vector_code()
    total = 0.0
    for k in range(loss.size):
        total += loss[k] if loss[k] < threshold else 0.0
    return total


@stage(fastmath=FAST)
def _mark(where: Array, loss: Array, threshold: float, bit: int) -> None:
    """Note a group for the lattices that it cannot do without."""
    vector_code()
    one = np.int32(bit)
    for k in range(loss.size):
        where[k] |= np.int32(0) if loss[k] < threshold else one
