"""Scattering vectors of a run of pixels from float64 anchors and float32 differences (stages of the CPU kernel).

The unit vector to a pixel near an anchor at distance R and unit vector a, e R away from it, is (a + e) t with
t = (1 + s)^(-1/2), s = e (2 a + e). So it differs from a by e t + a (t - 1), and t - 1 is a short series in s. This
costs a third of what unit vectors in float64 do, which counts where a pixel has few steps.
"""

from __future__ import annotations

import numpy as np

from nanobrag_torch.kernels.cpu_layout import (
    ANCHOR_X,
    ANCHOR_Y,
    ANCHOR_Z,
    AREA,
    CLOSE,
    COMMON,
    DX,
    DY,
    DZ,
    FACTOR,
    FAST_AXIS,
    FAST_INDEX,
    FAST_SIZE,
    FLOW,
    GROUP,
    INCIDENT,
    INVERSE_LAMBDA,
    ORIGIN,
    POLARIZATION,
    RAMP,
    SLOW_AXIS,
    SLOW_INDEX,
    SLOW_SIZE,
    SOURCE_WEIGHT,
    STEP_X,
    STEP_Y,
    STEP_Z,
    STEPS,
    TO_X,
    TO_Y,
    TO_Z,
    TOTAL,
    Array,
)
from nanobrag_torch.kernels.cpu_math import FAST, stage, vector_code

SERIES = (-0.5, 0.375, -0.3125, 0.2734375, -0.24609375)
"""(1 + s)^(-1/2) - 1 over s: to 1e-9 for |s| below FARTHEST."""
FARTHEST = 0.02


@stage()
def near_enough(panel: Array) -> bool:
    """Whether the series holds: half a group of pixels is short against the distance of the panel."""
    length = 0.0
    for i in range(3):
        length += panel[FAST_AXIS + i] * panel[FAST_AXIS + i]
    reach = GROUP / 2 * panel[FAST_SIZE] * np.sqrt(length)
    return bool(reach * 2.5 < FARTHEST * abs(panel[CLOSE]))


@stage(fastmath=FAST)
def look_at_anchors(v: Array, w: Array, groups: int, panel: Array, source: Array, point_pixel: int) -> None:
    """q of every group's anchor, the pixel in its middle; in float32 its unit vector, a step from it, its factors."""
    vector_code()
    slow = (v[SLOW_INDEX] + 0.5) * panel[SLOW_SIZE]
    first = v[FAST_INDEX] + GROUP // 2 + 0.5
    ox = panel[ORIGIN] + slow * panel[SLOW_AXIS]
    oy = panel[ORIGIN + 1] + slow * panel[SLOW_AXIS + 1]
    oz = panel[ORIGIN + 2] + slow * panel[SLOW_AXIS + 2]
    fx, fy, fz, size = panel[FAST_AXIS], panel[FAST_AXIS + 1], panel[FAST_AXIS + 2], panel[FAST_SIZE]
    ix, iy, iz, per_length = source[INCIDENT], source[INCIDENT + 1], source[INCIDENT + 2], source[INVERSE_LAMBDA]
    flat, tilted = (1.0, 0.0) if point_pixel else (0.0, panel[AREA] * panel[CLOSE])
    half_weight = source[SOURCE_WEIGHT] / 2
    for g in range(groups):
        along = (first + GROUP * v[RAMP + g]) * size
        x, y, z = ox + along * fx, oy + along * fy, oz + along * fz
        inverse = 1 / np.sqrt(x * x + y * y + z * z)
        x, y, z = x * inverse, y * inverse, z * inverse
        w[TO_X + g], w[TO_Y + g], w[TO_Z + g] = x, y, z
        v[ANCHOR_X + g], v[ANCHOR_Y + g] = (x - ix) * per_length, (y - iy) * per_length
        v[ANCHOR_Z + g] = (z - iz) * per_length
        step = size * inverse
        w[STEP_X + g], w[STEP_Y + g], w[STEP_Z + g] = step * fx, step * fy, step * fz
        w[COMMON + g] = half_weight * inverse * inverse * (flat + tilted * inverse)


@stage(fastmath=FAST)
def look_near(v: Array, w: Array, lanes: int, source: Array, point_pixel: int) -> None:
    """Differences of q from the anchors, FACTOR and an empty TOTAL, for pixels with one sample and one source."""
    vector_code()
    real = w.dtype.type
    one, cubic, per_length = real(1), real(0.0 if point_pixel else 1.0), real(source[INVERSE_LAMBDA])
    c1, c2, c3, c4, c5 = real(SERIES[0]), real(SERIES[1]), real(SERIES[2]), real(SERIES[3]), real(SERIES[4])
    xx, yy, zz = real(source[POLARIZATION]), real(source[POLARIZATION + 4]), real(source[POLARIZATION + 8])
    xy = real(source[POLARIZATION + 1] + source[POLARIZATION + 3])
    xz = real(source[POLARIZATION + 2] + source[POLARIZATION + 6])
    yz = real(source[POLARIZATION + 5] + source[POLARIZATION + 7])
    for g in range(lanes // GROUP):
        ax, ay, az, common = w[TO_X + g], w[TO_Y + g], w[TO_Z + g], w[COMMON + g]
        fx, fy, fz, first = w[STEP_X + g], w[STEP_Y + g], w[STEP_Z + g], g * GROUP
        for t in range(GROUP):
            j = first + t
            ex, ey, ez = w[STEPS + t] * fx, w[STEPS + t] * fy, w[STEPS + t] * fz
            s = ex * (ax + ax + ex) + ey * (ay + ay + ey) + ez * (az + az + ez)
            u = s * (c1 + s * (c2 + s * (c3 + s * (c4 + s * c5))))
            ratio = one + u
            dx, dy, dz = ex * ratio + ax * u, ey * ratio + ay * u, ez * ratio + az * u
            w[DX + j], w[DY + j], w[DZ + j] = dx * per_length, dy * per_length, dz * per_length
            x, y, z = ax + dx, ay + dy, az + dz
            twice = one + x * (xx * x + xy * y + xz * z) + y * (yy * y + yz * z) + zz * z * z
            w[FLOW + j] = common * twice * ratio * ratio * (one + cubic * u)
    for j in range(lanes):  # apart, since float64 in a loop halves its vectors
        v[FACTOR + j] = w[FLOW + j]
        v[TOTAL + j] = 0.0
