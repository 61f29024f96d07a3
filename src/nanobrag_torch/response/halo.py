"""A few pixels after the spread: which pixels their photons come from, and the sum over those."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanobrag_torch.physics.geometry import decompose_pixels

_AT_ONCE = 2**22
"""Shares that are summed at once."""


@dataclass(frozen=True)
class Halo:
    """Pixels [n] that are wanted, and those [m] that send photons to them, in order."""

    wanted: Tensor  # [n] flat indices over [panel, slow, fast]
    pixels: Tensor  # [m] flat indices, each once
    places: Tensor  # [n, k] of the senders in pixels; m: beyond an edge
    radius: int

    def spread(self, values: Tensor, kernel: Tensor) -> Tensor:
        """Values [..., n] of the wanted pixels, of photons [..., m] at the halo's.

        kernel [2 radius + 1, 2 radius + 1]: shares of the pixels about one that is hit. Linear in both.
        """
        shares = kernel.flip(0, 1).reshape(-1).to(values.dtype)  # from a sender at an offset, to the pixel itself
        padded = torch.cat((values, torch.zeros_like(values[..., :1])), -1)
        step = max(1, _AT_ONCE // shares.numel())
        parts = [padded[..., part] @ shares for part in torch.split(self.places, step)]
        return torch.cat(parts, -1) if parts else values[..., :0]


def halo_of(wanted: Tensor, image_shape: tuple[int, int], radius: int) -> Halo:
    """The halo of pixels [n]; image_shape: slow and fast of a panel. Panels send each other nothing."""
    _, slow, fast = decompose_pixels(wanted, image_shape)
    reach = torch.arange(-radius, radius + 1, device=wanted.device)
    down, across = (x.reshape(-1) for x in torch.meshgrid(reach, reach, indexing="ij"))
    rows, columns = slow[:, None] + down, fast[:, None] + across
    inside = (rows >= 0) & (rows < image_shape[0]) & (columns >= 0) & (columns < image_shape[1])
    senders = wanted[:, None] + down * image_shape[1] + across
    pixels = torch.unique(senders[inside])
    places = torch.searchsorted(pixels, senders)
    places = torch.where(inside, places, torch.full_like(places, pixels.numel()))
    return Halo(wanted, pixels, places, radius)
