"""Building blocks of the Triton kernels: polynomials, three-vectors as tuples, sums over the lanes of a program."""

from __future__ import annotations

from math import factorial, pi
from typing import Any

import triton.language as tl

from nanobrag_torch.kernels.cuda.jit import jit
from nanobrag_torch.polynomials import (
    BALL_32,
    BALL_64,
    BALL_SLOPE_32,
    BALL_SLOPE_64,
    SINE_32,
    SINE_64,
    SLOPE_32,
    SLOPE_64,
)

SINE_COARSE, SINE_FINE = tl.constexpr(SINE_32), tl.constexpr(SINE_64)
SLOPE_COARSE, SLOPE_FINE = tl.constexpr(SLOPE_32), tl.constexpr(SLOPE_64)
COSINES = tl.constexpr(tuple((-1) ** k / factorial(2 * k) for k in range(9)))  # to 2e-18 up to pi / 4
SINES = tl.constexpr(tuple((-1) ** k / factorial(2 * k + 1) for k in range(9)))
HALFWAY = tl.constexpr(6755399441055744.0)
"""1.5 * 2^52: added and taken away again, it rounds a float64 to an integer."""
HALFWAY_COARSE, HALFWAY_BITS = tl.constexpr(12582912.0), tl.constexpr(0x4B400000)
"""The same for a float32, 1.5 * 2^23, and its bits: the integer is what the bits of the sum have more than these."""
PER_QUARTER, QUARTER, QUARTER_REST = tl.constexpr(2 / pi), tl.constexpr(pi / 2), tl.constexpr(6.123233995736766e-17)
BALL_COARSE, BALL_FINE = tl.constexpr(BALL_32), tl.constexpr(BALL_64)
BALL_SLOPE_COARSE, BALL_SLOPE_FINE = tl.constexpr(BALL_SLOPE_32), tl.constexpr(BALL_SLOPE_64)
COUNTS = tl.constexpr((len(SINE_32), len(SINE_64), len(SLOPE_32), len(SLOPE_64), 6, 11, 5, 10))


@jit
def whole(x: tl.tensor, way: tl.constexpr) -> Any:
    """The nearest whole number, of two the one or the other; |x| below 2^22 in float32."""
    if way.rounding == 0:
        near = tl.floor(x + 0.5)
    elif x.dtype == tl.float64:
        near = (x + HALFWAY) - HALFWAY
    else:
        near = (x + HALFWAY_COARSE) - HALFWAY_COARSE
    return near


@jit
def half_down(x: tl.tensor, way: tl.constexpr) -> Any:
    """The nearest whole number of a float32 below 2^22, of two the lower one, and the same as an integer."""
    if way.rounding == 2:
        low = x - 0.5
        shifted = low + HALFWAY_COARSE
        near = shifted - HALFWAY_COARSE
        short = near < low
        number = shifted.to(tl.int32, bitcast=True) - HALFWAY_BITS
        near, number = tl.where(short, near + 1.0, near), tl.where(short, number + 1, number)
    else:
        near = tl.ceil(x - 0.5)
        number = near.to(tl.int32)
    return near, number


@jit
def horner(y: tl.tensor, coefficients: tl.constexpr, count: tl.constexpr) -> Any:
    """The polynomial with `count` coefficients, lowest first, at y."""
    total = tl.full(y.shape, coefficients[count - 1], y.dtype)
    for i in tl.static_range(1, count):
        total = total * y + coefficients[count - 1 - i]
    return total


@jit
def sine(y: tl.tensor) -> Any:
    """P(y) of sin(pi x) = x P(x^2), |x| <= 1/2."""
    return horner(y, SINE_FINE, COUNTS[1]) if y.dtype == tl.float64 else horner(y, SINE_COARSE, COUNTS[0])


@jit
def sine_slope(y: tl.tensor) -> Any:
    """2 P'(y): pi cos(pi x) = P(x^2) + x^2 times this."""
    return horner(y, SLOPE_FINE, COUNTS[3]) if y.dtype == tl.float64 else horner(y, SLOPE_COARSE, COUNTS[2])


@jit
def ball(y: tl.tensor) -> Any:
    """3 (sin x - x cos x) / x^3 in powers of y = x^2 below one, and its derivative by y."""
    if y.dtype == tl.float64:
        value, slope = horner(y, BALL_FINE, COUNTS[5]), horner(y, BALL_SLOPE_FINE, COUNTS[7])
    else:
        value, slope = horner(y, BALL_COARSE, COUNTS[4]), horner(y, BALL_SLOPE_COARSE, COUNTS[6])
    return value, slope


@jit
def cosine_and_sine(x: tl.tensor) -> Any:
    """Cosine and sine of float64 angles of a few turns; those of the compiler keep a stack for angles of 1e5 turns."""
    turns = (x * PER_QUARTER + HALFWAY) - HALFWAY
    rest = (x - turns * QUARTER) - turns * QUARTER_REST
    square = rest * rest
    c, s = horner(square, COSINES, 9), rest * horner(square, SINES, 9)
    quarter = turns.to(tl.int32)
    across = (quarter & 1) != 0
    cosine, sine = tl.where(across, s, c), tl.where(across, c, s)
    return tl.where(((quarter + 1) & 2) != 0, -cosine, cosine), tl.where((quarter & 2) != 0, -sine, sine)


@jit
def dot(a: tl.tensor, b: tl.tensor) -> Any:
    """Scalar product of two vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit
def cross(a: tl.tensor, b: tl.tensor) -> Any:
    """Vector product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@jit
def axpy(a: tl.tensor, x: tl.tensor, y: tl.tensor) -> Any:
    """a x + y of a number and two vectors."""
    return a * x[0] + y[0], a * x[1] + y[1], a * x[2] + y[2]


@jit
def scaled(a: tl.tensor, x: tl.tensor) -> Any:
    """a x."""
    return a * x[0], a * x[1], a * x[2]


@jit
def cast(x: tl.tensor, kind: tl.constexpr) -> Any:
    """A vector in another type."""
    return x[0].to(kind), x[1].to(kind), x[2].to(kind)


@jit
def total(x: tl.tensor) -> Any:
    """Sum over all lanes [group, lanes] -> []; within threads first."""
    return tl.reduce(tl.reduce(x, 0, tl.standard._sum_combine), 0, tl.standard._sum_combine)


@jit
def smallest(x: tl.tensor) -> Any:
    """Minimum over all lanes [group, lanes] -> []. Not the negative of a maximum of negatives: of whole numbers, ptxas
    (of CUDA 12.8, for sm_90) loses a sign in its maxima of three."""
    return tl.reduce(tl.reduce(x, 0, tl.standard._elementwise_min), 0, tl.standard._elementwise_min)


@jit
def largest(x: tl.tensor) -> Any:
    """Maximum over all lanes [group, lanes] -> []."""
    return tl.reduce(tl.reduce(x, 0, tl.standard._elementwise_max), 0, tl.standard._elementwise_max)
