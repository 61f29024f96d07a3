"""Gradients of pixels by everything but structure factors, and their values: from the last sample to the first.

In that order factors taken from the first sample, or the last layer, have all their gradient when their turn comes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from nanobrag_torch.kernels.cuda.columns import MOVING, SOURCE
from nanobrag_torch.kernels.cuda.factors import (
    Kept,
    Sight,
    kept_factors,
    once_a_pixel,
    polarized_back,
    pull_back,
    ray_of,
    sample_of,
    sight_of,
)
from nanobrag_torch.kernels.cuda.geometry import aim
from nanobrag_torch.kernels.cuda.jit import jit
from nanobrag_torch.kernels.cuda.math import axpy, dot, largest, scaled
from nanobrag_torch.kernels.cuda.profiles import GRATING
from nanobrag_torch.kernels.cuda.records import (
    Given,
    Panel,
    Pixel,
    Rows,
    Sink,
    Source,
    load9,
    load_source,
    row_of,
)
from nanobrag_torch.kernels.cuda.sinks import give, no_slopes, scaled_sum
from nanobrag_torch.kernels.cuda.sums import Sums, lattice_sums

SHAPE, DEFAULT_F, OFFSET = (tl.constexpr(MOVING.first(name)) for name in ("shape", "default_F", "offset"))
POLARIZATION = tl.constexpr(SOURCE.first("polarization"))


class Pulls(NamedTuple):
    """Gradients by a sample's direction, solid angle and capture, by a polarization that is kept; its value; slopes."""

    direction: tl.tensor
    omega: tl.tensor
    capture: tl.tensor
    polar: tl.tensor
    value: tl.tensor
    along: tl.tensor


