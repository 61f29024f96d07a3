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
def bend(v: Array, lanes: int, panel: Array) -> None:
    """Flat positions -> the sphere that touches the plane at the foot of its normal: distances from it become arcs."""
    fast, slow, normal = _triple(panel, at.FAST_AXIS), _triple(panel, at.SLOW_AXIS), _triple(panel, at.NORMAL)
    radius = panel[at.CLOSE]
    for j in range(lanes):
        flat = (v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j])
        along, across = _dot(flat, fast) / radius, _dot(flat, slow) / radius
        to_fast, upright = radius * math.sin(along), radius * math.cos(along)
        to_slow, to_normal = upright * math.sin(across), upright * math.cos(across)
        v[at.AIM_X + j] = to_fast * fast[0] + to_slow * slow[0] + to_normal * normal[0]
        v[at.AIM_Y + j] = to_fast * fast[1] + to_slow * slow[1] + to_normal * normal[1]
        v[at.AIM_Z + j] = to_fast * fast[2] + to_slow * slow[2] + to_normal * normal[2]


@stage()
def unbend(v: Array, lanes: int, panel: Array, of_panel: Array) -> None:
    """Adjoint of `bend`: PULL rows, by bent positions, become those by flat ones; axes and radius are summed."""
    fast, slow, normal = _triple(panel, at.FAST_AXIS), _triple(panel, at.SLOW_AXIS), _triple(panel, at.NORMAL)
    radius = panel[at.CLOSE]
    for j in range(lanes):
        flat = (v[at.FLAT_X + j], v[at.FLAT_Y + j], v[at.FLAT_Z + j])
        g = (v[at.PULL_X + j], v[at.PULL_Y + j], v[at.PULL_Z + j])
        along, across = _dot(flat, fast) / radius, _dot(flat, slow) / radius
        sin_along, cos_along, sin_across, cos_across = (
            math.sin(along),
            math.cos(along),
            math.sin(across),
            math.cos(across),
        )
        by_fast, by_slow, by_normal = _dot(g, fast), _dot(g, slow), _dot(g, normal)
        upright = cos_across * by_normal + sin_across * by_slow
        by_along = cos_along * by_fast - sin_along * upright  # times the radius
        by_across = cos_along * (cos_across * by_slow - sin_across * by_normal)
        for i in range(3):
            of_panel[at.FAST_AXIS + i] += radius * sin_along * g[i] + by_along * flat[i]
            of_panel[at.SLOW_AXIS + i] += radius * cos_along * sin_across * g[i] + by_across * flat[i]
            of_panel[at.NORMAL + i] += radius * cos_along * cos_across * g[i]
        of_panel[at.CLOSE] += sin_along * by_fast + cos_along * upright - by_along * along - by_across * across
        v[at.PULL_X + j] = by_along * fast[0] + by_across * slow[0]
        v[at.PULL_Y + j] = by_along * fast[1] + by_across * slow[1]
        v[at.PULL_Z + j] = by_along * fast[2] + by_across * slow[2]


@stage(forceinline=True)
def _triple(panel: Array, first: int) -> Triple:
    return panel[first], panel[first + 1], panel[first + 2]


@stage()
def bend_by_lab_axes(v: Array, lanes: int, panel: Array, numbers: Array) -> None:
    """The same as the C program has it: lab y and z over the distance are angles about the slow and the fast axis."""
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
def unbend_by_lab_axes(v: Array, lanes: int, panel: Array, numbers: Array, of_panel: Array, single: Array) -> None:
    """Adjoint of `bend_by_lab_axes`; axes and curvature are summed."""
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
