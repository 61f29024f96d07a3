"""Sums over the lattices of one source with the gradients of every lane: stages of the tangents of the CPU kernel."""

from __future__ import annotations

from typing import Any

from nanobrag_torch.kernels.cpu.cubic import interpolate
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import INSIDE, NOTHING, reflections
from nanobrag_torch.kernels.cpu.layout import (
    AMPLITUDE,
    BATCH,
    BEND,
    BY_A,
    BY_B,
    BY_C,
    CUBIC,
    DEFAULT_F,
    DH,
    DK,
    DL,
    FACTOR,
    FLOW,
    GX,
    GY,
    GZ,
    LATTICE_WEIGHT,
    PHASED,
    PROFILE,
    QX,
    QY,
    QZ,
    ROW,
    SLOPE_X,
    SLOPE_Y,
    SLOPE_Z,
    SQUARE,
    STEP_SUM,
    SUM,
    Array,
    Packed,
    Scratch,
    X,
    Y,
    Z,
)
from nanobrag_torch.kernels.cpu.profiles import (
    GRATING,
    add_squares,
    form_slopes,
    form_squares,
    grating_cells,
    grating_slopes,
    grating_squares,
    phases,
)
from nanobrag_torch.kernels.cpu.slopes import add_table_slopes, pull_q
from nanobrag_torch.kernels.cpu.tangent.layout import (
    BATCH_ROWS,
    BY_DEFAULT,
    BY_SHAPE,
    COMMON,
    DEFAULTS,
    IN_BATCH,
    LATTICES,
    LOOSE,
    LOOSE_FLOW,
    SCATTERING,
    SHAPES,
    SLOPES,
    Tally,
    Ways,
)


@stage(fastmath=FAST)
def begin_slopes(v: Array, w: Array, lanes: int) -> None:
    """q in the image's type, no factor yet; clear what the lattices of a source sum up."""
    vector_code()
    one = w.dtype.type(1)
    for j in range(lanes):
        w[FLOW + j] = one
        w[QX + j], w[QY + j], w[QZ + j] = v[X + j], v[Y + j], v[Z + j]
        v[STEP_SUM + j] = v[SLOPE_X + j] = v[SLOPE_Y + j] = v[SLOPE_Z + j] = 0.0


@stage()
def push_lattices(scratch: Scratch, scene: Packed, lanes: int, ways: Ways, tally: Tally) -> None:
    """STEP_SUM of the lattices; FACTOR times gradients by q into SLOPE, and by the rest into COMMON and slopes."""
    v, w, count, moves = scratch.v, scratch.w, scene.lattice.shape[0], ways.moves
    default, filled, slopes = w.dtype.type(scene.numbers[DEFAULT_F]), False, moves[SLOPES] > 0
    shared = moves[LATTICES] > 0 or moves[SHAPES] > 0 or moves[DEFAULTS] > 0
    for start in range(0, count, BATCH):
        _clear_batch(w, lanes, shared, ways.owner.size)
        for k in range(start, min(start + BATCH, count)):
            if scratch.where[k] == NOTHING:
                continue
            filled = reflections(scratch, scene, lanes, k, default, filled)
            if scene.whole[CUBIC]:
                interpolate(v, w, scratch.places, lanes, scene.lattice[k], scene.grid, scene.table, slopes)
            phased = scene.numbers[PHASED] > 0 and scratch.where[k] & 1 == 0
            _add_lattice(w, lanes, k, scene, moves, phased)
            if moves[SCATTERING]:
                pull_q(w, lanes, scene.narrow[k])
            if moves[LATTICES]:
                _by_lattice(w, lanes, scene.narrow[k])
            if moves[DEFAULTS]:
                _by_default(w, scratch.places, lanes, scratch.where[k], scene.narrow[k, LATTICE_WEIGHT])
            for g in range(ways.lattice.shape[1]):
                _along(w, w[LOOSE + g * ROW :], lanes, ways.lattice[k, g])
            if ways.tables.shape[0] and scratch.where[k] >= INSIDE:
                _along_tables(scratch, scene, lanes, k, ways)
                filled = False
        _end_batch(v, w, lanes)
        if shared:
            for i in range(BATCH_ROWS):
                _add_row(v[FACTOR:], w[IN_BATCH + i * ROW :], v[COMMON + i * ROW :], lanes)
        for i in range(ways.owner.size):
            _add_row(v[FACTOR:], w[LOOSE + i * ROW :], tally.slopes[ways.owner[i] * ROW :], lanes)


@stage()
def _clear_batch(w: Array, lanes: int, shared: bool, loose: int) -> None:
    for j in range(lanes):
        w[SUM + j] = w[GX + j] = w[GY + j] = w[GZ + j] = 0
    if shared:
        w[IN_BATCH : IN_BATCH + BATCH_ROWS * ROW] = 0
    w[LOOSE : LOOSE + loose * ROW] = 0


@stage(fastmath=FAST)
def _end_batch(v: Array, w: Array, lanes: int) -> None:
    """Add the sums of a batch to the float64 ones."""
    vector_code()
    for j in range(lanes):
        v[STEP_SUM + j] += w[SUM + j]
        v[SLOPE_X + j] += v[FACTOR + j] * w[GX + j]
        v[SLOPE_Y + j] += v[FACTOR + j] * w[GY + j]
        v[SLOPE_Z + j] += v[FACTOR + j] * w[GZ + j]


@stage(fastmath=FAST)
def _add_row(factor: Array, row: Array, total: Array, lanes: int) -> None:
    vector_code()
    for j in range(lanes):
        total[j] += factor[j] * row[j]


