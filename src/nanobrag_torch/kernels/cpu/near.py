"""Pixels of a row by series about float64 anchors, the quick way for few steps a pixel (stages of the CPU kernel).

The unit vector to a pixel t steps e from an anchor with unit vector a (lengths in units of the anchor's distance) is
(a + t e) (1 + s)^(-1/2) with s = t (2 a e + t e e). So it differs from a by t r e + u a, where u is a short series in s
and r = 1 + u; and the form d M d of the polarization is r^2 times a parabola in t. What depends on the group alone is
formed once, in float64; what is left costs a lane two dozen operations in float32, a fifth of the time that unit
vectors in float64 take.
"""

from __future__ import annotations

import numpy as np

from nanobrag_torch.kernels.cpu.blocks import run_length
from nanobrag_torch.kernels.cpu.geometry import spans
from nanobrag_torch.kernels.cpu.intrinsics import FAST, larger, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import NOTHING, survey
from nanobrag_torch.kernels.cpu.layout import (
    ANCHOR_X,
    ANCHOR_Y,
    ANCHOR_Z,
    AREA,
    BATCH,
    BOUND,
    BOW_1,
    BOW_2,
    CLOSE,
    COMMON,
    CUBIC,
    DX,
    DY,
    DZ,
    FAST_AXIS,
    FAST_COUNT,
    FAST_SIZE,
    FLOW,
    GROUP,
    HAS_TABLE,
    INCIDENT,
    INVERSE_LAMBDA,
    LANES,
    LAYER_STEP,
    NARROW_BOUND,
    ORIGIN,
    POINT_PIXEL,
    POLAR_0,
    POLAR_1,
    POLAR_2,
    POLARIZATION,
    RAMP,
    REACH,
    SIMPLE,
    SLOW_AXIS,
    SLOW_COUNT,
    SLOW_SIZE,
    SOURCE_WEIGHT,
    STEP_X,
    STEP_Y,
    STEP_Z,
    STEPS,
    SUM,
    TOTAL,
    UNIT_X,
    UNIT_Y,
    UNIT_Z,
    Array,
    Packed,
    Scratch,
)
from nanobrag_torch.kernels.cpu.sum import sum_lattices

SERIES = (-0.5, 0.375, -0.3125, 0.2734375)
"""(1 + s)^(-1/2) - 1 over s: s times it to 8e-10 for |s| below FARTHEST."""
FARTHEST = 0.02
SHORTEST = 32
"""Shorter runs are left to blocks that several of them share."""


