"""Slopes of pixels along many directions: the loops of adjoint, with the gradients of every lane kept apart."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.blocks import next_block
from nanobrag_torch.kernels.cpu.curved import unbend, unbend_by_lab_axes
from nanobrag_torch.kernels.cpu.intrinsics import FAST, entry, stage, vector_code
from nanobrag_torch.kernels.cpu.lattice import rows_of, terms_of
from nanobrag_torch.kernels.cpu.layout import Array, Packed, Scratch
from nanobrag_torch.kernels.cpu.products import put_times
from nanobrag_torch.kernels.cpu.pull import (
    by_polarization,
    by_position,
    clear_kept,
    clear_pull,
    keep_offset,
    pull_factors,
    pull_polarization,
    pull_scattering,
    recall,
    recall_polarization,
    solid_angle_law,
    step_of,
    through_capture,
    through_omega,
)
from nanobrag_torch.kernels.cpu.tangent import layout as rows
from nanobrag_torch.kernels.cpu.tangent.lattice import push_lattices
from nanobrag_torch.kernels.cpu.tangent.layout import Tally, Ways
from nanobrag_torch.kernels.cpu.value import begin, look_at_source, once, sample, samples_of


@entry(title="the kernel of slopes")
def push(out: Array, first: int, last: int, scene: Packed, scratch: Scratch, ways: Ways, tally: Tally) -> None:
    """Slopes [T, n] of the pixels at places first .. last of the list, into out."""
    while first < last:
        used, lanes, panel = next_block(scratch, scene, first, last)
        first += used
        if lanes == 0:
            continue
        _push_block(scratch, scene, lanes, panel, ways, tally)
        for t in range(out.shape[0]):
            _store(out[t], tally.slopes[t * at.ROW :], scratch.place, lanes)


@stage()
def _store(out: Array, slopes: Array, place: Array, lanes: int) -> None:
    for j in range(lanes):
        if place[j] >= 0:
            out[place[j]] = slopes[j]


@stage()
def _push_block(scratch: Scratch, scene: Packed, lanes: int, p: int, ways: Ways, tally: Tally) -> None:
    """Slopes of one block on panel p."""
    v, whole, panel, moves = scratch.v, scene.whole, scene.panels[p], ways.moves
    begin(v, lanes, panel, scene)
    _clear(v, lanes, tally)
    layers, subs = samples_of(scratch, scene)
    for layer in range(layers):
        for sub in range(subs):
            sample(v, lanes, panel, layer, sub, scene)
            clear_pull(v, lanes)
            _push_sources(scratch, scene, lanes, layer, sub, ways, tally)
            if moves[rows.GEOMETRY]:
                _push_sample(v, lanes, p, layer, sub, scene, ways, tally)
        if moves[rows.GEOMETRY] and not whole[at.EACH_CAPTURE] and not whole[at.LAST_CAPTURE]:
            _push_kept(v, lanes, p, layer, at.KEPT_CAPTURE, at.PULL_CAPTURE, scene, ways, tally)
        if moves[rows.GEOMETRY] and whole[at.LAYER_OMEGA] and not whole[at.EACH_OMEGA]:
            _push_kept(v, lanes, p, layer, at.KEPT_OMEGA, at.PULL_OMEGA, scene, ways, tally)
    if moves[rows.FACTORS]:
        _finish(v, lanes, p, scene, ways, tally)
    contract(v, tally.slopes, lanes, rows.COMMON, rows.COMMON_FOURS, ways.common)


@stage()
def _clear(v: Array, lanes: int, tally: Tally) -> None:
    """Every pixel counts once; nothing summed up yet."""
    for j in range(lanes):
        v[at.UPSTREAM + j] = 1.0
    clear_kept(v, lanes)
    v[rows.COMMON : rows.WIDE_TANGENTS] = 0.0
    tally.slopes[:] = 0.0


@stage()
def contract(v: Array, slopes: Array, lanes: int, first: int, fours: int, ways: Array) -> None:
    """Slopes of every direction += its columns [T, 4 fours] times as many rows."""
    for t in range(ways.shape[0]):
        for i in range(fours):
            a, b, c, d = ways[t, 4 * i], ways[t, 4 * i + 1], ways[t, 4 * i + 2], ways[t, 4 * i + 3]
            if a != 0 or b != 0 or c != 0 or d != 0:
                _add_four(v[first + 4 * i * at.ROW :], slopes[t * at.ROW :], lanes, a, b, c, d)


@stage(fastmath=FAST)
def _add_four(v: Array, slopes: Array, lanes: int, a: float, b: float, c: float, d: float) -> None:
    vector_code()
    for j in range(lanes):
        slopes[j] += a * v[j] + b * v[at.ROW + j] + c * v[2 * at.ROW + j] + d * v[3 * at.ROW + j]


@stage(inline="always")
def _push_sources(scratch: Scratch, scene: Packed, lanes: int, layer: int, sub: int, ways: Ways, tally: Tally) -> None:
    """All sources of one sample."""
    for s in range(scene.sources.shape[0]):
        if look_at_source(scratch, scene, lanes, layer, sub, s):
            push_lattices(rows_of(scratch), terms_of(scene), lanes, ways, tally)
            _push_source(scratch.v, lanes, s, scene, ways, tally)


@stage()
def _push_source(v: Array, lanes: int, s: int, scene: Packed, ways: Ways, tally: Tally) -> None:
    """What flows through the scattering vectors and the factors of one source."""
    source, whole, moves = scene.sources[s], scene.whole, ways.moves
    if moves[rows.SCATTERING]:
        pull_scattering(v, lanes, source, tally.source)
    if moves[rows.SOURCES]:
        _source_rows(v, lanes, 1.0 / whole[at.SUBS])
        contract(v, tally.slopes, lanes, rows.OF_SOURCE, rows.SOURCE_FOURS, ways.sources[s])
    if not moves[rows.FACTORS]:
        return
    pull_factors(v, lanes, source, tally.source, whole)
    if whole[at.EACH_POLAR]:
        _push_polarization(v, lanes, s, scene, ways, tally)
    else:
        for j in range(lanes):
            v[at.KEPT_POLAR + j] += v[at.PULL_POLAR + j]


@stage(fastmath=FAST)
def _source_rows(v: Array, lanes: int, share: float) -> None:
    vector_code()
    for j in range(lanes):
        x, y, z = v[at.SLOPE_X + j], v[at.SLOPE_Y + j], v[at.SLOPE_Z + j]
        v[rows.OF_SOURCE + j], v[rows.OF_SOURCE + at.ROW + j], v[rows.OF_SOURCE + 2 * at.ROW + j] = x, y, z
        v[rows.OF_SOURCE + rows.BY_LAMBDA * at.ROW + j] = x * v[at.X + j] + y * v[at.Y + j] + z * v[at.Z + j]
        factor = v[at.OMEGA + j] * v[at.CAPTURE + j] * v[at.POLAR + j] * v[at.SEEN + j]
        v[rows.OF_SOURCE + rows.BY_WEIGHT * at.ROW + j] = share * v[at.STEP_SUM + j] * factor


@stage()
def _push_polarization(v: Array, lanes: int, s: int, scene: Packed, ways: Ways, tally: Tally) -> None:
    """PULL_POLAR to the unit vectors and to the matrix of source s."""
    pull_polarization(v, lanes, scene.sources[s], tally.source)
    if ways.moves[rows.POLARIZATIONS]:
        _polar_rows(v, lanes)
        contract(v, tally.slopes, lanes, rows.OF_POLAR, rows.POLAR_FOURS, ways.polarizations[s])


@stage(fastmath=FAST)
def _polar_rows(v: Array, lanes: int) -> None:
    vector_code()
    for j in range(lanes):
        xx, xy, xz, yy, yz, zz = by_polarization(v, j)
        v[rows.OF_POLAR + j], v[rows.OF_POLAR + at.ROW + j], v[rows.OF_POLAR + 2 * at.ROW + j] = xx, xy, xz
        v[rows.OF_POLAR + 3 * at.ROW + j], v[rows.OF_POLAR + 4 * at.ROW + j] = yy, yz
        v[rows.OF_POLAR + 5 * at.ROW + j] = zz


@stage()
def _push_sample(v: Array, lanes: int, p: int, layer: int, sub: int, scene: Packed, ways: Ways, tally: Tally) -> None:
    """From gradients by unit vectors, solid angle and capture of a sample to slopes along directions of panel p."""
    whole, panel = scene.whole, scene.panels[p]
    oversample = whole[at.OVERSAMPLE]
    slow, fast = (sub // oversample + 0.5) / oversample, (sub % oversample + 0.5) / oversample
    _capture_rows(v, lanes, panel, layer, whole[at.UPRIGHT])
    _omega_rows(v, lanes, panel, layer, whole)
    fours = rows.FLAT_FOURS
    if whole[at.CURVED]:
        fours = rows.BENT_FOURS
        _bent_rows(v, lanes, panel, scene, tally)
    _position_rows(v, lanes, slow, fast)
    contract(v, tally.slopes, lanes, rows.OF_PANEL, fours, ways.panels[p, layer])


@stage(fastmath=FAST)
def _capture_rows(v: Array, lanes: int, panel: Array, layer: int, upright: int) -> None:
    """PULL_CAPTURE to unit vectors, and rows by normal and depth."""
    vector_code()
    if panel[at.LAYER_STEP] <= 0:
        return
    for j in range(lanes):
        by_cosine, by_depth = through_capture(v, j, panel, layer, upright)
        v[rows.OF_PANEL + rows.BY_NORMAL * at.ROW + j] = by_cosine * v[at.AIM_X + j]
        v[rows.OF_PANEL + (rows.BY_NORMAL + 1) * at.ROW + j] = by_cosine * v[at.AIM_Y + j]
        v[rows.OF_PANEL + (rows.BY_NORMAL + 2) * at.ROW + j] = by_cosine * v[at.AIM_Z + j]
        v[rows.OF_PANEL + rows.BY_DEPTH * at.ROW + j] = by_depth


@stage(fastmath=FAST)
def _omega_rows(v: Array, lanes: int, panel: Array, layer: int, whole: Array) -> None:
    """PULL: from unit vectors and PULL_OMEGA to positions; row by area times distance of the plane."""
    vector_code()
    scale, power = solid_angle_law(panel, layer, whole)
    for j in range(lanes):
        v[rows.OF_PANEL + rows.BY_AREA * at.ROW + j] = through_omega(v, j, scale, power)


@stage()
def _bent_rows(v: Array, lanes: int, panel: Array, scene: Packed, tally: Tally) -> None:
    """Through the bend, lane by lane: PULL by flat positions, and rows by axes and curvature.

    The curvature of a sphere is that of its normal and close distance.
    """
    for j in range(lanes):
        tally.panel[:] = 0.0
        tally.single[:] = 0.0
        if scene.whole[at.CURVED] == at.SPHERE:
            unbend(v[j:], 1, panel, tally.panel)
            for i in range(3):
                tally.single[at.CURVATURE_SUM + i] = tally.panel[at.NORMAL + i]
            tally.single[at.CURVATURE_SUM + 3] = tally.panel[at.CLOSE]
        else:
            unbend_by_lab_axes(v[j:], 1, panel, scene.numbers, tally.panel, tally.single)
        for i in range(3):
            v[rows.OF_PANEL + (rows.BENT_FAST + i) * at.ROW + j] = tally.panel[at.FAST_AXIS + i]
            v[rows.OF_PANEL + (rows.BENT_SLOW + i) * at.ROW + j] = tally.panel[at.SLOW_AXIS + i]
        for i in range(4):
            v[rows.OF_PANEL + (rows.BENT_CURVATURE + i) * at.ROW + j] = tally.single[at.CURVATURE_SUM + i]


@stage(fastmath=FAST)
def _position_rows(v: Array, lanes: int, slow: float, fast: float) -> None:
    vector_code()
    for j in range(lanes):
        pull, along_fast, along_slow = by_position(v, j, slow, fast)
        put_times(v, rows.OF_PANEL + rows.BY_POSITION * at.ROW + j, 1.0, pull)
        put_times(v, rows.OF_PANEL + rows.BY_FAST * at.ROW + j, along_fast, pull)
        put_times(v, rows.OF_PANEL + rows.BY_SLOW * at.ROW + j, along_slow, pull)


@stage()
def _push_kept(
    v: Array, lanes: int, p: int, layer: int, kept: int, pull: int, scene: Packed, ways: Ways, tally: Tally
) -> None:
    """Through a factor that is formed once a layer."""
    recall(v, lanes, scene.panels[p], layer, kept, pull, scene)
    _push_sample(v, lanes, p, layer, at.FIRST, scene, ways, tally)


@stage()
def _finish(v: Array, lanes: int, p: int, scene: Packed, ways: Ways, tally: Tally) -> None:
    """What is added once a pixel, and what flows through factors that were computed once."""
    moves, whole = ways.moves, scene.whole
    has_offset = scene.numbers[at.OFFSET] != 0
    if has_offset or moves[rows.OFFSETS]:
        _push_offset(v, lanes, scene.panels[p], scene)
    if moves[rows.GEOMETRY] and (has_offset or not whole[at.EACH_OMEGA]):
        _push_kept(v, lanes, p, at.FIRST, at.KEPT_OMEGA, at.PULL_OMEGA, scene, ways, tally)
    if moves[rows.GEOMETRY] and (has_offset or whole[at.LAST_CAPTURE]):
        _push_kept(v, lanes, p, whole[at.LAYERS] - 1, at.KEPT_CAPTURE, at.PULL_CAPTURE, scene, ways, tally)
    if (moves[rows.GEOMETRY] or moves[rows.POLARIZATIONS]) and (has_offset or not whole[at.EACH_POLAR]):
        _push_first_polarization(v, lanes, p, scene, ways, tally)


@stage()
def _push_offset(v: Array, lanes: int, panel: Array, scene: Packed) -> None:
    """Row by the offset, and what flows from it through the factors."""
    once(v, lanes, panel, scene)
    keep_offset(v, lanes, scene.numbers[at.OFFSET])
    for j in range(lanes):
        v[rows.COMMON + rows.BY_OFFSET * at.ROW + j] = v[at.OMEGA + j] * v[at.CAPTURE + j] * v[at.POLAR + j]


@stage()
def _push_first_polarization(v: Array, lanes: int, p: int, scene: Packed, ways: Ways, tally: Tally) -> None:
    """KEPT_POLAR through the first source that each lane sees."""
    number = recall_polarization(v, lanes, p, at.FIRST, scene)
    while number >= 0:
        layer, sub, s = step_of(number, scene)
        _push_polarization(v, lanes, s, scene, ways, tally)
        if ways.moves[rows.GEOMETRY]:
            _push_sample(v, lanes, p, layer, sub, scene, ways, tally)
        number = recall_polarization(v, lanes, p, number + 1, scene)
