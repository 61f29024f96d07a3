"""Gradients by structure factors from a sorted list, slowly: what the sums of whole numbers are checked against."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobrag_torch.kernels.cuda.launch import call_of, launch
from nanobrag_torch.kernels.cuda.plan import Plan
from nanobrag_torch.kernels.problem import Options, Scene

RECORDS = 2**23
"""Records that are sorted at once, or those of one pixel if they are more."""
NODES = 64
"""Of an interpolated structure factor."""


def by_sorting(upstream: Tensor, pixels: Tensor, scene: Scene, options: Options) -> Tensor:
    """Gradient [H K L] by the table, float64, for listed pixels [n]: added in a fixed order."""
    size, device = scene.structure_factors.numel(), scene.lattice.device
    total = torch.zeros(size, dtype=torch.float64, device=device)
    steps = scene.lattice.shape[0] * scene.incident.shape[0] * options.oversample**2 * options.layers
    records = steps * (NODES if options.interpolate else 1)
    at_once = max(1, RECORDS // records)
    for start in range(0, pixels.numel(), at_once):
        some = slice(start, start + at_once)
        total += _piece(upstream.detach()[some].double().contiguous(), pixels[some], scene, options, records)
    return total


def _piece(upstream: Tensor, pixels: Tensor, scene: Scene, options: Options, records: int) -> Tensor:
    from nanobrag_torch.kernels.cuda.jit import RECORDS as JOB

    call = call_of(pixels, scene, options)
    places = torch.empty((records, pixels.numel()), dtype=torch.int32, device=call.device)
    values = torch.empty((records, pixels.numel()), dtype=torch.float64, device=call.device)
    tiles = -(-call.count // (call.way.group * call.way.lanes))
    plan = Plan(call.count, tiles, tiles, 1, scene.lattice.shape[0])
    launch(call, plan, call.way._replace(job=JOB.value), values, upstream=upstream, table=places)
    return segment_sums(places.flatten(), values.flatten(), scene.structure_factors.numel())


def segment_sums(places: Tensor, values: Tensor, size: int) -> Tensor:
    """Sum [size] of the values [n] at each place [n] below `size`, others dropped; added in the order given."""
    order = torch.sort(places, stable=True)
    edges = torch.searchsorted(order.values, torch.arange(size + 1, dtype=places.dtype, device=places.device))
    sums: Tensor = torch.segment_reduce(values[order.indices], "sum", offsets=edges, unsafe=True)
    return sums
