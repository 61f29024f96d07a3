"""Sums over the lattices of one source with the gradients by lattices, q, weights and F: stages of the adjoint."""

from __future__ import annotations

from typing import Any

from nanobrag_torch.kernels.cpu.cubic import interpolate, scatter_nodes
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import INSIDE, NOTHING, reflections
from nanobrag_torch.kernels.cpu.layout import (
    AMPLITUDE,
    BATCH,
    CUBIC,
    DEFAULT_F,
    DEFAULT_SUM,
    DH,
    DK,
    DL,
    FACTOR,
    FH,
    FK,
    FL,
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
    SLOPE_X,
    SLOPE_Y,
    SLOPE_Z,
    SQUARE,
    STEP_SUM,
    SUM,
    TOTAL,
    UPSTREAM,
    WANT_LATTICE,
    WANT_SCATTERING,
    WANT_SHAPE,
    WANT_TABLE,
    WANT_WEIGHTS,
    Array,
    Packed,
    Scratch,
    Sums,
    X,
    Y,
    Z,
)
from nanobrag_torch.kernels.cpu.profiles import add_values, add_values_and_slopes, add_values_and_squares


@stage(fastmath=FAST)
def begin_source(v: Array, w: Array, lanes: int) -> None:
    """FLOW and q in the image's type; clear what the lattices of a source sum up."""
    vector_code()
    for j in range(lanes):
        w[FLOW + j] = v[UPSTREAM + j] * v[FACTOR + j]
        w[QX + j], w[QY + j], w[QZ + j] = v[X + j], v[Y + j], v[Z + j]
        v[STEP_SUM + j] = v[SLOPE_X + j] = v[SLOPE_Y + j] = v[SLOPE_Z + j] = 0.0


@stage()
def add_lattices_and_slopes(scratch: Scratch, scene: Packed, lanes: int, wants: Array, sums: Sums) -> None:
    """TOTAL and STEP_SUM of the lattices, and SLOPE, the gradient by q; the other gradients into sums."""
    w, count = scratch.w, scene.lattice.shape[0]
    default, filled = w.dtype.type(scene.numbers[DEFAULT_F]), False
    slopes = wants[WANT_LATTICE] > 0 or wants[WANT_SCATTERING] > 0
    for start in range(0, count, BATCH):
        for j in range(lanes):
            w[SUM + j] = w[GX + j] = w[GY + j] = w[GZ + j] = 0
        for k in range(start, min(start + BATCH, count)):
            if scratch.where[k] == NOTHING:
                continue
            filled = reflections(scratch, scene, lanes, k, default, filled)
            if scene.whole[CUBIC]:
                interpolate(scratch.v, w, scratch.places, lanes, scene.lattice[k], scene.grid, scene.table, slopes)
            phased = scene.numbers[PHASED] > 0 and scratch.where[k] & 1 == 0
            _add_lattice(w, lanes, k, scene, wants, sums, slopes, phased)
            if wants[WANT_LATTICE]:
                pull_lattice(w, lanes, sums.lattice[k])
            if wants[WANT_SCATTERING]:
                pull_q(w, lanes, scene.narrow[k])
            if wants[WANT_WEIGHTS]:
                pull_weight(w, lanes, sums.lattice[k])
            if wants[WANT_TABLE]:
                _pull_amplitudes(scratch, scene, lanes, k, sums)
        end_batch(scratch.v, w, lanes)


@stage(inline="always")
def _add_lattice(
    w: Array, lanes: int, k: int, scene: Packed, wants: Array, sums: Sums, slopes: bool, phased: bool
) -> None:
    """Value, squares and slopes of one lattice, as far as they are needed."""
    shape, profile, weight = scene.shape, scene.whole[PROFILE], scene.narrow[k, LATTICE_WEIGHT]
    if slopes:
        add_values_and_slopes(w, lanes, shape, profile, weight, phased, wants[WANT_SHAPE], sums.single)
        if scene.whole[CUBIC]:
            add_table_slopes(w, lanes, weight)
    elif wants[WANT_WEIGHTS] or wants[WANT_SHAPE] or wants[WANT_TABLE]:
        add_values_and_squares(w, lanes, shape, profile, weight, phased, wants[WANT_SHAPE], sums.single)
    else:
        add_values(w, lanes, shape, profile, weight, phased)


