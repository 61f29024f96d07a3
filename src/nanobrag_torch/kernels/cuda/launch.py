"""The fused kernel on a GPU: launches the Triton kernel. Importing this module imports neither Triton nor CUDA.

Everything stays on the device and nothing looks at a tensor's values on the host, so calls can be captured in a CUDA
graph. Memory is the result plus tables: per-program rows of gradients are bounded by the number of programs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanobrag_torch.kernels.cuda import plan as plans
from nanobrag_torch.kernels.cuda.devices import launching
from nanobrag_torch.kernels.cuda.plan import Plan, processors, way_of
from nanobrag_torch.kernels.cuda.tables import Rows, Tables, by_name, direction_rows, empty_rows, tables
from nanobrag_torch.kernels.problem import Options, Pull, Scene, pixel_count

if TYPE_CHECKING:
    from nanobrag_torch.kernels.cuda.jit import Way

BYTES_PER_PIXEL = 16
"""Of the values and the list of pixels."""
LARGEST_SUM = 2.0**61
"""Of whole numbers that stand for gradients by structure factors; twice as much and more fits 64 bits."""
SMALLEST_BOUND = 1e-270
"""Of these gradients; what is smaller has a coarser scale, which stays finite."""


@dataclass(frozen=True)
class Call:
    """One scene and list of pixels, as every job needs them."""

    pixels: Tensor | None
    scene: Scene
    options: Options
    given: Tables
    way: Way

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.scene.lattice.device

    @property
    def count(self) -> int:
        """Of pixels."""
        return pixel_count(self.pixels, self.scene, self.options)

    def plan(self) -> Plan:
        """One program a tile, and lattices shared where tiles are few."""
        tile = self.way.group * self.way.lanes
        return plans.plan_of(self.count, tile, self.scene.lattice.shape[0], processors(self.device))

    def empty(self, *size: int) -> Tensor:
        """Room for results in the type of the image."""
        return torch.empty(size, dtype=self.options.dtype, device=self.device)


def call_of(pixels: Tensor | None, scene: Scene, options: Options, group: int = 0) -> Call:
    """What all jobs need; `group`: pixels of a thread, 0 for what suits values."""
    way = way_of(pixels, scene, options)
    return Call(pixels, scene, options, tables(scene, options), way._replace(group=group or way.group))


def launch(
    call: Call,
    plan: Plan,
    way: Way,
    out: Tensor,
    *,
    upstream: Tensor | None = None,
    rows: Rows | None = None,
    table: Tensor | None = None,
    blocks: int = 1,
) -> None:
    """Run a job; what it does not use may be left out."""
    from nanobrag_torch.kernels.cuda.jit import launch_options
    from nanobrag_torch.kernels.cuda.kernel import image_kernel

    given, unused = call.given, call.given.panels
    listed = unused if call.pixels is None else call.pixels.detach().to(torch.int64).contiguous()
    sinks = (unused,) * 4 if rows is None else rows.arguments()
    pointers = listed, *given.arguments(), unused if upstream is None else upstream, *sinks
    whole = numbers(plan, given, call.options)
    image_kernel[(plan.rows, plan.chunks, blocks)](
        *pointers, unused if table is None else table, out, *whole, way, **launch_options(way)
    )


def numbers(plan: Plan, given: Tables, options: Options) -> tuple[int, ...]:
    """The whole-number arguments of the kernel."""
    lattices, sources, panels = given.lattice.shape[0], given.incident.shape[0], given.panels.shape[0]
    shared = plan.tiles, panels, plan.count, *options.image_shape, lattices, plan.chunk, sources
    size = given.structure_factors.shape if given.structure_factors.numel() else (0, 0, 0)
    return (*shared, options.oversample, options.layers, *size, *options.hkl_first, 1)


def forward(pixels: Tensor | None, scene: Scene, options: Options) -> Tensor:
    """Values [n] of the flat pixel indices [n], or of all pixels in order, in options.dtype.

    Raises InputError when the GPU's memory does not suffice.
    """
    count, device = pixel_count(pixels, scene, options), scene.lattice.device
    if count == 0:
        return torch.zeros(0, dtype=options.dtype, device=device)
    with launching(device, count, BYTES_PER_PIXEL, table_bytes(scene)):
        call = call_of(pixels, scene, options)
        plan = call.plan()
        parts = call.empty(plan.chunks, count)
        launch(call, plan, call.way, parts)
        return added(parts)


def added(parts: Tensor) -> Tensor:
    """Sum [...] of the parts [chunks, ...] of all chunks of lattices."""
    return parts[0] if parts.shape[0] == 1 else parts.sum(0)


def adjoint(pull: Pull, pixels: Tensor | None, scene: Scene, options: Options) -> tuple[Tensor, dict[str, Tensor]]:
    """Values [n], without element unless asked for, and the wanted gradients by name.

    The values come from the same launch where that needs no more than ROW_BYTES. Raises InputError when the GPU's
    memory does not suffice.
    """
    upstream, wanted, value = pull
    found: dict[str, Tensor] = {}
    values = upstream.new_empty(0, dtype=options.dtype)
    with launching(scene.lattice.device, upstream.numel(), BYTES_PER_PIXEL, 2 * plans.ROW_BYTES + table_bytes(scene)):
        if any(name != "structure_factors" for name in wanted):
            rows, values = _rows(pull, pixels, scene, options)
            found = by_name(rows, scene)
        if "structure_factors" in wanted:
            found["structure_factors"] = by_table(upstream, pixels, scene, options)
        gradients = {name: _like(found[name], getattr(scene, name)) for name in wanted}
    if value and values.numel() < upstream.numel():
        values = forward(pixels, scene, options)
    return values, gradients


def _any(*names: str, among: Collection[str]) -> bool:
    return any(name in among for name in names)


def _like(gradient: Tensor, tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor).copy_(gradient.reshape(tensor.shape))


def _rows(pull: Pull, pixels: Tensor | None, scene: Scene, options: Options) -> tuple[Rows, Tensor]:
    """Add up the rows of gradients of all programs, and the values of their chunks where there is room."""
    from nanobrag_torch.kernels.cuda.jit import GRADIENT_GROUP, GRADIENTS

    upstream, wanted, value = pull
    call = call_of(pixels, scene, options, GRADIENT_GROUP)
    lattices, sources, panels = scene.lattice.shape[0], scene.incident.shape[0], scene.panels.shape[0]
    by_lattice, by_shape = _any("lattice", "lattice_weights", among=wanted), _any("shape", "default_F", among=wanted)
    way = call.way._replace(job=GRADIENTS.value, by_lattice=by_lattice, by_shape=by_shape)
    tile = way.group * way.lanes
    plan = plans.adjoint_plan(call.count, tile, lattices, sources + panels, processors(call.device))
    way = way._replace(valued=value and plan.chunks * call.count * options.dtype.itemsize <= plans.ROW_BYTES)
    parts = call.empty(plan.chunks, call.count if way.valued else 0)
    rows = empty_rows(plan.rows * plan.chunks, plan.rows, panels, sources, lattices if by_lattice else 0, call.device)
    if call.count:
        launch(call, plan, way, parts, upstream=upstream.detach().contiguous(), rows=rows)
    return rows.summed(), added(parts)


def by_table(upstream: Tensor, pixels: Tensor | None, scene: Scene, options: Options) -> Tensor:
    """Gradient [H K L] by the table, float64: a sum of whole numbers, which has no order, so it repeats bit for bit.

    A first pass bounds the sum of all parts that any one structure factor can have; its scale is a power of two.
    """
    from nanobrag_torch.kernels.cuda.jit import BOUND, FACTORS

    call = call_of(pixels, scene, options)
    sums = torch.zeros(call.given.structure_factors.numel(), dtype=torch.int64, device=call.device)
    if not call.count or not sums.numel():
        return sums.double()
    plan, pull = call.plan(), upstream.detach().double()
    bounds = torch.empty((plan.chunks, call.count), dtype=torch.float64, device=call.device)
    launch(call, plan, call.way._replace(job=BOUND.value), bounds)
    scale = scale_of((bounds.sum(0) * pull.abs()).sum() * (2 if call.way.cubic else 1))
    launch(call, plan, call.way._replace(job=FACTORS.value), bounds, upstream=pull * scale, table=sums)
    return sums.double() / scale


def scale_of(bound: Tensor) -> Tensor:
    """The power of two that brings a bound [] near the largest whole number; nothing finite for one that is not."""
    _, exponent = torch.frexp(bound.clamp(min=SMALLEST_BOUND))
    scale = torch.ldexp(torch.full_like(bound, LARGEST_SUM), -exponent)
    return torch.where(torch.isfinite(bound), scale, torch.nan)


def tangents(pixels: Tensor | None, scene: Scene, directions: Mapping[str, Tensor], options: Options) -> Tensor:
    """Slopes [T, n] of the pixels [n], or of all in order, in options.dtype; NaN along directions that are not finite.

    directions: by the names of the tensors that move, stacks [T, *shape]. A nearest-hkl table has no slope in hkl: F is
    constant between the half-integers. Raises InputError when the GPU's memory does not suffice.
    """
    count = next(iter(directions.values())).shape[0]
    block = plans.block_of(count)
    padded = -(-count // block) * block
    with launching(
        scene.lattice.device,
        pixel_count(pixels, scene, options),
        BYTES_PER_PIXEL * padded,
        (1 + padded) * table_bytes(scene),
    ):
        call = call_of(pixels, scene, options)
        plan, table = call.plan(), _moving_table(directions, scene, options, padded)
        parts = torch.zeros((plan.chunks, padded, call.count), dtype=options.dtype, device=call.device)
        rows = direction_rows(directions, scene, padded, options.dtype)
        if call.count:
            way = _moving(call.way, directions, block)
            launch(call, plan, way, parts, rows=rows, table=table, blocks=padded // block)
        known = torch.stack([torch.isfinite(stack).reshape(count, -1).all(1) for stack in directions.values()]).all(0)
        return torch.where(known[:, None], added(parts)[:count], torch.nan)


def _moving(way: Way, moving: Collection[str], block: int) -> Way:
    """The code that slopes along so many directions of these tensors need."""
    from nanobrag_torch.kernels.cuda.jit import SLOPES

    return way._replace(
        job=SLOPES.value,
        directions=block,
        by_lattice=_any("lattice", "lattice_weights", among=moving),
        by_shape=_any("shape", "default_F", among=moving),
        by_table="structure_factors" in moving,
    )


def _moving_table(directions: Mapping[str, Tensor], scene: Scene, options: Options, padded: int) -> Tensor | None:
    """The table along directions [padded, H, K, L], if it moves."""
    if "structure_factors" not in directions:
        return None
    table = torch.zeros(
        (padded, *scene.structure_factors.shape), dtype=options.dtype, device=scene.structure_factors.device
    )
    table[: directions["structure_factors"].shape[0]] = directions["structure_factors"]
    return table


def table_bytes(scene: Scene) -> int:
    """Bytes of a scene's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in scene.tensors())