@jit
def give_source(
    along: tl.tensor,
    rows: Rows,
    by_q: tl.tensor,
    q: tl.tensor,
    source: Source,
    by_weight: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """Gradients by incident direction, wavelength and weight."""
    by = scaled(-1.0 / source.wavelength, by_q)
    return give(along, rows, 0, by + (dot(by, q), by_weight), 5, way)


@jit
def give_polarization(
    along: tl.tensor, rows: Rows, direction: tl.tensor, by_polar: tl.tensor, way: tl.constexpr
) -> Any:
    """Gradient by the polarization matrix: half the product of the direction with itself."""
    x, y, z = direction
    half = 0.5 * by_polar
    xy, xz, yz = half * x * y, half * x * z, half * y * z
    by = half * x * x, xy, xz, xy, half * y * y, yz, xz, yz, half * z * z
    return give(along, rows, POLARIZATION, by, 9, way)


@jit
def give_shape(along: tl.tensor, rows: Rows, flow: tl.tensor, sums: Sums, way: tl.constexpr) -> Any:
    """Gradients by the shape matrix and the default F."""
    by = sums.by_shape
    a, b, c = flow * by[0], flow * by[1], flow * by[2]
    along = give(along, rows, DEFAULT_F, (flow * sums.by_default,), 1, way)
    if way.profile == GRATING:
        along = give(along, rows, SHAPE, (a,), 1, way)
        along = give(along, rows, SHAPE + 4, (b,), 1, way)
        along = give(along, rows, SHAPE + 8, (c,), 1, way)
    else:
        ab, ac, bc = flow * by[3], flow * by[4], flow * by[5]
        along = give(along, rows, SHAPE, (a, ab, ac, ab, b, bc, ac, bc, c), 9, way)
    return along


@jit
def sample_gradients(
    along: tl.tensor,
    sight: Sight,
    upstream: tl.tensor,
    kept: Kept,
    there: tl.tensor,
    given: Given,
    sink: Sink,
    way: tl.constexpr,
) -> Any:
    """Gradients of one sample by what it weighs and where it is; those by sources, shape and lattices are given on."""
    omega, capture = sight.omega, sight.capture
    pull, none = scaled(0.0, sight.direction), 0.0 * omega
    by_omega, by_capture, by_kept_polar, value = none, none, none, none
    for s in range(given.source_count):
        source = load_source(given, s)
        ray = ray_of(sight, source, kept, given, way)
        part = upstream * ray.seen
        flow = part * source.weight * omega * capture * ray.polar
        sums = lattice_sums(ray.q, flow, given, sink, there, way)
        if way.valued:
            value += ray.seen * source.weight * omega * capture * ray.polar * sums.value
        part = part * sums.value
        by_omega += part * source.weight * capture * ray.polar
        by_capture += part * source.weight * omega * ray.polar
        by_polar = part * source.weight * omega * capture
        rows = row_of(sink.sources, s)
        if way.each_polar:
            pull = axpy(1.0, scaled(by_polar, polarized_back(sight.direction, source.polarization)), pull)
            along = give_polarization(along, rows, sight.direction, by_polar, way)
        else:
            by_kept_polar += by_polar
        by_q = scaled(flow, sums.by_q)
        pull = axpy(1.0 / source.wavelength, by_q, pull)
        along = give_source(along, rows, by_q, ray.q, source, part * omega * capture * ray.polar, way)
        if way.by_shape:
            along = give_shape(along, sink.scene, flow, sums, way)
        if way.directions > 0:
            along = scaled_sum(along, flow, sums.along, way)
    return Pulls(pull, by_omega, by_capture, by_kept_polar, value, along)


@jit
def offset_gradients(
    along: tl.tensor,
    pixel: Pixel,
    panel: Panel,
    upstream: tl.tensor,
    kept: Kept,
    given: Given,
    sink: Sink,
    way: tl.constexpr,
) -> Any:
    """Gradients of what is added once a pixel, by first solid angle, last capture and first polarization; its value."""
    capture, offset = once_a_pixel(pixel, panel, kept, given, way), tl.load(given.offset)
    along = give(along, sink.scene, OFFSET, (upstream * kept.omega * capture * kept.polar,), 1, way)
    flow = upstream * offset
    by_omega, by_capture = flow * capture * kept.polar, flow * kept.omega * kept.polar
    none = 0.0 * flow
    value = offset * kept.omega * capture * kept.polar
    return Pulls((none, none, none), by_omega, by_capture, flow * kept.omega * capture, value, along)


@jit
def kept_polarization(
    along: tl.tensor,
    pixel: Pixel,
    panel: Panel,
    by_polar: tl.tensor,
    kept: Kept,
    given: Given,
    sink: Sink,
    way: tl.constexpr,
) -> Any:
    """Gradient by the direction of the sample whose polarization all others share; that by its source is given on."""
    s = kept.source
    by_polar = tl.where(s < 0, 0.0, by_polar)
    direction, _radius = aim(pixel, kept.sample, panel, given, way)
    for each in range(largest(s) + 1):
        mine = tl.where(s == each, by_polar, 0.0)
        along = give_polarization(along, row_of(sink.sources, each), direction, mine, way)
    matrix = load9(given.polarization + 9 * tl.maximum(s, 0))
    return scaled(by_polar, polarized_back(direction, matrix)), along


@jit
def pixel_gradients(
    pixel: Pixel, panel: Panel, upstream: tl.tensor, there: tl.tensor, given: Given, sink: Sink, way: tl.constexpr
) -> Any:
    """Give on the gradients of one panel's pixels; their values, zero where they are not wanted, and their slopes."""
    subs = given.oversample * given.oversample
    samples = given.layers * subs
    kept = kept_factors(pixel, panel, given, way)
    none = 0.0 * upstream
    along = no_slopes(tl.float64, way)
    by_first_omega, by_last_capture, by_first_polar, values = none, none, none, none
    if way.offset:  # noqa: SIM102  # a choice when compiled, and one at run time
        if given.first == 0:
            once = offset_gradients(along, pixel, panel, upstream, kept, given, sink, way)
            by_first_omega, by_last_capture, by_first_polar = once.omega, once.capture, once.polar
            values, along = once.value, once.along
    by_layer_capture, by_layer_omega = none, none
    for step in range(samples + 3):
        sample = sample_of(tl.maximum(samples - 1 - step, 0), given, way)
        pull, by_omega, by_capture = (none, none, none), none, none
        if step < samples:
            sight = sight_of(pixel, sample, panel, kept, given, way)
            pulls = sample_gradients(along, sight, upstream / subs, kept, there, given, sink, way)
            pull, by_omega, by_capture, along = pulls.direction, pulls.omega, pulls.capture, pulls.along
            by_first_polar += pulls.polar
            if way.valued:
                values += pulls.value / subs
            if way.layer_omega and not way.each_omega:
                by_layer_omega += by_omega
                by_omega = tl.where(sample.sub == 0, by_layer_omega, none)
                by_layer_omega = by_layer_omega - by_omega
            elif not way.each_omega:
                by_first_omega += by_omega
                by_omega = none
            if way.last_capture:
                by_last_capture += by_capture
                by_capture = none
            elif not way.each_capture:
                by_layer_capture += by_capture
                by_capture = tl.where(sample.sub == 0, by_layer_capture, none)
                by_layer_capture = by_layer_capture - by_capture
        elif step == samples:
            by_omega = by_first_omega
        elif step == samples + 1:
            sample = sample_of((given.layers - 1) * subs, given, way)
            by_capture = by_last_capture
        else:
            sample = kept.sample
            pull, along = kept_polarization(along, pixel, panel, by_first_polar, kept, given, sink, way)
        along = pull_back(along, pixel, sample, pull, by_omega, by_capture, panel, given, sink, way)
    return values, along
