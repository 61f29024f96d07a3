"""Slopes before a loss where sources differ in wavelength alone: stages of the compiled CPU kernel.

q of all of them lies along one line, q_s = r_s q of the first: they are the first with lattices r_s A. For one lattice
slopes by hkl of all wavelengths, times r_s, are summed up before they go to q and to the matrix of kernels.cpu.keep,
which is done once a lattice; and the slope by r_s itself is that by hkl along A q.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import FAST, ORDERED, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import NOTHING, has_phases, reflections
from nanobrag_torch.kernels.cpu.layout import Array, Rows, Terms
from nanobrag_torch.kernels.cpu.products import nine, times
from nanobrag_torch.kernels.cpu.profiles import slopes_at, slopes_of_lane
from nanobrag_torch.kernels.cpu.slopes import begin_source

MATRIX = 9


class Waves(NamedTuple):
    """Of sources that share a direction: a scene then has the first one, its weight one, and the lattices r_s A of all,
    wavelength by wavelength, their weights times r_s times that of the source."""

    numbers: Array  # [waves, 2]: r_s, one over the wavelength over that of the first; the weight of the source
    sums: Array  # [waves, 2, ROW] flat, in the image's type: sums of a batch over lattices, and slopes by r_s
    totals: Array  # the same in float64


@stage()
def add_waves(rows: Rows, terms: Terms, lanes: int, waves: Waves) -> None:
    """TOTAL of all wavelengths, SLOPE, the slope of the value by the first one's q, and MATRIX; TOTALS of each."""
    begin_source(rows.v, rows.w, lanes)
    w, count = rows.w, terms.lattice.shape[0] // waves.numbers.shape[0]
    one, other = w[at.ONE_H : at.ONE_H + 3 * at.ROW], w[at.OTHER_H : at.OTHER_H + 3 * at.ROW]
    hkl, other_hkl = w[at.HKL : at.HKL + 3 * at.ROW], w[at.OTHER_HKL : at.OTHER_HKL + 3 * at.ROW]
    filled = at.NO
    for place in range(waves.totals.size):
        waves.totals[place] = 0.0
    for start in range(0, count, at.BATCH):
        clear_batch(w, lanes)
        for place in range(waves.sums.size):
            waves.sums[place] = 0
        stop = min(start + at.BATCH, count)
        for k in range(start, stop, 2):
            filled = _add_lattice(rows, terms, lanes, k, waves, one, hkl, filled)
            if k + 1 < stop:
                filled = _add_lattice(rows, terms, lanes, k + 1, waves, other, other_hkl, filled)
            else:
                clear_slopes(other, lanes)
            _add_two(w, lanes, terms.narrow[k], terms.narrow[min(k + 1, stop - 1)])
        for wave in range(waves.numbers.shape[0]):
            _end_wave(rows.v, waves, wave, lanes)
        end_slopes(rows.v, w, lanes)


@stage()
def _add_lattice(
    rows: Rows, terms: Terms, lanes: int, k: int, waves: Waves, slopes: Array, hkl: Array, filled: bool
) -> bool:
    """Sums of one lattice over all wavelengths, of half the slopes by hkl to three rows; hkl of the first to others."""
    w, count, default = rows.w, terms.lattice.shape[0], rows.w.dtype.type(terms.numbers[at.DEFAULT_F])
    step = count // waves.numbers.shape[0]
    clear_slopes(slopes, lanes)
    _set_indices(hkl, w, lanes, terms.narrow[k])
    for wave in range(waves.numbers.shape[0]):
        own = wave * step + k
        if rows.where[own] == NOTHING:
            continue
        filled = reflections(rows, terms, lanes, own, default, filled, at.NO)
        weight, phased = terms.narrow[own, at.LATTICE_WEIGHT], has_phases(rows, terms, own)
        sums = waves.sums[2 * wave * at.ROW : (2 * wave + 2) * at.ROW]
        _add_slopes(w, slopes, hkl, sums, lanes, terms.shape, weight, phased)
    return filled


@stage(fastmath=FAST)
def _set_indices(hkl: Array, w: Array, lanes: int, lattice: Array) -> None:
    vector_code()
    a = nine(lattice)
    for j in range(lanes):
        hkl[j], hkl[at.ROW + j], hkl[2 * at.ROW + j] = times(a, w[at.QX + j], w[at.QY + j], w[at.QZ + j])


