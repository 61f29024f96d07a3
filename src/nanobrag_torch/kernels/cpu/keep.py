"""Values of pixels with all that their gradients need but what flows in: one pass, before the loss is known.

Kept of a pixel are, for every source of every sample, the slope of its value by q and the sum over lattices; and, over
all steps, the matrix M = sum of (slopes by hkl) hkl^T. Where all lattices are changed from the left by the same matrix,
d lattice_k = X lattice_k, as by the cell and by a turn before fixed rotations, a value changes by the sum of M X,
element by element, whatever the number of lattices. What the loss says is then taken through what was kept, which costs
as much as one lattice.
"""

from __future__ import annotations

from typing import Any

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.adjoint import end_layer, end_pixel, end_sample, pull_source
from nanobrag_torch.kernels.cpu.blocks import next_block
from nanobrag_torch.kernels.cpu.intrinsics import FAST, ORDERED, entry, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import NOTHING, has_phases, reflections, rows_of, terms_of
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Rows, Scratch, Sums, Terms
from nanobrag_torch.kernels.cpu.products import nine, times
from nanobrag_torch.kernels.cpu.profiles import slopes_at, slopes_of_lane
from nanobrag_torch.kernels.cpu.pull import clear_kept, clear_pull
from nanobrag_torch.kernels.cpu.slopes import begin_source
from nanobrag_torch.kernels.cpu.value import add_offset, begin, sample, see_source, store, survey_source

KEPT = 4  # numbers of a pixel and source: slope by q, and the sum over lattices
MATRIX = 9


@entry(title="the kernel of slopes before a loss")
def keep(out: Array, kept: Array, scale: float, first: int, last: int, scene: Packed, scratch: Scratch) -> None:
    """Values of the pixels at places first .. last of the list, and what is kept of them, block after block: rows of
    the pixels of each, MATRIX + KEPT steps.

    Slopes and matrix are multiplied by scale. One row of all pixels after the other would set a block's rows apart by
    powers of two as often as not, which compete for the same lines of the cache.
    """
    count = rows_kept(scene)
    while first < last:
        used, lanes, panel = next_block(scratch, scene, first, last)
        if lanes:
            for j in range(lanes):
                scratch.v[at.UPSTREAM + j] = scale
            _keep_block(kept[first * count :], scratch, scene, lanes, panel, first, used)
            store(out, scratch, lanes)
        first += used


@stage()
def rows_kept(scene: Packed) -> int:
    """Numbers that are kept of a pixel."""
    return int(MATRIX + KEPT * scene.whole[at.LAYERS] * scene.whole[at.SUBS] * scene.sources.shape[0])


@stage(inline="always")
def _keep_block(kept: Array, scratch: Scratch, scene: Packed, lanes: int, p: int, first: int, used: int) -> None:
    """TOTAL of one block of so many pixels from place `first` on, and what is kept of it."""
    v, whole, row = scratch.v, scene.whole, at.FIRST + MATRIX
    begin(v, lanes, scene.panels[p], scene)
    for i in range(MATRIX):
        for j in range(lanes):
            v[at.MATRIX + i * at.ROW + j] = 0.0
    for layer in range(whole[at.LAYERS]):
        for sub in range(whole[at.SUBS]):
            sample(v, lanes, scene.panels[p], layer, sub, scene)
            for s in range(scene.sources.shape[0]):
                see_source(scratch, scene, lanes, layer, sub, s)  # all lanes see it: there is no limit of resolution
                survey_source(scratch, scene, lanes, layer * scene.sources.shape[0] + s)
                _add_lattices(rows_of(scratch), terms_of(scene), lanes)
                put(kept[row * used :], v[at.SLOPE_X :], scratch.place, lanes, first)
                put(kept[(row + 1) * used :], v[at.SLOPE_Y :], scratch.place, lanes, first)
                put(kept[(row + 2) * used :], v[at.SLOPE_Z :], scratch.place, lanes, first)
                put(kept[(row + 3) * used :], v[at.STEP_SUM :], scratch.place, lanes, first)
                row += KEPT
    for i in range(MATRIX):
        put(kept[i * used :], v[at.MATRIX + i * at.ROW :], scratch.place, lanes, first)
    add_offset(v, lanes, scene.panels[p], scene)


