"""The fused kernel on the CPU: value and gradients of pixels, dealt out to threads.

The stages are compiled by numba at their first call. Blocks of pixels are worked on serially, without the interpreter
lock, and what gradients sum up is added in an order that depends on the problem alone, so that results do not depend on
the number of threads, not in the last bit.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.adjoint import adjoint as _adjoint
from nanobrag_torch.kernels.cpu.bounds import fill_tile, look_ahead
from nanobrag_torch.kernels.cpu.cubic import interpolate, scatter_nodes
from nanobrag_torch.kernels.cpu.curved import bend, bend_by_lab_axes, unbend, unbend_by_lab_axes
from nanobrag_torch.kernels.cpu.packing import pack, scratch
from nanobrag_torch.kernels.cpu.pairs import add_pairs
from nanobrag_torch.kernels.cpu.profiles import form_matrix, form_slopes, form_squares
from nanobrag_torch.kernels.cpu.slopes import add_table_slopes
from nanobrag_torch.kernels.cpu.value import value as _value
from nanobrag_torch.kernels.problem import Options, Pull, Scene, pixel_count, step_count
from nanobrag_torch.physics.lattice_factor import Profile

RARE = (
    *(bend, unbend, bend_by_lab_axes, unbend_by_lab_axes, interpolate, scatter_nodes, add_table_slopes),
    *(form_squares, form_slopes, form_matrix, look_ahead, fill_tile, add_pairs),
)
"""What only curved detectors, tricubic structure factors, shapes other than the grating and bounds call."""
_value_of_most, _adjoint_of_most = _value.without(*RARE), _adjoint.without(*RARE)

Progress = Callable[[float], None]
Piece = tuple[int, int]
Room = TypeVar("Room")

PIECES_PER_THREAD = 8
STEPS_PER_CALL = 2**24
"""Pixel-steps after which a thread looks at what Python wants, about: to report progress, or to be interrupted."""
MOST_PARTS = 64
SUMS_BYTES = 2**26
TABLE_BYTES = 2**28
MOST_TABLE_PARTS = 16
"""Gradients are summed up in parts, whose number follows from the problem, within these bounds on memory."""


def value(pixels: Tensor | None, scene: Scene, options: Options, progress: Progress | None = None) -> Tensor:
    """Values [n] of the pixels [n], or of all in order, in options.dtype."""
    packed = pack(pixels, scene, options)
    count = pixel_count(pixels, scene, options)
    out = empty(count, packed, options)
    if not finite(packed):
        return out.fill_(torch.nan)
    image, taken, chunks = out.numpy(), np.zeros(1, np.int64), -(-int(packed.whole[at.PLACES]) // at.CHUNK)
    threads = min(thread_count(options), chunks)
    most = max(1, STEPS_PER_CALL // (at.CHUNK * step_count(scene, options)))
    render = _value if _is_rare(packed) else _value_of_most

    def work(report: Progress | None = None) -> None:
        room = scratch(packed)
        while render(image, taken, most, packed, room):
            if report is not None:
                report(min(1.0, int(taken[0]) / chunks))

    _together(work, threads, progress, lambda: taken.fill(chunks))
    return out


def empty(count: int, packed: at.Packed, options: Options) -> Tensor:
    """Room for the values of so many pixels: zeros where pixels that nothing adds to are not visited."""
    return (torch.zeros if packed.whole[at.SPARSE] else torch.empty)(count, dtype=options.dtype)


def _is_rare(packed: at.Packed) -> bool:
    """Whether a scene needs any of the rare parts."""
    return bool(
        packed.whole[at.CURVED]
        or packed.whole[at.CUBIC]
        or packed.whole[at.SPARSE]
        or packed.whole[at.PROFILE] != Profile.GRATING
    )


def _no_sums(scene: Scene, with_table: bool) -> at.Sums:
    """No gradient yet."""
    return at.Sums(
        np.zeros((scene.lattice.shape[0], at.LATTICE_COLUMNS)),
        np.zeros((scene.incident.shape[0], at.SOURCE_COLUMNS)),
        np.zeros((scene.panels.shape[0], at.PANEL_COLUMNS)),
        np.zeros(at.SINGLE_COLUMNS),
        np.zeros(scene.structure_factors.numel() if with_table else 0),
    )


def gradients(pull: Pull, pixels: Tensor | None, scene: Scene, options: Options) -> tuple[Tensor, dict[str, Tensor]]:
    """The wanted gradients by name, in one pass with the values [n] if these are asked for.

    A nearest-hkl table has no slope in hkl: F is constant between half-integers.
    """
    upstream, wanted, value = pull
    packed = pack(pixels, scene, options)
    count = pixel_count(pixels, scene, options)
    out = empty(count if value else 0, packed, options)
    if not finite(packed):
        return out.fill_(torch.nan), {name: torch.full_like(getattr(scene, name), torch.nan) for name in wanted}
    packed.whole[at.EVERYWHERE] |= "offset" in wanted
    wants, with_table = _wants(wanted), "structure_factors" in wanted
    flow = upstream.detach().contiguous().numpy()
    scale = _flow_scale(flow, packed)
    parts = _pieces(int(packed.whole[at.PLACES]), _part_count(scene, with_table), at.CHUNK)
    sums = [_no_sums(scene, with_table) for _ in parts]
    image = out.numpy()
    kernel = _adjoint if _is_rare(packed) else _adjoint_of_most

    def work(number: int, room: at.Scratch) -> None:
        kernel(image, flow, 1 / scale, *parts[number], packed, room, wants, sums[number])

    _deal(work, range(len(parts)), thread_count(options), partial(scratch, packed), None)
    total = _no_sums(scene, with_table)
    for part in sums:
        for mine, theirs in zip(total, part, strict=True):
            np.add(mine, theirs, out=mine)
    return out, _as_tensors(total, scene, packed, scale, wanted)


GEOMETRY = ("panels", "pixel_size", "sensor", "curvature")
_WANTED_FOR = {
    at.WANT_LATTICE: ("lattice",),
    at.WANT_SCATTERING: (*GEOMETRY, "incident", "wavelengths"),
    at.WANT_WEIGHTS: ("lattice_weights",),
    at.WANT_SHAPE: ("shape",),
    at.WANT_TABLE: ("structure_factors", "default_F"),
    at.WANT_FACTORS: (*GEOMETRY, "source_weights", "polarization", "offset"),
    at.WANT_OFFSET: ("offset",),
}
"""Which gradients need which part of the adjoint."""


def _wants(wanted: Collection[str]) -> at.Array:
    wants = np.zeros(at.WANTS, np.int64)
    for place, names in _WANTED_FOR.items():
        wants[place] = any(name in wanted for name in names)
    return wants


def _part_count(scene: Scene, with_table: bool) -> int:
    size = 8 * (scene.lattice.shape[0] * at.LATTICE_COLUMNS + scene.panels.shape[0] * at.PANEL_COLUMNS)
    count = max(1, min(MOST_PARTS, SUMS_BYTES // (size + 1)))
    if with_table:
        count = max(1, min(count, MOST_TABLE_PARTS, TABLE_BYTES // (8 * scene.structure_factors.numel() + 1)))
    return int(count)


def _flow_scale(flow: at.Array, packed: at.Packed) -> float:
    """A power of two that keeps gradients within the range of float32: about their largest factor.

    No torch operations on images here: their threads would spin on beyond their work, where ours are to run.
    """
    if not flow.size or not len(packed.panels) or not len(packed.sources):
        return 1.0
    omega = np.abs(packed.panels[:, at.AREA] / packed.panels[:, at.CLOSE] ** 2).max()
    most = float(max(flow.max(), -flow.min()) * np.abs(packed.sources[:, at.SOURCE_WEIGHT]).max() * omega)
    return 2.0 ** math.frexp(most)[1] if 0 < most < math.inf else 1.0


def _as_tensors(
    sums: at.Sums, scene: Scene, packed: at.Packed, scale: float, wanted: Collection[str]
) -> dict[str, Tensor]:
    """The chain rule from the packed tables to the tensors of the scene."""
    panels, of_panels, of_sources = packed.panels, sums.panels, sums.sources
    vectors = of_panels[:, : at.FAST_SIZE].copy()
    close = of_panels[:, at.CLOSE, None]
    vectors[:, : at.FAST_AXIS] += close * panels[:, at.NORMAL : at.FAST_SIZE]
    vectors[:, at.NORMAL :] += close * panels[:, : at.FAST_AXIS]
    other_size = panels[:, [at.SLOW_SIZE, at.FAST_SIZE]]
    inverse = packed.sources[:, at.INVERSE_LAMBDA]
    found = {
        "panels": vectors,
        "pixel_size": of_panels[:, at.FAST_SIZE : at.AREA] + of_panels[:, at.AREA, None] * other_size,
        "sensor": of_panels[:, at.LAYER_STEP :],
        "curvature": sums.single[at.CURVATURE_SUM :],
        "incident": of_sources[:, : at.INVERSE_LAMBDA],
        "wavelengths": of_sources[:, at.INVERSE_LAMBDA] * inverse**2 * -at.SCALE,
        "source_weights": of_sources[:, at.SOURCE_WEIGHT],
        "polarization": of_sources[:, at.POLARIZATION :],
        "lattice": sums.lattice[:, : at.LATTICE_WEIGHT] * at.SCALE,
        "lattice_weights": sums.lattice[:, at.LATTICE_WEIGHT],
        "shape": sums.single[: at.DEFAULT_SUM],
        "structure_factors": sums.table,
        "default_F": sums.single[at.DEFAULT_SUM],
        "offset": sums.single[at.OFFSET_SUM],
    }
    return {name: _as_tensor(found[name] * scale, getattr(scene, name)) for name in wanted}


def _as_tensor(gradient: at.Array, tensor: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(gradient)).to(tensor.dtype).reshape(tensor.shape)


def finite(packed: at.Packed) -> bool:
    """Whether everything but the table is finite: vector code may not be relied on to carry NaN through."""
    small = (packed.panels, packed.sources, packed.lattice, packed.shape, packed.numbers)
    return all(bool(np.isfinite(array).all()) for array in small)


def thread_count(options: Options) -> int:
    """Threads to use: those this process may run on, at most options.threads."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(options.threads, allowed) if options.threads > 0 else allowed


