"""Values of pixels with all that their gradients need but what flows in: one pass, before the loss is known.

Kept of a pixel are, for every source of every sample, the slope of its value by q and the sum over lattices, the latter
of each wavelength of sources that share a direction, with a slope of its own (kernels.cpu.waves); and, over all steps,
the matrix M = sum of (slopes by hkl) hkl^T. Where all lattices are changed from the left by the same matrix,
d lattice_k = X lattice_k, as by the cell and by a turn before fixed rotations, a value changes by the sum of M X,
element by element, whatever the number of lattices. What the loss says is then taken through what was kept, which costs
as much as one lattice.
"""

from __future__ import annotations

from typing import Any

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.blocks import next_block
from nanobrag_torch.kernels.cpu.intrinsics import FAST, ORDERED, entry, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import NOTHING, has_phases, reflections, rows_of, terms_of
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Rows, Scratch, Terms
from nanobrag_torch.kernels.cpu.products import nine, times
from nanobrag_torch.kernels.cpu.profiles import slopes_at, slopes_of_lane
from nanobrag_torch.kernels.cpu.slopes import begin_source
from nanobrag_torch.kernels.cpu.value import add_offset, begin, sample, see_source, store, survey_source
from nanobrag_torch.kernels.cpu.waves import (
    MATRIX,
    Waves,
    add_slopes,
    add_waves,
    clear_batch,
    clear_slopes,
    end_slopes,
)

SLOPE = 3  # numbers of a pixel and direction: slope by q


@entry(title="the kernel of slopes before a loss")
def keep(
    out: Array, kept: Array, scale: float, first: int, last: int, scene: Packed, scratch: Scratch, waves: Waves
) -> None:
    """Values of the pixels at places first .. last of the list, and what is kept of them, block after block: rows of
    the pixels of each, as many as `rows_kept`.

    Slopes and matrix are multiplied by scale. One row of all pixels after the other would set a block's rows apart by
    powers of two as often as not, which compete for the same lines of the cache.
    """
    count = rows_kept(scene, waves)
    while first < last:
        used, lanes, panel = next_block(scratch, scene, first, last)
        if lanes:
            for j in range(lanes):
                scratch.v[at.UPSTREAM + j] = scale
            _keep_block(kept[first * count :], scratch, scene, lanes, panel, first, used, waves)
            store(out, scratch, lanes)
        first += used


@stage()
def rows_kept(scene: Packed, waves: Waves) -> int:
    """Numbers that are kept of a pixel."""
    steps = scene.whole[at.LAYERS] * scene.whole[at.SUBS] * scene.sources.shape[0]
    return int(MATRIX + rows_of_a_source(waves.numbers.shape[0]) * steps)


@stage()
def rows_of_a_source(waves: int) -> int:
    """Those of one sample and source: the slope by q, and of each wavelength the sum over lattices and its own slope;
    of the only one that sum alone."""
    return SLOPE + (2 * waves if waves > 1 else waves)


@stage(inline="always")
def _keep_block(
    kept: Array, scratch: Scratch, scene: Packed, lanes: int, p: int, first: int, used: int, waves: Waves
) -> None:
    """TOTAL of one block of so many pixels from place `first` on, and what is kept of it."""
    v, whole, row, several = scratch.v, scene.whole, at.FIRST + MATRIX, waves.numbers.shape[0] > 1
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
                if several:
                    add_waves(rows_of(scratch), terms_of(scene), lanes, waves)
                else:
                    _add_lattices(rows_of(scratch), terms_of(scene), lanes)
                _put_source(kept[row * used :], used, v, waves, scratch.place, lanes, first)
                row += rows_of_a_source(waves.numbers.shape[0])
    for i in range(MATRIX):
        put(kept[i * used :], v[at.MATRIX + i * at.ROW :], scratch.place, lanes, first)
    add_offset(v, lanes, scene.panels[p], scene)


@stage()
def _put_source(kept: Array, used: int, v: Array, waves: Waves, place: Array, lanes: int, first: int) -> None:
    """The rows of one sample and source."""
    put(kept, v[at.SLOPE_X :], place, lanes, first)
    put(kept[used:], v[at.SLOPE_Y :], place, lanes, first)
    put(kept[2 * used :], v[at.SLOPE_Z :], place, lanes, first)
    if waves.numbers.shape[0] == 1:
        put(kept[SLOPE * used :], v[at.STEP_SUM :], place, lanes, first)
        return
    for row in range(2 * waves.numbers.shape[0]):
        put(kept[(SLOPE + row) * used :], waves.totals[row * at.ROW :], place, lanes, first)


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
        clear_batch(w, lanes)
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
            clear_slopes(w[at.OTHER_H :], lanes)
            _add_two(w, lanes, terms.narrow[waits], terms.narrow[waits])
        _end_batch(rows.v, w, lanes)


@stage(fastmath=FAST)
def _end_batch(v: Array, w: Array, lanes: int) -> None:
    """Add sums to the float64 ones."""
    vector_code()
    for j in range(lanes):
        v[at.STEP_SUM + j] += w[at.SUM + j]
        v[at.TOTAL + j] += v[at.FACTOR + j] * w[at.SUM + j]
    end_slopes(v, w, lanes)


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
        h, k, l = times(a, w[at.QX + j], w[at.QY + j], w[at.QZ + j])
        e, f, g = times(b, w[at.QX + j], w[at.QY + j], w[at.QZ + j])
        add_slopes(w, j, a, b, (h, k, l), (e, f, g))
