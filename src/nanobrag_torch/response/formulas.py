"""Arithmetic that the plain and the fused form of a deviate share, so that both round alike.

Only sums, products, quotients and square roots of float64, which IEEE 754 defines to the last bit on every device; the
logarithm and the exponential are polynomials of our own. `Compiled.function` is the same arithmetic for tensors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nanobrag_torch.compilation import compiled
from nanobrag_torch.polynomials import POWER_64, SINE_64

SMALL_MEAN = 12.0
"""Below this, inversion; from here, transformed rejection (Hoermann, Insurance Math. Econom. 12 (1993), 39: PTRS)."""
NORMAL_ABOVE = 1e8
"""Above this, a normal deviate rounded to a whole number: skew and kurtosis differ by 1e-4 and 1e-8."""
LARGEST_MEAN = 2e9
"""Ten standard deviations above it, a count still fits in 32 bits."""
LARGEST_COUNT = 2147483647
MOST_BY_INVERSION = 79
"""P(count above this | mean 12) = 2e-36; the cumulative sum stops growing long before."""
LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453
ROOT_HALF_BITS = 0x3FE6A09E667F3BCD
"""sqrt(1/2) as the bits of a float64: what is left after its multiples of 2^52 is a mantissa about one."""
MANTISSA_BITS = 52
INVERSES = np.concatenate(([0.0], 1 / np.arange(1.0, MOST_BY_INVERSION + 1)))
LOG_FACTORIALS = np.array([math.lgamma(k + 1.0) for k in range(10)])
SMALL_COUNT = 10.0
ROOT_TWO_PI = math.sqrt(2 * math.pi)
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7, _P8, _P9, _P10, _P11 = POWER_64
_S0, _S1, _S2, _S3, _S4, _S5, _S6, _S7, _S8 = SINE_64


@compiled(inline="always")
def power_of_two(x: Any) -> Any:
    """2^x for |x| <= 1/2; relative error 4e-18 before rounding."""
    low = _P7 + x * (_P8 + x * (_P9 + x * (_P10 + x * _P11)))
    return _P0 + x * (_P1 + x * (_P2 + x * (_P3 + x * (_P4 + x * (_P5 + x * (_P6 + x * low))))))


@compiled(inline="always")
def log_of_mantissa(m: Any) -> Any:
    """log(m) for m from sqrt(1/2) to sqrt(2): 2 artanh((m - 1) / (m + 1)) by its series; relative error 1e-16."""
    s = (m - 1.0) / (m + 1.0)
    y = s * s
    high = 1 / 13 + y * (1 / 15 + y * (1 / 17 + y * (1 / 19 + y * (1 / 21 + y * (1 / 23)))))
    return 2.0 * s * (1.0 + y * (1 / 3 + y * (1 / 5 + y * (1 / 7 + y * (1 / 9 + y * (1 / 11 + y * high))))))


@compiled(inline="always")
def sine_of_pi(x: Any) -> Any:
    """sin(pi x) for |x| <= 1/2; relative error 3e-19 before rounding."""
    y = x * x
    low = _S4 + y * (_S5 + y * (_S6 + y * (_S7 + y * _S8)))
    return x * (_S0 + y * (_S1 + y * (_S2 + y * (_S3 + y * low))))


@compiled(inline="always")
def stirling_rest(k: Any) -> Any:
    """log k! - (k + 1/2) log k + k - log(2 pi) / 2 for k from 10 up; absolute error 2e-14."""
    x = 1.0 / k
    y = x * x
    return x * (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y * (1 / 1188)))))


@compiled(inline="always")
def rejection_constants(root: Any) -> Any:
    """a, b, 1/alpha and v_r of PTRS for the square root of a mean."""
    b = 0.931 + 2.53 * root
    return -0.059 + 0.02483 * b, b, 1.1239 + 1.1328 / (b - 3.4), 0.9277 - 3.6224 / (b - 2.0)
