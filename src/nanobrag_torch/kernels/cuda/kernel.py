"""The fused Triton kernel: a program works on tiles of pixels and a share of the lattices; its job selects the code."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from nanobrag_torch.kernels.cuda.adjoint import pixel_gradients
from nanobrag_torch.kernels.cuda.jit import BOUND, GRADIENTS, RECORDS, SLOPES, VALUE, jit, kernel
from nanobrag_torch.kernels.cuda.math import largest, smallest
from nanobrag_torch.kernels.cuda.records import ROW, Given, Grid, Pixel, Rows, Sink, load_panel
from nanobrag_torch.kernels.cuda.value import pixel_values


class Tile(NamedTuple):
    """Lanes of pixels: their place in the list, whether they are in it, where they are, and their panel."""

    place: tl.tensor
    there: tl.tensor
    pixel: Pixel
    panel: tl.tensor


@jit
def tile_of(
    number: tl.tensor,
    pixels: tl.tensor,
    count: tl.tensor,
    slow: tl.tensor,
    fast: tl.tensor,
    stride: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """The pixels of a tile.

    `stride` is one: unknown to the compiler, it keeps it from spreading a group over several threads.
    """
    group, lane = tl.arange(0, way.group)[:, None], tl.arange(0, way.lanes)[None, :]
    place = number * (way.group * way.lanes) + lane * way.group + group * stride
    inside = tl.minimum(place, count - 1)
    pixel = inside
    if way.listed:
        pixel = tl.load(pixels + inside).to(tl.int32)
    row = pixel // fast
    return Tile(place, place < count, Pixel(pixel % fast, row % slow), row // slow)


@jit
def panel_work(
    tile: Tile,
    here: tl.tensor,
    place: tl.tensor,
    upstream: tl.tensor,
    out: tl.tensor,
    row_length: tl.tensor,
    given: Given,
    sink: Sink,
    way: tl.constexpr,
) -> None:
    """The job for the pixels of one panel. `out`: the row of results of this program's share of the lattices."""
    panel = load_panel(given, place)
    pull = tl.full([way.group, way.lanes], 1.0, tl.float64)
    if (way.job != VALUE) and (way.job != BOUND) and (way.job != SLOPES):
        pull = tl.load(upstream + tile.place, mask=here, other=0.0).to(tl.float64)
    if (way.job == GRADIENTS) or (way.job == SLOPES):
        values, along = pixel_gradients(tile.pixel, panel, pull, here, given, sink, way)
        if way.valued:
            tl.store(out + tile.place, values.to(way.real), mask=here)
        directions: tl.constexpr = way.directions
        for t in tl.static_range(directions):
            tl.store(out + t * row_length + tile.place, along[t].to(way.real), mask=here)
    else:
        values = pixel_values(tile.pixel, panel, pull, here, given, sink, way)
        if (way.job == VALUE) or (way.job == BOUND):
            tl.store(out + tile.place, values.to(out.dtype.element_ty), mask=here)


@kernel
def image_kernel(
    pixels: tl.tensor,
    panels: tl.tensor,
    pixel_size: tl.tensor,
    sensor: tl.tensor,
    curvature: tl.tensor,
    incident: tl.tensor,
    wavelengths: tl.tensor,
    source_weights: tl.tensor,
    polarization: tl.tensor,
    lattice: tl.tensor,
    narrow: tl.tensor,
    lattice_weights: tl.tensor,
    shape: tl.tensor,
    table: tl.tensor,
    default_F: tl.tensor,  # noqa: N803  # as the field of a scene
    offset: tl.tensor,
    longest: tl.tensor,
    dmin: tl.tensor,
    upstream: tl.tensor,
    panel_rows: tl.tensor,
    source_rows: tl.tensor,
    lattice_rows: tl.tensor,
    scene_rows: tl.tensor,
    table_rows: tl.tensor,
    out: tl.tensor,
    tiles: tl.tensor,
    panel_count: tl.tensor,
    count: tl.tensor,
    slow: tl.tensor,
    fast: tl.tensor,
    lattices: tl.tensor,
    chunk: tl.tensor,
    source_count: tl.tensor,
    oversample: tl.tensor,
    layers: tl.tensor,
    size_h: tl.tensor,
    size_k: tl.tensor,
    size_l: tl.tensor,
    first_h: tl.tensor,
    first_k: tl.tensor,
    first_l: tl.tensor,
    stride: tl.tensor,
    way: tl.constexpr,
) -> None:
    """One job; grid (programs a share of the lattices, shares, blocks of directions).

    VALUE, BOUND: out [shares, count]. FACTORS: table_rows [H K L] whole numbers. RECORDS: table_rows, out
    [lattices, samples, sources, nodes, count]. GRADIENTS: rows [programs, n, 16], out like VALUE. SLOPES: rows
    [directions, n, 16], table_rows [directions, H K L], out [shares, directions, count].
    """
    share, block = tl.program_id(1), tl.program_id(2)
    first, length = share * chunk, count.to(tl.int64)
    grid = Grid(size_h, size_k, size_l, first_h, first_k, first_l)
    last = tl.minimum(first + chunk, lattices)
    given = Given(
        panels,
        pixel_size,
        sensor,
        curvature,
        incident,
        wavelengths,
        source_weights,
        polarization,
        lattice,
        narrow,
        lattice_weights,
        shape,
        table,
        default_F,
        offset,
        longest,
        dmin,
        grid,
        source_count,
        oversample,
        layers,
        first,
        last,
    )
    of_panels, of_sources, of_lattices = panel_count * ROW, source_count * ROW, lattices * ROW
    size, records = (size_h * size_k * size_l).to(tl.int64), share.to(tl.int64) * length
    if way.job == GRADIENTS:
        program = tl.program_id(0) + share * tl.num_programs(0)
        panel_rows, source_rows = panel_rows + program * of_panels, source_rows + program * of_sources
        scene_rows, lattice_rows = scene_rows + program * ROW, lattice_rows + tl.program_id(0) * of_lattices
    if way.job == SLOPES:
        from_ = block * way.directions
        panel_rows, source_rows = panel_rows + from_ * of_panels, source_rows + from_ * of_sources
        scene_rows, lattice_rows = scene_rows + from_ * ROW, lattice_rows + from_.to(tl.int64) * of_lattices
        table_rows += from_ * size
        records = (share.to(tl.int64) * tl.num_programs(2) + block) * way.directions * length
    if way.job == RECORDS:
        steps = source_count * layers * oversample * oversample
        records = records * steps * (64 if way.cubic else 1)
    out += records
    for number in range(tl.program_id(0), tiles, tl.num_programs(0)):
        tile = tile_of(number, pixels, count, slow, fast, stride, way)
        for p in range(smallest(tile.panel), largest(tile.panel) + 1):
            here = tile.there & (tile.panel == p)
            if largest(here.to(tl.int32)) > 0:
                of_table = Rows(table_rows, size)
                if way.job == RECORDS:
                    of_table = Rows(table_rows + records + tile.place, length)
                sink = Sink(
                    Rows(panel_rows + p * ROW, of_panels),
                    Rows(source_rows, of_sources),
                    Rows(lattice_rows, of_lattices),
                    Rows(scene_rows, ROW),
                    of_table,
                    out + tile.place,
                )
                panel_work(tile, here, p, upstream, out, length, given, sink, way)
