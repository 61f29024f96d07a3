"""Sums over the lattices of one source with the gradients by lattices, q, weights and F: stages of the adjoint."""

from __future__ import annotations

from typing import Any

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.cubic import scatter_nodes
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import INSIDE, NOTHING, has_phases, reflections
from nanobrag_torch.kernels.cpu.layout import Array, Rows, Sums, Terms
from nanobrag_torch.kernels.cpu.products import nine, plus
from nanobrag_torch.kernels.cpu.profiles import add_terms, add_values, prepare, pull_shape


@stage(fastmath=FAST)
def begin_source(v: Array, w: Array, lanes: int) -> None:
    """FLOW and q in the image's type; clear what the lattices of a source sum up."""
    vector_code()
    for j in range(lanes):
        w[at.FLOW + j] = v[at.UPSTREAM + j] * v[at.FACTOR + j]
        w[at.QX + j], w[at.QY + j], w[at.QZ + j] = v[at.X + j], v[at.Y + j], v[at.Z + j]
        v[at.STEP_SUM + j] = v[at.SLOPE_X + j] = v[at.SLOPE_Y + j] = v[at.SLOPE_Z + j] = 0.0


@stage()
def add_lattices_and_slopes(rows: Rows, terms: Terms, lanes: int, wants: Array, sums: Sums) -> None:
    """TOTAL and STEP_SUM of the lattices, and SLOPE, the gradient by q; the other gradients into sums."""
    begin_source(rows.v, rows.w, lanes)
    w, count = rows.w, terms.lattice.shape[0]
    default, filled = w.dtype.type(terms.numbers[at.DEFAULT_F]), False
    slopes = wants[at.WANT_LATTICE] > 0 or wants[at.WANT_SCATTERING] > 0
    sparse = at.COMPLETE and terms.whole[at.SPARSE] > 0
    for start in range(0, count, at.BATCH):
        for j in range(lanes):
            w[at.SUM + j] = w[at.GX + j] = w[at.GY + j] = w[at.GZ + j] = 0
        for k in range(start, min(start + at.BATCH, count)):
            if rows.where[k] == NOTHING:
                continue
            some = int(rows.until[k]) if sparse else lanes
            filled = reflections(rows, terms, some, k, default, filled, slopes)
            _add_lattice(w, some, k, terms, wants, sums, slopes, has_phases(rows, terms, k))
            if wants[at.WANT_LATTICE]:
                pull_lattice(w, some, sums.lattice[k])
            if wants[at.WANT_SCATTERING]:
                pull_q(w, some, terms.narrow[k])
            if wants[at.WANT_WEIGHTS]:
                pull_weight(w, some, sums.lattice[k])
            if wants[at.WANT_TABLE]:
                _pull_amplitudes(rows, terms, some, k, sums)
        end_batch(rows.v, w, lanes)


@stage(inline="always")
def _add_lattice(
    w: Array, lanes: int, k: int, terms: Terms, wants: Array, sums: Sums, slopes: bool, phased: bool
) -> None:
    """Value, squares and slopes of one lattice, as far as they are needed."""
    shape, profile, weight = terms.shape, terms.whole[at.PROFILE], terms.narrow[k, at.LATTICE_WEIGHT]
    if not (slopes or wants[at.WANT_WEIGHTS] or wants[at.WANT_SHAPE] or wants[at.WANT_TABLE]):
        add_values(w, lanes, shape, profile, weight, phased)
        return
    at_once = slopes and not wants[at.WANT_SHAPE]  # slopes alone come from distances in one loop
    prepare(w, lanes, shape, profile, phased or at_once)
    if wants[at.WANT_SHAPE]:
        pull_shape(w, lanes, shape, profile, weight, sums.single)
    add_terms(w, lanes, shape, profile, weight, slopes, phased or not at_once)
    if at.COMPLETE and slopes and terms.whole[at.CUBIC]:
        add_table_slopes(w, lanes, weight)


