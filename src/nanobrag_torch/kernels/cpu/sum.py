"""Sums over the lattices of one source: stages of the compiled CPU kernel."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import NOTHING, has_phases, reflections, rows_of, terms_of
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Rows, Scratch, Terms
from nanobrag_torch.kernels.cpu.profiles import add_values


@stage(inline="always")
def add_lattices(scratch: Scratch, scene: Packed, lanes: int) -> None:
    """TOTAL += FACTOR times the sum over lattices, float64 above BATCH lattices."""
    count = scene.lattice.shape[0]
    filled = at.NO
    for start in range(0, count, at.BATCH):
        for j in range(lanes):
            scratch.w[at.SUM + j] = 0
        filled = sum_lattices(rows_of(scratch), terms_of(scene), lanes, start, min(start + at.BATCH, count), filled)
        _add_batch(scratch.v, scratch.w, lanes)


@stage()
def sum_lattices(rows: Rows, terms: Terms, lanes: int, start: int, stop: int, filled: bool) -> bool:
    """SUM += weight F^2 L^2 of the lattices start .. stop; whether F is the default everywhere, as `filled` before."""
    w = rows.w
    default = w.dtype.type(terms.numbers[at.DEFAULT_F])
    for k in range(start, stop):
        if rows.where[k] == NOTHING:
            continue
        filled = reflections(rows, terms, lanes, k, default, filled, at.NO)
        weight, phased = terms.narrow[k, at.LATTICE_WEIGHT], has_phases(rows, terms, k)
        add_values(w, lanes, terms.shape, terms.whole[at.PROFILE], weight, phased)
    return filled


@stage(fastmath=FAST)
def _add_batch(v: Array, w: Array, lanes: int) -> None:
    vector_code()
    for j in range(lanes):
        v[at.TOTAL + j] += v[at.FACTOR + j] * w[at.SUM + j]
