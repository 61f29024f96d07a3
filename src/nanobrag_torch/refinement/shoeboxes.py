"""Boxes of pixels about the spots of a shot: which pixels a fit looks at, once each, and the blocks they fall into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.frames import Frame

MOST_BOXES_TOGETHER = 12
"""Boxes of overlapping spots that are solved as one block; a larger cluster falls apart into its boxes."""
PLANE = 3
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Spots:
    """Reflections that have a box: a row each."""

    hkl: Integers  # [b, 3]
    crystal: Integers  # [b] number of the crystal
    panel: Integers  # [b]
    centre: Floats  # [b, 2] fast, slow pixels from the outer edge
    row: Integers  # [b] of the reflection table, -1 for what is not in it

    def __len__(self) -> int:
        return len(self.hkl)

    def rows(self, kept: NDArray[np.bool_] | Integers) -> Spots:
        """Some of the rows."""
        return Spots(self.hkl[kept], self.crystal[kept], self.panel[kept], self.centre[kept], self.row[kept])


@dataclass(frozen=True, eq=False)
class Shoeboxes:
    """Pixels in boxes, each pixel once: where boxes overlap it belongs to the one whose centre is nearer.

    data is photons. `block` joins the boxes that overlap; `place` numbers the boxes of a block.
    """

    spots: Spots
    half: tuple[int, int]  # fast, slow: the box reaches so many pixels to either side
    pixels: Tensor  # [n] flat index over [panel, slow, fast]
    box: Tensor  # [n]
    basis: Tensor  # [n, 3] of the planes: one, fast, slow (-1 to 1 within the box)
    data: Tensor  # [n] photons, float64
    readout: Tensor  # [n] variance of the readout noise, photons^2
    block: Tensor  # [b] of each box
    place: Tensor  # [b] of each box in its block

    def __len__(self) -> int:
        return len(self.spots)

    @property
    def pixel_block(self) -> Tensor:
        """The block [n] of each pixel."""
        return self.block[self.box]

    def keep(self, wanted: Tensor) -> Shoeboxes:
        """Without the pixels where `wanted` [n] is false; boxes keep their numbers."""
        return replace(
            self,
            pixels=self.pixels[wanted],
            box=self.box[wanted],
            basis=self.basis[wanted],
            data=self.data[wanted],
            readout=self.readout[wanted],
        )

    @classmethod
    def about(cls, spots: Spots, frame: Frame, half: tuple[int, int], *, most_masked: float = 0.2) -> Shoeboxes:
        """Boxes about the centres of spots, `half` pixels (fast, slow) to either side.

        Boxes of which more than `most_masked` are outside the detector or not good are left out. Raises InputError
        where no box is left.
        """
        while True:
            found = _pixels_about(spots, frame.counts.shape, half)
            inside = frame.good.reshape(-1)[found.flat] & found.inside
            whole = (2 * half[0] + 1) * (2 * half[1] + 1)
            share = np.bincount(found.box[inside], minlength=len(spots)) / whole
            enough = share >= 1 - most_masked
            if not enough.any():
                raise InputError("boxes", 0, f"at least one with {100 * (1 - most_masked):.0f}% of good pixels")
            if enough.all():
                break
            spots = spots.rows(enough)
        owned = inside & _nearest(found)
        block, place = _blocks(found.flat[inside], found.box[inside], len(spots))
        flat = found.flat[owned]
        return cls(
            spots=spots,
            half=half,
            pixels=torch.from_numpy(flat),
            box=torch.from_numpy(found.box[owned]),
            basis=torch.from_numpy(np.column_stack([np.ones(owned.sum()), found.offset[owned] / np.array(half)])),
            data=torch.from_numpy(frame.photons(np.unravel_index(flat, frame.counts.shape))),
            readout=torch.full((len(flat),), frame.readout_noise**2, dtype=torch.float64),
            block=torch.from_numpy(block),
            place=torch.from_numpy(place),
        )

    def corners(self) -> Integers:
        """fast0 fast1 slow0 slow1 [b, 4] of every box, ends excluded."""
        whole = np.floor(self.spots.centre).astype(np.int64)
        (f, s), (hf, hs) = whole.T, self.half
        return np.stack([f - hf, f + hf + 1, s - hs, s + hs + 1], 1)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Every pixel of every box, those outside the detector too."""

    flat: Integers
    box: Integers
    offset: Floats  # [m, 2] from the whole pixel of the centre
    distance: Floats  # from the centre, squared
    inside: NDArray[np.bool_]


def _pixels_about(spots: Spots, shape: Sequence[int], half: tuple[int, int]) -> _Pairs:
    _, slow_size, fast_size = shape
    slow, fast = np.mgrid[-half[1] : half[1] + 1, -half[0] : half[0] + 1].reshape(2, -1)
    whole = np.floor(spots.centre).astype(np.int64)
    f, s = whole[:, :1] + fast, whole[:, 1:] + slow
    inside = (f >= 0) & (f < fast_size) & (s >= 0) & (s < slow_size)
    flat = (spots.panel[:, None] * slow_size + np.clip(s, 0, slow_size - 1)) * fast_size + np.clip(f, 0, fast_size - 1)
    far = (f + 0.5 - spots.centre[:, :1]) ** 2 + (s + 0.5 - spots.centre[:, 1:]) ** 2
    box = np.broadcast_to(np.arange(len(spots))[:, None], f.shape)
    offset = np.broadcast_to(np.stack([fast, slow], -1), (*f.shape, 2)).reshape(-1, 2)
    return _Pairs(flat.reshape(-1), box.reshape(-1).copy(), offset.astype(np.float64), far.reshape(-1), inside.ravel())


def _nearest(pairs: _Pairs) -> NDArray[np.bool_]:
    """Of all pairs with the same pixel, the one whose box is centred nearest."""
    order = np.lexsort((pairs.box, pairs.distance, pairs.flat, ~pairs.inside))
    flat = np.where(pairs.inside, pairs.flat, -1)[order]
    first = np.ones(len(order), bool)
    first[1:] = flat[1:] != flat[:-1]
    nearest = np.zeros(len(order), bool)
    nearest[order] = first
    return nearest & pairs.inside


def _blocks(flat: Integers, box: Integers, count: int) -> tuple[Integers, Integers]:
    """Blocks [count] of boxes that share pixels, and the place [count] of each box in its block."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    order = np.argsort(flat, kind="stable")
    same = flat[order][1:] == flat[order][:-1]
    pairs = box[order][:-1][same], box[order][1:][same]
    graph = coo_array((np.ones(len(pairs[0])), pairs), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    large = np.bincount(label)[label] > MOST_BOXES_TOGETHER
    label = np.where(large, label.max() + 1 + np.arange(count), label)
    _, block = np.unique(label, return_inverse=True)
    order = np.argsort(block, kind="stable")
    sorted_block = block[order]
    starts = np.searchsorted(sorted_block, sorted_block)
    place = np.empty(count, np.int64)
    place[order] = np.arange(count) - starts
    return block.astype(np.int64), place