@stage(inline="always")
def _pull_amplitudes(rows: Rows, terms: Terms, lanes: int, k: int, sums: Sums) -> None:
    """Gradients by the table and by the default F."""
    weight = terms.narrow[k, at.LATTICE_WEIGHT]
    pull_table(rows.w, rows.places, lanes, rows.where[k], weight, sums.single, sums.table)
    if at.COMPLETE and terms.whole[at.CUBIC] and sums.table.size:
        scatter_nodes(rows.v, rows.w, rows.places, lanes, terms.lattice[k], terms.grid, weight, sums.table)


@stage(fastmath=FAST)
def end_batch(v: Array, w: Array, lanes: int) -> None:
    """Add them to the float64 ones."""
    vector_code()
    for j in range(lanes):
        v[at.STEP_SUM + j] += w[at.SUM + j]
        v[at.TOTAL + j] += v[at.FACTOR + j] * w[at.SUM + j]
        v[at.SLOPE_X + j] += w[at.GX + j]
        v[at.SLOPE_Y + j] += w[at.GY + j]
        v[at.SLOPE_Z + j] += w[at.GZ + j]


@stage(fastmath=FAST)
def add_table_slopes(w: Array, lanes: int, weight: Any) -> None:
    """Slopes by hkl through an interpolated F."""
    vector_code()
    two = w.dtype.type(2)
    for j in range(lanes):
        common = two * weight * w[at.FLOW + j] * w[at.AMPLITUDE + j] * w[at.SQUARE + j]
        w[at.DH + j] += common * w[at.FH + j]
        w[at.DK + j] += common * w[at.FK + j]
        w[at.DL + j] += common * w[at.FL + j]


@stage(fastmath=FAST)
def pull_lattice(w: Array, lanes: int, of_lattice: Array) -> None:
    """Gradient by the lattice: sum of (slopes by hkl) q^T."""
    vector_code()
    zero = w.dtype.type(0)
    by_a = by_b = by_c = (zero, zero, zero)
    for j in range(lanes):
        q = w[at.QX + j], w[at.QY + j], w[at.QZ + j]
        by_a, by_b, by_c = plus(by_a, w[at.DH + j], q), plus(by_b, w[at.DK + j], q), plus(by_c, w[at.DL + j], q)
    sums = (*by_a, *by_b, *by_c)
    for i in range(9):
        of_lattice[i] += sums[i]


@stage(fastmath=FAST)
def pull_q(w: Array, lanes: int, a: Array) -> None:
    """Gradient by q: lattice^T (slopes by hkl)."""
    vector_code()
    a0, a1, a2, a3, a4, a5, a6, a7, a8 = nine(a)
    for j in range(lanes):
        h, k, l = w[at.DH + j], w[at.DK + j], w[at.DL + j]
        w[at.GX + j] += a0 * h + a3 * k + a6 * l
        w[at.GY + j] += a1 * h + a4 * k + a7 * l
        w[at.GZ + j] += a2 * h + a5 * k + a8 * l


@stage(fastmath=FAST)
def pull_weight(w: Array, lanes: int, of_lattice: Array) -> None:
    """Gradient by the lattice's weight."""
    vector_code()
    total = w.dtype.type(0)
    for j in range(lanes):
        total += w[at.FLOW + j] * w[at.AMPLITUDE + j] * w[at.AMPLITUDE + j] * w[at.SQUARE + j]
    of_lattice[at.LATTICE_WEIGHT] += total


@stage()
def pull_table(w: Array, index: Array, lanes: int, where: int, weight: Any, single: Array, of_table: Array) -> None:
    """Gradients by F of the nearest reflections and by the default one; lanes marked otherwise are left out."""
    two = w.dtype.type(2)
    for j in range(lanes):
        flow = two * weight * w[at.FLOW + j] * w[at.AMPLITUDE + j] * w[at.SQUARE + j]
        i = index[j] if where >= INSIDE else -1
        if i >= 0:
            if of_table.size:
                of_table[i] += flow
        elif i == -1:
            single[at.DEFAULT_SUM] += flow