@stage(inline="always")
def _pull_amplitudes(scratch: Scratch, scene: Packed, lanes: int, k: int, sums: Sums) -> None:
    """Gradients by the table and by the default F."""
    weight = scene.narrow[k, LATTICE_WEIGHT]
    pull_table(scratch.w, scratch.places, lanes, scratch.where[k], weight, sums.single, sums.table)
    if scene.whole[CUBIC] and sums.table.size:
        scatter_nodes(scratch.v, scratch.w, scratch.places, lanes, scene.lattice[k], scene.grid, weight, sums.table)


@stage(fastmath=FAST)
def end_batch(v: Array, w: Array, lanes: int) -> None:
    """Add them to the float64 ones."""
    vector_code()
    for j in range(lanes):
        v[STEP_SUM + j] += w[SUM + j]
        v[TOTAL + j] += v[FACTOR + j] * w[SUM + j]
        v[SLOPE_X + j] += w[GX + j]
        v[SLOPE_Y + j] += w[GY + j]
        v[SLOPE_Z + j] += w[GZ + j]


@stage(fastmath=FAST)
def add_table_slopes(w: Array, lanes: int, weight: Any) -> None:
    """Slopes by hkl through an interpolated F."""
    vector_code()
    two = w.dtype.type(2)
    for j in range(lanes):
        common = two * weight * w[FLOW + j] * w[AMPLITUDE + j] * w[SQUARE + j]
        w[DH + j] += common * w[FH + j]
        w[DK + j] += common * w[FK + j]
        w[DL + j] += common * w[FL + j]


@stage(fastmath=FAST)
def pull_lattice(w: Array, lanes: int, of_lattice: Array) -> None:
    """Gradient by the lattice: sum of (slopes by hkl) q^T."""
    vector_code()
    hx = hy = hz = kx = ky = kz = lx = ly = lz = w.dtype.type(0)
    for j in range(lanes):
        h, k, l = w[DH + j], w[DK + j], w[DL + j]
        x, y, z = w[QX + j], w[QY + j], w[QZ + j]
        hx += h * x
        hy += h * y
        hz += h * z
        kx += k * x
        ky += k * y
        kz += k * z
        lx += l * x
        ly += l * y
        lz += l * z
    sums = (hx, hy, hz, kx, ky, kz, lx, ly, lz)
    for i in range(9):
        of_lattice[i] += sums[i]


@stage(fastmath=FAST)
def pull_q(w: Array, lanes: int, a: Array) -> None:
    """Gradient by q: lattice^T (slopes by hkl)."""
    vector_code()
    a0, a1, a2, a3, a4, a5, a6, a7, a8 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]
    for j in range(lanes):
        h, k, l = w[DH + j], w[DK + j], w[DL + j]
        w[GX + j] += a0 * h + a3 * k + a6 * l
        w[GY + j] += a1 * h + a4 * k + a7 * l
        w[GZ + j] += a2 * h + a5 * k + a8 * l


@stage(fastmath=FAST)
def pull_weight(w: Array, lanes: int, of_lattice: Array) -> None:
    """Gradient by the lattice's weight."""
    vector_code()
    total = w.dtype.type(0)
    for j in range(lanes):
        total += w[FLOW + j] * w[AMPLITUDE + j] * w[AMPLITUDE + j] * w[SQUARE + j]
    of_lattice[LATTICE_WEIGHT] += total


@stage()
def pull_table(w: Array, index: Array, lanes: int, where: int, weight: Any, single: Array, of_table: Array) -> None:
    """Gradients by F of the nearest reflections and by the default one; lanes marked otherwise are left out."""
    two = w.dtype.type(2)
    for j in range(lanes):
        flow = two * weight * w[FLOW + j] * w[AMPLITUDE + j] * w[SQUARE + j]
        i = index[j] if where >= INSIDE else -1
        if i >= 0:
            if of_table.size:
                of_table[i] += flow
        elif i == -1:
            single[DEFAULT_SUM] += flow