def _pieces(count: int, wanted: int, unit: int) -> list[tuple[int, int]]:
    """Split `count` into about `wanted` ranges whose ends are multiples of `unit`."""
    units = -(-count // unit)
    step = max(1, -(-units // wanted)) * unit
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def _deal(
    work: Callable[[Any, Room], None],
    pieces: Sequence[Any],
    threads: int,
    make_room: Callable[[], Room],
    progress: Progress | None,
) -> None:
    """Do the work of every piece on so many threads, this one among them, each in a room of its own."""
    left = deque(pieces)

    def help_out(report: Progress | None = None) -> None:
        room = make_room()
        while left:
            try:
                piece = left.popleft()
            except IndexError:  # another thread was faster
                return
            work(piece, room)
            if report is not None:
                report(1 - len(left) / len(pieces))

    _together(help_out, min(threads, len(pieces)), progress, left.clear)


def _together(
    work: Callable[..., None], threads: int, progress: Progress | None, leave_the_rest: Callable[[], None]
) -> None:
    """Do the same work on so many threads, this one among them, which alone reports; when it fails, all stop."""
    waiting = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work(progress)
    except BaseException:  # an interrupt above all
        leave_the_rest()
        raise
    for helper in waiting:
        helper.result()
    if progress is not None and threads:
        progress(1.0)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work: starting them anew takes as long as a small image."""
    return ThreadPoolExecutor(threads, thread_name_prefix="nanobrag_torch")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of these threads
