"""The fused kernel on a GPU: launches the Triton kernels. Importing this module imports neither Triton nor CUDA.

Everything stays on the device and nothing looks at a tensor's values on the host, so calls can be captured in a CUDA
graph. Memory is the result plus tables: per-program rows of gradients are bounded by the number of programs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanobrag_torch.kernels.cuda.devices import launching
from nanobrag_torch.kernels.cuda.tables import Rows, Tables, by_name, empty_rows, tables
from nanobrag_torch.kernels.problem import Options, Scene, pixel_count, taken
from nanobrag_torch.physics.lattice_factor import Profile

if TYPE_CHECKING:
    from nanobrag_torch.kernels.cuda.jit import Way

PROGRAMS_PER_PROCESSOR = 16
RECORDS = 2**23
"""Records of gradients by structure factors that are sorted at once."""
LARGEST_GRID = 65535
"""Programs along the second axis of a grid: all that CUDA allows."""
NODES = 64  # of an interpolated structure factor
BYTES_PER_PIXEL = 16
"""Of the values and the list of pixels."""
ROW_BYTES = 2**28
"""Bound on the rows of gradients by panels and sources, of all programs together."""
CHUNK = 128
"""Lattices of a program, at least, where lattices are shared among programs."""


@dataclass(frozen=True)
class Plan:
    """How work is shared among programs."""

    count: int  # pixels
    tiles: int
    rows: int  # programs that share the tiles
    chunk: int  # lattices of a program
    chunks: int


def forward(pixels: Tensor | None, scene: Scene, options: Options) -> Tensor:
    """Values [n] of the flat pixel indices [n], or of all pixels in order, in options.dtype.

    Raises InputError when the GPU's memory does not suffice.
    """
    count, device = pixel_count(pixels, scene, options), scene.lattice.device
    if count == 0:
        return torch.zeros(0, dtype=options.dtype, device=device)
    way = way_of(pixels, scene, options)
    plan = plan_of(count, way.group * way.lanes, scene.lattice.shape[0], processors(device))
    with launching(device, count, plan.chunks * BYTES_PER_PIXEL, table_bytes(scene)):
        return _values(pixels, scene, options, plan, way)


def _values(pixels: Tensor | None, scene: Scene, options: Options, plan: Plan, way: Way) -> Tensor:
    from nanobrag_torch.kernels.cuda.jit import LAUNCH
    from nanobrag_torch.kernels.cuda.value import value_kernel

    given = tables(scene, options)
    size = (plan.chunks, plan.count) if plan.chunks > 1 else (plan.count,)
    parts = torch.empty(size, dtype=options.dtype, device=scene.lattice.device)
    arguments = (_listed(pixels, given), *given.arguments(), parts, *numbers(plan, given, options))
    value_kernel[(plan.tiles, plan.chunks)](*arguments, way, way._replace(wide=True), **LAUNCH)
    return parts.sum(0) if plan.chunks > 1 else parts


def adjoint(
    upstream: Tensor,
    pixels: Tensor | None,
    scene: Scene,
    options: Options,
    wanted: Collection[str],
    *,
    value: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Values and gradients by the wanted tensors of the scene, by name.

    upstream [n]: gradient by the values of the pixels. value: their values [n] too, from the same launch where that
    needs no more than ROW_BYTES; else without element. Raises InputError when the GPU's memory does not suffice.
    """
    found: dict[str, Tensor] = {}
    values = upstream.new_empty(0, dtype=options.dtype)
    with launching(scene.lattice.device, upstream.numel(), BYTES_PER_PIXEL, 2 * ROW_BYTES + table_bytes(scene)):
        given = tables(scene, options)
        if any(name != "structure_factors" for name in wanted):
            rows, values = _rows(upstream, pixels, scene, options, wanted, given, value)
            found = by_name(rows, scene)
        if "structure_factors" in wanted:
            found["structure_factors"] = _by_table(upstream, pixels, scene, options, given)
        gradients = {name: _like(found[name], getattr(scene, name)) for name in wanted}
    if value and values.numel() < upstream.numel():
        values = forward(pixels, scene, options)
    return values, gradients


