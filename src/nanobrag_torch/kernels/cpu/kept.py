"""Values of pixels, and what is kept of them until the loss is known: dealt out to threads.

It takes what most images are: flat detectors, gratings, F of the nearest reflection, no bounds, no limit of resolution;
others are left alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels.cpu import gradients
from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.keep import KEPT, MATRIX
from nanobrag_torch.kernels.cpu.keep import keep as _keep
from nanobrag_torch.kernels.cpu.keep import pull_kept as _pull
from nanobrag_torch.kernels.cpu.launch import RARE
from nanobrag_torch.kernels.cpu.packing import Packed, pack, scratch
from nanobrag_torch.kernels.cpu.threads import deal, pieces_of, thread_count
from nanobrag_torch.kernels.problem import Options, Scene

_keep_of_most = _keep.without(*RARE, COMPLETE=False)
_pull_of_most = _pull.without(*RARE, COMPLETE=False)

KEEPS = frozenset(
    (*gradients.GEOMETRY, "incident", "wavelengths", "source_weights", "polarization", "offset", "lattice")
)
"""Tensors by which gradients can be taken from what is kept."""


@dataclass(frozen=True)
class Kept:
    """Values [n] of a tile of pixels, and their slopes before anything flows in."""

    values: Tensor
    slopes: at.Array  # MATRIX + KEPT steps numbers of each, as kernels.cpu.keep lays them, times scale
    scale: float
    packed: Packed
    scene: Scene
    options: Options

    def gradients(self, upstream: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Gradients of sum(upstream * values) by the wanted tensors of KEEPS, by name.

        That by the lattices serves where all of them are changed from the left by the same matrix alone: it flows into
        the first one, as much as into all of them.
        """
        one, flow = self.packed.scenes[0], upstream.detach().contiguous().numpy()
        pieces = pieces_of(int(one.whole[at.PLACES]), gradients.MOST_PARTS, at.CHUNK)
        sums, wants = gradients.no_sums(self.packed, len(pieces), 0), gradients.wants(wanted)

        def work(number: int, room: at.Scratch) -> None:
            into = gradients.sums_of(sums, number, 0)
            _pull_of_most(flow, self.slopes, self.scale, *pieces[number], one, room, wants, into)

        threads = thread_count(self.options)
        deal(work, range(len(pieces)), threads, lambda: scratch(one), None)
        total = gradients.total_of([0] * len(pieces), sums, self.packed, 0)
        found = gradients.as_tensors(total, self.scene, self.packed, np.ones(1), set(wanted) - {"lattice"})
        if "lattice" in wanted:
            found["lattice"] = _into_the_first(total.lattice[0, 0, :MATRIX], self.scene.lattice)
        return found


def _into_the_first(matrix: at.Array, lattice: Tensor) -> Tensor:
    """The gradient by lattices [K, 3, 3], all in the first, of X in lattice_k + X lattice_k."""
    found = torch.zeros_like(lattice, requires_grad=False)
    found[0] = torch.from_numpy(matrix.reshape(3, 3)) @ torch.linalg.inv(lattice[0].detach()).T
    return found


def bytes_kept(scene: Scene, options: Options) -> int:
    """What is kept of one pixel."""
    steps = options.layers * options.oversample**2 * scene.incident.shape[-2]
    return int((MATRIX + KEPT * steps) * options.dtype.itemsize)


def keep(pixels: Tensor, scene: Scene, options: Options) -> Kept | None:
    """Values of the pixels [n] and their slopes; None where a scene is none of those that it takes."""
    packed = pack(pixels, scene, options)
    if len(packed.scenes) > 1 or any(packed.rare) or not packed.finite.all():
        return None
    one, count = packed.scenes[0], pixels.numel()
    steps = int(one.whole[at.LAYERS] * one.whole[at.SUBS]) * len(one.sources)
    values = torch.empty(count, dtype=options.dtype)
    slopes = np.empty((MATRIX + KEPT * steps) * count, values.numpy().dtype)
    scale = 1 / float(gradients.flow_scales(np.ones((1, 1)), packed, alike=False)[0])

    def work(piece: tuple[int, int], room: at.Scratch) -> None:
        _keep_of_most(values.numpy(), slopes, scale, *piece, one, room)

    pieces = pieces_of(int(one.whole[at.PLACES]), gradients.MOST_PARTS, at.CHUNK)
    deal(work, pieces, thread_count(options), lambda: scratch(one), None)
    return Kept(values, slopes, scale, packed, scene, options)
