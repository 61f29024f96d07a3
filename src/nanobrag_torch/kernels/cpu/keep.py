"""Values of pixels with all that their gradients need but what flows in: one pass, before the loss is known.

Kept of a pixel are, for every source of every sample, the slope of its value by q and the sum over lattices; and, over
all steps, the matrix M = sum of (slopes by hkl) hkl^T. Where all lattices are changed from the left by the same matrix,
d lattice_k = X lattice_k, as by the cell and by a turn before fixed rotations, a value changes by the sum of M X,
element by element, whatever the number of lattices. What the loss says is then taken through what was kept, which costs
as much as one lattice.
"""

from __future__ import annotations

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.adjoint import end_layer, end_pixel, end_sample, pull_source
from nanobrag_torch.kernels.cpu.blocks import next_block
from nanobrag_torch.kernels.cpu.intrinsics import FAST, ORDERED, entry, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import NOTHING, has_phases, reflections, rows_of, terms_of
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Rows, Scratch, Sums, Terms
from nanobrag_torch.kernels.cpu.products import nine, times
from nanobrag_torch.kernels.cpu.profiles import phases, slopes_of_lane
from nanobrag_torch.kernels.cpu.pull import clear_kept, clear_pull
from nanobrag_torch.kernels.cpu.slopes import begin_source, end_batch
from nanobrag_torch.kernels.cpu.value import add_offset, begin, sample, see_source, store, survey_source

KEPT = 4  # numbers of a pixel and source: slope by q, and the sum over lattices
MATRIX = 9


@entry(title="the kernel of slopes before a loss")
def keep(out: Array, kept: Array, scale: float, first: int, last: int, scene: Packed, scratch: Scratch) -> None:
    """Values of the pixels at places first .. last of the list, and what is kept of them [MATRIX + KEPT sources, n].

    Slopes and matrix are multiplied by scale.
    """
    while first < last:
        used, lanes, panel = next_block(scratch, scene, first, last)
        first += used
        if lanes:
            for j in range(lanes):
                scratch.v[at.UPSTREAM + j] = scale
            _keep_block(kept, scratch, scene, lanes, panel)
            store(out, scratch, lanes)


@stage(inline="always")
def _keep_block(kept: Array, scratch: Scratch, scene: Packed, lanes: int, p: int) -> None:
    """TOTAL of one block, and what is kept of it."""
    v, whole, row = scratch.v, scene.whole, at.FIRST + MATRIX
    begin(v, lanes, scene.panels[p], scene)
    for i in range(MATRIX):
        for j in range(lanes):
            v[at.MATRIX + i * at.ROW + j] = 0.0
    for layer in range(whole[at.LAYERS]):
        for sub in range(whole[at.SUBS]):
            sample(v, lanes, scene.panels[p], layer, sub, scene)
            for s in range(scene.sources.shape[0]):
                if see_source(scratch, scene, lanes, layer, sub, s):
                    survey_source(scratch, scene, lanes, layer * scene.sources.shape[0] + s)
                    _add_lattices(rows_of(scratch), terms_of(scene), lanes)
                    put(kept, row, v, at.SLOPE_X, scratch.place, lanes)
                    put(kept, row + 1, v, at.SLOPE_Y, scratch.place, lanes)
                    put(kept, row + 2, v, at.SLOPE_Z, scratch.place, lanes)
                    put(kept, row + 3, v, at.STEP_SUM, scratch.place, lanes)
                row += KEPT
    for i in range(MATRIX):
        put(kept, i, v, at.MATRIX + i * at.ROW, scratch.place, lanes)
    add_offset(v, lanes, scene.panels[p], scene)


@stage()
def put(kept: Array, to: int, v: Array, row: int, place: Array, lanes: int) -> None:
    """A row of lanes to the places of its pixels."""
    first = place[0]
    if place[lanes - 1] == first + lanes - 1:
        for j in range(lanes):
            kept[to, first + j] = v[row + j]
        return
    for j in range(lanes):
        if place[j] >= 0:
            kept[to, place[j]] = v[row + j]


@stage()
def _add_lattices(rows: Rows, terms: Terms, lanes: int) -> None:
    """TOTAL and STEP_SUM of the lattices of a source, SLOPE, the slope of the value by q, and MATRIX."""
    begin_source(rows.v, rows.w, lanes)
    w, count = rows.w, terms.lattice.shape[0]
    default, filled = w.dtype.type(terms.numbers[at.DEFAULT_F]), False
    for start in range(0, count, at.BATCH):
        for j in range(lanes):
            w[at.SUM + j] = w[at.GX + j] = w[at.GY + j] = w[at.GZ + j] = 0
        for i in range(MATRIX):
            for j in range(lanes):
                w[at.NARROW_MATRIX + i * at.ROW + j] = 0
        for k in range(start, min(start + at.BATCH, count)):
            if rows.where[k] == NOTHING:
                continue
            filled = reflections(rows, terms, lanes, k, default, filled, at.NO)
            if not has_phases(rows, terms, k):
                phases(w, lanes, terms.shape)
            _keep_grating(w, lanes, terms.shape, terms.narrow[k, at.LATTICE_WEIGHT], terms.narrow[k])
            _add_matrix(w, lanes, terms.narrow[k])
        end_batch(rows.v, w, lanes)
        _end_matrix(rows.v, w, lanes)