def _any(*names: str, among: Collection[str]) -> bool:
    return any(name in among for name in names)


def _like(gradient: Tensor, tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor).copy_(gradient.reshape(tensor.shape))


def _listed(pixels: Tensor | None, given: Tables) -> Tensor:
    """The list of pixels; without one the kernel does not read it, but wants something of its kind."""
    return given.panels if pixels is None else pixels.detach().to(torch.int64).contiguous()


def _rows(
    upstream: Tensor,
    pixels: Tensor | None,
    scene: Scene,
    options: Options,
    wanted: Collection[str],
    given: Tables,
    value: bool,
) -> tuple[Rows, Tensor]:
    """Run the adjoint kernel and add up the rows of its programs, and the values of its chunks where there is room."""
    from nanobrag_torch.kernels.cuda.adjoint import adjoint_kernel
    from nanobrag_torch.kernels.cuda.jit import LAUNCH, SMALL_GROUP

    count, device = upstream.numel(), scene.lattice.device
    lattices, sources, panels = scene.lattice.shape[0], scene.incident.shape[0], scene.panels.shape[0]
    by_lattice, by_shape = _any("lattice", "lattice_weights", among=wanted), _any("shape", "default_F", among=wanted)
    way = way_of(pixels, scene, options)._replace(by_lattice=by_lattice, by_shape=by_shape, group=SMALL_GROUP)
    plan = adjoint_plan(count, way.group * way.lanes, lattices, sources + panels, processors(device))
    way = way._replace(valued=value and plan.chunks * count * options.dtype.itemsize <= ROW_BYTES)
    parts = torch.empty((plan.chunks, count if way.valued else 0), dtype=options.dtype, device=device)
    rows = empty_rows(plan.rows * plan.chunks, plan.rows, panels, sources, lattices if by_lattice else 0, device)
    arguments = (_listed(pixels, given), *given.arguments(), upstream.detach().contiguous(), *rows.arguments(), parts)
    whole = (plan.tiles, panels, *numbers(plan, given, options))
    if count:
        adjoint_kernel[(plan.rows, plan.chunks)](*arguments, *whole, way, way._replace(wide=True), **LAUNCH)
    return rows.summed(), parts[0] if plan.chunks == 1 else parts.sum(0)


def _by_table(upstream: Tensor, pixels: Tensor | None, scene: Scene, options: Options, given: Tables) -> Tensor:
    """Gradient [H K L] by the table: records of a bounded number of steps at a time, sorted and added up."""
    size, device = given.factors.numel(), scene.lattice.device
    total = torch.zeros(size, dtype=torch.float64, device=device)
    way = way_of(pixels, scene, options)._replace(wide=True, listed=True)
    most = RECORDS // (NODES if way.cubic else 1)
    for start in range(0, upstream.numel() if size else 0, most):
        pull = upstream.detach()[start : start + most].contiguous()
        end = start + pull.numel()
        listed = torch.arange(start, end, device=device) if pixels is None else pixels[start:end].to(torch.int64)
        _add_records(total, pull, listed.contiguous(), options, given, way)
    return total


