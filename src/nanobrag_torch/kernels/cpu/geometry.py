"""Sub-pixels, factors and scattering vectors of a block of pixels, in float64: stages of the compiled CPU kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu.curved import bend
from nanobrag_torch.kernels.cpu.intrinsics import FAST, horner, larger, power_of_two, stage, vector_code
from nanobrag_torch.kernels.cpu.layout import (
    AIM_X,
    AIM_Y,
    AIM_Z,
    ANCHOR_X,
    ANCHOR_Y,
    ANCHOR_Z,
    AREA,
    ATTENUATION,
    CAPTURE,
    CENTRE,
    CLOSE,
    CURVED,
    DX,
    DY,
    DZ,
    FACTOR,
    FAST_AXIS,
    FAST_INDEX,
    FAST_SIZE,
    FLAT_X,
    FLAT_Y,
    FLAT_Z,
    GROUP,
    GROUPS,
    HALF,
    INCIDENT,
    INVERSE,
    INVERSE_LAMBDA,
    KNOWN,
    LAYER_STEP,
    NORMAL,
    OMEGA,
    ORIGIN,
    OVERSAMPLE,
    POLAR,
    POLARIZATION,
    REACH,
    SEEN,
    SLOW_AXIS,
    SLOW_INDEX,
    SLOW_SIZE,
    SOURCE_WEIGHT,
    Array,
    X,
    Y,
    Z,
)
from nanobrag_torch.polynomials import POWER_32, POWER_64

LOG2_E = 1.4426950408889634


@stage()
def aim(v: Array, lanes: int, panel: Array, layer: int, sub: int, whole: Array, numbers: Array) -> None:
    """Unit vectors to one sub-pixel of every pixel in one layer of the sensor, and one over the distances."""
    oversample = whole[OVERSAMPLE]
    slow, fast = (sub // oversample + 0.5) / oversample, (sub % oversample + 0.5) / oversample
    _locate(v, lanes, panel, layer * panel[LAYER_STEP], slow, fast)
    if whole[CURVED]:
        for j in range(lanes):
            v[FLAT_X + j], v[FLAT_Y + j], v[FLAT_Z + j] = v[AIM_X + j], v[AIM_Y + j], v[AIM_Z + j]
        bend(v, lanes, panel, numbers)
    _normalise(v, lanes)


@stage(fastmath=FAST)
def _locate(v: Array, lanes: int, panel: Array, depth: float, slow: float, fast: float) -> None:
    vector_code()
    ox = panel[ORIGIN] + depth * panel[NORMAL]
    oy = panel[ORIGIN + 1] + depth * panel[NORMAL + 1]
    oz = panel[ORIGIN + 2] + depth * panel[NORMAL + 2]
    fx, fy, fz = panel[FAST_AXIS], panel[FAST_AXIS + 1], panel[FAST_AXIS + 2]
    sx, sy, sz = panel[SLOW_AXIS], panel[SLOW_AXIS + 1], panel[SLOW_AXIS + 2]
    fast_size, slow_size = panel[FAST_SIZE], panel[SLOW_SIZE]
    for j in range(lanes):
        along_fast = (v[FAST_INDEX + j] + fast) * fast_size
        along_slow = (v[SLOW_INDEX + j] + slow) * slow_size
        v[AIM_X + j] = along_fast * fx + along_slow * sx + ox
        v[AIM_Y + j] = along_fast * fy + along_slow * sy + oy
        v[AIM_Z + j] = along_fast * fz + along_slow * sz + oz


@stage(fastmath=FAST)
def _normalise(v: Array, lanes: int) -> None:
    vector_code()
    for j in range(lanes):
        x, y, z = v[AIM_X + j], v[AIM_Y + j], v[AIM_Z + j]
        inverse = 1 / np.sqrt(x * x + y * y + z * z)
        v[AIM_X + j], v[AIM_Y + j], v[AIM_Z + j], v[INVERSE + j] = x * inverse, y * inverse, z * inverse, inverse


@stage(fastmath=FAST)
def solid_angles(v: Array, lanes: int, panel: Array, point_pixel: int) -> None:
    """OMEGA: pixel area / R^2 * close distance / R, or 1 / R^2."""
    vector_code()
    scale = panel[AREA] * panel[CLOSE]
    if point_pixel:
        for j in range(lanes):
            v[OMEGA + j] = v[INVERSE + j] * v[INVERSE + j]
    else:
        for j in range(lanes):
            v[OMEGA + j] = scale * v[INVERSE + j] * v[INVERSE + j] * v[INVERSE + j]


@stage(fastmath=FAST)
def captures(v: Array, lanes: int, panel: Array, layer: int) -> None:
    """CAPTURE: share of the photons that a layer of the sensor absorbs; all of them where it has no thickness."""
    vector_code()
    if panel[LAYER_STEP] <= 0:
        for j in range(lanes):
            v[CAPTURE + j] = 1.0
        return
    nx, ny, nz = panel[NORMAL], panel[NORMAL + 1], panel[NORMAL + 2]
    depth = panel[LAYER_STEP] * panel[ATTENUATION]
    for j in range(lanes):
        cosine = v[AIM_X + j] * nx + v[AIM_Y + j] * ny + v[AIM_Z + j] * nz
        d = depth / cosine
        v[CAPTURE + j] = decay(layer * d) - decay((layer + 1) * d)


@stage(forceinline=True, fastmath=FAST)
def decay(x: float) -> Any:
    """exp(-x) in float64, without a call of libm; 1e-300 stands for all that is smaller, 1e300 for all larger."""
    t = min(max(-x * LOG2_E, -1000.0), 1000.0)
    n = np.rint(t)
    return horner(t - n, POWER_32, POWER_64) * power_of_two(n)


@stage(fastmath=FAST)
def scatter(v: Array, lanes: int, source: Array, dmin: float) -> None:
    """q of one source in units of SCALE / m, and SEEN: whether it is within the resolution limit."""
    vector_code()
    ix, iy, iz, inverse = source[INCIDENT], source[INCIDENT + 1], source[INCIDENT + 2], source[INVERSE_LAMBDA]
    for j in range(lanes):
        v[X + j] = (v[AIM_X + j] - ix) * inverse
        v[Y + j] = (v[AIM_Y + j] - iy) * inverse
        v[Z + j] = (v[AIM_Z + j] - iz) * inverse
    if dmin > 0:
        for j in range(lanes):
            x, y, z = v[X + j], v[Y + j], v[Z + j]
            v[SEEN + j] = 0.0 if dmin * np.sqrt(x * x + y * y + z * z) > 1.0 else 1.0


@stage(fastmath=FAST)
def offsets(v: Array, w: Array, lanes: int, box: Array, has_table: int) -> None:
    """q of the anchors, float32 differences from them, and how far both reach."""
    vector_code()
    groups = lanes // GROUP
    size = lanes // groups  # which is GROUP; a constant would be unrolled into scalar code
    for g in range(groups):
        first = g * GROUP
        x, y, z = v[X + first + GROUP // 2], v[Y + first + GROUP // 2], v[Z + first + GROUP // 2]
        v[ANCHOR_X + g], v[ANCHOR_Y + g], v[ANCHOR_Z + g] = x, y, z
        for t in range(size):
            w[DX + first + t] = v[X + first + t] - x
            w[DY + first + t] = v[Y + first + t] - y
            w[DZ + first + t] = v[Z + first + t] - z
    _reach(w, lanes, box)
    if has_table:
        spans(v, lanes, box)


@stage(fastmath=FAST)
def _reach(w: Array, lanes: int, box: Array) -> None:
    """The largest differences from anchors."""
    vector_code()
    far_x = far_y = far_z = abs(w[DX])
    for j in range(lanes):
        far_x = larger(abs(w[DX + j]), far_x)
        far_y = larger(abs(w[DY + j]), far_y)
        far_z = larger(abs(w[DZ + j]), far_z)
    box[REACH], box[REACH + 1], box[REACH + 2] = far_x, far_y, far_z


@stage(fastmath=FAST)
def spans(v: Array, lanes: int, box: Array) -> None:
    """The range of the anchors: middle and half of it on each axis."""
    vector_code()
    for axis in range(3):
        row = ANCHOR_X + axis * GROUPS
        low, high = -v[row], v[row]
        for g in range(lanes // GROUP):
            low, high = larger(-v[row + g], low), larger(v[row + g], high)
        box[CENTRE + axis], box[HALF + axis] = (high - low) / 2, (high + low) / 2


@stage(fastmath=FAST)
def polarizations(v: Array, lanes: int, source: Array, each: int) -> None:
    """POLAR: (1 + d M d) / 2 of this source; unless `each`, only in lanes that see a source for the first time."""
    vector_code()
    xx, yy, zz = source[POLARIZATION], source[POLARIZATION + 4], source[POLARIZATION + 8]
    xy = source[POLARIZATION + 1] + source[POLARIZATION + 3]
    xz = source[POLARIZATION + 2] + source[POLARIZATION + 6]
    yz = source[POLARIZATION + 5] + source[POLARIZATION + 7]
    for j in range(lanes):
        x, y, z = v[AIM_X + j], v[AIM_Y + j], v[AIM_Z + j]
        value = 0.5 + 0.5 * (x * (xx * x + xy * y + xz * z) + y * (yy * y + yz * z) + zz * z * z)
        fresh = v[SEEN + j] * (1.0 - v[KNOWN + j]) if not each else 1.0
        v[POLAR + j] += fresh * (value - v[POLAR + j])
        v[KNOWN + j] += fresh


@stage(fastmath=FAST)
def factors(v: Array, lanes: int, source: Array, subs: int) -> bool:
    """FACTOR: what the sum over lattices of this source is multiplied by; whether any lane sees the source."""
    vector_code()
    weight = source[SOURCE_WEIGHT] / subs
    seen = 0.0
    for j in range(lanes):
        v[FACTOR + j] = weight * v[OMEGA + j] * v[CAPTURE + j] * v[POLAR + j] * v[SEEN + j]
        seen += v[SEEN + j]
    return seen > 0
