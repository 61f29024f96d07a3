"""Gradients of the image, and its values where asked for: the fused adjoint Triton kernel, one launch.

Every program works through its share of the tiles and adds what it sums up over pixels to rows of its own, always in
the same order; a second small pass adds the rows of all programs. So there are no atomics and results repeat bit for
bit. Samples are taken from the last to the first, so that factors taken from the first have all their gradient then.
"""

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
    polarized_back,
    pull_back,
    scattering,
    solid_angle,
)
from nanobrag_torch.kernels.cuda.jit import NUMBERS, jit, kernel
from nanobrag_torch.kernels.cuda.math import add_row, axpy, dot, largest, load9, scaled, total
from nanobrag_torch.kernels.cuda.profiles import GRATING, load_cells
from nanobrag_torch.kernels.cuda.slopes import lattice_slopes
from nanobrag_torch.kernels.cuda.value import lanes_of


@jit
def add_source_row(row: tl.tensor, by_q: tl.tensor, q: tl.tensor, source: tl.tensor, by_weight: tl.tensor) -> None:
    """Gradients by incident direction, wavelength and weight."""
    by = scaled(-1.0 / source[1], by_q)
    sums = total(by[0]), total(by[1]), total(by[2]), total(dot(by, q)), total(by_weight)
    add_row(row, sums, 5)


@jit
def add_polarization_row(row: tl.tensor, direction: tl.tensor, by_polar: tl.tensor) -> None:
    """Gradient by the polarization matrix: half the product of the direction with itself."""
    x, y, z = direction
    half = 0.5 * by_polar
    xx, yy, zz = total(half * x * x), total(half * y * y), total(half * z * z)
    xy, xz, yz = total(half * x * y), total(half * x * z), total(half * y * z)
    zero = 0.0 * xx
    add_row(row, (zero, zero, zero, zero, zero, xx, xy, xz, xy, yy, yz, xz, yz, zz), 14)


@jit
def add_scene_row(
    row: tl.tensor, flow: tl.tensor, by_shape: tl.tensor, by_default: tl.tensor, way: tl.constexpr
) -> None:
    """Gradients by the shape matrix and the default F."""
    a, b, c = total(flow * by_shape[0]), total(flow * by_shape[1]), total(flow * by_shape[2])
    zero = 0.0 * a
    default = total(flow * by_default)
    if way.profile == GRATING:
        d, e, f = zero, zero, zero
    else:
        d, e, f = total(flow * by_shape[3]), total(flow * by_shape[4]), total(flow * by_shape[5])
    add_row(row, (zero, zero, zero, zero, a, d, e, d, b, f, e, f, c, default), 14)


@jit
def sample_gradients(
    pixel: tl.tensor,
    layer: tl.tensor,
    sub: tl.tensor,
    panel: tl.tensor,
    upstream: tl.tensor,
    kept: tl.tensor,
    sources: tl.tensor,
    tables: tl.tensor,
    scene: tl.tensor,
    chunk: tl.tensor,
    counts: tl.tensor,
    grid: tl.tensor,
    rows: tl.tensor,
    way: tl.constexpr,
    whole: tl.constexpr,
) -> Any:
    """Gradients of one sample by its direction, solid angle, capture and a polarization that is kept; its value."""
    source_count, oversample, layers = counts
    cells, default = load_cells(scene, way), tl.load(scene + 13).to(way.real)
    direction, radius = aim(pixel, layer, sub, oversample, panel, scene, way)
    capture = capture_of(pixel, direction, layer, layers, oversample, panel, scene, way)
    omega, polar = kept
    if way.each_omega:
        omega = solid_angle(radius, panel, way)
    pull = scaled(0.0, direction)
    by_omega, by_capture, by_kept_polar = 0.0 * omega, 0.0 * omega, 0.0 * omega
    sums = 0.0 * omega
    for s in range(source_count):
        source = load_source(sources, s)
        q, seen = scattering(direction, source, scene, way)
        if way.each_polar:
            polar = polarized(direction, source[3])
        part = upstream * seen
        flow = part * source[2] * omega * capture * polar
        value, by_q, by_shape, by_default = lattice_slopes(
            q, flow, tables, chunk, scene, cells, default, grid, rows[2], way, whole
        )
        if way.valued:
            sums += seen * source[2] * omega * capture * polar * value
        part = part * value
        by_omega += part * source[2] * capture * polar
        by_capture += part * source[2] * omega * polar
        by_polar = part * source[2] * omega * capture
        if way.each_polar:
            pull = axpy(1.0, scaled(by_polar, polarized_back(direction, source[3])), pull)
            add_polarization_row(rows[1] + 16 * s, direction, by_polar)
        else:
            by_kept_polar += by_polar
        by_q = scaled(flow, by_q)
        pull = axpy(1.0 / source[1], by_q, pull)
        add_source_row(rows[1] + 16 * s, by_q, q, source, part * omega * capture * polar)
        if way.by_shape:
            add_scene_row(rows[3], flow, by_shape, by_default, way)
    return pull, by_omega, by_capture, by_kept_polar, sums


