"""The fused kernel on the CPU: gradients of pixels, with their values, dealt out to threads.

What gradients sum up is added in an order that depends on the problem alone, so that results do not depend on the
number of threads, not in the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.adjoint import adjoint as _adjoint
from nanobrag_torch.kernels.cpu.launch import RARE, empty, rows_of
from nanobrag_torch.kernels.cpu.packing import Packed, pack, scratch
from nanobrag_torch.kernels.cpu.threads import deal, pieces_of, thread_count
from nanobrag_torch.kernels.problem import Options, Pull, Scene, values_shape, without_absent

_adjoint_of_most = _adjoint.without(*RARE, COMPLETE=False)

MOST_PARTS = 64
SUMS_BYTES = 2**26
TABLE_BYTES = 2**28
MOST_TABLE_PARTS = 16
"""Gradients are summed up in parts, whose number follows from the problem, within these bounds on memory."""


Unit = tuple[int, int, int]
"""Number of a scene in its batch, and places of its pixels, first and last."""


def gradients(pull: Pull, pixels: Tensor | None, scene: Scene, options: Options) -> tuple[Tensor, dict[str, Tensor]]:
    """The wanted gradients by name, in one pass with the values [n], or [B, n], if these are asked for.

    Those by tensors that the scenes of a batch share are sums over all of them. A nearest-hkl table has no slope in
    hkl: F is constant between half-integers.
    """
    upstream, wanted, value = pull
    packed = pack(pixels, scene, options)
    out = empty(values_shape(pixels, scene, options) if value else (0,), packed, options)
    flow, image = rows_of(without_absent(upstream.detach(), pixels).contiguous(), packed), rows_of(out, packed)
    for one in packed.scenes:
        one.whole[at.EVERYWHERE] |= "offset" in wanted
        if "shape" in wanted:
            one.whole[at.SUBS] = options.oversample**2
    wanted_parts, tables = wants(wanted), _table_count(scene, wanted)
    scales = flow_scales(flow, packed, alike=tables == 1)
    units, parts = _parts(packed, scene, tables)
    sums = no_sums(packed, len(units), len(parts) if tables else 0)
    kernel = _adjoint if any(packed.rare) else _adjoint_of_most

    def work(part: int, _: object) -> None:
        for number in parts[part]:
            b, first, last = units[number]
            one, scale = packed.scenes[b], 1 / scales[b]
            kernel(image[b], flow[b], scale, first, last, one, scratch(one), wanted_parts, sums_of(sums, number, part))

    deal(work, range(len(parts)), thread_count(options), lambda: None, None)
    if value and not packed.finite.all():
        image[~packed.finite] = np.nan
    total = total_of([b for b, _, _ in units], sums, packed, tables)
    return without_absent(out, pixels) if value else out, as_tensors(total, scene, packed, scales, wanted)


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


def wants(wanted: Collection[str]) -> at.Array:
    """Which parts of the adjoint gradients by these tensors need, as numbers [WANTS]."""
    found = np.zeros(at.WANTS, np.int64)
    for place, names in _WANTED_FOR.items():
        found[place] = any(name in wanted for name in names)
    return found


def _table_count(scene: Scene, wanted: Collection[str]) -> int:
    """How many tables of structure factors have a gradient: none, that of all scenes, or that of each."""
    if "structure_factors" not in wanted:
        return 0
    return scene.structure_factors.shape[0] if scene.structure_factors.dim() > 3 else 1


def _parts(packed: Packed, scene: Scene, tables: int) -> tuple[list[Unit], list[range]]:
    """Places of all pixels, and numbers of those that are added up one after the other, apart from others: of one scene
    each, but where these share a table of gradients, of which there cannot be many."""
    count, scenes = _part_count(packed.scenes[0], scene, tables > 0), len(packed.scenes)
    units = [
        (b, *piece)
        for b, one in enumerate(packed.scenes)
        if packed.finite[b]
        for piece in pieces_of(int(one.whole[at.PLACES]), max(1, count // scenes), at.CHUNK)
    ]
    together = max(1, -(-len(units) // count)) if tables == 1 else 1
    return units, [range(start, min(start + together, len(units))) for start in range(0, len(units), together)]


def _part_count(one: at.Packed, scene: Scene, with_table: bool) -> int:
    size = 8 * (len(one.lattice) * at.LATTICE_COLUMNS + len(one.panels) * at.PANEL_COLUMNS)
    count = max(1, min(MOST_PARTS, SUMS_BYTES // (size + 1)))
    if with_table:
        count = max(1, min(count, MOST_TABLE_PARTS, TABLE_BYTES // (8 * scene.structure_factors.numel() + 1)))
    return int(count)


def no_sums(packed: Packed, units: int, tables: int) -> at.Sums:
    """No gradient yet by the tensors of so many units [units, ...], and by so many tables [tables, elements]."""
    one = packed.scenes[0]
    return at.Sums(
        lattice=np.zeros((units, *one.lattice.shape)),
        sources=np.zeros((units, *one.sources.shape)),
        panels=np.zeros((units, *one.panels.shape)),
        single=np.zeros((units, at.SINGLE_COLUMNS)),
        table=np.zeros((tables, one.table.size)),
    )


def sums_of(sums: at.Sums, unit: int, table: int) -> at.Sums:
    """Those that a unit adds to."""
    of = sums
    into = of.table[table] if len(of.table) else of.table.reshape(-1)
    return at.Sums(of.lattice[unit], of.sources[unit], of.panels[unit], of.single[unit], into)


def total_of(scenes: list[int], sums: at.Sums, packed: Packed, tables: int) -> at.Sums:
    """The sums of every scene [B, ...], of units of these scenes, in their order; tables [1 or B, elements]."""
    count, known = len(packed.scenes), packed.finite
    of_tables, table_count = (scenes, count) if tables > 1 else ([0] * len(sums.table), 1)
    total = at.Sums(
        lattice=_by_scene(scenes, sums.lattice, count),
        sources=_by_scene(scenes, sums.sources, count),
        panels=_by_scene(scenes, sums.panels, count),
        single=_by_scene(scenes, sums.single, count),
        table=_by_scene(of_tables, sums.table, table_count) if tables else sums.table,
    )
    if not known.all():
        for array in total:  # a table of all scenes is as little known as that of any
            array[~known if len(array) == count else slice(None)] = np.nan
    return total


def _by_scene(scenes: list[int], parts: at.Array, count: int) -> at.Array:
    """Parts [units, ...] of these scenes, in ascending order, added up by scene [count, ...]."""
    total, places = np.zeros((count, *parts.shape[1:])), np.array(scenes, np.int64)
    if count == 1:
        parts.sum(0, out=total[0])
        return total
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    total[places[starts]] = np.add.reduceat(parts, starts, 0) if len(starts) else 0.0
    return total


def flow_scales(flow: at.Array, packed: Packed, *, alike: bool) -> at.Array:
    """Powers of two [B] that keep gradients within the range of float32: about their largest factors.

    alike: the same for all scenes, which add to one table. No torch operations on images here: their threads would spin
    on beyond their work, where ours are to run.
    """
    most = np.array([_largest_factor(row, one) for row, one in zip(flow, packed.scenes, strict=True)])
    if alike:
        most[:] = most[packed.finite].max(initial=0.0)
    _, exponents = np.frexp(np.where((most > 0) & (most < np.inf), most, 0.5))
    return np.ldexp(1.0, exponents)


def _largest_factor(flow: at.Array, one: at.Packed) -> float:
    if not flow.size or not len(one.panels) or not len(one.sources):
        return 0.0
    omega = np.abs(one.panels[:, at.AREA] / one.panels[:, at.CLOSE] ** 2).max()
    return float(max(flow.max(), -flow.min()) * np.abs(one.sources[:, at.SOURCE_WEIGHT]).max() * omega)


def as_tensors(
    sums: at.Sums, scene: Scene, packed: Packed, scales: at.Array, wanted: Collection[str]
) -> dict[str, Tensor]:
    """The chain rule from the packed tables to the tensors of the scene."""
    stacked = scene.stacked()
    return {
        name: _as_tensor(_CHAIN[name](sums, packed.scenes), getattr(scene, name), scales, name in stacked)
        for name in wanted
    }


def _by_panels(sums: at.Sums, scenes: list[at.Packed]) -> at.Array:
    panels, of_panels = _stacked([one.panels for one in scenes]), sums.panels
    vectors, close = of_panels[..., : at.FAST_SIZE].copy(), of_panels[..., at.CLOSE, None]
    vectors[..., : at.FAST_AXIS] += close * panels[..., at.NORMAL : at.FAST_SIZE]
    vectors[..., at.NORMAL :] += close * panels[..., : at.FAST_AXIS]
    return vectors


def _by_pixel_size(sums: at.Sums, scenes: list[at.Packed]) -> at.Array:
    panels, of_panels = _stacked([one.panels for one in scenes]), sums.panels
    other_size = panels[..., [at.SLOW_SIZE, at.FAST_SIZE]]
    found: at.Array = of_panels[..., at.FAST_SIZE : at.AREA] + of_panels[..., at.AREA, None] * other_size
    return found


def _by_wavelengths(sums: at.Sums, scenes: list[at.Packed]) -> at.Array:
    inverse = _stacked([one.sources[:, at.INVERSE_LAMBDA] for one in scenes])
    found: at.Array = sums.sources[..., at.INVERSE_LAMBDA] * inverse**2 * -at.SCALE
    return found


_CHAIN: dict[str, Callable[[at.Sums, list[at.Packed]], at.Array]] = {
    "panels": _by_panels,
    "pixel_size": _by_pixel_size,
    "sensor": lambda sums, _: sums.panels[..., at.LAYER_STEP :],
    "curvature": lambda sums, _: sums.single[:, at.CURVATURE_SUM :],
    "incident": lambda sums, _: sums.sources[..., : at.INVERSE_LAMBDA],
    "wavelengths": _by_wavelengths,
    "source_weights": lambda sums, _: sums.sources[..., at.SOURCE_WEIGHT],
    "polarization": lambda sums, _: sums.sources[..., at.POLARIZATION :],
    "lattice": lambda sums, _: sums.lattice[..., : at.LATTICE_WEIGHT] * at.SCALE,
    "lattice_weights": lambda sums, _: sums.lattice[..., at.LATTICE_WEIGHT],
    "shape": lambda sums, _: sums.single[:, : at.DEFAULT_SUM],
    "structure_factors": lambda sums, _: sums.table,
    "default_F": lambda sums, _: sums.single[:, at.DEFAULT_SUM],
    "offset": lambda sums, _: sums.single[:, at.OFFSET_SUM],
}
"""Gradients [1 or B, ...] by the tensors of a scene, of the sums of all scenes."""


def _stacked(arrays: list[at.Array]) -> at.Array:
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def _as_tensor(gradient: at.Array, tensor: Tensor, scales: at.Array, stacked: bool) -> Tensor:
    """A gradient [1 or B, ...] times its scales, added up unless scenes have a tensor each."""
    if len(scales) == 1:
        scaled = gradient * scales[0]
    else:
        scaled = gradient * scales[: len(gradient)].reshape(-1, *[1] * (gradient.ndim - 1))
        scaled = scaled if stacked else scaled.sum(0)
    return torch.from_numpy(np.asarray(scaled)).to(tensor.dtype).reshape(tensor.shape)
