"""How many pixel-steps of a scene the compiled CPU kernel is left with, once what cannot add anything is skipped."""

from __future__ import annotations

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.bounds import fill_tile, look_ahead
from nanobrag_torch.kernels.cpu.intrinsics import entry
from nanobrag_torch.kernels.cpu.packing import pack, scratch
from nanobrag_torch.kernels.problem import Options, Scene, step_count


def steps_left(scene: Scene, options: Options) -> int:
    """Pixels times sub-pixels, sources and lattices, of a scene or a batch; all of them where nothing is skipped."""
    total = 0
    for one in pack(None, scene, options).scenes:
        if one.whole[at.SPARSE]:
            pairs = np.zeros(1, np.int64)
            _count(pairs, one, scratch(one))
            total += int(pairs[0]) * at.GROUP * options.oversample**2
        else:
            total += int(one.whole[at.PLACES]) * step_count(scene, options)
    return total


@entry(title="the count of steps")
def _count(pairs: at.Array, scene: at.Packed, scratch: at.Scratch) -> None:
    """Add the pairs of a group of pixels and a lattice that are left, over layers and sources."""
    for tile in range(scene.whole[at.PLACES] // at.LANES):
        fill_tile(scratch, scene, tile)
        look_ahead(scratch, scene, at.LANES, int(scratch.box[at.LEFT]))
        for found in range(scratch.first[scene.whole[at.LAYERS] * scene.sources.shape[0]]):
            bits = scratch.groups[found]
            while bits:
                pairs[0] += bits & 1
                bits >>= 1