@jit
def offset_gradients(
    pixel: tl.tensor,
    panel: tl.tensor,
    upstream: tl.tensor,
    kept: tl.tensor,
    scene: tl.tensor,
    counts: tl.tensor,
    row: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """Gradients of what is added once a pixel, by first solid angle, last capture and first polarization; its value."""
    omega, polar = kept
    zero = tl.full([way.group, way.lanes], 0, tl.int32)
    layer = zero + (counts[2] - 1)
    direction, _radius = aim(pixel, layer, zero, counts[1], panel, scene, way)
    capture = captured(direction, layer, panel)
    by_offset = total(upstream * omega * capture * polar)
    zero = 0.0 * by_offset
    none = zero, zero, zero, zero, zero, zero, zero
    add_row(row, none + none + (by_offset,), 15)
    flow = upstream * tl.load(scene + 14)
    value = tl.load(scene + 14) * omega * capture * polar
    return flow * capture * polar, flow * omega * polar, flow * omega * capture, value


@jit
def kept_polarization(
    pixel: tl.tensor,
    place: tl.tensor,
    panel: tl.tensor,
    by_polar: tl.tensor,
    sources: tl.tensor,
    scene: tl.tensor,
    counts: tl.tensor,
    rows: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """Gradient by the direction of the sample (layer, sub-pixel, source) whose polarization all others share."""
    layer, sub, s = place
    by_polar = tl.where(s < 0, 0.0, by_polar)
    direction, _radius = aim(pixel, layer, sub, counts[1], panel, scene, way)
    for each in range(largest(s) + 1):
        add_polarization_row(rows + 16 * each, direction, tl.where(s == each, by_polar, 0.0))
    return scaled(by_polar, polarized_back(direction, load9(sources + 16 * tl.maximum(s, 0) + 5)))


@jit
def pixel_gradients(
    pixel: tl.tensor,
    panel: tl.tensor,
    upstream: tl.tensor,
    sources: tl.tensor,
    tables: tl.tensor,
    scene: tl.tensor,
    chunk: tl.tensor,
    counts: tl.tensor,
    grid: tl.tensor,
    rows: tl.tensor,
    way: tl.constexpr,
    whole: tl.constexpr,
) -> Any:
    """Add the gradients of one panel's pixels to the rows (panel, sources, lattices, scene) of this program.

    Returns the pixels' values, zero where they are not wanted.
    """
    source_count, oversample, layers = counts
    subs = oversample * oversample
    samples = layers * subs
    polar, first_layer, first_sub, first_source = first_seen(
        pixel, panel, sources, scene, oversample, layers, source_count, way
    )
    zero = tl.full([way.group, way.lanes], 0, tl.int32)
    _direction, radius = aim(pixel, zero, zero, oversample, panel, scene, way)
    kept = solid_angle(radius, panel, way), polar
    none = 0.0 * upstream
    by_first_omega, by_last_capture, by_first_polar, values = none, none, none, none
    if way.offset:  # noqa: SIM102  # a choice when compiled, and one at run time
        if chunk[0] == 0:
            by_first_omega, by_last_capture, by_first_polar, values = offset_gradients(
                pixel, panel, upstream, kept, scene, counts, rows[3], way
            )
    by_layer_capture = none
    for step in range(samples + 3):
        layer, sub = zero + tl.maximum(samples - 1 - step, 0) // subs, zero + tl.maximum(samples - 1 - step, 0) % subs
        pull, by_omega, by_capture = (none, none, none), none, none
        if step < samples:
            pull, by_omega, by_capture, by_polar, value = sample_gradients(
                pixel,
                layer,
                sub,
                panel,
                upstream / subs,
                kept,
                sources,
                tables,
                scene,
                chunk,
                counts,
                grid,
                rows,
                way,
                whole,
            )
            by_first_polar += by_polar
            if way.valued:
                values += value / subs
            if not way.each_omega:
                by_first_omega += by_omega
                by_omega = none
            if way.last_capture:
                by_last_capture += by_capture
                by_capture = none
            elif not way.each_capture:
                by_layer_capture += by_capture
                by_capture = tl.where(sub == 0, by_layer_capture, none)
                by_layer_capture = by_layer_capture - by_capture
        elif step == samples:
            by_omega = by_first_omega
        elif step == samples + 1:
            layer = zero + (layers - 1)
            by_capture = by_last_capture
        else:
            layer, sub = first_layer, first_sub
            place = first_layer, first_sub, first_source
            pull = kept_polarization(pixel, place, panel, by_first_polar, sources, scene, counts, rows[1], way)
        pull_back(pixel, layer, sub, (pull, by_omega, by_capture), oversample, panel, scene, rows[0], rows[3], way)
    return values


@kernel("tiles", "panel_count", *NUMBERS)
def adjoint_kernel(
    pixels: tl.tensor,
    panels: tl.tensor,
    sources: tl.tensor,
    lattice: tl.tensor,
    narrow: tl.tensor,
    scene: tl.tensor,
    table: tl.tensor,
    upstream: tl.tensor,
    panel_rows: tl.tensor,
    source_rows: tl.tensor,
    lattice_rows: tl.tensor,
    scene_rows: tl.tensor,
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
    """Rows of gradients [programs, n, 16] for the upstream gradient [count]; grid (programs a chunk, chunks).

    out [chunks, count]: the values too, as from value_kernel, where they are wanted (way.valued).
    """
    first = tl.program_id(1) * chunk
    last = tl.minimum(first + chunk, lattices)
    program = tl.program_id(0) + tl.program_id(1) * tl.num_programs(0)
    tables, grid = (lattice, narrow, table), (size_h, size_k, size_l, h, k, l)
    counts = source_count, oversample, layers
    of_sources, of_scene = source_rows + program * source_count * 16, scene_rows + program * 16
    of_lattices = lattice_rows + tl.program_id(0) * lattices * 16
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        place, there, pixel, of_panel = lanes_of(tile, pixels, count, (slow, fast), stride, way)
        for p in range(-largest(-of_panel), largest(of_panel) + 1):
            here = there & (of_panel == p)
            if largest(here.to(tl.int32)) > 0:
                pull = tl.load(upstream + place, mask=here, other=0.0).to(tl.float64)
                rows = panel_rows + (program * panel_count + p) * 16, of_sources, of_lattices, of_scene
                values = pixel_gradients(
                    pixel,
                    load_panel(panels, p),
                    pull,
                    sources,
                    tables,
                    scene,
                    (first, last),
                    counts,
                    grid,
                    rows,
                    way,
                    whole,
                )
                if way.valued:
                    target = out + tl.program_id(1).to(tl.int64) * count + place
                    tl.store(target, values.to(way.real), mask=here)