@stage(fastmath=FAST)
def put(kept: Array, row: Array, place: Array, lanes: int, first: int) -> None:
    """A row of lanes to its pixels, from place `first` on."""
    vector_code()
    if place[lanes - 1] == place[0] + lanes - 1:
        for j in range(lanes):
            kept[j] = row[j]
        return
    for j in range(lanes):
        if place[j] >= 0:
            kept[place[j] - first] = row[j]


@stage()
def _add_lattices(rows: Rows, terms: Terms, lanes: int) -> None:
    """TOTAL and STEP_SUM of the lattices of a source, SLOPE, the slope of the value by q, and MATRIX.

    Slopes of two lattices are summed up together: the sums are twelve rows to load and store, which costs more than
    the products.
    """
    begin_source(rows.v, rows.w, lanes)
    w, count = rows.w, terms.lattice.shape[0]
    default, filled = w.dtype.type(terms.numbers[at.DEFAULT_F]), False
    for start in range(0, count, at.BATCH):
        _clear_batch(w, lanes)
        waits = at.FIRST - 1
        for k in range(start, min(start + at.BATCH, count)):
            if rows.where[k] == NOTHING:
                continue
            filled = reflections(rows, terms, lanes, k, default, filled, at.NO)
            first = at.ONE_H if waits < 0 else at.OTHER_H
            slopes = w[first : first + 3 * at.ROW]
            _put_slopes(w, slopes, lanes, terms.shape, terms.narrow[k, at.LATTICE_WEIGHT], has_phases(rows, terms, k))
            if waits >= 0:
                _add_two(w, lanes, terms.narrow[waits], terms.narrow[k])
            waits = k if waits < 0 else at.FIRST - 1
        if waits >= 0:
            _no_other(w, lanes)
            _add_two(w, lanes, terms.narrow[waits], terms.narrow[waits])
        _end_batch(rows.v, w, lanes)


@stage(fastmath=FAST)
def _clear_batch(w: Array, lanes: int) -> None:
    vector_code()
    for j in range(lanes):
        w[at.SUM + j] = w[at.GX + j] = w[at.GY + j] = w[at.GZ + j] = 0
    for i in range(MATRIX):
        for j in range(lanes):
            w[at.NARROW_MATRIX + i * at.ROW + j] = 0


@stage(fastmath=FAST)
def _no_other(w: Array, lanes: int) -> None:
    vector_code()
    for j in range(lanes):
        w[at.OTHER_H + j] = w[at.OTHER_K + j] = w[at.OTHER_L + j] = 0


@stage(fastmath=FAST)
def _end_batch(v: Array, w: Array, lanes: int) -> None:
    """Add sums to the float64 ones, those of half slopes times what flows in and two."""
    vector_code()
    for j in range(lanes):
        flow = 2 * v[at.UPSTREAM + j] * v[at.FACTOR + j]
        v[at.STEP_SUM + j] += w[at.SUM + j]
        v[at.TOTAL + j] += v[at.FACTOR + j] * w[at.SUM + j]
        v[at.SLOPE_X + j] += flow * w[at.GX + j]
        v[at.SLOPE_Y + j] += flow * w[at.GY + j]
        v[at.SLOPE_Z + j] += flow * w[at.GZ + j]
        v[at.MATRIX + j] += flow * w[at.NARROW_MATRIX + j]
        v[at.MATRIX + at.ROW + j] += flow * w[at.NARROW_MATRIX + at.ROW + j]
        v[at.MATRIX + 2 * at.ROW + j] += flow * w[at.NARROW_MATRIX + 2 * at.ROW + j]
        v[at.MATRIX + 3 * at.ROW + j] += flow * w[at.NARROW_MATRIX + 3 * at.ROW + j]
        v[at.MATRIX + 4 * at.ROW + j] += flow * w[at.NARROW_MATRIX + 4 * at.ROW + j]
        v[at.MATRIX + 5 * at.ROW + j] += flow * w[at.NARROW_MATRIX + 5 * at.ROW + j]
        v[at.MATRIX + 6 * at.ROW + j] += flow * w[at.NARROW_MATRIX + 6 * at.ROW + j]
        v[at.MATRIX + 7 * at.ROW + j] += flow * w[at.NARROW_MATRIX + 7 * at.ROW + j]
        v[at.MATRIX + 8 * at.ROW + j] += flow * w[at.NARROW_MATRIX + 8 * at.ROW + j]