@stage(fastmath=ORDERED)
def _add_slopes(
    w: Array, slopes: Array, hkl: Array, sums: Array, lanes: int, shape: Array, weight: Any, phased: bool
) -> None:
    """What kernels.cpu.keep does for a lattice of one wavelength, added up; and the slope along hkl."""
    vector_code()
    cells, bias = (shape[0], shape[4], shape[8]), shape[at.BIAS]
    if phased:
        for j in range(lanes):
            _add_lane(w, slopes, hkl, sums, j, weight, slopes_of_lane(w, j, cells, bias))
    else:
        for j in range(lanes):
            _add_lane(w, slopes, hkl, sums, j, weight, slopes_at(w, j, cells, bias))


@stage(forceinline=True, fastmath=ORDERED)
def _add_lane(w: Array, slopes: Array, hkl: Array, sums: Array, j: int, weight: Any, product: Any) -> None:
    value, near_h, far_h, near_k, far_k, near_l, far_l = product
    term = weight * (w[at.AMPLITUDE + j] * w[at.AMPLITUDE + j]) * value
    by_h, by_k, by_l = term * near_h * far_h, term * near_k * far_k, term * near_l * far_l
    sums[j] += term * value
    sums[at.ROW + j] += by_h * hkl[j] + by_k * hkl[at.ROW + j] + by_l * hkl[2 * at.ROW + j]
    slopes[j] += by_h
    slopes[at.ROW + j] += by_k
    slopes[2 * at.ROW + j] += by_l


@stage(fastmath=FAST)
def _end_wave(v: Array, waves: Waves, wave: int, lanes: int) -> None:
    """Add sums of a batch to TOTAL and to the float64 ones: the sum over lattices, and the slope by r, with factors."""
    vector_code()
    sums, totals = waves.sums[2 * wave * at.ROW :], waves.totals[2 * wave * at.ROW :]
    bare, alone = 1 / waves.numbers[wave, 0], 1 / (waves.numbers[wave, 0] * waves.numbers[wave, 1])
    for j in range(lanes):
        v[at.TOTAL + j] += v[at.FACTOR + j] * (sums[j] * bare)
        totals[j] += sums[j] * alone
        totals[at.ROW + j] += 2 * v[at.UPSTREAM + j] * v[at.FACTOR + j] * sums[at.ROW + j] * bare


@stage(fastmath=FAST)
def _add_two(w: Array, lanes: int, one: Array, other: Array) -> None:
    """Slopes by hkl of two lattices to slopes by q, and times hkl."""
    vector_code()
    a, b = nine(one), nine(other)
    for j in range(lanes):
        hkl = w[at.HKL + j], w[at.HKL + at.ROW + j], w[at.HKL + 2 * at.ROW + j]
        others = w[at.OTHER_HKL + j], w[at.OTHER_HKL + at.ROW + j], w[at.OTHER_HKL + 2 * at.ROW + j]
        add_slopes(w, j, a, b, hkl, others)


@stage(forceinline=True, fastmath=FAST)
def add_slopes(w: Array, j: int, a: Any, b: Any, hkl: Any, others: Any) -> None:
    """Slopes by hkl of two lattices to those of a lane by q, and times hkl to its matrix."""
    h, k, l = hkl
    e, f, g = others
    x, y, z = w[at.ONE_H + j], w[at.ONE_K + j], w[at.ONE_L + j]
    p, q, r = w[at.OTHER_H + j], w[at.OTHER_K + j], w[at.OTHER_L + j]
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


@stage(fastmath=FAST)
def clear_batch(w: Array, lanes: int) -> None:
    """No sums yet over the lattices of a batch."""
    vector_code()
    for j in range(lanes):
        w[at.SUM + j] = w[at.GX + j] = w[at.GY + j] = w[at.GZ + j] = 0
    for i in range(MATRIX):
        for j in range(lanes):
            w[at.NARROW_MATRIX + i * at.ROW + j] = 0


@stage(fastmath=FAST)
def clear_slopes(slopes: Array, lanes: int) -> None:
    """Three rows of none."""
    vector_code()
    for j in range(lanes):
        slopes[j] = slopes[at.ROW + j] = slopes[2 * at.ROW + j] = 0


@stage(fastmath=FAST)
def end_slopes(v: Array, w: Array, lanes: int) -> None:
    """Add those of a batch, which are half of them, to the float64 ones, times what flows in and two."""
    vector_code()
    for j in range(lanes):
        flow = 2 * v[at.UPSTREAM + j] * v[at.FACTOR + j]
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