def _add_records(total: Tensor, upstream: Tensor, pixels: Tensor, options: Options, given: Tables, way: Way) -> None:
    from nanobrag_torch.kernels.cuda.jit import LAUNCH
    from nanobrag_torch.kernels.cuda.records import record_kernel

    count, nodes = pixels.numel(), NODES if way.cubic else 1
    plan = plan_of(count, way.group * way.lanes, given.lattice.shape[0], 1)
    steps = given.lattice.shape[0] * given.sources.shape[0] * options.oversample**2 * options.layers
    at_once = max(1, min(RECORDS // (count * nodes), LARGEST_GRID))
    for start in range(0, steps, at_once):
        now = min(at_once, steps - start)
        places = torch.empty((now, nodes, count), dtype=torch.int32, device=total.device)
        values = torch.empty((now, nodes, count), dtype=torch.float64, device=total.device)
        arguments = (pixels, *given.arguments(), upstream, places, values, start)
        record_kernel[(plan.tiles, now)](*arguments, *numbers(plan, given, options), way, nodes, **LAUNCH)
        total += segment_sums(places.flatten(), values.flatten(), total.numel())


def segment_sums(places: Tensor, values: Tensor, size: int) -> Tensor:
    """Sum [size] of the values [n] at each place [n] below `size`, others dropped; added in the order given."""
    order = torch.sort(places, stable=True)
    edges = torch.searchsorted(order.values, torch.arange(size + 1, dtype=places.dtype, device=places.device))
    sums: Tensor = torch.segment_reduce(values[order.indices], "sum", offsets=edges, unsafe=True)
    return sums


def adjoint_plan(count: int, tile: int, lattices: int, tables: int, processors: int) -> Plan:
    """Programs that each take a share of the tiles and a chunk of lattices; their number bounds the rows they need."""
    tiles = -(-count // tile)
    most = max(1, ROW_BYTES // (128 * tables))
    wanted = min(processors * PROGRAMS_PER_PROCESSOR, most)
    chunks = max(1, min(-(-lattices // CHUNK), most, LARGEST_GRID))
    rows = max(1, min(tiles, -(-wanted // chunks)))
    chunk = max(1, -(-lattices // chunks))
    return Plan(count, tiles, rows, chunk, max(1, -(-lattices // chunk)))


def numbers(plan: Plan, given: Tables, options: Options) -> tuple[int, ...]:
    """Whole-number arguments that all kernels share."""
    lattices, sources = given.lattice.shape[0], given.sources.shape[0]
    work = (plan.count, *options.image_shape, lattices, plan.chunk, sources, options.oversample, options.layers, 1)
    return (*work, *(given.factors.shape if given.factors.numel() else (0, 0, 0)), *options.hkl_first)


def table_bytes(scene: Scene) -> int:
    """Bytes of a scene's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in scene.tensors())


def plan_of(count: int, tile: int, lattices: int, processors: int) -> Plan:
    """Programs enough to fill the machine: one a tile, and lattices in chunks where tiles are few."""
    tiles = -(-count // tile)
    wanted = processors * PROGRAMS_PER_PROCESSOR
    chunks = max(1, min(-(-lattices // CHUNK), -(-wanted // tiles)))
    chunk = max(1, -(-lattices // chunks))
    return Plan(count, tiles, tiles, chunk, max(1, -(-lattices // chunk)))


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; one for the interpreter on a CPU."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def way_of(pixels: Tensor | None, scene: Scene, options: Options) -> Way:
    """The code that a call needs. A factor taken from the first sample is "each" where there is but one sample."""
    import triton.language as tl

    from nanobrag_torch.kernels.cuda.jit import GROUP, SMALL_GROUP, Way

    table = scene.structure_factors.numel() > 0
    cubic = options.interpolate and table
    real = tl.float32 if options.dtype == torch.float32 else tl.float64
    how = taken(scene, options)
    return Way(
        real=real,
        wide=options.dtype == torch.float64 or cubic or options.profile is Profile.TOPHAT,
        profile=int(options.profile),
        table=table,
        cubic=cubic,
        point=options.point_pixel,
        curved=options.curved,
        each_omega=how.each_omega,
        each_polar=how.each_polar,
        each_capture=how.each_capture,
        last_capture=how.last_capture,
        limit=options.dmin > 0,
        listed=pixels is not None,
        offset=True,
        group=SMALL_GROUP if cubic else GROUP,
    )
