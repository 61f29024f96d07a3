"""A detector bent onto a sphere about the sample: positions and their adjoint (stages of the compiled CPU kernel)."""

from __future__ import annotations

import math

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import stage
from nanobrag_torch.kernels.cpu.layout import Array

Triple = tuple[float, float, float]


@stage()
def _turn(n: Triple, v: Triple, sine: float, cosine: float) -> Triple:
    """Rodrigues: n (n.v) (1 - cos) + v cos + (n x v) sin, with n as given."""
    along = (n[0] * v[0] + n[1] * v[1] + n[2] * v[2]) * (1 - cosine)
    return (
        n[0] * along + v[0] * cosine + (n[1] * v[2] - n[2] * v[1]) * sine,
        n[1] * along + v[1] * cosine + (n[2] * v[0] - n[0] * v[2]) * sine,
        n[2] * along + v[2] * cosine + (n[0] * v[1] - n[1] * v[0]) * sine,
    )


@stage()
def _turn_slope(n: Triple, v: Triple, sine: float, cosine: float) -> Triple:
    """Derivative of _turn by the angle."""
    along = (n[0] * v[0] + n[1] * v[1] + n[2] * v[2]) * sine
    return (
        n[0] * along - v[0] * sine + (n[1] * v[2] - n[2] * v[1]) * cosine,
        n[1] * along - v[1] * sine + (n[2] * v[0] - n[0] * v[2]) * cosine,
        n[2] * along - v[2] * sine + (n[0] * v[1] - n[1] * v[0]) * cosine,
    )


@stage()
def _axis_slope(n: Triple, v: Triple, g: Triple, sine: float, cosine: float) -> Triple:
    """Gradient by the axis of g . _turn(n, v)."""
    nv = (n[0] * v[0] + n[1] * v[1] + n[2] * v[2]) * (1 - cosine)
    ng = (n[0] * g[0] + n[1] * g[1] + n[2] * g[2]) * (1 - cosine)
    return (
        g[0] * nv + v[0] * ng + (v[1] * g[2] - v[2] * g[1]) * sine,
        g[1] * nv + v[1] * ng + (v[2] * g[0] - v[0] * g[2]) * sine,
        g[2] * nv + v[2] * ng + (v[0] * g[1] - v[1] * g[0]) * sine,
    )


@stage(forceinline=True)
def _dot(a: Triple, b: Triple) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@stage()
def bend(v: Array, lanes: int, panel: Array, numbers: Array) -> None:
    """Flat positions -> the sphere: lab y and z over the distance are angles about the slow and the fast axis."""
    fast = (panel[at.FAST_AXIS], panel[at.FAST_AXIS + 1], panel[at.FAST_AXIS + 2])
    slow = (panel[at.SLOW_AXIS], panel[at.SLOW_AXIS + 1], panel[at.SLOW_AXIS + 2])
    distance = numbers[at.CURVATURE + 3]
    beam = (
        distance * numbers[at.CURVATURE],
        distance * numbers[at.CURVATURE + 1],
        distance * numbers[at.CURVATURE + 2],
    )
    for j in range(lanes):
        about_slow, about_fast = v[at.AIM_Y + j] / distance, v[at.AIM_Z + j] / distance
        first = _turn(slow, beam, math.sin(about_slow), math.cos(about_slow))
        second = _turn(fast, first, math.sin(about_fast), math.cos(about_fast))
        v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j] = second


@stage()
def unbend(v: Array, lanes: int, panel: Array, numbers: Array, of_panel: Array, single: Array) -> None:
    """Adjoint of `bend`: PULL rows, by bent positions, become those by flat ones; axes and curvature are summed."""
    fast = (panel[at.FAST_AXIS], panel[at.FAST_AXIS + 1], panel[at.FAST_AXIS + 2])
    slow = (panel[at.SLOW_AXIS], panel[at.SLOW_AXIS + 1], panel[at.SLOW_AXIS + 2])
    distance = numbers[at.CURVATURE + 3]
    unit = (numbers[at.CURVATURE], numbers[at.CURVATURE + 1], numbers[at.CURVATURE + 2])
    beam = (distance * unit[0], distance * unit[1], distance * unit[2])
    for j in range(lanes):
        about_slow, about_fast = v[at.FLAT_Y + j] / distance, v[at.FLAT_Z + j] / distance
        sin_slow, cos_slow, sin_fast, cos_fast = (
            math.sin(about_slow),
            math.cos(about_slow),
            math.sin(about_fast),
            math.cos(about_fast),
        )
        first = _turn(slow, beam, sin_slow, cos_slow)
        g = (v[at.PULL_X + j], v[at.PULL_Y + j], v[at.PULL_Z + j])
        by_fast_angle = _dot(g, _turn_slope(fast, first, sin_fast, cos_fast))
        by_fast = _axis_slope(fast, first, g, sin_fast, cos_fast)
        back = _turn(fast, g, -sin_fast, cos_fast)
        by_slow_angle = _dot(back, _turn_slope(slow, beam, sin_slow, cos_slow))
        by_slow = _axis_slope(slow, beam, back, sin_slow, cos_slow)
        by_beam = _turn(slow, back, -sin_slow, cos_slow)
        for i in range(3):
            of_panel[at.FAST_AXIS + i] += by_fast[i]
            of_panel[at.SLOW_AXIS + i] += by_slow[i]
            single[at.CURVATURE_SUM + i] += by_beam[i] * distance
        angles = by_slow_angle * about_slow + by_fast_angle * about_fast
        single[at.CURVATURE_SUM + 3] += _dot(by_beam, unit) - angles / distance
        v[at.PULL_X + j], v[at.PULL_Y + j], v[at.PULL_Z + j] = 0.0, by_slow_angle / distance, by_fast_angle / distance
