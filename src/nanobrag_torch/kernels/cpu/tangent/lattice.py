"""Sums over the lattices of one source with the gradients of every lane: stages of the tangents of the CPU kernel."""

from __future__ import annotations

from typing import Any

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.cubic import interpolate
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import INSIDE, NOTHING, has_phases, reflections
from nanobrag_torch.kernels.cpu.layout import Array, Rows, Terms
from nanobrag_torch.kernels.cpu.products import add_times, nine, times
from nanobrag_torch.kernels.cpu.profiles import GRATING, add_terms, by_form, grating_cells, prepare
from nanobrag_torch.kernels.cpu.slopes import add_table_slopes, pull_q
from nanobrag_torch.kernels.cpu.tangent import layout as rows
from nanobrag_torch.kernels.cpu.tangent.layout import Tally, Ways


@stage(fastmath=FAST)
def begin_slopes(v: Array, w: Array, lanes: int) -> None:
    """q in the image's type, no factor yet; clear what the lattices of a source sum up."""
    vector_code()
    one = w.dtype.type(1)
    for j in range(lanes):
        w[at.FLOW + j] = one
        w[at.QX + j], w[at.QY + j], w[at.QZ + j] = v[at.X + j], v[at.Y + j], v[at.Z + j]
        v[at.STEP_SUM + j] = v[at.SLOPE_X + j] = v[at.SLOPE_Y + j] = v[at.SLOPE_Z + j] = 0.0


@stage()
def push_lattices(room: Rows, terms: Terms, lanes: int, ways: Ways, tally: Tally) -> None:
    """STEP_SUM of the lattices; FACTOR times gradients by q into SLOPE, and by the rest into COMMON and slopes."""
    v, w, count, moves = room.v, room.w, terms.lattice.shape[0], ways.moves
    begin_slopes(v, w, lanes)
    default, filled, slopes = w.dtype.type(terms.numbers[at.DEFAULT_F]), False, moves[rows.SLOPES] > 0
    shared = moves[rows.LATTICES] > 0 or moves[rows.SHAPES] > 0 or moves[rows.DEFAULTS] > 0
    for start in range(0, count, at.BATCH):
        _clear_batch(w, lanes, shared, ways.owner.size)
        for k in range(start, min(start + at.BATCH, count)):
            if room.where[k] == NOTHING:
                continue
            filled = reflections(room, terms, lanes, k, default, filled, slopes)
            _add_lattice(w, lanes, k, terms, moves, has_phases(room, terms, k))
            if moves[rows.SCATTERING]:
                pull_q(w, lanes, terms.narrow[k])
            if moves[rows.LATTICES]:
                _by_lattice(w, lanes, terms.narrow[k])
            if moves[rows.DEFAULTS]:
                _by_default(w, room.places, lanes, room.where[k], terms.narrow[k, at.LATTICE_WEIGHT])
            for g in range(ways.lattice.shape[1]):
                _along(w, w[rows.LOOSE + g * at.ROW :], lanes, ways.lattice[k, g])
            if ways.tables.shape[0] and room.where[k] >= INSIDE:
                _along_tables(room, terms, lanes, k, ways)
                filled = False
        _end_batch(v, w, lanes)
        if shared:
            for i in range(rows.BATCH_ROWS):
                _add_row(v[at.FACTOR :], w[rows.IN_BATCH + i * at.ROW :], v[rows.COMMON + i * at.ROW :], lanes)
        for i in range(ways.owner.size):
            _add_row(v[at.FACTOR :], w[rows.LOOSE + i * at.ROW :], tally.slopes[ways.owner[i] * at.ROW :], lanes)


@stage()
def _clear_batch(w: Array, lanes: int, shared: bool, loose: int) -> None:
    for j in range(lanes):
        w[at.SUM + j] = w[at.GX + j] = w[at.GY + j] = w[at.GZ + j] = 0
    if shared:
        w[rows.IN_BATCH : rows.IN_BATCH + rows.BATCH_ROWS * at.ROW] = 0
    w[rows.LOOSE : rows.LOOSE + loose * at.ROW] = 0


@stage(fastmath=FAST)
def _end_batch(v: Array, w: Array, lanes: int) -> None:
    """Add the sums of a batch to the float64 ones."""
    vector_code()
    for j in range(lanes):
        v[at.STEP_SUM + j] += w[at.SUM + j]
    for axis in range(3):
        _add_row(v[at.FACTOR :], w[at.GX + axis * at.ROW :], v[at.SLOPE_X + axis * at.ROW :], lanes)


@stage(fastmath=FAST)
def _add_row(factor: Array, row: Array, total: Array, lanes: int) -> None:
    vector_code()
    for j in range(lanes):
        total[j] += factor[j] * row[j]


