"""Jacobian-vector products of the fused CPU kernel: slopes of pixels along many directions of the scene in one pass.

Memory is O(directions x block) beside the result. All that the fused kernel renders has slopes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.launch import (
    PIECES_PER_THREAD,
    Piece,
    _deal,
    _pieces,
    finite,
    thread_count,
)
from nanobrag_torch.kernels.cpu.packing import pack, scratch
from nanobrag_torch.kernels.cpu.tangent import layout as rows
from nanobrag_torch.kernels.cpu.tangent.blocks import push
from nanobrag_torch.kernels.cpu.tangent.layout import Ways
from nanobrag_torch.kernels.cpu.tangent.packing import pack_directions, tally
from nanobrag_torch.kernels.problem import Options, Scene, pixel_count


def tangents(pixels: Tensor | None, scene: Scene, directions: Mapping[str, Tensor], options: Options) -> Tensor:
    """Slopes [T, n] of the pixels [n], or of all in order, in options.dtype; NaN along directions that are not finite.

    directions: by the names of the tensors that move, stacks [T, *shape].
    A nearest-hkl table has no slope in hkl: F is constant between the half-integers.
    """
    count, directed = pixel_count(pixels, scene, options), max(direction.shape[0] for direction in directions.values())
    out = torch.zeros((directed, count), dtype=options.dtype)
    packed, slopes, threads = pack(pixels, scene, options), out.numpy(), thread_count(options)
    if not finite(packed):
        return out.fill_(torch.nan)
    known = torch.stack([_finite_ones(direction) for direction in directions.values()]).all(0)
    followed = {name: _without(direction, known) for name, direction in directions.items()}
    ways = pack_directions(scene, followed, options, packed.narrow.dtype)

    def work(piece: Piece, room: at.Scratch) -> None:
        push(slopes, *piece, packed, room, ways, tally(directed))

    packed.whole[at.EVERYWHERE] |= "offset" in directions
    pieces = _pieces(int(packed.whole[at.PLACES]), threads * PIECES_PER_THREAD, at.CHUNK)
    _deal(work, pieces, threads, partial(_room, packed, ways), None)
    out[~known] = torch.nan
    return out


def _finite_ones(direction: Tensor) -> Tensor:
    """Which directions [T] are finite in one tensor."""
    return torch.isfinite(direction).flatten(1).all(1) if direction.dim() > 1 else torch.isfinite(direction)


def _without(direction: Tensor, known: Tensor) -> Tensor:
    """The directions, zero where they are not to be followed."""
    if bool(known.all()):
        return direction
    return torch.where(known.reshape(-1, *[1] * (direction.dim() - 1)), direction, torch.zeros_like(direction))


def _room(packed: at.Packed, ways: Ways) -> at.Scratch:
    """The scratch of cpu.packing with the rows of tangent.layout behind it."""
    plain = scratch(packed)
    v, w = np.zeros(rows.WIDE_TANGENTS), np.zeros(rows.LOOSE + ways.owner.size * at.ROW, plain.w.dtype)
    v[: plain.v.size] = plain.v
    return plain._replace(v=v, w=w)
