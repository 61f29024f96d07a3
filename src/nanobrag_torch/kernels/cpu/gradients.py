"""The fused kernel on the CPU: gradients of pixels, with their values, dealt out to threads.

What gradients sum up is added in an order that depends on the problem alone, so that results do not depend on the
number of threads, not in the last bit.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.adjoint import adjoint as _adjoint
from nanobrag_torch.kernels.cpu.launch import RARE, empty, rows_of
from nanobrag_torch.kernels.cpu.packing import Packed, pack, scratch
from nanobrag_torch.kernels.cpu.threads import deal, pieces_of, thread_count
from nanobrag_torch.kernels.problem import Options, Pull, Scene, values_shape, without_absent

_adjoint_of_most = _adjoint.without(*RARE)

MOST_PARTS = 64
SUMS_BYTES = 2**26
TABLE_BYTES = 2**28
MOST_TABLE_PARTS = 16
"""Gradients are summed up in parts, whose number follows from the problem, within these bounds on memory."""


class Unit(NamedTuple):
    """Places of pixels of one scene of a batch."""

    scene: int
    first: int
    last: int


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
    wants, tables = _wants(wanted), _table_count(scene, wanted)
    scales = _flow_scales(flow, packed, alike=tables == 1)
    parts = _parts(packed, scene, tables)
    sums = [_no_sums(packed, len(part), tables > 0) for part in parts]
    kernel = _adjoint if any(packed.rare) else _adjoint_of_most

    def work(number: int, _: object) -> None:
        for unit, into in zip(parts[number], sums[number], strict=True):
            one, scale = packed.scenes[unit.scene], 1 / scales[unit.scene]
            rows = image[unit.scene], flow[unit.scene]
            kernel(*rows, scale, unit.first, unit.last, one, scratch(one), wants, into)

    deal(work, range(len(parts)), thread_count(options), lambda: None, None)
    if value:
        image[~packed.finite] = np.nan
    total = _total(parts, sums, packed, tables)
    return without_absent(out, pixels) if value else out, _as_tensors(total, scene, packed, scales, wanted)


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


def _table_count(scene: Scene, wanted: Collection[str]) -> int:
    """How many tables of structure factors have a gradient: none, that of all scenes, or that of each."""
    if "structure_factors" not in wanted:
        return 0
    return scene.structure_factors.shape[0] if scene.structure_factors.dim() > 3 else 1


def _parts(packed: Packed, scene: Scene, tables: int) -> list[list[Unit]]:
    """Places of all pixels, dealt into parts that are added up apart: of one scene each, but where these share a table
    of gradients, of which there cannot be many."""
    count, scenes = _part_count(packed.scenes[0], scene, tables > 0), len(packed.scenes)
    units = [
        Unit(b, *piece)
        for b, one in enumerate(packed.scenes)
        for piece in pieces_of(int(one.whole[at.PLACES]), max(1, count // scenes), at.CHUNK)
        if packed.finite[b]
    ]
    together = -(-len(units) // count) if tables == 1 else 1
    return [units[start : start + together] for start in range(0, len(units), max(1, together))]


def _part_count(one: at.Packed, scene: Scene, with_table: bool) -> int:
    size = 8 * (len(one.lattice) * at.LATTICE_COLUMNS + len(one.panels) * at.PANEL_COLUMNS)
    count = max(1, min(MOST_PARTS, SUMS_BYTES // (size + 1)))
    if with_table:
        count = max(1, min(count, MOST_TABLE_PARTS, TABLE_BYTES // (8 * scene.structure_factors.numel() + 1)))
    return int(count)


def _no_sums(packed: Packed, count: int, with_table: bool) -> list[at.Sums]:
    """No gradient yet by the tensors of so many units, which add to one table."""
    one = packed.scenes[0]
    table = np.zeros(one.table.size if with_table else 0)
    of = one.lattice.shape, one.sources.shape, one.panels.shape
    return [
        at.Sums(np.zeros(of[0]), np.zeros(of[1]), np.zeros(of[2]), np.zeros(at.SINGLE_COLUMNS), table)
        for _ in range(count)
    ]


def _total(parts: list[list[Unit]], sums: list[list[at.Sums]], packed: Packed, tables: int) -> at.Sums:
    """The sums of every scene [B, ...], in the order of the parts; tables [1 or B, elements]."""
    count = len(packed.scenes)
    total = at.Sums(*(np.zeros((count, *empty.shape)) for empty in _no_sums(packed, 1, with_table=False)[0]))
    total = total._replace(table=np.zeros((min(tables, 1) if tables < 2 else count, packed.scenes[0].table.size)))
    for units, found in zip(parts, sums, strict=True):
        for unit, part in zip(units, found, strict=True):
            for mine, theirs in zip(total[:-1], part[:-1], strict=True):
                np.add(mine[unit.scene], theirs, out=mine[unit.scene])
        if tables:
            total.table[units[0].scene if tables > 1 else 0] += found[0].table
    for array in total:  # a table of all scenes is as little known as that of any
        unknown = ~packed.finite if len(array) == count else slice(None, None if not packed.finite.all() else 0)
        array[unknown] = np.nan
    return total


def _flow_scales(flow: at.Array, packed: Packed, *, alike: bool) -> at.Array:
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


def _as_tensors(
    sums: at.Sums, scene: Scene, packed: Packed, scales: at.Array, wanted: Collection[str]
) -> dict[str, Tensor]:
    """The chain rule from the packed tables to the tensors of the scene."""
    panels = np.stack([one.panels for one in packed.scenes])
    inverse = np.stack([one.sources[:, at.INVERSE_LAMBDA] for one in packed.scenes])
    of_panels, of_sources, single = sums.panels, sums.sources, sums.single
    vectors, close = of_panels[..., : at.FAST_SIZE].copy(), of_panels[..., at.CLOSE, None]
    vectors[..., : at.FAST_AXIS] += close * panels[..., at.NORMAL : at.FAST_SIZE]
    vectors[..., at.NORMAL :] += close * panels[..., : at.FAST_AXIS]
    other_size = panels[..., [at.SLOW_SIZE, at.FAST_SIZE]]
    found = {
        "panels": vectors,
        "pixel_size": of_panels[..., at.FAST_SIZE : at.AREA] + of_panels[..., at.AREA, None] * other_size,
        "sensor": of_panels[..., at.LAYER_STEP :],
        "curvature": single[:, at.CURVATURE_SUM :],
        "incident": of_sources[..., : at.INVERSE_LAMBDA],
        "wavelengths": of_sources[..., at.INVERSE_LAMBDA] * inverse**2 * -at.SCALE,
        "source_weights": of_sources[..., at.SOURCE_WEIGHT],
        "polarization": of_sources[..., at.POLARIZATION :],
        "lattice": sums.lattice[..., : at.LATTICE_WEIGHT] * at.SCALE,
        "lattice_weights": sums.lattice[..., at.LATTICE_WEIGHT],
        "shape": single[:, : at.DEFAULT_SUM],
        "structure_factors": sums.table,
        "default_F": single[:, at.DEFAULT_SUM],
        "offset": single[:, at.OFFSET_SUM],
    }
    stacked = scene.stacked()
    return {name: _as_tensor(found[name], getattr(scene, name), scales, name in stacked) for name in wanted}


def _as_tensor(gradient: at.Array, tensor: Tensor, scales: at.Array, stacked: bool) -> Tensor:
    """A gradient [1 or B, ...] times its scales, added up unless scenes have a tensor each."""
    scaled = gradient * scales[: len(gradient)].reshape(-1, *[1] * (gradient.ndim - 1))
    return torch.from_numpy(np.asarray(scaled if stacked else scaled.sum(0))).to(tensor.dtype).reshape(tensor.shape)