@stage()
def _add_lattice(w: Array, lanes: int, k: int, scene: Packed, moves: Array, phased: bool) -> None:
    """Value of one lattice, and its gradients by shape and hkl as far as they are needed."""
    shape, profile, weight = scene.shape, scene.whole[PROFILE], scene.narrow[k, LATTICE_WEIGHT]
    if profile == GRATING:
        if not phased:
            phases(w, lanes, shape)
        if moves[SHAPES]:
            grating_cells(w, lanes, shape, weight)
            _by_cells(w, lanes)
        if moves[SLOPES]:
            grating_slopes(w, lanes, shape, weight)
        else:
            grating_squares(w, lanes, shape)
            add_squares(w, lanes, weight)
    else:
        form_squares(w, lanes, shape, profile)
        add_squares(w, lanes, weight)
        if moves[SHAPES]:
            _by_form(w, lanes, weight)
        if moves[SLOPES]:
            form_slopes(w, lanes, shape, weight)
    if moves[SLOPES] and scene.whole[CUBIC]:
        add_table_slopes(w, lanes, weight)


@stage(fastmath=FAST)
def _by_cells(w: Array, lanes: int) -> None:
    """By the numbers of cells, as hh, kk, ll of a form."""
    vector_code()
    two, first = w.dtype.type(2), IN_BATCH + BY_SHAPE * ROW
    for j in range(lanes):
        w[first + j] += two * w[BY_A + j]
        w[first + 3 * ROW + j] += two * w[BY_B + j]
        w[first + 5 * ROW + j] += two * w[BY_C + j]


@stage(fastmath=FAST)
def _by_form(w: Array, lanes: int, weight: Any) -> None:
    """By the matrix of the quadratic form: hh, hk, hl, kk, kl, ll."""
    vector_code()
    first = IN_BATCH + BY_SHAPE * ROW
    for j in range(lanes):
        h, k, l = w[DH + j], w[DK + j], w[DL + j]
        common = weight * (w[AMPLITUDE + j] * w[AMPLITUDE + j]) * w[BEND + j]
        ch, ck, cl = common * h, common * k, common * l
        w[first + j] += ch * h
        w[first + ROW + j] += ch * k
        w[first + 2 * ROW + j] += ch * l
        w[first + 3 * ROW + j] += ck * k
        w[first + 4 * ROW + j] += ck * l
        w[first + 5 * ROW + j] += cl * l


@stage(fastmath=FAST)
def _by_lattice(w: Array, lanes: int, a: Array) -> None:
    """By a matrix B that moves every lattice A to (1 + B) A: slopes by hkl times hkl."""
    vector_code()
    a0, a1, a2, a3, a4, a5, a6, a7, a8 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]
    for j in range(lanes):
        x, y, z = w[QX + j], w[QY + j], w[QZ + j]
        h, k, l = a0 * x + a1 * y + a2 * z, a3 * x + a4 * y + a5 * z, a6 * x + a7 * y + a8 * z
        gh, gk, gl = w[DH + j], w[DK + j], w[DL + j]
        w[IN_BATCH + j] += gh * h
        w[IN_BATCH + ROW + j] += gh * k
        w[IN_BATCH + 2 * ROW + j] += gh * l
        w[IN_BATCH + 3 * ROW + j] += gk * h
        w[IN_BATCH + 4 * ROW + j] += gk * k
        w[IN_BATCH + 5 * ROW + j] += gk * l
        w[IN_BATCH + 6 * ROW + j] += gl * h
        w[IN_BATCH + 7 * ROW + j] += gl * k
        w[IN_BATCH + 8 * ROW + j] += gl * l


@stage()
def _by_default(w: Array, index: Array, lanes: int, where: int, weight: Any) -> None:
    """By the default F, in the lanes whose reflection has it."""
    two, row = w.dtype.type(2), IN_BATCH + BY_DEFAULT * ROW
    for j in range(lanes):
        if where < INSIDE or index[j] == -1:
            w[row + j] += two * weight * w[AMPLITUDE + j] * w[SQUARE + j]


@stage(fastmath=FAST)
def _along(w: Array, row: Array, lanes: int, a: Array) -> None:
    """Slope of one lattice along one direction of its matrix and weight."""
    vector_code()
    a0, a1, a2, a3, a4, a5, a6, a7, a8 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]
    weight = a[LATTICE_WEIGHT]
    for j in range(lanes):
        x, y, z = w[QX + j], w[QY + j], w[QZ + j]
        by_h, by_k, by_l = a0 * x + a1 * y + a2 * z, a3 * x + a4 * y + a5 * z, a6 * x + a7 * y + a8 * z
        own = weight * (w[AMPLITUDE + j] * w[AMPLITUDE + j]) * w[SQUARE + j]
        row[j] += w[DH + j] * by_h + w[DK + j] * by_k + w[DL + j] * by_l + own


@stage()
def _along_tables(scratch: Scratch, scene: Packed, lanes: int, k: int, ways: Ways) -> None:
    """Slopes of one lattice along directions of the structure factors; leaves one of them in AMPLITUDE."""
    v, w, index, never = scratch.v, scratch.w, scratch.places, k < 0
    two, weight = w.dtype.type(2), scene.narrow[k, LATTICE_WEIGHT]
    for j in range(lanes):
        w[LOOSE_FLOW + j] = two * weight * w[AMPLITUDE + j] * w[SQUARE + j]
    for h in range(ways.tables.shape[0]):
        table = ways.tables[h]
        for j in range(lanes):
            w[AMPLITUDE + j] = table[index[j]] if index[j] >= 0 else 0
        if scene.whole[CUBIC]:
            interpolate(v, w, index, lanes, scene.lattice[k], scene.grid, table, never)
        row = LOOSE + (ways.lattice.shape[1] + h) * ROW
        for j in range(lanes):
            w[row + j] += w[LOOSE_FLOW + j] * w[AMPLITUDE + j]
