"""The squared lattice factor L^2 and its slopes, for distances to the nearest integers: Triton device functions."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from nanobrag_torch.kernels.cuda.jit import jit
from nanobrag_torch.kernels.cuda.math import ball, sine, sine_slope, whole
from nanobrag_torch.physics.lattice_factor import TOPHAT_LIMIT, Profile

GRATING, SPHERE, GAUSS, _ = (tl.constexpr(int(profile)) for profile in Profile)
LEAST, LEAST_FINE = tl.constexpr(1e-6), tl.constexpr(1e-14)
EDGE = tl.constexpr(TOPHAT_LIMIT)
PI2 = tl.constexpr(9.869604401089358)


class Cells(NamedTuple):
    """The shape: N, or the diagonal of Q; the sums of the mirrored elements of Q; the least |d| along each axis.

    The least |d| is a millionth of a spot's width: it keeps divisions finite at d = 0 and products within float32.
    """

    a: tl.tensor
    b: tl.tensor
    c: tl.tensor
    ab: tl.tensor
    ac: tl.tensor
    bc: tl.tensor
    least_a: tl.tensor
    least_b: tl.tensor
    least_c: tl.tensor


@jit
def load_cells(m: tl.tensor, way: tl.constexpr) -> Any:
    """The shape matrix `m` as numbers of the image's type."""
    a, b, c = tl.load(m).to(way.real), tl.load(m + 4).to(way.real), tl.load(m + 8).to(way.real)
    ab, ac, bc = tl.load(m + 1) + tl.load(m + 3), tl.load(m + 2) + tl.load(m + 6), tl.load(m + 5) + tl.load(m + 7)
    least = LEAST_FINE if way.real == tl.float64 else LEAST
    ab, ac, bc = ab.to(way.real), ac.to(way.real), bc.to(way.real)
    return Cells(a, b, c, ab, ac, bc, 1.0 / a * least, 1.0 / b * least, 1.0 / c * least)


@jit
def effective_cells(m: tl.tensor, way: tl.constexpr) -> Any:
    """Number of cells along each axis, as far as the shape matrix `m` tells; float64."""
    a, b, c = tl.abs(tl.load(m)), tl.abs(tl.load(m + 4)), tl.abs(tl.load(m + 8))
    if way.profile != GRATING:
        a, b, c = tl.sqrt(a), tl.sqrt(b), tl.sqrt(c)
    return a, b, c


@jit
def form(d: tl.tensor, cells: Cells) -> Any:
    """d^T Q d."""
    square = cells.a * d[0] * d[0] + cells.b * d[1] * d[1] + cells.c * d[2] * d[2]
    return square + cells.ab * d[0] * d[1] + cells.ac * d[0] * d[2] + cells.bc * d[1] * d[2]


@jit
def at_least(x: tl.tensor, least: tl.tensor) -> Any:
    """The larger of |x| and `least`; what is not a number stays so, and is found in the image."""
    return tl.maximum(tl.abs(x), least, propagate_nan=tl.PropagateNan.ALL)


@jit
def grating_axis(d: tl.tensor, number: tl.tensor, least: tl.tensor, way: tl.constexpr) -> Any:
    """sin(pi N d) and sin(pi d) of |d|, but for a common sign."""
    d = at_least(d, least)
    u = number * d
    u = u - whole(u, way)
    return u * sine(u * u), d * sine(d * d)


@jit
def square(d: tl.tensor, cells: Cells, way: tl.constexpr) -> Any:
    """L^2 without its amplitude."""
    if way.profile == GRATING:
        th, bh = grating_axis(d[0], cells.a, cells.least_a, way)
        tk, bk = grating_axis(d[1], cells.b, cells.least_b, way)
        tn, bn = grating_axis(d[2], cells.c, cells.least_c, way)
        ratio = th * tk * tn / (bh * bk * bn)
        value = ratio * ratio
    else:
        value, _slope = of_form(form(d, cells), way)
    return value