@stage(fastmath=ORDERED)
def _put_slopes(w: Array, slopes: Array, lanes: int, shape: Array, weight: Any, phased: bool) -> None:
    """SUM, and half the slopes by hkl of weight F^2 L^2 to three rows; phased: N d is in PHASE rows.

    What flows in is left out: it is the same for all lattices. slopes: rows apart from those that are read here, which
    LLVM is told of arrays, and would have to find out of places in one.
    """
    vector_code()
    cells, bias = (shape[0], shape[4], shape[8]), shape[at.BIAS]
    if phased:
        for j in range(lanes):
            _put_lane(w, slopes, j, weight, slopes_of_lane(w, j, cells, bias))
    else:
        for j in range(lanes):
            _put_lane(w, slopes, j, weight, slopes_at(w, j, cells, bias))


@stage(forceinline=True, fastmath=ORDERED)
def _put_lane(w: Array, slopes: Array, j: int, weight: Any, product: Any) -> None:
    value, near_h, far_h, near_k, far_k, near_l, far_l = product
    term = weight * (w[at.AMPLITUDE + j] * w[at.AMPLITUDE + j]) * value
    w[at.SUM + j] += term * value
    slopes[j], slopes[at.ROW + j] = term * near_h * far_h, term * near_k * far_k
    slopes[2 * at.ROW + j] = term * near_l * far_l


@stage(fastmath=FAST)
def _add_two(w: Array, lanes: int, one: Array, other: Array) -> None:
    """Slopes by hkl of two lattices to slopes by q, and times hkl."""
    vector_code()
    a, b = nine(one), nine(other)
    for j in range(lanes):
        x, y, z = w[at.ONE_H + j], w[at.ONE_K + j], w[at.ONE_L + j]
        p, q, r = w[at.OTHER_H + j], w[at.OTHER_K + j], w[at.OTHER_L + j]
        h, k, l = times(a, w[at.QX + j], w[at.QY + j], w[at.QZ + j])
        e, f, g = times(b, w[at.QX + j], w[at.QY + j], w[at.QZ + j])
        w[at.GX + j] += a[0] * x + a[3] * y + a[6] * z + b[0] * p + b[3] * q + b[6] * r
        w[at.GY + j] += a[1] * x + a[4] * y + a[7] * z + b[1] * p + b[4] * q + b[7] * r
        w[at.GZ + j] += a[2] * x + a[5] * y + a[8] * z + b[2] * p + b[5] * q + b[8] * r
        w[at.NARROW_MATRIX + j] += x * h + p * e
        w[at.NARROW_MATRIX + at.ROW + j] += x * k + p * f
        w[at.NARROW_MATRIX + 2 * at.ROW + j] += x * l + p * g
        w[at.NARROW_MATRIX + 3 * at.ROW + j] += y * h + q * e
        w[at.NARROW_MATRIX + 4 * at.ROW + j] += y * k + q * f
        w[at.NARROW_MATRIX + 5 * at.ROW + j] += y * l + q * g
        w[at.NARROW_MATRIX + 6 * at.ROW + j] += z * h + r * e
        w[at.NARROW_MATRIX + 7 * at.ROW + j] += z * k + r * f
        w[at.NARROW_MATRIX + 8 * at.ROW + j] += z * l + r * g


