"""Gradient by the table of structure factors: one record of place and value a step, for a sorted sum afterwards.

Many steps fall on one reflection. Records of a bounded number of steps are written, sorted by place and added up
segment by segment: no atomics, the same order every time.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from nanobrag_torch.kernels.cuda.geometry import (
    aim,
    capture_of,
    first_seen,
    load_panel,
    load_source,
    polarized,
    scattering,
    solid_angle,
)
from nanobrag_torch.kernels.cuda.jit import NUMBERS, jit, kernel
from nanobrag_torch.kernels.cuda.lattice import (
    amplitude,
    cubic_corner,
    distances,
    hkl_wide,
    lagrange,
    place_of,
)
from nanobrag_torch.kernels.cuda.math import largest
from nanobrag_torch.kernels.cuda.profiles import load_cells, square
from nanobrag_torch.kernels.cuda.value import lanes_of


@jit
def sample_flow(
    pixel: tl.tensor,
    panel: tl.tensor,
    sample: tl.tensor,
    s: tl.tensor,
    sources: tl.tensor,
    scene: tl.tensor,
    counts: tl.tensor,
    way: tl.constexpr,
) -> Any:
    """q of a sample and source, and what the sum over lattices is multiplied by."""
    source_count, oversample, layers = counts
    polar, layer, _j, _s = first_seen(pixel, panel, sources, scene, oversample, layers, source_count, way)
    zero, subs = tl.full([way.group, way.lanes], 0, tl.int32), oversample * oversample
    _direction, radius = aim(pixel, zero, zero, oversample, panel, scene, way)
    omega = solid_angle(radius, panel, way)
    layer = zero + sample // subs
    direction, radius = aim(pixel, layer, zero + sample % subs, oversample, panel, scene, way)
    if way.each_omega:
        omega = solid_angle(radius, panel, way)
    source = load_source(sources, s)
    q, seen = scattering(direction, source, scene, way)
    if way.each_polar:
        polar = polarized(direction, source[3])
    capture = capture_of(pixel, direction, layer, layers, oversample, panel, scene, way)
    return q, source[2] * omega * capture * polar * seen / subs


@jit
def write_nearest(
    target: tl.tensor, values: tl.tensor, near: tl.tensor, grid: tl.tensor, by_amplitude: tl.tensor, mask: tl.tensor
) -> None:
    """One record: the place of the nearest reflection, or the place after the last."""
    place, inside = place_of(near, grid)
    tl.store(target, tl.where(inside, place, grid[0] * grid[1] * grid[2]), mask=mask)
    tl.store(values, by_amplitude, mask=mask)


@jit
def node_weight(t: tl.tensor, node: tl.tensor) -> Any:
    """The weight of cuda_lattice.lagrange for a node that is known when running: 64 nodes written out are too many."""
    first, second = lagrange(t, 0)[0], lagrange(t, 1)[0]
    third, fourth = lagrange(t, 2)[0], lagrange(t, 3)[0]
    return tl.where(node < 2, tl.where(node == 0, first, second), tl.where(node == 2, third, fourth))


@jit
def write_cubic(
    target: tl.tensor,
    values: tl.tensor,
    near: tl.tensor,
    hkl: tl.tensor,
    grid: tl.tensor,
    by_amplitude: tl.tensor,
    count: tl.tensor,
    mask: tl.tensor,
) -> None:
    """64 records: the nodes of the interpolation; where it is not allowed the nearest reflection takes all."""
    allowed, corner, t = cubic_corner(hkl[0], hkl[1], hkl[2], grid)
    place, inside = place_of(near, grid)
    size = grid[0] * grid[1] * grid[2]
    place = tl.where(inside, place, size)
    for a in range(4):
        wa = node_weight(t[0], a)
        for b in range(4):
            wab = wa * node_weight(t[1], b)
            for c in range(4):
                node = (16 * a + 4 * b + c) * count
                weight = tl.where(allowed, wab * node_weight(t[2], c), tl.where(a + b + c == 0, 1.0, 0.0))
                at = tl.where(allowed, corner + (a * grid[1] + b) * grid[2] + c, place)
                tl.store(target + node, at, mask=mask)
                tl.store(values + node, by_amplitude * weight, mask=mask)


@kernel("start", *NUMBERS)
def record_kernel(
    pixels: tl.tensor,
    panels: tl.tensor,
    sources: tl.tensor,
    lattice: tl.tensor,
    narrow: tl.tensor,
    scene: tl.tensor,
    table: tl.tensor,
    upstream: tl.tensor,
    places: tl.tensor,
    values: tl.tensor,
    start: tl.tensor,
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
    nodes: tl.constexpr,
) -> None:
    """places and values [steps, nodes, count] of the steps from `start`; grid (tiles, steps), lattices innermost."""
    step = start + tl.program_id(1)
    row = lattice + 10 * (step % lattices)
    weight = tl.load(row + 9)
    s, sample = (step // lattices) % source_count, step // (lattices * source_count)
    grid, counts = (size_h, size_k, size_l, h, k, l), (source_count, oversample, layers)
    cells, default = load_cells(scene, way), tl.load(scene + 13).to(way.real)
    place, there, pixel, of_panel = lanes_of(tl.program_id(0), pixels, count, (slow, fast), stride, way)
    for p in range(-largest(-of_panel), largest(of_panel) + 1):
        here = there & (of_panel == p)
        if largest(here.to(tl.int32)) > 0:
            q, flow = sample_flow(pixel, load_panel(panels, p), sample, s, sources, scene, counts, way)
            flow = flow * weight * tl.load(upstream + place, mask=here, other=0.0).to(tl.float64)
            d, near = distances(row, row, q, q, way)
            hkl = hkl_wide(row, q)
            f, _by_place, _outside = amplitude(table, near, hkl, default, grid, way)
            by_amplitude = flow * (2.0 * f * square(d, cells, way)).to(tl.float64)
            at = tl.program_id(1).to(tl.int64) * nodes * count + place
            if way.cubic:
                write_cubic(places + at, values + at, near, hkl, grid, by_amplitude, count, here)
            else:
                write_nearest(places + at, values + at, near, grid, by_amplitude, here)
