"""Sub-pixels of the groups of a tile by series about float64 anchors: stages of the compiled CPU kernel.

What kernels.cpu.near does for runs of pixels, in two directions. The unit vector to a point t steps e along the fast
and u steps f along the slow axis from the middle of a group is (a + t e + u f) (1 + s)^(-1/2), a the unit vector to
that middle and s = 2 a (t e + u f) + (t e + u f)^2; lengths are in units of the distance of the middle. One anchor
serves all sub-pixels of its group, and what is left costs a lane two dozen operations in float32.
"""

from __future__ import annotations

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.bounds import EDGE
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import EXACT_FLOAT32
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch
from nanobrag_torch.kernels.cpu.near import FARTHEST, SERIES
from nanobrag_torch.kernels.cpu.near_pairs import add_near_pairs, settle


@stage()
def add_tile(scratch: Scratch, scene: Packed, lanes: int, panel: Array) -> bool:
    """TOTAL of what `thin` left of a tile; False, and nothing done, where this way is not to be taken.

    It takes factors of the first sub-pixel, flat panels that capture everything, and float32 differences that will do
    with three times their error.
    """
    whole, v, w = scene.whole, scratch.v, scratch.w
    if not _is_simple(scene, panel) or scratch.box[at.SQUARED] == 0:
        return False
    _set_anchors(v, w, lanes // at.GROUP, panel, scene.sources[0])
    if not _set_reach(w, scratch.box, lanes // at.GROUP) or not _is_narrow(scene, scratch.box):
        return False
    over = whole[at.OVERSAMPLE]
    _set_flow(w, lanes, 0.5 / over, 0.5 / over)
    for j in range(lanes):
        v[at.TOTAL + j] = 0.0
    for s in range(scene.sources.shape[0]):
        if scratch.first[2 * s] < scratch.first[2 * s + 1]:
            source = scene.sources[s]
            _aim_anchors(v, w, lanes, source, source[at.SOURCE_WEIGHT] / (over * over))
            _add_source(scratch, scene, lanes, s)
    return True


@stage(inline="always")
def _is_simple(scene: Packed, panel: Array) -> bool:
    whole, numbers = scene.whole, scene.numbers
    odd = whole[at.CURVED] or whole[at.CUBIC] or whole[at.POINT_PIXEL] or whole[at.LAYERS] > 1 or whole[at.EVERYWHERE]
    each = whole[at.OVERSAMPLE] > 1 and (whole[at.EACH_OMEGA] or whole[at.EACH_POLAR])
    several = whole[at.EACH_POLAR] and scene.sources.shape[0] > 1
    plain = numbers[at.PAIRS_BOUND] > 0 and numbers[at.DMIN] <= 0 and panel[at.LAYER_STEP] <= 0
    return bool(plain and not odd and not each and not several)


@stage(fastmath=FAST)
def _set_anchors(v: Array, w: Array, groups: int, panel: Array, source: Array) -> None:
    """The middle of every group, what the series about it take, and its share of the factors."""
    vector_code()
    fx, fy, fz = panel[at.FAST_AXIS], panel[at.FAST_AXIS + 1], panel[at.FAST_AXIS + 2]
    sx, sy, sz = panel[at.SLOW_AXIS], panel[at.SLOW_AXIS + 1], panel[at.SLOW_AXIS + 2]
    xx, yy, zz = source[at.POLARIZATION], source[at.POLARIZATION + 4], source[at.POLARIZATION + 8]
    xy = (source[at.POLARIZATION + 1] + source[at.POLARIZATION + 3]) / 2
    xz = (source[at.POLARIZATION + 2] + source[at.POLARIZATION + 6]) / 2
    yz = (source[at.POLARIZATION + 5] + source[at.POLARIZATION + 7]) / 2
    half, fast_size, slow_size = panel[at.AREA] * panel[at.CLOSE] / 2, panel[at.FAST_SIZE], panel[at.SLOW_SIZE]
    for g in range(groups):
        along = (v[at.FAST_INDEX + g * at.GROUP] + EDGE / 2) * fast_size
        down = (v[at.SLOW_INDEX + g * at.GROUP] + EDGE / 2) * slow_size
        x = panel[at.ORIGIN] + along * fx + down * sx
        y = panel[at.ORIGIN + 1] + along * fy + down * sy
        z = panel[at.ORIGIN + 2] + along * fz + down * sz
        inverse = 1 / np.sqrt(x * x + y * y + z * z)
        x, y, z, e, f = x * inverse, y * inverse, z * inverse, fast_size * inverse, slow_size * inverse
        v[at.MIDDLE_X + g], v[at.MIDDLE_Y + g], v[at.MIDDLE_Z + g] = x, y, z
        w[at.UNIT_X + g], w[at.UNIT_Y + g], w[at.UNIT_Z + g] = x, y, z
        ex, ey, ez, gx, gy, gz = e * fx, e * fy, e * fz, f * sx, f * sy, f * sz
        w[at.STEP_X + g], w[at.STEP_Y + g], w[at.STEP_Z + g] = ex, ey, ez
        w[at.DOWN_X + g], w[at.DOWN_Y + g], w[at.DOWN_Z + g] = gx, gy, gz
        w[at.BOW_1 + g], w[at.BOW_2 + g] = 2 * (x * ex + y * ey + z * ez), ex * ex + ey * ey + ez * ez
        w[at.DOWN_BOW_1 + g], w[at.DOWN_BOW_2 + g] = 2 * (x * gx + y * gy + z * gz), gx * gx + gy * gy + gz * gz
        w[at.CROSS_BOW + g] = 2 * (ex * gx + ey * gy + ez * gz)
        mx, my, mz = xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z
        w[at.POLAR_0 + g], w[at.POLAR_1 + g] = x * mx + y * my + z * mz, 2 * (ex * mx + ey * my + ez * mz)
        w[at.POLAR_2 + g] = ex * (xx * ex + 2 * (xy * ey + xz * ez)) + ey * (yy * ey + 2 * yz * ez) + zz * ez * ez
        w[at.DOWN_POLAR_1 + g] = 2 * (gx * mx + gy * my + gz * mz)
        w[at.DOWN_POLAR_2 + g] = gx * (xx * gx + 2 * (xy * gy + xz * gz)) + gy * (yy * gy + 2 * yz * gz) + zz * gz * gz
        mx, my, mz = xx * gx + xy * gy + xz * gz, xy * gx + yy * gy + yz * gz, xz * gx + yz * gy + zz * gz
        w[at.CROSS_POLAR + g] = 2 * (ex * mx + ey * my + ez * mz)
        w[at.COMMON + g] = half * inverse * inverse * inverse


@stage()
def _set_reach(w: Array, box: Array, groups: int) -> bool:
    """How far unit vectors of a group are from its anchor's, at most; whether the series hold."""
    far_x = far_y = far_z = most = 0.0
    reach = EDGE / 2
    for g in range(groups):
        s = reach * (abs(w[at.BOW_1 + g]) + abs(w[at.DOWN_BOW_1 + g]))
        s += reach * reach * (w[at.BOW_2 + g] + w[at.DOWN_BOW_2 + g] + abs(w[at.CROSS_BOW + g]))
        step = reach * (1 + s)
        far_x = max(far_x, step * (abs(w[at.STEP_X + g]) + abs(w[at.DOWN_X + g])) + abs(w[at.UNIT_X + g]) * s)
        far_y = max(far_y, step * (abs(w[at.STEP_Y + g]) + abs(w[at.DOWN_Y + g])) + abs(w[at.UNIT_Y + g]) * s)
        far_z = max(far_z, step * (abs(w[at.STEP_Z + g]) + abs(w[at.DOWN_Z + g])) + abs(w[at.UNIT_Z + g]) * s)
        most = max(most, s)
    box[at.REACH], box[at.REACH + 1], box[at.REACH + 2] = far_x, far_y, far_z
    return bool(most < FARTHEST)


@stage()
def _is_narrow(scene: Packed, box: Array) -> bool:
    """Whether float32 differences from anchors are precise enough for all lattices and sources."""
    inverse, span, narrow = 0.0, 0.0, not at.NO
    for s in range(scene.sources.shape[0]):
        inverse = max(inverse, scene.sources[s, at.INVERSE_LAMBDA])
    for axis in range(3):
        reach = 0.0
        for i in range(3):
            most = abs(scene.envelope[0, 3 * axis + i]) + scene.envelope[1, 3 * axis + i]
            reach += most * box[at.REACH + i] * inverse
        narrow = narrow and 3 * scene.numbers[at.CELLS + axis] * reach <= scene.numbers[at.PAIRS_BOUND]
        span = span * scene.grid[3 + axis] + reach + 1
    return bool(narrow and span < EXACT_FLOAT32)


@stage(fastmath=FAST)
def _set_flow(w: Array, lanes: int, fast: float, slow: float) -> None:
    """FLOW: solid angle and polarization at one place within every pixel; STEPS of a group along both axes."""
    vector_code()
    real = w.dtype.type
    for i in range(at.GROUP):
        w[at.ACROSS + i], w[at.DOWNWARDS + i] = i % EDGE - EDGE / 2, i // EDGE - EDGE / 2
    one, c1, c2, c3, c4 = real(1), real(SERIES[0]), real(SERIES[1]), real(SERIES[2]), real(SERIES[3])
    right, down = real(fast), real(slow)
    for g in range(lanes // at.GROUP):
        b1, b2, cross = w[at.BOW_1 + g], w[at.BOW_2 + g], w[at.CROSS_BOW + g]
        d1, d2 = w[at.DOWN_BOW_1 + g], w[at.DOWN_BOW_2 + g]
        p0, p1, p2, common = w[at.POLAR_0 + g], w[at.POLAR_1 + g], w[at.POLAR_2 + g], w[at.COMMON + g]
        q1, q2, both = w[at.DOWN_POLAR_1 + g], w[at.DOWN_POLAR_2 + g], w[at.CROSS_POLAR + g]
        for i in range(at.GROUP):
            t, r = w[at.ACROSS + i] + right, w[at.DOWNWARDS + i] + down
            s = t * (b1 + t * b2 + r * cross) + r * (d1 + r * d2)
            ratio = one + s * (c1 + s * (c2 + s * (c3 + s * c4)))
            square = ratio * ratio
            form = p0 + t * (p1 + t * p2 + r * both) + r * (q1 + r * q2)
            w[at.FLOW + g * at.GROUP + i] = common * (one + square * form) * square * ratio


@stage(fastmath=FAST)
def _aim_anchors(v: Array, w: Array, lanes: int, source: Array, weight: float) -> None:
    """q of the anchors for a source; FACTOR of the lanes."""
    vector_code()
    per_length = source[at.INVERSE_LAMBDA]
    for g in range(lanes // at.GROUP):
        v[at.ANCHOR_X + g] = (v[at.MIDDLE_X + g] - source[at.INCIDENT]) * per_length
        v[at.ANCHOR_Y + g] = (v[at.MIDDLE_Y + g] - source[at.INCIDENT + 1]) * per_length
        v[at.ANCHOR_Z + g] = (v[at.MIDDLE_Z + g] - source[at.INCIDENT + 2]) * per_length
    for j in range(lanes):
        v[at.FACTOR + j] = weight * w[at.FLOW + j]


@stage()
def _add_source(scratch: Scratch, scene: Packed, lanes: int, s: int) -> None:
    """TOTAL += FACTOR times the sum over the pairs that were found for a source, all sub-pixels of some at a time."""
    v, w, over, per_length = scratch.v, scratch.w, scene.whole[at.OVERSAMPLE], scene.sources[s, at.INVERSE_LAMBDA]
    entry, stop = scratch.first[2 * s], scratch.first[2 * s + 1]
    while entry < stop:
        entry, alike, others = settle(scratch, scene, entry, stop, per_length)
        if alike + others == 0:
            continue
        for sub in range(over * over):
            _look_near(w, lanes, (sub % over + 0.5) / over, (sub // over + 0.5) / over, per_length)
            add_near_pairs(w, scratch.places, alike, others, scene)
            _move(v, w, lanes)


@stage(fastmath=FAST)
def _move(v: Array, w: Array, lanes: int) -> None:
    """SUM, times FACTOR, to TOTAL."""
    vector_code()
    for j in range(lanes):
        v[at.TOTAL + j] += v[at.FACTOR + j] * w[at.SUM + j]


@stage(fastmath=FAST)
def _look_near(w: Array, lanes: int, fast: float, slow: float, per_length: float) -> None:
    """Differences of q from the anchors at one place within every pixel; an empty SUM."""
    vector_code()
    real = w.dtype.type
    one, c1, c2, c3, c4 = real(1), real(SERIES[0]), real(SERIES[1]), real(SERIES[2]), real(SERIES[3])
    right, down, scale = real(fast), real(slow), real(per_length)
    for g in range(lanes // at.GROUP):
        ax, ay, az, first = w[at.UNIT_X + g] * scale, w[at.UNIT_Y + g] * scale, w[at.UNIT_Z + g] * scale, g * at.GROUP
        ex, ey, ez = w[at.STEP_X + g] * scale, w[at.STEP_Y + g] * scale, w[at.STEP_Z + g] * scale
        gx, gy, gz = w[at.DOWN_X + g] * scale, w[at.DOWN_Y + g] * scale, w[at.DOWN_Z + g] * scale
        b1, b2, cross = w[at.BOW_1 + g], w[at.BOW_2 + g], w[at.CROSS_BOW + g]
        d1, d2 = w[at.DOWN_BOW_1 + g], w[at.DOWN_BOW_2 + g]
        for i in range(at.GROUP):
            j, t, r = first + i, w[at.ACROSS + i] + right, w[at.DOWNWARDS + i] + down
            s = t * (b1 + t * b2 + r * cross) + r * (d1 + r * d2)
            u = s * (c1 + s * (c2 + s * (c3 + s * c4)))
            across, along = t * (one + u), r * (one + u)
            w[at.DX + j] = across * ex + along * gx + u * ax
            w[at.DY + j] = across * ey + along * gy + u * ay
            w[at.DZ + j] = across * ez + along * gz + u * az
            w[at.SUM + j] = 0
