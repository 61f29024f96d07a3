"""Pixels of a row by series about float64 anchors, the quick way for few steps a pixel (stages of the CPU kernel).

The unit vector to a pixel t steps e from an anchor with unit vector a (lengths in units of the anchor's distance) is
(a + t e) (1 + s)^(-1/2) with s = t (2 a e + t e e). So it differs from a by t r e + u a, where u is a short series in s
and r = 1 + u; and the form d M d of the polarization is r^2 times a parabola in t. What depends on the group alone is
formed once, in float64; what is left costs a lane two dozen operations in float32, a fifth of the time that unit
vectors in float64 take.
"""

from __future__ import annotations

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.blocks import run_length
from nanobrag_torch.kernels.cpu.geometry import spans
from nanobrag_torch.kernels.cpu.intrinsics import FAST, larger, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import NARROW, NOTHING, rows_of, survey, terms_of
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch
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
    if not whole[at.SIMPLE] or whole[at.SPARSE] or whole[at.CUBIC] or whole[at.POINT_PIXEL]:
        return 0
    if scene.numbers[at.NARROW_BOUND] == 0:
        return 0
    pixel = scene.pixels[first] if scene.pixels.size else first
    row = pixel // whole[at.FAST_COUNT]
    fast, p = pixel - row * whole[at.FAST_COUNT], row // whole[at.SLOW_COUNT]
    run: int = run_length(scene.pixels, first, min(last - first, whole[at.FAST_COUNT] - fast, at.LANES))
    lanes = (run + at.GROUP - 1) // at.GROUP * at.GROUP
    panel = scene.panels[p]
    if run < SHORTEST or 5 * run < 4 * lanes or panel[at.LAYER_STEP] > 0 or not near_enough(panel):
        return 0
    slow, source = (row - p * whole[at.SLOW_COUNT] + 0.5) * panel[at.SLOW_SIZE], scene.sources[0]
    _look_at_anchors(scratch.v, scratch.w, box, lanes // at.GROUP, slow, fast, panel, source)
    box[at.BOUND] = scene.numbers[at.NARROW_BOUND] / 3
    if whole[at.HAS_TABLE]:
        spans(scratch.v, lanes, box)
    survey(rows_of(scratch), terms_of(scene), lanes, at.FIRST)
    for k in range(scratch.where.size):
        if scratch.where[k] != NOTHING and not scratch.where[k] & NARROW:
            return 0
    _look_near(scratch.w, lanes)
    _sum_run(out[first : first + run], scratch, scene, lanes)
    return run


@stage()
def near_enough(panel: Array) -> bool:
    """Whether the series holds: half a group of pixels is short against the distance of the panel."""
    length = 0.0
    for i in range(3):
        length += panel[at.FAST_AXIS + i] * panel[at.FAST_AXIS + i]
    reach = at.GROUP / 2 * panel[at.FAST_SIZE] * np.sqrt(length)
    return bool(reach * 2.5 < FARTHEST * abs(panel[at.CLOSE]))


@stage(fastmath=FAST)
def _look_at_anchors(
    v: Array, w: Array, box: Array, groups: int, slow: float, fast: float, panel: Array, source: Array
) -> None:
    """q of the pixel in the middle of every group, what the series about it takes, and bounds on how far q differs.

    slow: length along the slow axis; fast: index of the first pixel.
    """
    vector_code()
    ox = panel[at.ORIGIN] + slow * panel[at.SLOW_AXIS]
    oy = panel[at.ORIGIN + 1] + slow * panel[at.SLOW_AXIS + 1]
    oz = panel[at.ORIGIN + 2] + slow * panel[at.SLOW_AXIS + 2]
    fx, fy, fz, size = panel[at.FAST_AXIS], panel[at.FAST_AXIS + 1], panel[at.FAST_AXIS + 2], panel[at.FAST_SIZE]
    ix, iy, iz, per_length = (
        source[at.INCIDENT],
        source[at.INCIDENT + 1],
        source[at.INCIDENT + 2],
        source[at.INVERSE_LAMBDA],
    )
    xx, yy, zz = source[at.POLARIZATION], source[at.POLARIZATION + 4], source[at.POLARIZATION + 8]
    xy = (source[at.POLARIZATION + 1] + source[at.POLARIZATION + 3]) / 2
    xz = (source[at.POLARIZATION + 2] + source[at.POLARIZATION + 6]) / 2
    yz = (source[at.POLARIZATION + 5] + source[at.POLARIZATION + 7]) / 2
    half_weight = source[at.SOURCE_WEIGHT] * panel[at.AREA] * panel[at.CLOSE] / 2
    first, farthest = fast + at.GROUP // 2 + 0.5, at.GROUP / 2
    far_x = far_y = far_z = 0.0 * size
    for g in range(groups):
        along = (first + at.GROUP * v[at.RAMP + g]) * size
        x, y, z = ox + along * fx, oy + along * fy, oz + along * fz
        inverse = 1 / np.sqrt(x * x + y * y + z * z)
        x, y, z, step = x * inverse, y * inverse, z * inverse, size * inverse
        v[at.ANCHOR_X + g], v[at.ANCHOR_Y + g] = (x - ix) * per_length, (y - iy) * per_length
        v[at.ANCHOR_Z + g] = (z - iz) * per_length
        w[at.UNIT_X + g], w[at.UNIT_Y + g], w[at.UNIT_Z + g] = x * per_length, y * per_length, z * per_length
        ex, ey, ez = step * fx, step * fy, step * fz
        w[at.STEP_X + g], w[at.STEP_Y + g], w[at.STEP_Z + g] = ex * per_length, ey * per_length, ez * per_length
        bow_1, bow_2 = 2 * (x * ex + y * ey + z * ez), ex * ex + ey * ey + ez * ez
        w[at.BOW_1 + g], w[at.BOW_2 + g] = bow_1, bow_2
        mx, my, mz = xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z
        w[at.POLAR_0 + g], w[at.POLAR_1 + g] = x * mx + y * my + z * mz, 2 * (ex * mx + ey * my + ez * mz)
        w[at.POLAR_2 + g] = ex * (xx * ex + 2 * (xy * ey + xz * ez)) + ey * (yy * ey + 2 * yz * ez) + zz * ez * ez
        w[at.COMMON + g] = half_weight * inverse * inverse * inverse
        s = farthest * (abs(bow_1) + farthest * bow_2)
        far_x = larger(farthest * abs(ex) * (1 + s) + abs(x) * s, far_x)
        far_y = larger(farthest * abs(ey) * (1 + s) + abs(y) * s, far_y)
        far_z = larger(farthest * abs(ez) * (1 + s) + abs(z) * s, far_z)
    box[at.REACH], box[at.REACH + 1], box[at.REACH + 2] = far_x * per_length, far_y * per_length, far_z * per_length


@stage(fastmath=FAST)
def _look_near(w: Array, lanes: int) -> None:
    """Differences of q from the anchors; FLOW: the factors; an empty SUM."""
    vector_code()
    real = w.dtype.type
    one, c1, c2, c3, c4 = real(1), real(SERIES[0]), real(SERIES[1]), real(SERIES[2]), real(SERIES[3])
    for g in range(lanes // at.GROUP):
        ax, ay, az, first = w[at.UNIT_X + g], w[at.UNIT_Y + g], w[at.UNIT_Z + g], g * at.GROUP
        ex, ey, ez, bow_1, bow_2 = (
            w[at.STEP_X + g],
            w[at.STEP_Y + g],
            w[at.STEP_Z + g],
            w[at.BOW_1 + g],
            w[at.BOW_2 + g],
        )
        p0, p1, p2, common = w[at.POLAR_0 + g], w[at.POLAR_1 + g], w[at.POLAR_2 + g], w[at.COMMON + g]
        for i in range(at.GROUP):
            j, t = first + i, w[at.STEPS + i]
            s = t * (bow_1 + t * bow_2)
            u = s * (c1 + s * (c2 + s * (c3 + s * c4)))
            ratio = one + u
            along, square = t * ratio, ratio * ratio
            w[at.DX + j], w[at.DY + j], w[at.DZ + j] = along * ex + u * ax, along * ey + u * ay, along * ez + u * az
            w[at.FLOW + j] = common * (one + square * (p0 + t * (p1 + t * p2))) * square * ratio
            w[at.SUM + j] = 0


@stage(inline="always")
def _sum_run(out: Array, scratch: Scratch, scene: Packed, lanes: int) -> None:
    """Factors times the sum over lattices, float64 above BATCH lattices, into out."""
    v, w, count = scratch.v, scratch.w, scene.lattice.shape[0]
    filled = at.NO
    if count <= at.BATCH:
        sum_lattices(rows_of(scratch), terms_of(scene), lanes, at.FIRST, count, filled)
        for j in range(out.size):
            out[j] = w[at.FLOW + j] * w[at.SUM + j]
        return
    for j in range(lanes):
        v[at.TOTAL + j] = 0.0
    for start in range(0, count, at.BATCH):
        filled = sum_lattices(rows_of(scratch), terms_of(scene), lanes, start, min(start + at.BATCH, count), filled)
        _move_sum(v, w, lanes)
    for j in range(out.size):
        out[j] = w[at.FLOW + j] * v[at.TOTAL + j]


@stage()
def _move_sum(v: Array, w: Array, lanes: int) -> None:
    """SUM to TOTAL."""
    for j in range(lanes):
        v[at.TOTAL + j] += w[at.SUM + j]
        w[at.SUM + j] = 0
