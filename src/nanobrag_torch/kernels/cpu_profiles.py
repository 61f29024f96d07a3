"""The squared lattice factor L^2 and its slopes for a block of pixels: stages of the compiled CPU kernel.

The shape array holds the nine elements of the shape matrix, symmetric, and what keeps divisions finite at d = 0.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu_geometry import LOG2_E
from nanobrag_torch.kernels.cpu_layout import (
    AMPLITUDE,
    BEND,
    BIAS,
    DH,
    DK,
    DL,
    FLOOR,
    FLOOR_H,
    FLOOR_K,
    FLOOR_L,
    FLOW,
    SHAPE_SUM,
    SQUARE,
    SUM,
    Array,
)
from nanobrag_torch.kernels.cpu_math import (
    FAST,
    POWER_32,
    POWER_64,
    SINE_32,
    SINE_64,
    SLOPE_32,
    SLOPE_64,
    horner,
    power_of_two,
    stage,
    vector_code,
)
from nanobrag_torch.physics.lattice_factor import TOPHAT_LIMIT

GRATING, SPHERE, GAUSS, TOPHAT = 0, 1, 2, 3  # physics.lattice_factor.Profile
PI = 3.141592653589793

# 3 (sin x - x cos x) / x^3 in powers of x^2, below one, and its derivative
BALL_64 = tuple((-1) ** k * 6 * (k + 1) / factorial(2 * k + 3) for k in range(11))
BALL_32 = BALL_64[:6]
BALL_SLOPE_32 = tuple(k * c for k, c in enumerate(BALL_32))[1:]
BALL_SLOPE_64 = tuple(k * c for k, c in enumerate(BALL_64))[1:]


@stage(inline="always", fastmath=FAST)
def _grating(w: Array, j: int, cells: Any, floor: Any, floors: Any) -> Any:
    """prod sin^2(pi N d) / sin^2(pi d) in lane j, as a fraction.

    sin^2(pi x) is x^2 P(x^2)^2. With d^2 + e in place of d^2 and N^2 e added above, d = 0 gives N^2 without a branch.
    """
    h, k, l = w[DH + j], w[DK + j], w[DL + j]
    uh, uk, ul = cells[0] * h, cells[1] * k, cells[2] * l
    uh -= np.rint(uh)
    uk -= np.rint(uk)
    ul -= np.rint(ul)
    yh, yk, yl = h * h + floor, k * k + floor, l * l + floor
    zh, zk, zl = uh * uh + floors[0], uk * uk + floors[1], ul * ul + floors[2]
    top = horner(zh, SINE_32, SINE_64) * horner(zk, SINE_32, SINE_64) * horner(zl, SINE_32, SINE_64)
    bottom = horner(yh, SINE_32, SINE_64) * horner(yk, SINE_32, SINE_64) * horner(yl, SINE_32, SINE_64)
    return top * top * (zh * zk * zl), bottom * bottom * yh * yk * yl


@stage(fastmath=FAST)
def add_grating(w: Array, lanes: int, shape: Array, weight: Any) -> None:
    """SUM += weight F^2 L^2."""
    vector_code()
    cells, floors = (shape[0], shape[4], shape[8]), (shape[FLOOR_H], shape[FLOOR_K], shape[FLOOR_L])
    floor = shape[FLOOR]
    for j in range(lanes):
        top, bottom = _grating(w, j, cells, floor, floors)
        w[SUM + j] += weight * (w[AMPLITUDE + j] * w[AMPLITUDE + j]) * top / bottom


@stage(fastmath=FAST)
def grating_squares(w: Array, lanes: int, shape: Array) -> None:
    """SQUARE: L^2."""
    vector_code()
    cells, floors = (shape[0], shape[4], shape[8]), (shape[FLOOR_H], shape[FLOOR_K], shape[FLOOR_L])
    floor = shape[FLOOR]
    for j in range(lanes):
        top, bottom = _grating(w, j, cells, floor, floors)
        w[SQUARE + j] = top / bottom


@stage(inline="always", fastmath=FAST)
def _axis(d: Any, cells: Any) -> Any:
    """N d, its nearest integer, and of u = N d - that: u P(u^2), P + slope term; the same two of d."""
    a = cells * d
    m = np.rint(a)
    u = a - m
    yu, yd = u * u, d * d
    pu, pd = horner(yu, SINE_32, SINE_64), horner(yd, SINE_32, SINE_64)
    eu, ed = yu * horner(yu, SLOPE_32, SLOPE_64), yd * horner(yd, SLOPE_32, SLOPE_64)
    return u * pu, d * pd, m * pu + a * eu, pd, ed, pu + eu


@stage(fastmath=FAST)
def grating_slopes(w: Array, lanes: int, shape: Array, weight: Any) -> None:
    """SUM and SQUARE, and the slopes by hkl of FLOW weight F^2 L^2 in place of the distances.

    With s(x) = sin(pi x), u = N d - m: (s(u) / s(d))' = ((m P(u) + N d E(u)) P(d) - E(d) u P(u)) / (d P(d))^2, where
    s(x) = x P and E = 2 x^2 P'. Nothing large cancels at small d, where m = 0.
    """
    vector_code()
    na, nb, nc, bias = shape[0], shape[4], shape[8], shape[BIAS]
    one, two = w.dtype.type(1), w.dtype.type(2)
    for j in range(lanes):
        top_h, bottom_h, rise_h, pd_h, ed_h, _h = _axis(w[DH + j] + bias, na)
        top_k, bottom_k, rise_k, pd_k, ed_k, _k = _axis(w[DK + j] + bias, nb)
        top_l, bottom_l, rise_l, pd_l, ed_l, _l = _axis(w[DL + j] + bias, nc)
        bottom_hk = bottom_h * bottom_k
        r = one / (bottom_hk * bottom_l)
        rh, rk, rl = r * (bottom_k * bottom_l), r * (bottom_h * bottom_l), r * bottom_hk
        lh, lk, ll = top_h * rh, top_k * rk, top_l * rl
        product = lh * lk * ll
        square = product * product
        term = weight * (w[AMPLITUDE + j] * w[AMPLITUDE + j])
        w[SUM + j] += term * square
        w[SQUARE + j] = square
        common = two * w[FLOW + j] * term * product
        w[DH + j] = common * lk * ll * rh * (rise_h * (pd_h * rh) - ed_h * lh)
        w[DK + j] = common * lh * ll * rk * (rise_k * (pd_k * rk) - ed_k * lk)
        w[DL + j] = common * lh * lk * rl * (rise_l * (pd_l * rl) - ed_l * ll)


@stage(fastmath=FAST)
def grating_cells(w: Array, lanes: int, shape: Array, weight: Any, single: Array) -> None:
    """Add the gradient by the numbers of cells; before the slopes take the place of the distances."""
    vector_code()
    na, nb, nc, bias = shape[0], shape[4], shape[8], shape[BIAS]
    one = w.dtype.type(1)
    by_a = by_b = by_c = w.dtype.type(0)
    for j in range(lanes):
        top_h, bottom_h, _rh, pd_h, _eh, by_h = _axis(w[DH + j] + bias, na)
        top_k, bottom_k, _rk, pd_k, _ek, by_k = _axis(w[DK + j] + bias, nb)
        top_l, bottom_l, _rl, pd_l, _el, by_l = _axis(w[DL + j] + bias, nc)
        bottom_hk = bottom_h * bottom_k
        r = one / (bottom_hk * bottom_l)
        rh, rk, rl = r * (bottom_k * bottom_l), r * (bottom_h * bottom_l), r * bottom_hk
        lh, lk, ll = top_h * rh, top_k * rk, top_l * rl
        flow = w[FLOW + j] * weight * (w[AMPLITUDE + j] * w[AMPLITUDE + j])
        common = flow * lh * lk * ll
        by_a += common * lk * ll * by_h * (w[DH + j] + bias) * rh
        by_b += common * lh * ll * by_k * (w[DK + j] + bias) * rk
        by_c += common * lh * lk * by_l * (w[DL + j] + bias) * rl
    single[SHAPE_SUM] += 2.0 * by_a
    single[SHAPE_SUM + 4] += 2.0 * by_b
    single[SHAPE_SUM + 8] += 2.0 * by_c


@stage(inline="always", fastmath=FAST)
def _form(w: Array, j: int, shape: Array) -> Any:
    h, k, l = w[DH + j], w[DK + j], w[DL + j]
    cross = (shape[1] + shape[3]) * (h * k) + (shape[2] + shape[6]) * (h * l) + (shape[5] + shape[7]) * (k * l)
    return shape[0] * (h * h) + shape[4] * (k * k) + shape[8] * (l * l) + cross


@stage(fastmath=FAST)
def form_squares(w: Array, lanes: int, shape: Array, profile: int) -> None:
    """SQUARE: L^2 as a function of x = d Q d, and BEND: its derivative by x."""
    vector_code()
    one, zero, two = w.dtype.type(1), w.dtype.type(0), w.dtype.type(2)
    if profile == TOPHAT:
        limit = w.dtype.type(TOPHAT_LIMIT)
        for j in range(lanes):
            w[SQUARE + j] = one if _form(w, j, shape) < limit else zero
            w[BEND + j] = zero
    elif profile == GAUSS:
        rate, least = w.dtype.type(-2 * LOG2_E), w.dtype.type(-126)
        for j in range(lanes):
            t = max(rate * _form(w, j, shape), least)
            n = np.rint(t)
            value = horner(t - n, POWER_32, POWER_64) * power_of_two(n)
            w[SQUARE + j] = value
            w[BEND + j] = -two * value
    else:
        for j in range(lanes):
            w[SQUARE + j] = _form(w, j, shape)
        _balls(w, lanes)


@stage(fastmath=FAST)
def _balls(w: Array, lanes: int) -> None:
    """x in SQUARE -> s^2 there and its derivative in BEND, s = 3 (sin t - t cos t) / t^3 of t = pi sqrt(x)."""
    vector_code()
    one, two, three, pi = w.dtype.type(1), w.dtype.type(2), w.dtype.type(3), w.dtype.type(PI)
    inverse_pi = w.dtype.type(1 / PI)
    for j in range(lanes):
        t2 = w[SQUARE + j] * pi * pi
        root = np.sqrt(max(w[SQUARE + j], one / (pi * pi)))
        u = root - np.rint(root)
        p = horner(u * u, SINE_32, SINE_64)
        sine, cosine = u * p / (pi * root), (p + u * u * horner(u * u, SLOPE_32, SLOPE_64)) * inverse_pi
        away = three * (sine - cosine) / max(t2, one)
        away_slope = three / two * (sine - away) / max(t2, one)
        y = min(t2, one)
        near = t2 < one
        s = horner(y, BALL_32, BALL_64) if near else away
        slope = horner(y, BALL_SLOPE_32, BALL_SLOPE_64) if near else away_slope
        w[SQUARE + j] = s * s
        w[BEND + j] = two * s * slope * pi * pi


@stage(fastmath=FAST)
def add_squares(w: Array, lanes: int, weight: Any) -> None:
    """SUM += weight F^2 SQUARE."""
    vector_code()
    for j in range(lanes):
        w[SUM + j] += weight * w[AMPLITUDE + j] * w[AMPLITUDE + j] * w[SQUARE + j]


@stage(fastmath=FAST)
def form_slopes(w: Array, lanes: int, shape: Array, weight: Any) -> None:
    """Slopes by hkl of FLOW weight F^2 L^2 in place of the distances."""
    vector_code()
    hk, hl, kl = shape[1] + shape[3], shape[2] + shape[6], shape[5] + shape[7]
    hh, kk, ll = shape[0] + shape[0], shape[4] + shape[4], shape[8] + shape[8]
    for j in range(lanes):
        h, k, l = w[DH + j], w[DK + j], w[DL + j]
        common = w[FLOW + j] * weight * (w[AMPLITUDE + j] * w[AMPLITUDE + j]) * w[BEND + j]
        w[DH + j] = common * (hh * h + hk * k + hl * l)
        w[DK + j] = common * (hk * h + kk * k + kl * l)
        w[DL + j] = common * (hl * h + kl * k + ll * l)


@stage(fastmath=FAST)
def form_matrix(w: Array, lanes: int, weight: Any, single: Array) -> None:
    """Add the gradient by the matrix of the quadratic form; before the slopes take the place of the distances."""
    vector_code()
    hh = hk = hl = kk = kl = ll = w.dtype.type(0)
    for j in range(lanes):
        h, k, l = w[DH + j], w[DK + j], w[DL + j]
        common = w[FLOW + j] * weight * (w[AMPLITUDE + j] * w[AMPLITUDE + j]) * w[BEND + j]
        ch, ck, cl = common * h, common * k, common * l
        hh += ch * h
        hk += ch * k
        hl += ch * l
        kk += ck * k
        kl += ck * l
        ll += cl * l
    sums = (hh, hk, hl, hk, kk, kl, hl, kl, ll)
    for i in range(9):
        single[SHAPE_SUM + i] += sums[i]


@stage()
def add_values(w: Array, lanes: int, shape: Array, profile: int, weight: Any) -> None:
    """SUM += weight F^2 L^2."""
    if profile == GRATING:
        add_grating(w, lanes, shape, weight)
    else:
        form_squares(w, lanes, shape, profile)
        add_squares(w, lanes, weight)


@stage()
def add_values_and_squares(
    w: Array, lanes: int, shape: Array, profile: int, weight: Any, want_shape: int, single: Array
) -> None:
    """SUM += weight F^2 L^2, with SQUARE, and the gradient by the shape matrix if wanted."""
    if profile == GRATING:
        grating_squares(w, lanes, shape)
        if want_shape:
            grating_cells(w, lanes, shape, weight, single)
    else:
        form_squares(w, lanes, shape, profile)
        if want_shape:
            form_matrix(w, lanes, weight, single)
    add_squares(w, lanes, weight)


@stage()
def add_values_and_slopes(
    w: Array, lanes: int, shape: Array, profile: int, weight: Any, want_shape: int, single: Array
) -> None:
    """The same, with the slopes by hkl in place of the distances."""
    if profile != GRATING:
        add_values_and_squares(w, lanes, shape, profile, weight, want_shape, single)
        form_slopes(w, lanes, shape, weight)
        return
    if want_shape:
        grating_cells(w, lanes, shape, weight, single)
    grating_slopes(w, lanes, shape, weight)