@entry(title="the kernel of gradients from kept slopes")
def pull_kept(
    upstream: Array,
    kept: Array,
    scale: float,
    first: int,
    last: int,
    scene: Packed,
    scratch: Scratch,
    wants: Array,
    sums: Sums,
) -> None:
    """Add the gradients of sum(upstream * value) over the pixels at places first .. last of the list, from what `keep`
    kept; by lattices as the matrix that they are all multiplied by, in the place of the first one.

    scale: that of `keep`.
    """
    count = rows_kept(scene)
    while first < last:
        used, lanes, panel = next_block(scratch, scene, first, last)
        if lanes:
            mine, flow = kept[first * count :], scratch.v[at.UPSTREAM :]
            _see_flow(upstream, scratch, lanes)
            if wants[at.WANT_LATTICE]:
                for i in range(MATRIX):
                    sums.lattice[0, i] += _flow(mine[i * used :], flow, scratch.place, lanes, first) / scale
            if wants[at.WANT_SCATTERING] or wants[at.WANT_FACTORS]:
                _pull_block(mine, first, used, scale, scratch, scene, lanes, panel, wants, sums)
        first += used


@stage()
def _see_flow(upstream: Array, scratch: Scratch, lanes: int) -> None:
    """UPSTREAM, none in lanes that only fill up a group."""
    for j in range(lanes):
        place = scratch.place[j]
        scratch.v[at.UPSTREAM + j] = upstream[place] if place >= 0 else 0.0


@stage(fastmath=FAST)
def _flow(kept: Array, flow: Array, place: Array, lanes: int, first: int) -> float:
    """What flows through a row."""
    vector_code()
    total = 0.0
    if place[lanes - 1] == first + lanes - 1:
        for j in range(lanes):
            total += flow[j] * kept[j]
        return total
    for j in range(lanes):
        total += flow[j] * kept[max(place[j] - first, 0)]
    return total


@stage(inline="always")
def _pull_block(
    kept: Array,
    first: int,
    used: int,
    scale: float,
    scratch: Scratch,
    scene: Packed,
    lanes: int,
    p: int,
    wants: Array,
    sums: Sums,
) -> None:
    """Gradients of one block of so many pixels from place `first` on."""
    v, whole, row = scratch.v, scene.whole, at.FIRST + MATRIX
    begin(v, lanes, scene.panels[p], scene)
    clear_kept(v, lanes)
    for layer in range(whole[at.LAYERS]):
        for sub in range(whole[at.SUBS]):
            sample(v, lanes, scene.panels[p], layer, sub, scene)
            clear_pull(v, lanes)
            for s in range(scene.sources.shape[0]):
                if see_source(scratch, scene, lanes, layer, sub, s):
                    _take(kept[row * used :], used, scale, v, scratch.place, lanes, first)
                    pull_source(v, lanes, scene.sources[s], sums.sources[s], whole, wants)
                row += KEPT
            end_sample(v, lanes, p, layer, sub, scene, wants, sums)
        end_layer(v, lanes, p, layer, scene, wants, sums)
    end_pixel(v, lanes, p, scene, wants, sums)


@stage(fastmath=FAST)
def _take(kept: Array, used: int, scale: float, v: Array, place: Array, lanes: int, first: int) -> None:
    """SLOPE, times UPSTREAM, and STEP_SUM of one source."""
    vector_code()
    inverse = 1 / scale
    xs, ys, zs, sums = kept, kept[used:], kept[2 * used :], kept[3 * used :]
    if place[lanes - 1] == first + lanes - 1:
        for j in range(lanes):
            flow = v[at.UPSTREAM + j] * inverse
            v[at.SLOPE_X + j] = flow * xs[j]
            v[at.SLOPE_Y + j] = flow * ys[j]
            v[at.SLOPE_Z + j] = flow * zs[j]
            v[at.STEP_SUM + j] = sums[j]
        return
    for j in range(lanes):
        i = max(place[j] - first, 0)
        flow = v[at.UPSTREAM + j] * inverse
        v[at.SLOPE_X + j], v[at.SLOPE_Y + j], v[at.SLOPE_Z + j] = flow * xs[i], flow * ys[i], flow * zs[i]
        v[at.STEP_SUM + j] = sums[i]