@stage(inline="always")
def add_run(out: Array, scratch: Scratch, scene: Packed, first: int, last: int) -> int:
    """Values of the run of pixels that begins at place `first`, into out: how many, 0 where this way is not taken.

    It takes one sample and one source a pixel, and float32 differences that will do with three times their error.
    """
    whole, box = scene.whole, scratch.box
    if not whole[SIMPLE] or whole[CUBIC] or whole[POINT_PIXEL] or scene.numbers[NARROW_BOUND] == 0:
        return 0
    pixel = scene.pixels[first] if scene.pixels.size else first
    row = pixel // whole[FAST_COUNT]
    fast, p = pixel - row * whole[FAST_COUNT], row // whole[SLOW_COUNT]
    run: int = run_length(scene.pixels, first, min(last - first, whole[FAST_COUNT] - fast, LANES))
    lanes = (run + GROUP - 1) // GROUP * GROUP
    panel = scene.panels[p]
    if run < SHORTEST or 5 * run < 4 * lanes or panel[LAYER_STEP] > 0 or not near_enough(panel):
        return 0
    slow, source = (row - p * whole[SLOW_COUNT] + 0.5) * panel[SLOW_SIZE], scene.sources[0]
    _look_at_anchors(scratch.v, scratch.w, box, lanes // GROUP, slow, fast, panel, source)
    box[BOUND] = scene.numbers[NARROW_BOUND] / 3
    if whole[HAS_TABLE]:
        spans(scratch.v, lanes, box)
    survey(scratch, scene, lanes)
    for k in range(scratch.where.size):
        if scratch.where[k] != NOTHING and not scratch.where[k] & 1:
            return 0
    _look_near(scratch.w, lanes)
    _sum_run(out[first : first + run], scratch, scene, lanes)
    return run


@stage()
def near_enough(panel: Array) -> bool:
    """Whether the series holds: half a group of pixels is short against the distance of the panel."""
    length = 0.0
    for i in range(3):
        length += panel[FAST_AXIS + i] * panel[FAST_AXIS + i]
    reach = GROUP / 2 * panel[FAST_SIZE] * np.sqrt(length)
    return bool(reach * 2.5 < FARTHEST * abs(panel[CLOSE]))


@stage(fastmath=FAST)
def _look_at_anchors(
    v: Array, w: Array, box: Array, groups: int, slow: float, fast: float, panel: Array, source: Array
) -> None:
    """q of the pixel in the middle of every group, what the series about it takes, and bounds on how far q differs.

    slow: length along the slow axis; fast: index of the first pixel.
    """
    vector_code()
    ox = panel[ORIGIN] + slow * panel[SLOW_AXIS]
    oy = panel[ORIGIN + 1] + slow * panel[SLOW_AXIS + 1]
    oz = panel[ORIGIN + 2] + slow * panel[SLOW_AXIS + 2]
    fx, fy, fz, size = panel[FAST_AXIS], panel[FAST_AXIS + 1], panel[FAST_AXIS + 2], panel[FAST_SIZE]
    ix, iy, iz, per_length = source[INCIDENT], source[INCIDENT + 1], source[INCIDENT + 2], source[INVERSE_LAMBDA]
    xx, yy, zz = source[POLARIZATION], source[POLARIZATION + 4], source[POLARIZATION + 8]
    xy = (source[POLARIZATION + 1] + source[POLARIZATION + 3]) / 2
    xz = (source[POLARIZATION + 2] + source[POLARIZATION + 6]) / 2
    yz = (source[POLARIZATION + 5] + source[POLARIZATION + 7]) / 2
    half_weight = source[SOURCE_WEIGHT] * panel[AREA] * panel[CLOSE] / 2
    first, farthest = fast + GROUP // 2 + 0.5, GROUP / 2
    far_x = far_y = far_z = 0.0 * size
    for g in range(groups):
        along = (first + GROUP * v[RAMP + g]) * size
        x, y, z = ox + along * fx, oy + along * fy, oz + along * fz
        inverse = 1 / np.sqrt(x * x + y * y + z * z)
        x, y, z, step = x * inverse, y * inverse, z * inverse, size * inverse
        v[ANCHOR_X + g], v[ANCHOR_Y + g] = (x - ix) * per_length, (y - iy) * per_length
        v[ANCHOR_Z + g] = (z - iz) * per_length
        w[UNIT_X + g], w[UNIT_Y + g], w[UNIT_Z + g] = x * per_length, y * per_length, z * per_length
        ex, ey, ez = step * fx, step * fy, step * fz
        w[STEP_X + g], w[STEP_Y + g], w[STEP_Z + g] = ex * per_length, ey * per_length, ez * per_length
        bow_1, bow_2 = 2 * (x * ex + y * ey + z * ez), ex * ex + ey * ey + ez * ez
        w[BOW_1 + g], w[BOW_2 + g] = bow_1, bow_2
        mx, my, mz = xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z
        w[POLAR_0 + g], w[POLAR_1 + g] = x * mx + y * my + z * mz, 2 * (ex * mx + ey * my + ez * mz)
        w[POLAR_2 + g] = ex * (xx * ex + 2 * (xy * ey + xz * ez)) + ey * (yy * ey + 2 * yz * ez) + zz * ez * ez
        w[COMMON + g] = half_weight * inverse * inverse * inverse
        s = farthest * (abs(bow_1) + farthest * bow_2)
        far_x = larger(farthest * abs(ex) * (1 + s) + abs(x) * s, far_x)
        far_y = larger(farthest * abs(ey) * (1 + s) + abs(y) * s, far_y)
        far_z = larger(farthest * abs(ez) * (1 + s) + abs(z) * s, far_z)
    box[REACH], box[REACH + 1], box[REACH + 2] = far_x * per_length, far_y * per_length, far_z * per_length


@stage(fastmath=FAST)
def _look_near(w: Array, lanes: int) -> None:
    """Differences of q from the anchors; FLOW: the factors; an empty SUM."""
    vector_code()
    real = w.dtype.type
    one, c1, c2, c3, c4 = real(1), real(SERIES[0]), real(SERIES[1]), real(SERIES[2]), real(SERIES[3])
    for g in range(lanes // GROUP):
        ax, ay, az, first = w[UNIT_X + g], w[UNIT_Y + g], w[UNIT_Z + g], g * GROUP
        ex, ey, ez, bow_1, bow_2 = w[STEP_X + g], w[STEP_Y + g], w[STEP_Z + g], w[BOW_1 + g], w[BOW_2 + g]
        p0, p1, p2, common = w[POLAR_0 + g], w[POLAR_1 + g], w[POLAR_2 + g], w[COMMON + g]
        for i in range(GROUP):
            j, t = first + i, w[STEPS + i]
            s = t * (bow_1 + t * bow_2)
            u = s * (c1 + s * (c2 + s * (c3 + s * c4)))
            ratio = one + u
            along, square = t * ratio, ratio * ratio
            w[DX + j], w[DY + j], w[DZ + j] = along * ex + u * ax, along * ey + u * ay, along * ez + u * az
            w[FLOW + j] = common * (one + square * (p0 + t * (p1 + t * p2))) * square * ratio
            w[SUM + j] = 0


@stage(inline="always")
def _sum_run(out: Array, scratch: Scratch, scene: Packed, lanes: int) -> None:
    """Factors times the sum over lattices, float64 above BATCH lattices, into out."""
    v, w, count = scratch.v, scratch.w, scene.lattice.shape[0]
    filled = count < 0
    if count <= BATCH:
        sum_lattices(scratch, scene, lanes, count * 0, count, filled)
        for j in range(out.size):
            out[j] = w[FLOW + j] * w[SUM + j]
        return
    for j in range(lanes):
        v[TOTAL + j] = 0.0
    for start in range(0, count, BATCH):
        filled = sum_lattices(scratch, scene, lanes, start, min(start + BATCH, count), filled)
        _move_sum(v, w, lanes)
    for j in range(out.size):
        out[j] = w[FLOW + j] * v[TOTAL + j]


@stage()
def _move_sum(v: Array, w: Array, lanes: int) -> None:
    """SUM to TOTAL."""
    for j in range(lanes):
        v[TOTAL + j] += w[SUM + j]
        w[SUM + j] = 0
