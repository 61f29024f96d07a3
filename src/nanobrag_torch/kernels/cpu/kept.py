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
from nanobrag_torch.kernels.cpu.keep import keep as _keep
from nanobrag_torch.kernels.cpu.keep import rows_of_a_source
from nanobrag_torch.kernels.cpu.launch import RARE
from nanobrag_torch.kernels.cpu.packing import Packed, envelope_of, pack, scratch
from nanobrag_torch.kernels.cpu.pull_kept import pull_kept as _pull
from nanobrag_torch.kernels.cpu.threads import deal, pieces_of, thread_count
from nanobrag_torch.kernels.cpu.waves import MATRIX, Waves
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
    slopes: at.Array  # `rows_kept` numbers of each, as kernels.cpu.keep lays them, times scale
    scale: float
    packed: Packed
    kind: tuple[at.Packed, at.Array]  # the scene as it was kept, and `Waves.numbers`
    scene: Scene
    options: Options

    def gradients(self, upstream: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Gradients of sum(upstream * values) by the wanted tensors of KEEPS, by name.

        That by the lattices serves where all of them are changed from the left by the same matrix alone: it flows into
        the first one, as much as into all of them.
        """
        (one, numbers), flow = self.kind, upstream.detach().contiguous().numpy()
        pieces = pieces_of(int(one.whole[at.PLACES]), gradients.MOST_PARTS, at.CHUNK)
        sums, wants = gradients.no_sums(self.packed, len(pieces), 0), gradients.wants(wanted)
        of_waves = np.zeros((len(pieces), *numbers.shape))

        def work(number: int, room: tuple[at.Scratch, Waves]) -> None:
            into, piece, (rows, waves) = gradients.sums_of(sums, number, 0), pieces[number], room
            _pull_of_most(flow, self.slopes, self.scale, *piece, one, rows, wants, into, waves, of_waves[number])

        threads = thread_count(self.options)
        deal(work, range(len(pieces)), threads, lambda: _room(one, numbers), None)
        if len(numbers) > 1:
            sums.sources[..., at.SOURCE_WEIGHT] = of_waves[..., 0]
            sums.sources[..., at.INVERSE_LAMBDA] = of_waves[..., 1] / one.sources[0, at.INVERSE_LAMBDA]
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
    """What is kept of one pixel, at most."""
    steps = options.layers * options.oversample**2 * scene.incident.shape[-2]
    return int((MATRIX + 5 * steps) * options.dtype.itemsize)


def keep(pixels: Tensor, scene: Scene, options: Options, wanted: Collection[str] = KEEPS) -> Kept | None:
    """Values of the pixels [n] and their slopes, for gradients by the wanted tensors of KEEPS.

    None where a scene is none of those that it takes.
    """
    packed = pack(pixels, scene, options)
    if len(packed.scenes) > 1 or any(packed.rare) or not packed.finite.all():
        return None
    one, numbers = _waves(packed.scenes[0], wanted)
    values = torch.empty(pixels.numel(), dtype=options.dtype)
    steps = int(one.whole[at.LAYERS] * one.whole[at.SUBS]) * len(one.sources)
    some = MATRIX + steps * rows_of_a_source.function(len(numbers))
    slopes = np.empty(some * pixels.numel(), values.numpy().dtype)
    scale = 1 / float(gradients.flow_scales(np.ones((1, 1)), packed, alike=False)[0])

    def work(piece: tuple[int, int], room: tuple[at.Scratch, Waves]) -> None:
        _keep_of_most(values.numpy(), slopes, scale, *piece, one, *room)

    pieces = pieces_of(int(one.whole[at.PLACES]), gradients.MOST_PARTS, at.CHUNK)
    deal(work, pieces, thread_count(options), lambda: _room(one, numbers), None)
    return Kept(values, slopes, scale, packed, (one, numbers), scene, options)


def _waves(one: at.Packed, wanted: Collection[str]) -> tuple[at.Packed, at.Array]:
    """The scene as sources of one direction are kept together, and the numbers of these; else as it is, and of one.

    A weight of zero has a gradient, but no slopes that it could be taken from.
    """
    sources, each = one.sources, one.whole[at.EACH_POLAR]
    weights = sources[:, at.SOURCE_WEIGHT]
    same = sources[:, : at.INVERSE_LAMBDA] == sources[:1, : at.INVERSE_LAMBDA]
    alike = not each or (sources[:, at.POLARIZATION :] == sources[:1, at.POLARIZATION :]).all()
    apart = "incident" in wanted or (each and "polarization" in wanted)
    if len(sources) < 2 or apart or not (same.all() and alike and weights.all()):
        return one, np.ones((1, 2))
    numbers = np.stack((sources[:, at.INVERSE_LAMBDA] / sources[0, at.INVERSE_LAMBDA], weights), 1)
    first = sources[:1].copy()
    first[0, at.SOURCE_WEIGHT] = 1.0
    lattice = numbers[:, :1, None] * one.lattice
    lattice[..., at.LATTICE_WEIGHT] *= weights[:, None]
    lattice = lattice.reshape(-1, at.LATTICE_COLUMNS)
    narrow, envelope = lattice.astype(one.narrow.dtype), envelope_of(lattice[None])[0]
    whole = one.whole.copy()
    whole[at.EACH_POLAR] |= whole[at.LAYERS] * whole[at.SUBS] == 1  # the first one is that of each now
    return one._replace(sources=first, lattice=lattice, narrow=narrow, envelope=envelope, whole=whole), numbers


def _room(one: at.Packed, numbers: at.Array) -> tuple[at.Scratch, Waves]:
    """What a thread works with."""
    size = 2 * len(numbers) * at.ROW
    return scratch(one), Waves(numbers, np.zeros(size, one.narrow.dtype), np.zeros(size))