@stage(fastmath=FAST)
def _end_matrix(v: Array, w: Array, lanes: int) -> None:
    vector_code()
    for i in range(MATRIX):
        for j in range(lanes):
            v[at.MATRIX + i * at.ROW + j] += w[at.NARROW_MATRIX + i * at.ROW + j]


@stage(fastmath=ORDERED)
def _keep_grating(w: Array, lanes: int, shape: Array, weight: Array, lattice: Array) -> None:
    """What `grating_slopes` does, with the sums by q and over hkl, from PHASE rows."""
    vector_code()
    cells, bias, two, a = (shape[0], shape[4], shape[8]), shape[at.BIAS], w.dtype.type(2), nine(lattice)
    for j in range(lanes):
        product, near_h, far_h, near_k, far_k, near_l, far_l = slopes_of_lane(w, j, cells, bias)
        term = weight * (w[at.AMPLITUDE + j] * w[at.AMPLITUDE + j]) * product
        w[at.SUM + j] += term * product
        common = two * w[at.FLOW + j] * term
        x, y, z = common * near_h * far_h, common * near_k * far_k, common * near_l * far_l
        w[at.GX + j] += a[0] * x + a[3] * y + a[6] * z
        w[at.GY + j] += a[1] * x + a[4] * y + a[7] * z
        w[at.GZ + j] += a[2] * x + a[5] * y + a[8] * z
        w[at.DH + j], w[at.DK + j], w[at.DL + j] = x, y, z


@stage(fastmath=FAST)
def _add_matrix(w: Array, lanes: int, lattice: Array) -> None:
    """Slopes by hkl times hkl."""
    vector_code()
    a = nine(lattice)
    for j in range(lanes):
        h, k, l = times(a, w[at.QX + j], w[at.QY + j], w[at.QZ + j])
        x, y, z = w[at.DH + j], w[at.DK + j], w[at.DL + j]
        w[at.NARROW_MATRIX + j] += x * h
        w[at.NARROW_MATRIX + at.ROW + j] += x * k
        w[at.NARROW_MATRIX + 2 * at.ROW + j] += x * l
        w[at.NARROW_MATRIX + 3 * at.ROW + j] += y * h
        w[at.NARROW_MATRIX + 4 * at.ROW + j] += y * k
        w[at.NARROW_MATRIX + 5 * at.ROW + j] += y * l
        w[at.NARROW_MATRIX + 6 * at.ROW + j] += z * h
        w[at.NARROW_MATRIX + 7 * at.ROW + j] += z * k
        w[at.NARROW_MATRIX + 8 * at.ROW + j] += z * l


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
    while first < last:
        used, lanes, panel = next_block(scratch, scene, first, last)
        first += used
        if lanes == 0:
            continue
        for j in range(lanes):
            place = scratch.place[j]
            scratch.v[at.UPSTREAM + j] = upstream[place] if place >= 0 else 0.0
        if wants[at.WANT_LATTICE]:
            for i in range(MATRIX):
                sums.lattice[0, i] += _flow(kept, i, scratch, lanes, scale)
        if wants[at.WANT_SCATTERING] or wants[at.WANT_FACTORS]:
            _pull_block(kept, scale, scratch, scene, lanes, panel, wants, sums)


@stage(fastmath=FAST)
def _flow(kept: Array, row: int, scratch: Scratch, lanes: int, scale: float) -> float:
    """What flows through a row."""
    total = 0.0
    for j in range(lanes):
        place = max(scratch.place[j], 0)
        total += scratch.v[at.UPSTREAM + j] * kept[row, place]
    return total / scale


@stage(inline="always")
def _pull_block(
    kept: Array, scale: float, scratch: Scratch, scene: Packed, lanes: int, p: int, wants: Array, sums: Sums
) -> None:
    v, whole, row = scratch.v, scene.whole, at.FIRST + MATRIX
    begin(v, lanes, scene.panels[p], scene)
    clear_kept(v, lanes)
    for layer in range(whole[at.LAYERS]):
        for sub in range(whole[at.SUBS]):
            sample(v, lanes, scene.panels[p], layer, sub, scene)
            clear_pull(v, lanes)
            for s in range(scene.sources.shape[0]):
                if see_source(scratch, scene, lanes, layer, sub, s):
                    _take(kept, row, scale, v, scratch.place, lanes)
                    pull_source(v, lanes, scene.sources[s], sums.sources[s], whole, wants)
                row += KEPT
            end_sample(v, lanes, p, layer, sub, scene, wants, sums)
        end_layer(v, lanes, p, layer, scene, wants, sums)
    end_pixel(v, lanes, p, scene, wants, sums)


@stage(fastmath=FAST)
def _take(kept: Array, row: int, scale: float, v: Array, place: Array, lanes: int) -> None:
    """SLOPE, times UPSTREAM, and STEP_SUM of one source."""
    inverse = 1 / scale
    for j in range(lanes):
        i = max(place[j], 0)
        flow = v[at.UPSTREAM + j] * inverse
        v[at.SLOPE_X + j] = flow * kept[row, i]
        v[at.SLOPE_Y + j] = flow * kept[row + 1, i]
        v[at.SLOPE_Z + j] = flow * kept[row + 2, i]
        v[at.STEP_SUM + j] = kept[row + 3, i]
