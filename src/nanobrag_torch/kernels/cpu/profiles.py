"""The squared lattice factor L^2 and its slopes for a block of pixels: stages of the compiled CPU kernel.

The shape array holds the nine elements of the shape matrix and a bias that keeps divisions finite at d = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.geometry import LOG2_E
from nanobrag_torch.kernels.cpu.intrinsics import FAST, ORDERED, horner, power_of_two, stage, vector_code
from nanobrag_torch.kernels.cpu.layout import Array
from nanobrag_torch.kernels.cpu.products import add_six, square, symmetric
from nanobrag_torch.physics.lattice_factor import TOPHAT_LIMIT, Profile
from nanobrag_torch.polynomials import (
    BALL_32,
    BALL_64,
    BALL_SLOPE_32,
    BALL_SLOPE_64,
    POWER_32,
    POWER_64,
    SINE_32,
    SINE_64,
    SLOPE_32,
    SLOPE_64,
)

GRATING, SPHERE, GAUSS, TOPHAT = map(int, Profile)
PI = 3.141592653589793


@stage(forceinline=True, fastmath=ORDERED)
def _phase(d: Any, cells: Any) -> Any:
    """N d less the nearest integer."""
    a = cells * d
    return a - np.rint(a)


@stage(forceinline=True, fastmath=ORDERED)
def grating(h: Any, k: Any, l: Any, uh: Any, uk: Any, ul: Any) -> Any:
    """prod sin(pi N d) / sin(pi d) for d = h, k, l, none of them zero, and u, N d less the nearest integer."""
    top = uh * uk * ul * horner(uh * uh, SINE_32, SINE_64) * horner(uk * uk, SINE_32, SINE_64)
    bottom = h * k * l * horner(h * h, SINE_32, SINE_64) * horner(k * k, SINE_32, SINE_64)
    return top * horner(ul * ul, SINE_32, SINE_64) / (bottom * horner(l * l, SINE_32, SINE_64))


@stage(forceinline=True, fastmath=ORDERED)
def _phased(w: Array, j: int, cells: Any, bias: Any) -> Any:
    """The same in lane j, from PHASE rows."""
    uh, uk, ul = (
        w[at.PHASE_H + j] + cells[0] * bias,
        w[at.PHASE_K + j] + cells[1] * bias,
        w[at.PHASE_L + j] + cells[2] * bias,
    )
    return grating(w[at.DH + j] + bias, w[at.DK + j] + bias, w[at.DL + j] + bias, uh, uk, ul)


@stage(fastmath=ORDERED)
def add_grating(w: Array, lanes: int, shape: Array, weight: Any, phased: bool) -> None:
    """SUM += weight F^2 L^2; phased: N d is in PHASE rows.

    A tiny bias on d makes d = 0 give N without a branch.
    """
    vector_code()
    cells, bias = (shape[0], shape[4], shape[8]), shape[at.BIAS]
    if phased:
        for j in range(lanes):
            value = w[at.AMPLITUDE + j] * _phased(w, j, cells, bias)
            w[at.SUM + j] += weight * value * value
    else:
        for j in range(lanes):
            h, k, l = w[at.DH + j] + bias, w[at.DK + j] + bias, w[at.DL + j] + bias
            uh, uk, ul = _phase(h, cells[0]), _phase(k, cells[1]), _phase(l, cells[2])
            value = w[at.AMPLITUDE + j] * grating(h, k, l, uh, uk, ul)
            w[at.SUM + j] += weight * value * value


@stage(fastmath=ORDERED)
def phases(w: Array, lanes: int, shape: Array) -> None:
    """PHASE rows from the distances."""
    vector_code()
    na, nb, nc = shape[0], shape[4], shape[8]
    for j in range(lanes):
        w[at.PHASE_H + j], w[at.PHASE_K + j] = _phase(w[at.DH + j], na), _phase(w[at.DK + j], nb)
        w[at.PHASE_L + j] = _phase(w[at.DL + j], nc)


@stage(fastmath=ORDERED)
def grating_squares(w: Array, lanes: int, shape: Array) -> None:
    """SQUARE: L^2, from PHASE rows."""
    vector_code()
    cells, bias = (shape[0], shape[4], shape[8]), shape[at.BIAS]
    for j in range(lanes):
        value = _phased(w, j, cells, bias)
        w[at.SQUARE + j] = value * value


@stage(forceinline=True, fastmath=ORDERED)
def _axis(d: Any, m: Any, u: Any, a: Any) -> Any:
    """s(u) / pi and s(d) / pi for sin(pi x) = s(x) and a = N d = m + u, what the slope needs of both, and P(u) + E(u).

    None of d is zero.
    """
    yu, yd = u * u, d * d
    pu, pd = horner(yu, SINE_32, SINE_64), horner(yd, SINE_32, SINE_64)
    eu, ed = yu * horner(yu, SLOPE_32, SLOPE_64), yd * horner(yd, SLOPE_32, SLOPE_64)
    top = u * pu
    return top, d * pd, pd * (m * pu + a * eu) - top * ed, d * (pu + eu)


@stage(forceinline=True, fastmath=ORDERED)
def _axis_phased(d: Any, u: Any, cells: Any, bias: Any) -> Any:
    """The same from a distance and u of it."""
    d += bias
    a = cells * d
    return _axis(d, np.rint(a - u), u + cells * bias, a)


@stage(forceinline=True, fastmath=ORDERED)
def _axis_at(d: Any, cells: Any, bias: Any) -> Any:
    """The same from a distance."""
    d += bias
    a = cells * d
    m = np.rint(a)
    return _axis(d, m, a - m, a)


@stage(forceinline=True, fastmath=ORDERED)
def _product(h: Any, k: Any, l: Any, one: Any) -> Any:
    """L from what `_axis` says of three axes, and its slopes by h, k, l in two factors: of the axis, and of the others.

    Multiplied in another order, one over the three sines would overflow near reflections.
    """
    th, bh, xh, _h = h
    tk, bk, xk, _k = k
    tl, bl, xl, _l = l
    bottom_hk, bottom_kl, bottom_hl = bh * bk, bk * bl, bh * bl
    r = one / (bottom_hk * bl)
    top_hk, top_kl, top_hl = th * tk, tk * tl, th * tl
    near = r * bottom_kl * xh, r * bottom_hl * xk, r * bottom_hk * xl
    far = r * top_kl
    return th * far, near[0], far, near[1], r * top_hl, near[2], r * top_hk


@stage(forceinline=True, fastmath=ORDERED)
def slopes_of_lane(w: Array, j: int, cells: Any, bias: Any) -> Any:
    """What `_product` gives of a lane, from its PHASE rows."""
    h = _axis_phased(w[at.DH + j], w[at.PHASE_H + j], cells[0], bias)
    k = _axis_phased(w[at.DK + j], w[at.PHASE_K + j], cells[1], bias)
    l = _axis_phased(w[at.DL + j], w[at.PHASE_L + j], cells[2], bias)
    return _product(h, k, l, w.dtype.type(1))


@stage(forceinline=True, fastmath=ORDERED)
def slopes_at(w: Array, j: int, cells: Any, bias: Any) -> Any:
    """The same from its distances."""
    h = _axis_at(w[at.DH + j], cells[0], bias)
    k = _axis_at(w[at.DK + j], cells[1], bias)
    l = _axis_at(w[at.DL + j], cells[2], bias)
    return _product(h, k, l, w.dtype.type(1))


@stage(fastmath=ORDERED)
def grating_slopes(w: Array, lanes: int, shape: Array, weight: Any, phased: bool) -> None:
    """SUM and SQUARE, and the slopes by hkl of FLOW weight F^2 L^2 in place of the distances.

    phased: PHASE rows are set.

    With s(x) = sin(pi x), u = N d - m: (s(u) / s(d))' = (P(d) (m P(u) + N d E(u)) - u P(u) E(d)) / (d P(d))^2, where
    s(x) = x P and E = 2 x^2 P'. Nothing large cancels at small d, where m = 0.
    """
    vector_code()
    cells, bias = (shape[0], shape[4], shape[8]), shape[at.BIAS]
    if phased:
        for j in range(lanes):
            _put_slopes(w, j, weight, slopes_of_lane(w, j, cells, bias))
    else:
        for j in range(lanes):
            _put_slopes(w, j, weight, slopes_at(w, j, cells, bias))


@stage(forceinline=True, fastmath=ORDERED)
def _put_slopes(w: Array, j: int, weight: Any, product: Any) -> None:
    value, near_h, far_h, near_k, far_k, near_l, far_l = product
    square, two = value * value, w.dtype.type(2)
    term = weight * (w[at.AMPLITUDE + j] * w[at.AMPLITUDE + j])
    w[at.SUM + j] += term * square
    w[at.SQUARE + j] = square
    common = two * w[at.FLOW + j] * term * value
    w[at.DH + j], w[at.DK + j], w[at.DL + j] = common * near_h * far_h, common * near_k * far_k, common * near_l * far_l


@stage(fastmath=ORDERED)
def grating_cells(w: Array, lanes: int, shape: Array, weight: Any) -> None:
    """BY_A, BY_B, BY_C: half the gradient by the numbers of cells; before slopes take the place of the distances."""
    vector_code()
    na, nb, nc, bias = shape[0], shape[4], shape[8], shape[at.BIAS]
    one = w.dtype.type(1)
    for j in range(lanes):
        th, bh, _xh, nh = _axis_phased(w[at.DH + j], w[at.PHASE_H + j], na, bias)
        tk, bk, _xk, nk = _axis_phased(w[at.DK + j], w[at.PHASE_K + j], nb, bias)
        tl, bl, _xl, nl = _axis_phased(w[at.DL + j], w[at.PHASE_L + j], nc, bias)
        r = one / (bh * bk * bl)
        flow = w[at.FLOW + j] * weight * (w[at.AMPLITUDE + j] * w[at.AMPLITUDE + j])
        common = flow * (th * tk * tl * r)
        w[at.BY_A + j] = common * (tk * tl * r * nh)
        w[at.BY_B + j] = common * (th * tl * r * nk)
        w[at.BY_C + j] = common * (th * tk * r * nl)


@stage(fastmath=FAST)
def add_cells(w: Array, lanes: int, single: Array) -> None:
    """Sum BY_A, BY_B, BY_C up."""
    vector_code()
    by_a = by_b = by_c = w.dtype.type(0)
    for j in range(lanes):
        by_a += w[at.BY_A + j]
        by_b += w[at.BY_B + j]
        by_c += w[at.BY_C + j]
    single[at.SHAPE_SUM] += 2.0 * by_a
    single[at.SHAPE_SUM + 4] += 2.0 * by_b
    single[at.SHAPE_SUM + 8] += 2.0 * by_c


@stage(forceinline=True, fastmath=FAST)
def _form(w: Array, j: int, shape: Array) -> Any:
    h, k, l = w[at.DH + j], w[at.DK + j], w[at.DL + j]
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
            w[at.SQUARE + j] = one if _form(w, j, shape) < limit else zero
            w[at.BEND + j] = zero
    elif profile == GAUSS:
        rate, least = w.dtype.type(-2 * LOG2_E), w.dtype.type(-126 if w.itemsize == 4 else -1022)
        for j in range(lanes):
            power = rate * _form(w, j, shape)
            t = max(power, least)
            n = np.rint(t)
            value = horner(t - n, POWER_32, POWER_64) * power_of_two(n)
            value = value if power > least else zero  # where nothing scatters an image is exactly dark
            w[at.SQUARE + j] = value
            w[at.BEND + j] = -two * value
    else:
        for j in range(lanes):
            w[at.SQUARE + j] = _form(w, j, shape)
        _balls(w, lanes)


@stage(fastmath=FAST)
def _balls(w: Array, lanes: int) -> None:
    """x in SQUARE -> s^2 there and its derivative in BEND, s = 3 (sin t - t cos t) / t^3 of t = pi sqrt(x)."""
    vector_code()
    one, two, three, pi = w.dtype.type(1), w.dtype.type(2), w.dtype.type(3), w.dtype.type(PI)
    inverse_pi = w.dtype.type(1 / PI)
    for j in range(lanes):
        t2 = w[at.SQUARE + j] * pi * pi
        root = np.sqrt(max(w[at.SQUARE + j], one / (pi * pi)))
        u = root - np.rint(root)
        p = horner(u * u, SINE_32, SINE_64)
        sine, cosine = u * p / (pi * root), (p + u * u * horner(u * u, SLOPE_32, SLOPE_64)) * inverse_pi
        away = three * (sine - cosine) / max(t2, one)
        away_slope = three / two * (sine - away) / max(t2, one)
        y = min(t2, one)
        near = t2 < one
        s = horner(y, BALL_32, BALL_64) if near else away
        slope = horner(y, BALL_SLOPE_32, BALL_SLOPE_64) if near else away_slope
        w[at.SQUARE + j] = s * s
        w[at.BEND + j] = two * s * slope * pi * pi


@stage(fastmath=FAST)
def add_squares(w: Array, lanes: int, weight: Any) -> None:
    """SUM += weight F^2 SQUARE."""
    vector_code()
    for j in range(lanes):
        w[at.SUM + j] += weight * w[at.AMPLITUDE + j] * w[at.AMPLITUDE + j] * w[at.SQUARE + j]


@stage(fastmath=FAST)
def form_slopes(w: Array, lanes: int, shape: Array, weight: Any) -> None:
    """Slopes by hkl of FLOW weight F^2 L^2 in place of the distances."""
    vector_code()
    hk, hl, kl = shape[1] + shape[3], shape[2] + shape[6], shape[5] + shape[7]
    hh, kk, ll = shape[0] + shape[0], shape[4] + shape[4], shape[8] + shape[8]
    for j in range(lanes):
        h, k, l = w[at.DH + j], w[at.DK + j], w[at.DL + j]
        common = w[at.FLOW + j] * weight * (w[at.AMPLITUDE + j] * w[at.AMPLITUDE + j]) * w[at.BEND + j]
        w[at.DH + j] = common * (hh * h + hk * k + hl * l)
        w[at.DK + j] = common * (hk * h + kk * k + kl * l)
        w[at.DL + j] = common * (hl * h + kl * k + ll * l)


@stage(forceinline=True, fastmath=FAST)
def by_form(w: Array, j: int, weight: Any) -> Any:
    """Gradient of a lane by hh, hk, hl, kk, kl, ll of the quadratic form; before slopes replace the distances."""
    common = w[at.FLOW + j] * weight * (w[at.AMPLITUDE + j] * w[at.AMPLITUDE + j]) * w[at.BEND + j]
    return square(common, w[at.DH + j], w[at.DK + j], w[at.DL + j])


@stage(fastmath=FAST)
def form_matrix(w: Array, lanes: int, weight: Any, single: Array) -> None:
    """Add the gradient by the matrix of the quadratic form."""
    vector_code()
    zero = w.dtype.type(0)
    sums = zero, zero, zero, zero, zero, zero
    for j in range(lanes):
        sums = add_six(sums, by_form(w, j, weight))
    matrix = symmetric(sums)
    for i in range(9):
        single[at.SHAPE_SUM + i] += matrix[i]


@stage(inline="always")
def add_values(w: Array, lanes: int, shape: Array, profile: int, weight: Any, phased: bool) -> None:
    """SUM += weight F^2 L^2; phased: PHASE rows are set."""
    if not at.COMPLETE or profile == GRATING:
        add_grating(w, lanes, shape, weight, phased)
    else:
        form_squares(w, lanes, shape, profile)
        add_squares(w, lanes, weight)


@stage(inline="always")
def pull_shape(w: Array, lanes: int, shape: Array, profile: int, weight: Any, single: Array) -> None:
    """Add the gradient by the shape matrix, after `prepare`."""
    if not at.COMPLETE or profile == GRATING:
        grating_cells(w, lanes, shape, weight)
        add_cells(w, lanes, single)
    else:
        form_matrix(w, lanes, weight, single)


@stage(inline="always")
def prepare(w: Array, lanes: int, shape: Array, profile: int, phased: bool) -> None:
    """PHASE rows of the grating, unless they are set or not needed; SQUARE and BEND of other shapes."""
    if at.COMPLETE and profile != GRATING:
        form_squares(w, lanes, shape, profile)
    elif not phased:
        phases(w, lanes, shape)


@stage()
def add_terms(w: Array, lanes: int, shape: Array, profile: int, weight: Any, slopes: bool, phased: bool) -> None:
    """SUM += weight F^2 L^2, with SQUARE, and with the slopes by hkl in place of the distances; after `prepare`.

    phased: PHASE rows are set, as they have to be but for slopes.
    """
    if slopes and (not at.COMPLETE or profile == GRATING):
        grating_slopes(w, lanes, shape, weight, phased)
        return
    if not at.COMPLETE or profile == GRATING:
        grating_squares(w, lanes, shape)
    add_squares(w, lanes, weight)
    if at.COMPLETE and slopes:
        form_slopes(w, lanes, shape, weight)
