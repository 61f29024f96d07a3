"""Sums over the lattices of one source: stages of the compiled CPU kernel."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import NOTHING, has_phases, reflections
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch
from nanobrag_torch.kernels.cpu.profiles import add_values


@stage(inline="always")
def add_lattices(scratch: Scratch, scene: Packed, lanes: int) -> None:
    """TOTAL += FACTOR times the sum over lattices, float64 above BATCH lattices."""
    count = scene.lattice.shape[0]
    filled = at.NO
    for start in range(0, count, at.BATCH):
        for j in range(lanes):
            scratch.w[at.SUM + j] = 0
        filled = sum_lattices(scratch, scene, lanes, start, min(start + at.BATCH, count), filled)
        _add_batch(scratch.v, scratch.w, lanes)


@stage()
def sum_lattices(scratch: Scratch, scene: Packed, lanes: int, start: int, stop: int, filled: bool) -> bool:
    """SUM += weight F^2 L^2 of the lattices start .. stop; whether F is the default everywhere, as `filled` before."""
    w = scratch.w
    default = w.dtype.type(scene.numbers[at.DEFAULT_F])
    for k in range(start, stop):
        if scratch.where[k] == NOTHING:
            continue
        filled = reflections(scratch, scene, lanes, k, default, filled, at.NO)
        weight, phased = scene.narrow[k, at.LATTICE_WEIGHT], has_phases(scratch, scene, k)
        add_values(w, lanes, scene.shape, scene.whole[at.PROFILE], weight, phased)
    return filled


@stage(fastmath=FAST)
def _add_batch(v: Array, w: Array, lanes: int) -> None:
    vector_code()
    for j in range(lanes):
        v[at.TOTAL + j] += v[at.FACTOR + j] * w[at.SUM + j]
