"""The fused Triton kernel: a program sums all samples, sources and lattices of a tile of pixels."""

from __future__ import annotations

from typing import Any

import triton.language as tl

from nanobrag_torch.kernels.cuda.geometry import (
    aim,
    capture_of,
    captured,
    first_seen,
    load_panel,
    load_source,
    polarized,
    scattering,
    solid_angle,
)
from nanobrag_torch.kernels.cuda.jit import NUMBERS, jit, kernel
from nanobrag_torch.kernels.cuda.lattice import amplitude, anchors, close_enough, distances, hkl_wide
from nanobrag_torch.kernels.cuda.math import cast, largest
from nanobrag_torch.kernels.cuda.profiles import load_cells, square

BATCH = tl.constexpr(64)
"""Lattices whose sums are taken in the image's type; these are then added up in float64."""


@jit
def lanes_of(
    tile: tl.tensor, pixels: tl.tensor, count: tl.tensor, sizes: tl.tensor, stride: tl.tensor, way: tl.constexpr
) -> Any:
    """Places in the list of a tile's pixels, whether they are in it, and their fast, slow and panel index.

    `stride` is one: unknown to the compiler, it keeps it from spreading a group over several threads.
    """
    group, lane = tl.arange(0, way.group)[:, None], tl.arange(0, way.lanes)[None, :]
    place = tile * (way.group * way.lanes) + lane * way.group + group * stride
    there = place < count
    inside = tl.minimum(place, count - 1)
    pixel = inside
    if way.listed:
        pixel = tl.load(pixels + inside).to(tl.int32)
    row = pixel // sizes[1]
    return place, there, (pixel % sizes[1], row % sizes[0]), row // sizes[0]


@jit
def add_lattices(
    q: tl.tensor,
    offset: tl.tensor,
    tables: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    cells: tl.tensor,
    default: tl.tensor,
    grid: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """Sum of weight F^2 L^2 over lattices, float64."""
    lattice, narrow, table = tables
    total = tl.full([way.group, way.lanes], 0.0, tl.float64)
    for start in range(first, last, BATCH):
        part = tl.full([way.group, way.lanes], 0.0, way.real)
        for k in range(start, tl.minimum(start + BATCH, last)):
            d, near = distances(lattice + 10 * k, narrow + 10 * k, q, offset, way)
            hkl = d
            if way.cubic:
                hkl = hkl_wide(lattice + 10 * k, q)
            f, _slopes, _outside = amplitude(table, near, hkl, default, grid, way)
            part += tl.load(narrow + 10 * k + 9) * (f * f) * square(d, cells, way)
        total += part.to(tl.float64)
    return total


@jit
def lattice_sum(
    q: tl.tensor,
    tables: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    scene: tl.tensor,
    cells: tl.tensor,
    default: tl.tensor,
    grid: tl.tensor,
    way: tl.constexpr,
    whole: tl.constexpr,
) -> Any:
    """The same, by float32 differences where they are precise enough. `whole` is `way` but for hkl in float64."""
    if way.wide:
        total = add_lattices(q, q, tables, first, last, cells, default, grid, whole)
    else:
        middle = anchors(q, way)
        offset = cast((q[0] - middle[0], q[1] - middle[1], q[2] - middle[2]), tl.float32)
        if close_enough(offset, scene):
            total = add_lattices(middle, offset, tables, first, last, cells, default, grid, way)
        else:
            total = add_lattices(q, offset, tables, first, last, cells, default, grid, whole)
    return total


@jit
def pixel_values(
    pixel: tl.tensor,
    panel: tl.tensor,
    sources: tl.tensor,
    tables: tl.tensor,
    scene: tl.tensor,
    chunk: tl.tensor,
    counts: tl.tensor,
    grid: tl.tensor,
    way: tl.constexpr,
    whole: tl.constexpr,
) -> Any:
    """Values of one panel's pixels. chunk: first and last lattice; counts: sources, sub-pixels, layers."""
    source_count, oversample, layers = counts
    cells, default = load_cells(scene, way), tl.load(scene + 13).to(way.real)
    kept_polar, layer, _j, _s = first_seen(pixel, panel, sources, scene, oversample, layers, source_count, way)
    zero = tl.full([way.group, way.lanes], 0, tl.int32)
    direction, radius = aim(pixel, zero, zero, oversample, panel, scene, way)
    kept_omega = solid_angle(radius, panel, way)
    total = tl.full([way.group, way.lanes], 0.0, tl.float64)
    subs = oversample * oversample
    for sample in range(layers * subs):
        layer = zero + sample // subs
        direction, radius = aim(pixel, layer, zero + sample % subs, oversample, panel, scene, way)
        factor = capture_of(pixel, direction, layer, layers, oversample, panel, scene, way)
        factor = factor * solid_angle(radius, panel, way) if way.each_omega else factor * kept_omega
        for s in range(source_count):
            source = load_source(sources, s)
            q, seen = scattering(direction, source, scene, way)
            weight = source[2] * factor * seen
            weight = weight * polarized(direction, source[3]) if way.each_polar else weight * kept_polar
            total += weight * lattice_sum(q, tables, chunk[0], chunk[1], scene, cells, default, grid, way, whole)
    total = total / subs
    if way.offset:  # noqa: SIM102  # a choice when compiled, and one at run time
        if chunk[0] == 0:
            layer = zero + (layers - 1)
            direction, radius = aim(pixel, layer, zero, oversample, panel, scene, way)
            total += tl.load(scene + 14) * kept_omega * captured(direction, layer, panel) * kept_polar
    return total


@kernel(*NUMBERS)
def value_kernel(
    pixels: tl.tensor,
    panels: tl.tensor,
    sources: tl.tensor,
    lattice: tl.tensor,
    narrow: tl.tensor,
    scene: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    slow: tl.tensor,
    fast: tl.tensor,
    lattices: tl.tensor,
    chunk: tl.tensor,
    source_count: tl.tensor,
    oversample: tl.tensor,
    layers: tl.tensor,
    stride: tl.tensor,
    size_h: tl.tensor,
    size_k: tl.tensor,
    size_l: tl.tensor,
    h: tl.tensor,
    k: tl.tensor,
    l: tl.tensor,
    way: tl.constexpr,
    whole: tl.constexpr,
) -> None:
    """out [chunks, count]: the part of each pixel that comes from each chunk of lattices; grid (tiles, chunks)."""
    place, there, pixel, of_panel = lanes_of(tl.program_id(0), pixels, count, (slow, fast), stride, way)
    first = tl.program_id(1) * chunk
    last = tl.minimum(first + chunk, lattices)
    tables, grid = (lattice, narrow, table), (size_h, size_k, size_l, h, k, l)
    counts = source_count, oversample, layers
    for p in range(-largest(-of_panel), largest(of_panel) + 1):
        here = there & (of_panel == p)
        if largest(here.to(tl.int32)) > 0:
            values = pixel_values(
                pixel, load_panel(panels, p), sources, tables, scene, (first, last), counts, grid, way, whole
            )
            target = out + tl.program_id(1).to(tl.int64) * count + place
            tl.store(target, values.to(way.real), mask=here)