@stage()
def _add_lattice(w: Array, lanes: int, k: int, terms: Terms, moves: Array, phased: bool) -> None:
    """Value of one lattice, and its gradients by shape and hkl as far as they are needed."""
    shape, profile, weight = terms.shape, terms.whole[at.PROFILE], terms.narrow[k, at.LATTICE_WEIGHT]
    at_once = moves[rows.SLOPES] > 0 and not moves[rows.SHAPES]  # slopes alone come from distances in one loop
    prepare(w, lanes, shape, profile, phased or at_once)
    if moves[rows.SHAPES] and profile == GRATING:
        grating_cells(w, lanes, shape, weight)
        _by_cells(w, lanes)
    elif moves[rows.SHAPES]:
        _by_form(w, lanes, weight)
    add_terms(w, lanes, shape, profile, weight, moves[rows.SLOPES] > 0, phased or not at_once)
    if moves[rows.SLOPES] and terms.whole[at.CUBIC]:
        add_table_slopes(w, lanes, weight)


@stage(fastmath=FAST)
def _by_cells(w: Array, lanes: int) -> None:
    """By the numbers of cells, as hh, kk, ll of a form."""
    vector_code()
    two, first = w.dtype.type(2), rows.IN_BATCH + rows.BY_SHAPE * at.ROW
    for j in range(lanes):
        w[first + j] += two * w[at.BY_A + j]
        w[first + 3 * at.ROW + j] += two * w[at.BY_B + j]
        w[first + 5 * at.ROW + j] += two * w[at.BY_C + j]


@stage(fastmath=FAST)
def _by_form(w: Array, lanes: int, weight: Any) -> None:
    """By the matrix of the quadratic form."""
    vector_code()
    first = rows.IN_BATCH + rows.BY_SHAPE * at.ROW
    for j in range(lanes):
        hh, hk, hl, kk, kl, ll = by_form(w, j, weight)
        w[first + j] += hh
        w[first + at.ROW + j] += hk
        w[first + 2 * at.ROW + j] += hl
        w[first + 3 * at.ROW + j] += kk
        w[first + 4 * at.ROW + j] += kl
        w[first + 5 * at.ROW + j] += ll


@stage(fastmath=FAST)
def _by_lattice(w: Array, lanes: int, a: Array) -> None:
    """By a matrix B that moves every lattice A to (1 + B) A: slopes by hkl times hkl."""
    vector_code()
    m = nine(a)
    for j in range(lanes):
        hkl = times(m, w[at.QX + j], w[at.QY + j], w[at.QZ + j])
        add_times(w, rows.IN_BATCH + j, w[at.DH + j], hkl)
        add_times(w, rows.IN_BATCH + 3 * at.ROW + j, w[at.DK + j], hkl)
        add_times(w, rows.IN_BATCH + 6 * at.ROW + j, w[at.DL + j], hkl)


@stage()
def _by_default(w: Array, index: Array, lanes: int, where: int, weight: Any) -> None:
    """By the default F, in the lanes whose reflection has it."""
    two, row = w.dtype.type(2), rows.IN_BATCH + rows.BY_DEFAULT * at.ROW
    for j in range(lanes):
        if where < INSIDE or index[j] == -1:
            w[row + j] += two * weight * w[at.AMPLITUDE + j] * w[at.SQUARE + j]


@stage(fastmath=FAST)
def _along(w: Array, row: Array, lanes: int, a: Array) -> None:
    """Slope of one lattice along one direction of its matrix and weight."""
    vector_code()
    m, weight = nine(a), a[at.LATTICE_WEIGHT]
    for j in range(lanes):
        by_h, by_k, by_l = times(m, w[at.QX + j], w[at.QY + j], w[at.QZ + j])
        own = weight * (w[at.AMPLITUDE + j] * w[at.AMPLITUDE + j]) * w[at.SQUARE + j]
        row[j] += w[at.DH + j] * by_h + w[at.DK + j] * by_k + w[at.DL + j] * by_l + own


@stage()
def _along_tables(room: Rows, terms: Terms, lanes: int, k: int, ways: Ways) -> None:
    """Slopes of one lattice along directions of the structure factors; leaves one of them in AMPLITUDE."""
    v, w, index = room.v, room.w, room.places
    two, weight = w.dtype.type(2), terms.narrow[k, at.LATTICE_WEIGHT]
    for j in range(lanes):
        w[rows.LOOSE_FLOW + j] = two * weight * w[at.AMPLITUDE + j] * w[at.SQUARE + j]
    for h in range(ways.tables.shape[0]):
        table = ways.tables[h]
        for j in range(lanes):
            w[at.AMPLITUDE + j] = table[index[j]] if index[j] >= 0 else 0
        if terms.whole[at.CUBIC]:
            interpolate(v, w, index, lanes, terms.lattice[k], terms.grid, table, at.NO)
        row = rows.LOOSE + (ways.lattice.shape[1] + h) * at.ROW
        for j in range(lanes):
            w[row + j] += w[rows.LOOSE_FLOW + j] * w[at.AMPLITUDE + j]
