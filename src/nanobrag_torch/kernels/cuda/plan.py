"""How work is shared among the programs of a launch, and which code it needs. Nothing here imports Triton at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanobrag_torch.kernels.problem import Options, Scene, taken
from nanobrag_torch.physics.lattice_factor import Profile

if TYPE_CHECKING:
    from nanobrag_torch.kernels.cuda.jit import Way

PROGRAMS_PER_PROCESSOR = 20
"""As many as fit there at once, by their registers."""
LARGEST_GRID = 65535
"""Programs along the second axis of a grid: all that CUDA allows."""
ROW_BYTES = 2**28
"""Bound on the rows of gradients by panels and sources, of all programs together."""
CHUNK = 128
"""Lattices of a program, at least, where lattices are shared among programs."""
GRADIENT_CHUNK = 256
"""The same for gradients: each program has work for every sample beside that for its lattices, and rows for these."""
BLOCKS: tuple[int, ...] = (1, 4, 8)
"""Directions whose slopes a program takes at once."""


@dataclass(frozen=True)
class Plan:
    """How work is shared among programs."""

    count: int  # pixels
    tiles: int
    rows: int  # programs that share the tiles
    chunk: int  # lattices of a program
    chunks: int


def plan_of(count: int, tile: int, lattices: int, processors: int) -> Plan:
    """Programs enough to fill the machine: one a tile, and lattices in chunks where tiles are few."""
    tiles = max(1, -(-count // tile))
    wanted = processors * PROGRAMS_PER_PROCESSOR
    chunks = max(1, min(-(-lattices // CHUNK), -(-wanted // tiles)))
    chunk = max(1, -(-lattices // chunks))
    return Plan(count, tiles, tiles, chunk, max(1, -(-lattices // chunk)))


def adjoint_plan(count: int, tile: int, lattices: int, tables: int, processors: int) -> Plan:
    """Programs that each take a share of the tiles and a chunk of lattices; their number bounds the rows they need."""
    tiles = -(-count // tile)
    most = max(1, ROW_BYTES // (128 * tables))
    wanted = min(processors * PROGRAMS_PER_PROCESSOR, most)
    chunks = max(1, min(-(-lattices // GRADIENT_CHUNK), most, LARGEST_GRID))
    rows = max(1, min(tiles, -(-wanted // chunks)))
    chunk = max(1, -(-lattices // chunks))
    return Plan(count, tiles, rows, chunk, max(1, -(-lattices // chunk)))


def block_of(directions: int) -> int:
    """Directions that a program takes at once."""
    return next((block for block in BLOCKS if block >= directions), BLOCKS[-1])


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; one for the interpreter on a CPU."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def way_of(pixels: Tensor | None, scene: Scene, options: Options) -> Way:
    """The code that a call needs."""
    import triton.language as tl

    from nanobrag_torch.kernels.cuda.jit import GROUP, LANES, ROUNDING, Way

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
        curved=options.curved and options.curved_by_lab_axes,
        sphere=options.curved and not options.curved_by_lab_axes,
        upright=options.curved and not options.curved_sensor_is_flat,
        layer_omega=how.layer_omega,
        each_omega=how.each_omega,
        each_polar=how.each_polar,
        each_capture=how.each_capture,
        last_capture=how.last_capture,
        limit=options.dmin > 0,
        listed=pixels is not None,
        offset=True,
        rounding=ROUNDING,
        group=GROUP,
        lanes=LANES,
    )
