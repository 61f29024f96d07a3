"""Sums over the lattices of one source with the gradients by lattices, q, weights and F: stages of the adjoint."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu_cubic import interpolate, scatter_nodes
from nanobrag_torch.kernels.cpu_lattice import INSIDE, NOTHING, fill, reflections
from nanobrag_torch.kernels.cpu_layout import (
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
    X,
    Y,
    Z,
)
from nanobrag_torch.kernels.cpu_math import FAST, stage, wide
from nanobrag_torch.kernels.cpu_profiles import add_values, add_values_and_slopes, add_values_and_squares

Array = np.ndarray[Any, Any]


@stage(fastmath=FAST)
def begin_source(v: Array, w: Array, lanes: int) -> None:
    """FLOW and q in the image's type; clear what the lattices of a source sum up."""
    wide()
    for j in range(lanes):
        w[FLOW + j] = v[UPSTREAM + j] * v[FACTOR + j]
        w[QX + j], w[QY + j], w[QZ + j] = v[X + j], v[Y + j], v[Z + j]
        v[STEP_SUM + j] = v[SLOPE_X + j] = v[SLOPE_Y + j] = v[SLOPE_Z + j] = 0.0


@stage()
def add_lattices_and_slopes(
    v: Array,
    w: Array,
    index: Array,
    lanes: int,
    where: Array,
    whole: Array,
    numbers: Array,
    lattice: Array,
    narrow: Array,
    shape: Array,
    grid: Array,
    table: Array,
    wants: Array,
    of_lattice: Array,
    single: Array,
    of_table: Array,
) -> None:
    """TOTAL and STEP_SUM of the lattices, and SLOPE, the gradient by q."""
    default, filled = w.dtype.type(numbers[DEFAULT_F]), False
    slopes = wants[WANT_LATTICE] | wants[WANT_SCATTERING]
    squares = slopes | wants[WANT_WEIGHTS] | wants[WANT_SHAPE] | wants[WANT_TABLE]
    for start in range(0, lattice.shape[0], BATCH):
        begin_batch(w, lanes)
        for k in range(start, min(start + BATCH, lattice.shape[0])):
            if where[k] == NOTHING:
                continue
            weight = narrow[k, LATTICE_WEIGHT]
            filled = reflections(v, w, index, lanes, where[k], filled, lattice[k], narrow[k], grid, table, default)
            if whole[CUBIC]:
                interpolate(v, w, index, lanes, lattice[k], grid, table, slopes)
            if slopes:
                add_values_and_slopes(w, lanes, shape, whole[PROFILE], weight, wants[WANT_SHAPE], single)
                if whole[CUBIC]:
                    add_table_slopes(w, lanes, weight)
            elif squares:
                add_values_and_squares(w, lanes, shape, whole[PROFILE], weight, wants[WANT_SHAPE], single)
            else:
                add_values(w, lanes, shape, whole[PROFILE], weight)
            if wants[WANT_LATTICE]:
                pull_lattice(w, lanes, of_lattice[k])
            if wants[WANT_SCATTERING]:
                pull_q(w, lanes, narrow[k])
            if wants[WANT_WEIGHTS]:
                pull_weight(w, lanes, of_lattice[k])
            if wants[WANT_TABLE]:
                pull_table(w, index, lanes, where[k], weight, single, of_table)
                if whole[CUBIC]:
                    scatter_nodes(v, w, index, lanes, lattice[k], grid, weight, of_table)
        end_batch(v, w, lanes)


@stage()
def begin_batch(w: Array, lanes: int) -> None:
    """Clear the float32 sums."""
    fill(w, SUM, lanes, w.dtype.type(0))
    fill(w, GX, lanes, w.dtype.type(0))
    fill(w, GY, lanes, w.dtype.type(0))
    fill(w, GZ, lanes, w.dtype.type(0))


@stage(fastmath=FAST)
def end_batch(v: Array, w: Array, lanes: int) -> None:
    """Add them to the float64 ones."""
    wide()
    for j in range(lanes):
        v[STEP_SUM + j] += w[SUM + j]
        v[TOTAL + j] += v[FACTOR + j] * w[SUM + j]
        v[SLOPE_X + j] += w[GX + j]
        v[SLOPE_Y + j] += w[GY + j]
        v[SLOPE_Z + j] += w[GZ + j]


@stage(fastmath=FAST)
def add_table_slopes(w: Array, lanes: int, weight: Any) -> None:
    """Slopes by hkl through an interpolated F."""
    wide()
    two = w.dtype.type(2)
    for j in range(lanes):
        common = two * weight * w[FLOW + j] * w[AMPLITUDE + j] * w[SQUARE + j]
        w[DH + j] += common * w[FH + j]
        w[DK + j] += common * w[FK + j]
        w[DL + j] += common * w[FL + j]


@stage(fastmath=FAST)
def pull_lattice(w: Array, lanes: int, of_lattice: Array) -> None:
    """Gradient by the lattice: sum of (slopes by hkl) q^T."""
    wide()
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
    wide()
    a0, a1, a2, a3, a4, a5, a6, a7, a8 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]
    for j in range(lanes):
        h, k, l = w[DH + j], w[DK + j], w[DL + j]
        w[GX + j] += a0 * h + a3 * k + a6 * l
        w[GY + j] += a1 * h + a4 * k + a7 * l
        w[GZ + j] += a2 * h + a5 * k + a8 * l


@stage(fastmath=FAST)
def pull_weight(w: Array, lanes: int, of_lattice: Array) -> None:
    """Gradient by the lattice's weight."""
    wide()
    total = w.dtype.type(0)
    for j in range(lanes):
        total += w[FLOW + j] * w[AMPLITUDE + j] * w[AMPLITUDE + j] * w[SQUARE + j]
    of_lattice[LATTICE_WEIGHT] += total


@stage()
def pull_table(
    w: Array, index: Array, lanes: int, where: int, weight: Any, single: Array, of_table: Array
) -> None:
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
