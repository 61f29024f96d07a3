"""Values of pixels: sums over their samples and sources; gradients by structure factors, which are such sums too."""

from __future__ import annotations

from typing import Any

import triton.language as tl

from nanobrag_torch.kernels.cuda.factors import kept_factors, once_a_pixel, ray_of, sample_of, sight_of
from nanobrag_torch.kernels.cuda.jit import BOUND, RECORDS, VALUE, jit
from nanobrag_torch.kernels.cuda.records import Given, Panel, Pixel, Rows, Sink, load_source
from nanobrag_torch.kernels.cuda.sums import lattice_sums


@jit
def sink_of(sink: Sink, step: tl.tensor, way: tl.constexpr) -> Any:
    """The sink of a sample and source: every one has records of its own."""
    if way.job == RECORDS:
        room = (64 if way.cubic else 1) * step * sink.table.stride
        table = Rows(sink.table.start + room, sink.table.stride)
        sink = Sink(sink.panel, sink.sources, sink.lattices, sink.scene, table, sink.amounts + room)
    return sink


@jit
def pixel_values(
    pixel: Pixel, panel: Panel, upstream: tl.tensor, there: tl.tensor, given: Given, sink: Sink, way: tl.constexpr
) -> Any:
    """Values of one panel's pixels, or bounds; gradients by structure factors for `upstream` go to the sink."""
    kept = kept_factors(pixel, panel, given, way)
    total = tl.full([way.group, way.lanes], 0.0, tl.float64)
    subs = given.oversample * given.oversample
    for number in range(given.layers * subs):
        sight = sight_of(pixel, sample_of(number, given, way), panel, kept, given, way)
        factor = sight.omega * sight.capture / subs
        for s in range(given.source_count):
            source = load_source(given, s)
            ray = ray_of(sight, source, kept, given, way)
            weight = source.weight * factor * ray.seen * ray.polar
            here = sink_of(sink, (number * given.source_count + s).to(tl.int64), way)
            found = lattice_sums(ray.q, upstream * weight, given, here, there, way)
            if way.job == BOUND:
                weight = tl.abs(weight)
            total += weight * found
    if (way.job == VALUE) and way.offset:  # noqa: SIM102  # a choice when compiled, and one at run time
        if given.first == 0:
            capture = once_a_pixel(pixel, panel, kept, given, way)
            total += tl.load(given.offset) * kept.omega * capture * kept.polar
    return total
