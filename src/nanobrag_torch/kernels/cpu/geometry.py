"""Sub-pixels, factors and scattering vectors of a block of pixels, in float64: stages of the compiled CPU kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.curved import bend, bend_by_lab_axes
from nanobrag_torch.kernels.cpu.intrinsics import FAST, horner, larger, power_of_two, stage, vector_code
from nanobrag_torch.kernels.cpu.layout import Array
from nanobrag_torch.polynomials import POWER_32, POWER_64

LOG2_E = 1.4426950408889634


@stage()
def aim(v: Array, lanes: int, panel: Array, layer: int, sub: int, whole: Array, numbers: Array) -> None:
    """Unit vectors to one sub-pixel of every pixel in one layer of the sensor, and one over the distances."""
    oversample = whole[at.OVERSAMPLE]
    slow, fast = (sub // oversample + 0.5) / oversample, (sub % oversample + 0.5) / oversample
    aim_within(v, lanes, panel, layer, slow, fast, whole, numbers)


@stage()
def aim_within(
    v: Array, lanes: int, panel: Array, layer: int, slow: float, fast: float, whole: Array, numbers: Array
) -> None:
    """The same for a place within every pixel, 0 to 1 along its edges."""
    _locate(v, lanes, panel, depth_index(layer, whole) * panel[at.LAYER_STEP], slow, fast)
    if at.COMPLETE and whole[at.CURVED]:
        for j in range(lanes):
            v[at.FLAT_X + j], v[at.FLAT_Y + j], v[at.FLAT_Z + j] = v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j]
        if whole[at.CURVED] == at.SPHERE:
            bend(v, lanes, panel)
        else:
            bend_by_lab_axes(v, lanes, panel, numbers)
    _normalise(v, lanes)


@stage(forceinline=True)
def depth_index(layer: int, whole: Array) -> Any:
    """Steps of a layer behind the front; none on a sphere, where all layers lie in the same direction."""
    return at.FIRST if whole[at.CURVED] == at.SPHERE else layer


@stage(fastmath=FAST)
def _locate(v: Array, lanes: int, panel: Array, depth: float, slow: float, fast: float) -> None:
    vector_code()
    ox = panel[at.ORIGIN] + depth * panel[at.NORMAL]
    oy = panel[at.ORIGIN + 1] + depth * panel[at.NORMAL + 1]
    oz = panel[at.ORIGIN + 2] + depth * panel[at.NORMAL + 2]
    fx, fy, fz = panel[at.FAST_AXIS], panel[at.FAST_AXIS + 1], panel[at.FAST_AXIS + 2]
    sx, sy, sz = panel[at.SLOW_AXIS], panel[at.SLOW_AXIS + 1], panel[at.SLOW_AXIS + 2]
    fast_size, slow_size = panel[at.FAST_SIZE], panel[at.SLOW_SIZE]
    for j in range(lanes):
        along_fast = (v[at.FAST_INDEX + j] + fast) * fast_size
        along_slow = (v[at.SLOW_INDEX + j] + slow) * slow_size
        v[at.AIM_X + j] = along_fast * fx + along_slow * sx + ox
        v[at.AIM_Y + j] = along_fast * fy + along_slow * sy + oy
        v[at.AIM_Z + j] = along_fast * fz + along_slow * sz + oz


@stage(fastmath=FAST)
def _normalise(v: Array, lanes: int) -> None:
    vector_code()
    for j in range(lanes):
        x, y, z = v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j]
        inverse = 1 / np.sqrt(x * x + y * y + z * z)
        v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j], v[at.INVERSE + j] = (
            x * inverse,
            y * inverse,
            z * inverse,
            inverse,
        )


@stage(fastmath=FAST)
def solid_angles(v: Array, lanes: int, panel: Array, layer: int, whole: Array) -> None:
    """OMEGA: pixel area / R^2 * distance of the layer's plane / R, or 1 / R^2."""
    vector_code()
    point_pixel = whole[at.POINT_PIXEL]
    scale = panel[at.AREA] * plane_distance(panel, layer, whole)
    if point_pixel:
        for j in range(lanes):
            v[at.OMEGA + j] = v[at.INVERSE + j] * v[at.INVERSE + j]
    else:
        for j in range(lanes):
            v[at.OMEGA + j] = scale * v[at.INVERSE + j] * v[at.INVERSE + j] * v[at.INVERSE + j]


@stage(forceinline=True)
def plane_distance(panel: Array, layer: int, whole: Array) -> Any:
    """Distance of a layer's plane, or of the front where it stands for all."""
    return panel[at.CLOSE] + layer * panel[at.LAYER_STEP] * whole[at.LAYER_OMEGA]