@jit
def of_form(x: tl.tensor, way: tl.constexpr) -> Any:
    """L^2 and its derivative by x = d^T Q d."""
    if way.profile == SPHERE:
        y, s = x * PI2, tl.sqrt(at_least(x, 0.01))
        u = s - whole(s, way)
        part = sine(u * u)
        edge = u * part / (s * 3.141592653589793)
        near = y < 1.0
        small = tl.where(near, y, 0.0)
        far = 3.0 * (edge - (part + u * u * sine_slope(u * u)) / 3.141592653589793) / (s * s * PI2)
        inner, inner_slope = ball(small)
        length = tl.where(near, inner, far)
        slope = tl.where(near, inner_slope * PI2, 1.5 * (edge - far) / (s * s))
        value, slope = length * length, 2.0 * length * slope
    elif way.profile == GAUSS:
        value = tl.exp(-2.0 * x)
        slope = -2.0 * value
    else:
        value = tl.where(x < EDGE, 1.0, 0.0).to(way.real)
        slope = value * 0.0
    return value, slope


@jit
def grating_slopes_axis(d: tl.tensor, number: tl.tensor, least: tl.tensor, way: tl.constexpr) -> Any:
    """Sines of pi N d and pi d, and what the slopes of their ratio are made of: see grating_slopes."""
    held = tl.where(tl.abs(d) < least, least, d)
    a = number * held
    m = whole(a, way)
    u = a - m
    part, low = sine(u * u), sine(held * held)
    bend, low_bend = u * u * sine_slope(u * u), held * held * sine_slope(held * held)
    return u * part, held * low, (part * m + a * bend) * low, low_bend, (part + bend) * held


@jit
def grating_slopes(d: tl.tensor, cells: Cells, way: tl.constexpr) -> Any:
    """L^2, its slopes by d and by the numbers of cells.

    With sin(pi x) = x P(x^2) = s(x), pi cos(pi x) = P + E and u = N d - m, the ratio r = s(u) / s(d) has the slope
    ((P(u) m + N d E(u)) P(d) / s(d) - r E(d)) / s(d): nothing large cancels near d = 0, where m = 0.
    """
    th, bh, rh, eh, nh = grating_slopes_axis(d[0], cells.a, cells.least_a, way)
    tk, bk, rk, ek, nk = grating_slopes_axis(d[1], cells.b, cells.least_b, way)
    tn, bn, rn, en, nn = grating_slopes_axis(d[2], cells.c, cells.least_c, way)
    bkn = bk * bn
    inverse = 1.0 / (bh * bkn)
    ih, ik, il = inverse * bkn, inverse * (bh * bn), inverse * (bh * bk)
    h, k, n = th * ih, tk * ik, tn * il
    product = h * k * n
    twice = 2.0 * product
    ph, pk, pn = twice * (k * n) * ih, twice * (h * n) * ik, twice * (h * k) * il
    slopes = ph * (rh * ih - h * eh), pk * (rk * ik - k * ek), pn * (rn * il - n * en)
    zero = 0.0 * h
    return product * product, slopes, (ph * nh, pk * nk, pn * nn, zero, zero, zero)


@jit
def slopes(d: tl.tensor, cells: Cells, way: tl.constexpr) -> Any:
    """L^2, its slopes by d (3), and by the shape: N (3), or the elements hh, kk, ll, hk, hl, kl of Q."""
    if way.profile == GRATING:
        value, by_d, by_shape = grating_slopes(d, cells, way)
    else:
        value, slope = of_form(form(d, cells), way)
        by_h = slope * (2.0 * cells.a * d[0] + cells.ab * d[1] + cells.ac * d[2])
        by_k = slope * (2.0 * cells.b * d[1] + cells.ab * d[0] + cells.bc * d[2])
        by_l = slope * (2.0 * cells.c * d[2] + cells.ac * d[0] + cells.bc * d[1])
        by_d = by_h, by_k, by_l
        sh, sk, sl = slope * d[0], slope * d[1], slope * d[2]
        by_shape = sh * d[0], sk * d[1], sl * d[2], sh * d[1], sh * d[2], sk * d[2]
    return value, by_d, by_shape
