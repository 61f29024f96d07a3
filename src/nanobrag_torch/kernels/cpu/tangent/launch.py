"""Jacobian-vector products of the fused CPU kernel: slopes of pixels along many directions of the scene in one pass.

Memory is O(directions x block) beside the result. All that the fused kernel renders has slopes here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.packing import pack, scratch
from nanobrag_torch.kernels.cpu.tangent import layout as rows
from nanobrag_torch.kernels.cpu.tangent.blocks import push
from nanobrag_torch.kernels.cpu.tangent.layout import Ways
from nanobrag_torch.kernels.cpu.tangent.packing import pack_directions, tally
from nanobrag_torch.kernels.cpu.threads import deal, pieces_of, thread_count
from nanobrag_torch.kernels.problem import Options, Scene, values_shape, without_absent

PIECES_PER_THREAD = 8
_KEPT = threading.local()


def tangents(pixels: Tensor | None, scene: Scene, directions: Mapping[str, Tensor], options: Options) -> Tensor:
    """Slopes [T, n] of the pixels [n], or of all in order, in options.dtype; NaN along directions that are not finite.

    directions: by the names of the tensors that move, stacks [T, *shape]. [T, B, n] of a batch of scenes.
    A nearest-hkl table has no slope in hkl: F is constant between the half-integers.
    """
    shape, directed = values_shape(pixels, scene, options), max(d.shape[0] for d in directions.values())
    packed, threads, stacked = pack(pixels, scene, options), thread_count(options), scene.stacked()
    scenes = packed.scenes
    out = torch.zeros((len(scenes), directed, shape[-1]), dtype=options.dtype)
    known = torch.ones((directed, len(scenes)), dtype=torch.bool)
    for name, direction in directions.items():
        known &= _finite_ones(direction, batched=name in stacked)
    followed = {name: _without(direction, known, batched=name in stacked) for name, direction in directions.items()}
    kinds = {one.narrow.dtype for one in scenes}
    ways = {kind: pack_directions(scene, followed, options, kind, len(scenes)) for kind in kinds}
    slopes = out.numpy()

    def work(piece: tuple[int, int, int], rooms: dict[str, at.Scratch]) -> None:
        b, *places = piece
        kind = scenes[b].narrow.dtype
        own = ways[kind][b]
        if kind.char not in rooms:  # scenes of a batch have as many lattices and directions: one room serves them all
            rooms[kind.char] = _room(scenes[b], own)
        push(slopes[b], *places, scenes[b], rooms[kind.char], own, tally(directed))

    for one in scenes:
        one.whole[at.EVERYWHERE] |= "offset" in directions
        if "shape" in directions:
            one.whole[at.SUBS] = options.oversample**2
    wanted = max(1, threads * PIECES_PER_THREAD // len(scenes))
    pieces = [
        (b, *piece)
        for b, one in enumerate(scenes)
        for piece in pieces_of(int(one.whole[at.PLACES]), wanted, at.CHUNK)
        if packed.finite[b]
    ]
    deal(work, pieces, threads, dict, None)
    out[~(known.T & torch.from_numpy(packed.finite)[:, None])] = torch.nan
    return without_absent(out.transpose(0, 1).reshape(directed, *shape).contiguous(), pixels)


def _finite_ones(direction: Tensor, *, batched: bool) -> Tensor:
    """Which directions [T, 1 or B] are finite in one tensor."""
    axes = 1 + batched
    return torch.isfinite(direction).reshape(*direction.shape[:axes], -1).all(-1).reshape(len(direction), -1)


def _without(direction: Tensor, known: Tensor, *, batched: bool) -> Tensor:
    """The directions, zero where they are not to be followed [T, B]."""
    if bool(known.all()):
        return direction
    followed = known if batched else known.any(1)
    shape = (*followed.shape, *[1] * (direction.dim() - followed.dim()))
    return torch.where(followed.reshape(shape) & torch.isfinite(direction), direction, torch.zeros_like(direction))


def _room(packed: at.Packed, ways: Ways) -> at.Scratch:
    """The scratch of cpu.packing with the rows of tangent.layout behind it, which this thread keeps too."""
    plain = scratch(packed)
    v, w = _kept_rows(plain.w.dtype.char, rows.LOOSE + ways.owner.size * at.ROW)
    v[: plain.v.size], v[plain.v.size :], w[at.NARROW_SIZE :] = plain.v, 0.0, 0.0
    return at.Scratch(v, w, *plain[2:])


def _kept_rows(kind: str, narrow: int) -> tuple[at.Array, at.Array]:
    """Room of float64, and so much of the image's type."""
    kept: tuple[at.Array, at.Array] | None = getattr(_KEPT, kind, None)
    if kept is None or kept[1].size < narrow:
        kept = np.zeros(rows.WIDE_TANGENTS), np.zeros(narrow, kind)
        setattr(_KEPT, kind, kept)
    return kept[0], kept[1][:narrow]
