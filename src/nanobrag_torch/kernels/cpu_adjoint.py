"""Value and gradients of pixels in one pass: the loops of cpu_value with what flows back through every stage."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.compilation import compiled
from nanobrag_torch.kernels.cpu_blocks import next_block
from nanobrag_torch.kernels.cpu_geometry import aim, factors, offsets, polarizations, scatter
from nanobrag_torch.kernels.cpu_lattice import fill, survey
from nanobrag_torch.kernels.cpu_layout import (
    BOX_SIZE,
    CAPTURE,
    CHUNK,
    DMIN,
    EACH_CAPTURE,
    EACH_OMEGA,
    EACH_POLAR,
    GROUPED,
    INDEX_SIZE,
    KEPT_CAPTURE,
    KEPT_OMEGA,
    KEPT_POLAR,
    KNOWN,
    LANES,
    LAST_CAPTURE,
    LAYERS,
    NARROW_SIZE,
    OFFSET,
    OFFSET_SUM,
    OMEGA,
    OVERSAMPLE,
    POLAR,
    PULL_CAPTURE,
    PULL_OMEGA,
    PULL_POLAR,
    PULL_X,
    PULL_Y,
    PULL_Z,
    SEEN,
    TOTAL,
    UPSTREAM,
    WANT_FACTORS,
    WANT_OFFSET,
    WANT_SCATTERING,
    WIDE_SIZE,
)
from nanobrag_torch.kernels.cpu_math import stage
from nanobrag_torch.kernels.cpu_pull import pull_factors, pull_polarization, pull_sample, pull_scattering
from nanobrag_torch.kernels.cpu_slopes import add_lattices_and_slopes, begin_source
from nanobrag_torch.kernels.cpu_value import begin, once, sample

Array = np.ndarray[Any, Any]


@compiled()
def adjoint(
    out: Array,
    upstream: Array,
    first: int,
    last: int,
    pixels: Array,
    whole: Array,
    numbers: Array,
    panels: Array,
    sources: Array,
    lattice: Array,
    narrow: Array,
    shape: Array,
    grid: Array,
    table: Array,
    envelope: Array,
    wants: Array,
    of_lattice: Array,
    of_sources: Array,
    of_panels: Array,
    single: Array,
    of_table: Array,
) -> None:
    """Add the gradients of sum(upstream * value) over the pixels at places first .. last; values into out if it is long.

    The arrays `of_...` have the columns of what they are gradients by.
    """
    v, w, index = np.zeros(WIDE_SIZE), np.zeros(NARROW_SIZE, upstream.dtype), np.zeros(INDEX_SIZE, np.int32)
    place, box = np.empty(LANES, np.int32), np.zeros(BOX_SIZE)
    where = np.empty(lattice.shape[0], np.int8)
    while first < last:
        stop = min(last, (first // CHUNK + 1) * CHUNK)
        used, lanes, p, box[GROUPED] = next_block(pixels, first, stop, whole, v, place)
        for j in range(lanes):
            v[UPSTREAM + j] = upstream[place[j]] if place[j] >= 0 else 0.0
        panel, of_panel = panels[p], of_panels[p]
        begin(v, lanes, panel, whole, numbers)
        clear_kept(v, lanes)
        for layer in range(whole[LAYERS]):
            for sub in range(whole[OVERSAMPLE] * whole[OVERSAMPLE]):
                sample(v, lanes, panel, layer, sub, whole, numbers)
                clear_pull(v, lanes)
                for s in range(sources.shape[0]):
                    scatter(v, lanes, sources[s], numbers[DMIN])
                    if whole[EACH_POLAR] or numbers[DMIN] > 0 or layer + sub + s == 0:
                        polarizations(v, lanes, sources[s], whole[EACH_POLAR])
                    if factors(v, lanes, sources[s], whole[OVERSAMPLE] * whole[OVERSAMPLE]):
                        offsets(v, w, lanes, box)
                        survey(box, lattice, envelope, whole, numbers, grid, where)
                        begin_source(v, w, lanes)
                        add_lattices_and_slopes(
                            v, w, index, lanes, where, whole, numbers, lattice, narrow, shape, grid, table, wants,
                            of_lattice, single, of_table,
                        )  # fmt: skip
                        pull_source(v, lanes, sources[s], of_sources[s], whole, wants)
                if wants[WANT_FACTORS] or wants[WANT_SCATTERING]:
                    pull_sample(v, lanes, panel, of_panel, single, layer, sub, whole, numbers)
            if wants[WANT_FACTORS] and not whole[EACH_CAPTURE] and not whole[LAST_CAPTURE]:
                pull_kept(v, lanes, KEPT_CAPTURE, PULL_CAPTURE, panel, of_panel, single, layer, whole, numbers)
        if wants[WANT_FACTORS]:
            finish(v, lanes, panel, of_panel, sources, of_sources, single, whole, numbers, wants)
        if out.size:
            for j in range(lanes):
                if place[j] >= 0:
                    out[place[j]] = v[TOTAL + j]
        first += used


@stage()
def clear_kept(v: Array, lanes: int) -> None:
    """No gradient yet by the factors that are computed once a pixel."""
    fill(v, KEPT_OMEGA, lanes, 0.0)
    fill(v, KEPT_CAPTURE, lanes, 0.0)
    fill(v, KEPT_POLAR, lanes, 0.0)


@stage()
def clear_pull(v: Array, lanes: int) -> None:
    """No gradient yet by a sample's unit vectors, solid angle and capture."""
    for j in range(lanes):
        v[PULL_X + j] = v[PULL_Y + j] = v[PULL_Z + j] = v[PULL_OMEGA + j] = v[PULL_CAPTURE + j] = 0.0


