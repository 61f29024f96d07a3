"""Coefficients of the polynomials that every kernel uses in place of libm, lowest order first.

One tuple that is enough for float32 and one for float64. They interpolate at Chebyshev nodes and hold on |x| <= 1/2;
the tests evaluate them against the functions they stand for.
"""

from __future__ import annotations

from math import factorial

# sin(pi x) = x SINE(x^2): relative error 7e-9 and 3e-19
SINE_32 = (3.1415926400772034, -5.167710076668315, 2.550077386528912, -0.5982904112834275, 0.07765591227601387)
SINE_64 = (
    3.141592653589793,
    -5.167712780049969,
    2.5501640398773007,
    -0.5992645293189447,
    0.0821458865731029,
    -0.007370430505916944,
    0.0004662998161898394,
    -2.1903497074626018e-05,
    7.697826768224191e-07,
)
# y -> 2 y SINE'(y): pi cos(pi x) = SINE(x^2) + x^2 SLOPE(x^2)
SLOPE_32 = tuple(2 * k * c for k, c in enumerate(SINE_32))[1:]
SLOPE_64 = tuple(2 * k * c for k, c in enumerate(SINE_64))[1:]
# 3 (sin x - x cos x) / x^3 in powers of x^2, below one, and its derivative by x^2: to 1e-9 and 1e-17
BALL_64 = tuple((-1) ** k * 6 * (k + 1) / factorial(2 * k + 3) for k in range(11))
BALL_32 = BALL_64[:6]
BALL_SLOPE_64 = tuple(k * c for k, c in enumerate(BALL_64))[1:]
BALL_SLOPE_32 = tuple(k * c for k, c in enumerate(BALL_32))[1:]
# 2^x = POWER(x): relative error 3e-9 and 4e-18
POWER_32 = (
    1.0,
    0.6931472067028326,
    0.24022650922288757,
    0.05550327226670302,
    0.009618056678524637,
    0.0013400428177615838,
    0.0001546144469856913,
)
POWER_64 = (
    1.0,
    0.6931471805599453,
    0.24022650695910158,
    0.055504108664821625,
    0.009618129107587256,
    0.001333355814640647,
    0.00015403530463724353,
    1.5252733841556773e-05,
    1.3215432535912375e-06,
    1.0178057087733941e-07,
    7.074194297288521e-09,
    4.4558179083360645e-10,
)
