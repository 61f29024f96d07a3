"""Values and slopes of single groups of pixels for single lattices, in float32 about anchors: stages of the adjoint.

What kernels.cpu.near_pairs does for values, for shapes that are functions of a quadratic form.
"""

from __future__ import annotations

from typing import Any

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.geometry import offsets
from nanobrag_torch.kernels.cpu.intrinsics import FAST, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import gather_or_default
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch, Sums
from nanobrag_torch.kernels.cpu.near_pairs import peel_pairs, settle
from nanobrag_torch.kernels.cpu.pairs import is_narrow
from nanobrag_torch.kernels.cpu.products import nine, plus, times_from
from nanobrag_torch.kernels.cpu.profiles import GRATING, form_squares
from nanobrag_torch.kernels.cpu.slopes import begin_source, end_batch


@stage()
def add_pairs_and_slopes(scratch: Scratch, scene: Packed, lanes: int, step: int, wants: Array, sums: Sums) -> bool:
    """What `add_lattices_and_slopes` does, of the pairs that were found for a layer and source.

    False, and nothing done, where this way is not to be taken: it has gradients by lattices and by q.
    """
    v, w, whole = scratch.v, scratch.w, scene.whole
    more = wants[at.WANT_WEIGHTS] or wants[at.WANT_SHAPE] or wants[at.WANT_TABLE]
    if not whole[at.SPARSE] or whole[at.CUBIC] or whole[at.PROFILE] == GRATING or more:
        return False
    if scene.numbers[at.PAIRS_BOUND] <= 0:
        return False
    offsets(v, w, lanes, scratch.box, at.FIRST)
    if not is_narrow(scratch.box, scene):
        return False
    begin_source(v, w, lanes)
    entry, stop = scratch.first[2 * step], scratch.first[2 * step + 1]
    while entry < stop:
        entry, alike, others = settle(scratch, scene, entry, stop, 1.0)
        for j in range(lanes):
            w[at.SUM + j] = w[at.GX + j] = w[at.GY + j] = w[at.GZ + j] = 0
        for first in range(0, alike, at.GROUPS):
            _add_alike(w, scratch.places, first, min(alike - first, at.GROUPS), scene, sums)
        for first in range(at.LANES - others, at.LANES, at.GROUPS):
            _add_others(w, scratch.places, first, min(at.LANES - first, at.GROUPS), scene, sums)
        end_batch(v, w, lanes)
    return True


@stage()
def _add_alike(w: Array, places: Array, first: int, used: int, scene: Packed, sums: Sums) -> None:
    """SUM, the gradient by q and those by lattices, of pairs that have one reflection each."""
    _set_distances(w, places, first, used, scene.narrow)
    form_squares(w, used * at.GROUP, scene.shape, scene.whole[at.PROFILE])
    _pull_pairs(w, places, first, used, scene.narrow, scene.shape, sums.lattice)


@stage()
def _add_others(w: Array, places: Array, first: int, used: int, scene: Packed, sums: Sums) -> None:
    """The same of pairs of any kind."""
    lanes, default = used * at.GROUP, w.dtype.type(scene.numbers[at.DEFAULT_F])
    peel_pairs(w, places, first, used, scene.narrow, scene.grid)
    form_squares(w, lanes, scene.shape, scene.whole[at.PROFILE])
    if scene.table.size:
        gather_or_default(w, places, lanes, scene.table, default)
    else:
        for j in range(lanes):
            w[at.AMPLITUDE + j] = default
    for j in range(lanes):
        weight = scene.narrow[places[at.PAIR_LATTICE + first + j // at.GROUP], at.LATTICE_WEIGHT]
        w[at.AMPLITUDE + j] *= weight * w[at.AMPLITUDE + j]
    _pull_pairs(w, places, first, used, scene.narrow, scene.shape, sums.lattice)


@stage()
def _set_distances(w: Array, places: Array, first: int, used: int, narrow: Array) -> None:
    """Distances from the one reflection of each pair, and weight F^2 in place of F."""
    for slot in range(used):
        p = first + slot
        rest, origin = (w[at.PAIR_H + p], w[at.PAIR_K + p], w[at.PAIR_L + p]), places[at.PAIR_GROUP + p] * at.GROUP
        _set_pair(w[slot * at.GROUP :], w[origin:], narrow[places[at.PAIR_LATTICE + p]], rest, w[at.STRENGTH + p])


@stage(fastmath=FAST)
def _set_pair(pair: Array, group: Array, lattice: Array, rest: Any, strength: Any) -> None:
    vector_code()
    m = nine(lattice)
    for t in range(at.GROUP):
        h, k, l = times_from(rest, m, group[at.DX + t], group[at.DY + t], group[at.DZ + t])
        pair[at.DH + t], pair[at.DK + t], pair[at.DL + t] = h, k, l
        pair[at.AMPLITUDE + t] = strength


@stage()
def _pull_pairs(w: Array, places: Array, first: int, used: int, narrow: Array, shape: Array, of_lattice: Array) -> None:
    """SUM and the gradients, from distances, SQUARE, BEND and weight F^2 of pairs."""
    for slot in range(used):
        number, origin = places[at.PAIR_LATTICE + first + slot], places[at.PAIR_GROUP + first + slot] * at.GROUP
        _pull_pair(w[slot * at.GROUP :], w[origin:], narrow[number], shape, of_lattice[number])


@stage(fastmath=FAST)
def _pull_pair(pair: Array, group: Array, lattice: Array, shape: Array, of_lattice: Array) -> None:
    """The same of one, its rows and those of its group apart, so that LLVM sees that they are."""
    vector_code()
    hk, hl, kl = shape[1] + shape[3], shape[2] + shape[6], shape[5] + shape[7]
    hh, kk, ll, zero = shape[0] + shape[0], shape[4] + shape[4], shape[8] + shape[8], pair.dtype.type(0)
    m = nine(lattice)
    by_a = by_b = by_c = (zero, zero, zero)
    for t in range(at.GROUP):
        h, k, l, amount = pair[at.DH + t], pair[at.DK + t], pair[at.DL + t], pair[at.AMPLITUDE + t]
        group[at.SUM + t] += amount * pair[at.SQUARE + t]
        common = group[at.FLOW + t] * amount * pair[at.BEND + t]
        h, k, l = (
            common * (hh * h + hk * k + hl * l),
            common * (hk * h + kk * k + kl * l),
            common * (hl * h + kl * k + ll * l),
        )
        group[at.GX + t] += m[0] * h + m[3] * k + m[6] * l
        group[at.GY + t] += m[1] * h + m[4] * k + m[7] * l
        group[at.GZ + t] += m[2] * h + m[5] * k + m[8] * l
        q = group[at.QX + t], group[at.QY + t], group[at.QZ + t]
        by_a, by_b, by_c = plus(by_a, h, q), plus(by_b, k, q), plus(by_c, l, q)
    found = (*by_a, *by_b, *by_c)
    for i in range(9):
        of_lattice[i] += found[i]
