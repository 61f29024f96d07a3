"""Which lattices can add anything to which pixels, found out before any work: stages of the compiled CPU kernel.

A spot that vanishes, as a Gaussian does, has nothing to say a few widths away. For every layer and source a block of
pixels is held against all lattices at once, and its groups of neighbours against those lattices that pass. Only groups
that a spot may touch stay in the block, and only lattices that touch one are summed.

The test is by intervals. The unit vectors to a group lie in a box about their middle, whose edges follow the detector;
so h of lattice A differs from that of the middle by at most the sum of |A e| half an edge over the wavelength, over the
edges e: one box serves all sources. The distance to the
nearest integer changes no faster than h does, whichever integer that is, so half the change less than the distance of
the middle is what every point of the group keeps away from reflections, axis by axis. Sub-pixels and lanes that only
fill up a tile are in the box. Sources that differ by little against the width of a spot are held together: q of any of
them lies about that of their middle.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.budget import spend
from nanobrag_torch.kernels.cpu.geometry import aim_within
from nanobrag_torch.kernels.cpu.intrinsics import FAST, larger, stage, vector_code
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch
from nanobrag_torch.kernels.cpu.ranks import close_ranks, set_reach
from nanobrag_torch.kernels.cpu.strength import strongest_about
from nanobrag_torch.kernels.cpu.together import take_together

TILE = 16
"""Edge of the tiles of a whole image, in pixels."""
EDGE = 4
"""Edge of the groups in it."""
SAFETY = 1.05
"""Of the bounds on how far sub-pixels reach, for what their first derivative leaves out."""


@stage()
def fill_tile(scratch: Scratch, scene: Packed, number: int) -> None:
    """Fill all lanes with a tile of the whole image, and box [LEFT] with its panel.

    Lanes beyond the edges repeat the last pixel.
    """
    slow_count, fast_count = scene.whole[at.SLOW_COUNT], scene.whole[at.FAST_COUNT]
    across, down = (fast_count + TILE - 1) // TILE, (slow_count + TILE - 1) // TILE
    panel, rest = number // (across * down), number % (across * down)
    slow, fast, lane = rest // across * TILE, rest % across * TILE, at.FIRST
    for group in range(at.GROUPS):
        for t in range(at.GROUP):
            s, f = slow + group // EDGE * EDGE + t // EDGE, fast + group % EDGE * EDGE + t % EDGE
            inside = s < slow_count and f < fast_count
            s, f = min(s, slow_count - 1), min(f, fast_count - 1)
            scratch.v[at.SLOW_INDEX + lane], scratch.v[at.FAST_INDEX + lane] = s, f
            scratch.place[lane] = (panel * slow_count + s) * fast_count + f if inside else -1
            lane += 1
    scratch.box[at.GROUPED], scratch.box[at.SQUARED], scratch.box[at.LEFT] = 1.0, 1.0, panel


@stage(inline="always")
def thin(scratch: Scratch, scene: Packed, lanes: int, p: int) -> int:
    """Keep only groups of a block that some lattice may add to, where lattices are held against tiles; lanes left."""
    if at.COMPLETE and scene.whole[at.SPARSE]:
        look_ahead(scratch, scene, lanes, p)
        return int(scratch.box[at.LEFT])
    return lanes


@stage()
def look_ahead(scratch: Scratch, scene: Packed, lanes: int, p: int) -> None:
    """Find the lattices that may add to each group of a block, for every layer and source; lanes left to box [LEFT].

    Where something is added to every pixel, all groups stay.
    """
    whole, sources, count, touched = scene.whole, scene.sources.shape[0], at.FIRST, at.FIRST
    for layer in range(whole[at.LAYERS]):
        aim_within(scratch.v, lanes, scene.panels[p], layer, 0.5, 0.5, whole, scene.numbers)
        _measure(scratch, scene, lanes, scene.panels[p])
        s = at.FIRST
        while s < sources:
            before, last = count, s + 1
            if whole[at.FADES]:
                spend(scratch, scene, lanes, p, scene.sources[s])
                count = _choose(scratch, count)
            else:
                last = take_together(scratch.box, scene, s)
                count = _find(scratch, scene, lanes // at.GROUP, count)
            for entry in range(before, count):
                touched |= scratch.groups[entry]
            for step in range(layer * sources + s, layer * sources + last):
                scratch.first[2 * step], scratch.first[2 * step + 1] = before, count
            s = last
    if not whole[at.EVERYWHERE]:
        lanes = close_ranks(scratch, lanes // at.GROUP, count, touched)
    set_reach(scratch.reach, scratch.groups, count, lanes // at.GROUP)
    scratch.box[at.LEFT] = lanes


@stage()
def _measure(scratch: Scratch, scene: Packed, lanes: int, panel: Array) -> None:
    """Middle and spans of the unit vectors to a block and to its groups, in a frame along the detector's axes."""
    v, box = scratch.v, scratch.box
    _set_frame(v, box, lanes // 2, panel)
    _project(v, lanes, box)
    _span_groups(v, lanes // at.GROUP, box)
    if scene.whole[at.OVERSAMPLE] > 1:
        _widen(v, lanes, box, panel, scene.whole[at.CURVED])
    _span_block(v, lanes // at.GROUP, box)


@stage()
def _set_frame(v: Array, box: Array, lane: int, panel: Array) -> None:
    """Unit vectors along the fast and the slow axis, as seen from the sample, and towards a lane of the block."""
    x, y, z = v[at.AIM_X + lane], v[at.AIM_Y + lane], v[at.AIM_Z + lane]
    fx, fy, fz = panel[at.FAST_AXIS], panel[at.FAST_AXIS + 1], panel[at.FAST_AXIS + 2]
    along = fx * x + fy * y + fz * z
    fx, fy, fz = fx - along * x, fy - along * y, fz - along * z
    length = np.sqrt(fx * fx + fy * fy + fz * fz)
    if length < 1e-3:  # the fast axis points at the sample: any frame is right, if not tight
        fx, fy, fz = (0.0, -z, y) if abs(x) < 0.7 else (-z, 0.0, x)
        length = np.sqrt(fx * fx + fy * fy + fz * fz)
    fx, fy, fz = fx / length, fy / length, fz / length
    frame = (fx, fy, fz, y * fz - z * fy, z * fx - x * fz, x * fy - y * fx, x, y, z)
    for i in range(9):
        box[at.FRAME + i] = frame[i]
    box[at.MIDDLE], box[at.MIDDLE + 1], box[at.MIDDLE + 2] = x, y, z


@stage(fastmath=FAST)
def _project(v: Array, lanes: int, box: Array) -> None:
    """Unit vectors less that of the middle lane, along the frame."""
    vector_code()
    x0, y0, z0 = box[at.MIDDLE], box[at.MIDDLE + 1], box[at.MIDDLE + 2]
    ax, ay, az = box[at.FRAME], box[at.FRAME + 1], box[at.FRAME + 2]
    bx, by, bz = box[at.FRAME + 3], box[at.FRAME + 4], box[at.FRAME + 5]
    cx, cy, cz = box[at.FRAME + 6], box[at.FRAME + 7], box[at.FRAME + 8]
    for j in range(lanes):
        x, y, z = v[at.AIM_X + j] - x0, v[at.AIM_Y + j] - y0, v[at.AIM_Z + j] - z0
        v[at.ALONG_1 + j] = x * ax + y * ay + z * az
        v[at.ALONG_2 + j] = x * bx + y * by + z * bz
        v[at.ALONG_3 + j] = x * cx + y * cy + z * cz


@stage(forceinline=True, fastmath=FAST)
def _range(v: Array, first: int, count: int) -> Any:
    """Middle and half range of so many numbers."""
    low, high = -v[first], v[first]
    for t in range(count):
        low, high = larger(-v[first + t], low), larger(v[first + t], high)
    return (high - low) / 2, (high + low) / 2


@stage(fastmath=FAST)
def _span_groups(v: Array, groups: int, box: Array) -> None:
    """MIDDLE rows in the frame of the block, and SPAN rows."""
    vector_code()
    for g in range(groups):
        first = g * at.GROUP
        v[at.MIDDLE_X + g], v[at.SPAN_1 + g] = _range(v, at.ALONG_1 + first, at.GROUP)
        v[at.MIDDLE_Y + g], v[at.SPAN_2 + g] = _range(v, at.ALONG_2 + first, at.GROUP)
        v[at.MIDDLE_Z + g], v[at.SPAN_3 + g] = _range(v, at.ALONG_3 + first, at.GROUP)


@stage()
def _widen(v: Array, lanes: int, box: Array, panel: Array, curved: int) -> None:
    """Let SPAN rows reach from the middles of pixels to their corners.

    A step u at a distance R turns the unit vector d by (u - d (d u)) / R; along a vector e of the frame by e u less
    (d e) (d u). For the first two d e is at most the angle that the block spans; the third is d of the middle, and all
    of it is at most that angle times u.
    """
    inverse, angle = 0.0, 0.0
    for j in range(lanes):
        inverse = max(inverse, v[at.INVERSE + j])
        angle = max(angle, abs(v[at.ALONG_1 + j]) + abs(v[at.ALONG_2 + j]) + abs(v[at.ALONG_3 + j]))
    fast, slow = panel[at.FAST_SIZE] / 2 * inverse, panel[at.SLOW_SIZE] / 2 * inverse
    angle += fast + slow
    for axis in range(3):
        e = at.FRAME + 3 * axis
        along_fast, along_slow = abs(_along(box, e, panel, at.FAST_AXIS)), abs(_along(box, e, panel, at.SLOW_AXIS))
        more = along_fast * fast + along_slow * slow if axis < 2 else 0.0
        more = 1.5 * (fast + slow) if curved else more + angle * (fast + slow)
        row = at.SPAN_1 + axis * at.GROUPS
        for g in range(lanes // at.GROUP):
            v[row + g] += more * SAFETY


@stage(forceinline=True)
def _along(box: Array, e: int, panel: Array, axis: int) -> float:
    total: float = box[e] * panel[axis] + box[e + 1] * panel[axis + 1] + box[e + 2] * panel[axis + 2]
    return total


@stage()
def _span_block(v: Array, groups: int, box: Array) -> None:
    """The block's own middle and spans, from its groups'; their middles in the laboratory."""
    middle = (box[at.MIDDLE], box[at.MIDDLE + 1], box[at.MIDDLE + 2])
    offset = (at.MIDDLE_X, at.MIDDLE_Y, at.MIDDLE_Z)
    for axis in range(3):
        low, high = np.inf, -np.inf
        for g in range(groups):
            at_middle, half = v[offset[axis] + g], v[at.SPAN_1 + axis * at.GROUPS + g]
            low, high = min(low, at_middle - half), max(high, at_middle + half)
        box[at.SPAN + axis] = (high - low) / 2
        for i in range(3):
            box[at.MIDDLE + i] += (high + low) / 2 * box[at.FRAME + 3 * axis + i]
    for g in range(groups):
        a, b, c = v[at.MIDDLE_X + g], v[at.MIDDLE_Y + g], v[at.MIDDLE_Z + g]
        for i in range(3):
            turned = a * box[at.FRAME + i] + b * box[at.FRAME + 3 + i] + c * box[at.FRAME + 6 + i]
            v[offset[i] + g] = middle[i] + turned


@stage(inline="always")
def _find(scratch: Scratch, scene: Packed, groups: int, count: int) -> int:
    """Append the lattices that may add to any group, of a layer and sources; how many entries there are then."""
    off, most = scratch.off, scene.limits[at.FARTHEST]
    _hold_lattices(off, scene.columns, scratch.box, scene.limits)
    for k in range(off.size):
        if off[k] < most:
            bits = _hold_groups(scratch.v, groups, scene.lattice[k], scratch.box, scene.limits)
            bits = _present(scratch.v, bits, scene)
            if bits:
                scratch.found[count], scratch.groups[count] = k, bits
                count += 1
    return count


@stage()
def _choose(scratch: Scratch, count: int) -> int:
    """The same for what fades: lattices that some group cannot do without."""
    for k in range(scratch.where.size):
        bits = scratch.where[k]
        if bits:
            scratch.found[count], scratch.groups[count] = k, bits
            count += 1
    return count


@stage(forceinline=True, fastmath=FAST)
def _away(h: Any, span: Any) -> Any:
    """What a coordinate that changes by at most `span` keeps away from integers, squared."""
    distance = larger(abs(h - np.rint(h)) - span, h - h)
    return distance * distance


@stage(fastmath=FAST)
def _hold_lattices(off: Array, columns: Array, box: Array, limits: Array) -> None:
    """OFF of the block for every lattice."""
    vector_code()
    inverse, share = box[at.TOGETHER + 3], box[at.SHARE]
    dx, dy, dz = box[at.APART], box[at.APART + 1], box[at.APART + 2]
    x, y, z = box[at.MIDDLE], box[at.MIDDLE + 1], box[at.MIDDLE + 2]
    x, y, z = x - box[at.TOGETHER], y - box[at.TOGETHER + 1], z - box[at.TOGETHER + 2]
    x, y, z, some = x * inverse, y * inverse, z * inverse, box[at.SPAN] * inverse
    ax, ay, az = box[at.FRAME] * some, box[at.FRAME + 1] * some, box[at.FRAME + 2] * some
    some = box[at.SPAN + 1] * inverse
    bx, by, bz = box[at.FRAME + 3] * some, box[at.FRAME + 4] * some, box[at.FRAME + 5] * some
    some = box[at.SPAN + 2] * inverse
    cx, cy, cz = box[at.FRAME + 6] * some, box[at.FRAME + 7] * some, box[at.FRAME + 8] * some
    for k in range(off.size):
        off[k] = 0.0
    for axis in range(3):
        weight, rx, ry, rz = limits[at.NEAREST + axis], columns[3 * axis], columns[3 * axis + 1], columns[3 * axis + 2]
        for k in range(off.size):
            u, v, w = rx[k], ry[k], rz[k]
            span = abs(u * ax + v * ay + w * az) + abs(u * bx + v * by + w * bz) + abs(u * cx + v * cy + w * cz)
            h = u * x + v * y + w * z
            span += (abs(h) + span) * share + abs(u) * dx + abs(v) * dy + abs(w) * dz
            off[k] += weight * _away(h, span)


@stage(fastmath=FAST)
def _hold_groups(v: Array, groups: int, a: Array, box: Array, limits: Array) -> int:
    """Which groups, as bits, may have something from a lattice."""
    vector_code()
    f, inverse, share = at.FRAME, box[at.TOGETHER + 3], box[at.SHARE]
    for g in range(groups):
        v[at.OFF + g] = 0.0
    for axis in range(3):
        here, width = at.HERE_H + axis * at.GROUPS, at.WIDTH_H + axis * at.GROUPS
        weight, ux, uy, uz = limits[at.NEAREST + axis], a[3 * axis], a[3 * axis + 1], a[3 * axis + 2]
        apart = abs(ux) * box[at.APART] + abs(uy) * box[at.APART + 1] + abs(uz) * box[at.APART + 2]
        ux, uy, uz = ux * inverse, uy * inverse, uz * inverse
        start = ux * box[at.TOGETHER] + uy * box[at.TOGETHER + 1] + uz * box[at.TOGETHER + 2]
        by_1 = abs(ux * box[f] + uy * box[f + 1] + uz * box[f + 2])
        by_2 = abs(ux * box[f + 3] + uy * box[f + 4] + uz * box[f + 5])
        by_3 = abs(ux * box[f + 6] + uy * box[f + 7] + uz * box[f + 8])
        for g in range(groups):
            h = ux * v[at.MIDDLE_X + g] + uy * v[at.MIDDLE_Y + g] + uz * v[at.MIDDLE_Z + g] - start
            span = by_1 * v[at.SPAN_1 + g] + by_2 * v[at.SPAN_2 + g] + by_3 * v[at.SPAN_3 + g]
            span += (abs(h) + span) * share + apart
            v[here + g], v[width + g] = h, span
            v[at.OFF + g] += weight * _away(h, span)
    bits, most = 0, limits[at.FARTHEST]
    for g in range(groups):
        bits |= (1 << g) if v[at.OFF + g] < most else 0
    return bits


@stage()
def _present(v: Array, bits: int, scene: Packed) -> int:
    """Which of these groups have a reflection in reach whose F is not zero, after `_hold_groups`."""
    left, g = bits, at.FIRST
    while bits >> g:
        if bits >> g & 1 and strongest_about(v, g, scene) == 0:
            left &= ~(1 << g)
        g += 1
    return left