@stage()
def pull_source(v: Array, lanes: int, source: Array, of_source: Array, whole: Array, wants: Array) -> None:
    """What flows back through the scattering vectors and the factors of one source."""
    if wants[WANT_SCATTERING]:
        pull_scattering(v, lanes, source, of_source)
    if wants[WANT_FACTORS]:
        pull_factors(v, lanes, source, of_source, whole)
        if whole[EACH_POLAR]:
            pull_polarization(v, lanes, source, of_source)
        else:
            for j in range(lanes):
                v[KEPT_POLAR + j] += v[PULL_POLAR + j]


@stage()
def pull_kept(
    v: Array,
    lanes: int,
    kept: int,
    pull: int,
    panel: Array,
    of_panel: Array,
    single: Array,
    layer: int,
    whole: Array,
    numbers: Array,
) -> None:
    """Let a kept gradient flow back through the first sub-pixel of a layer, and clear it."""
    aim(v, lanes, panel, layer, 0, whole, numbers)
    clear_pull(v, lanes)
    for j in range(lanes):
        v[pull + j] = v[kept + j]
        v[kept + j] = 0.0
    pull_sample(v, lanes, panel, of_panel, single, layer, 0, whole, numbers)


@stage()
def finish(
    v: Array,
    lanes: int,
    panel: Array,
    of_panel: Array,
    sources: Array,
    of_sources: Array,
    single: Array,
    whole: Array,
    numbers: Array,
    wants: Array,
) -> None:
    """What is added once a pixel, and the gradients by factors that were computed once."""
    has_offset = numbers[OFFSET] != 0
    if has_offset or wants[WANT_OFFSET]:
        pull_offset(v, lanes, panel, sources[0], single, whole, numbers)
    if has_offset or not whole[EACH_OMEGA]:
        pull_kept(v, lanes, KEPT_OMEGA, PULL_OMEGA, panel, of_panel, single, 0, whole, numbers)
    if has_offset or whole[LAST_CAPTURE]:
        pull_kept(v, lanes, KEPT_CAPTURE, PULL_CAPTURE, panel, of_panel, single, whole[LAYERS] - 1, whole, numbers)
    if has_offset or not whole[EACH_POLAR]:
        pull_first_polarization(v, lanes, panel, of_panel, sources, of_sources, single, whole, numbers)


@stage()
def pull_offset(v: Array, lanes: int, panel: Array, source: Array, single: Array, whole: Array, numbers: Array) -> None:
    """TOTAL += offset omega capture P, and its gradients."""
    once(v, lanes, panel, source, whole, numbers)
    total = 0.0
    for j in range(lanes):
        omega, capture, polar = v[OMEGA + j], v[CAPTURE + j], v[POLAR + j]
        flow = v[UPSTREAM + j] * numbers[OFFSET]
        v[TOTAL + j] += numbers[OFFSET] * omega * capture * polar
        total += v[UPSTREAM + j] * omega * capture * polar
        v[KEPT_OMEGA + j] += flow * capture * polar
        v[KEPT_CAPTURE + j] += flow * omega * polar
        v[KEPT_POLAR + j] += flow * omega * capture
    single[OFFSET_SUM] += total


@stage()
def pull_first_polarization(
    v: Array,
    lanes: int,
    panel: Array,
    of_panel: Array,
    sources: Array,
    of_sources: Array,
    single: Array,
    whole: Array,
    numbers: Array,
) -> None:
    """Let KEPT_POLAR flow back through the first source that each lane sees; through the very first if P is of each."""
    fill(v, KNOWN, lanes, 0.0)
    fill(v, SEEN, lanes, 1.0)
    left = lanes
    for layer in range(whole[LAYERS]):
        for sub in range(whole[OVERSAMPLE] * whole[OVERSAMPLE]):
            aim(v, lanes, panel, layer, sub, whole, numbers)
            for s in range(sources.shape[0]):
                if left == 0:
                    return
                if not whole[EACH_POLAR]:
                    scatter(v, lanes, sources[s], numbers[DMIN])
                clear_pull(v, lanes)
                for j in range(lanes):
                    fresh = v[SEEN + j] > v[KNOWN + j]
                    left -= 1 if fresh else 0
                    v[PULL_POLAR + j] = v[KEPT_POLAR + j] if fresh else 0.0
                    v[KNOWN + j] = max(v[KNOWN + j], v[SEEN + j])
                pull_polarization(v, lanes, sources[s], of_sources[s])
                pull_sample(v, lanes, panel, of_panel, single, layer, sub, whole, numbers)