@stage(fastmath=FAST)
def captures(v: Array, lanes: int, panel: Array, layer: int, upright: int) -> None:
    """CAPTURE: share of the photons that a layer of the sensor absorbs; all of them where it has no thickness."""
    vector_code()
    if panel[at.LAYER_STEP] <= 0:
        for j in range(lanes):
            v[at.CAPTURE + j] = 1.0
        return
    slanted = 1.0 - upright
    nx, ny, nz = slanted * panel[at.NORMAL], slanted * panel[at.NORMAL + 1], slanted * panel[at.NORMAL + 2]
    depth = panel[at.LAYER_STEP] * panel[at.ATTENUATION]
    for j in range(lanes):
        cosine = upright + v[at.AIM_X + j] * nx + v[at.AIM_Y + j] * ny + v[at.AIM_Z + j] * nz
        d = depth / cosine
        v[at.CAPTURE + j] = decay(layer * d) - decay((layer + 1) * d)


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
    ix, iy, iz, inverse = (
        source[at.INCIDENT],
        source[at.INCIDENT + 1],
        source[at.INCIDENT + 2],
        source[at.INVERSE_LAMBDA],
    )
    for j in range(lanes):
        v[at.X + j] = (v[at.AIM_X + j] - ix) * inverse
        v[at.Y + j] = (v[at.AIM_Y + j] - iy) * inverse
        v[at.Z + j] = (v[at.AIM_Z + j] - iz) * inverse
    if at.COMPLETE and dmin > 0:
        for j in range(lanes):
            x, y, z = v[at.X + j], v[at.Y + j], v[at.Z + j]
            v[at.SEEN + j] = 0.0 if dmin * np.sqrt(x * x + y * y + z * z) > 1.0 else 1.0


@stage(fastmath=FAST)
def offsets(v: Array, w: Array, lanes: int, box: Array, has_table: int) -> None:
    """q of the anchors, float32 differences from them, and how far both reach."""
    vector_code()
    groups = lanes // at.GROUP
    size = lanes // groups  # which is GROUP; a constant would be unrolled into scalar code
    for g in range(groups):
        first = g * at.GROUP
        x, y, z = v[at.X + first + at.GROUP // 2], v[at.Y + first + at.GROUP // 2], v[at.Z + first + at.GROUP // 2]
        v[at.ANCHOR_X + g], v[at.ANCHOR_Y + g], v[at.ANCHOR_Z + g] = x, y, z
        for t in range(size):
            w[at.DX + first + t] = v[at.X + first + t] - x
            w[at.DY + first + t] = v[at.Y + first + t] - y
            w[at.DZ + first + t] = v[at.Z + first + t] - z
    _reach(w, lanes, box)
    if has_table:
        spans(v, lanes, box)


@stage(fastmath=FAST)
def _reach(w: Array, lanes: int, box: Array) -> None:
    """The largest differences from anchors."""
    vector_code()
    far_x = far_y = far_z = abs(w[at.DX])
    for j in range(lanes):
        far_x = larger(abs(w[at.DX + j]), far_x)
        far_y = larger(abs(w[at.DY + j]), far_y)
        far_z = larger(abs(w[at.DZ + j]), far_z)
    box[at.REACH], box[at.REACH + 1], box[at.REACH + 2] = far_x, far_y, far_z


@stage(fastmath=FAST)
def spans(v: Array, lanes: int, box: Array) -> None:
    """The range of the anchors: middle and half of it on each axis."""
    vector_code()
    for axis in range(3):
        row = at.ANCHOR_X + axis * at.GROUPS
        low, high = -v[row], v[row]
        for g in range(lanes // at.GROUP):
            low, high = larger(-v[row + g], low), larger(v[row + g], high)
        box[at.CENTRE + axis], box[at.HALF + axis] = (high - low) / 2, (high + low) / 2


@stage(fastmath=FAST)
def polarizations(v: Array, lanes: int, source: Array, each: int) -> None:
    """POLAR: (1 + d M d) / 2 of this source; unless `each`, only in lanes that see a source for the first time."""
    vector_code()
    xx, yy, zz = source[at.POLARIZATION], source[at.POLARIZATION + 4], source[at.POLARIZATION + 8]
    xy = source[at.POLARIZATION + 1] + source[at.POLARIZATION + 3]
    xz = source[at.POLARIZATION + 2] + source[at.POLARIZATION + 6]
    yz = source[at.POLARIZATION + 5] + source[at.POLARIZATION + 7]
    for j in range(lanes):
        x, y, z = v[at.AIM_X + j], v[at.AIM_Y + j], v[at.AIM_Z + j]
        value = 0.5 + 0.5 * (x * (xx * x + xy * y + xz * z) + y * (yy * y + yz * z) + zz * z * z)
        fresh = v[at.SEEN + j] * (1.0 - v[at.KNOWN + j]) if not each else 1.0
        v[at.POLAR + j] += fresh * (value - v[at.POLAR + j])
        v[at.KNOWN + j] += fresh


@stage(fastmath=FAST)
def factors(v: Array, lanes: int, source: Array, subs: int) -> bool:
    """FACTOR: what the sum over lattices of this source is multiplied by; whether any lane sees the source."""
    vector_code()
    weight = source[at.SOURCE_WEIGHT] / subs
    seen = 0.0
    for j in range(lanes):
        v[at.FACTOR + j] = weight * v[at.OMEGA + j] * v[at.CAPTURE + j] * v[at.POLAR + j] * v[at.SEEN + j]
        seen += v[at.SEEN + j]
    return seen > 0
