"""The detector's point spread in a refinement: pixels about a box are rendered too, and spread into it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobrag_torch.refinement.shoeboxes import Shoeboxes
from nanobrag_torch.response.config import SpreadConfig
from nanobrag_torch.response.spread import Spread

MOST_RADIUS = 6
REACH = 2.2
"""Full widths that a spread is followed to."""


@dataclass(frozen=True, eq=False)
class PointSpread:
    """A linear map from rendered pixels [m] to the pixels of the boxes [n], of a width (FWHM, pixels) to be refined.

    Every block renders its own margin: what spills over from the spots of another block is left out.
    """

    shape: str
    radius: int
    rendered: Tensor  # [m] flat pixels
    block: Tensor  # [m]
    target: Tensor  # [k] pixel of the boxes
    source: Tensor  # [k] rendered pixel
    tap: Tensor  # [k] element of the kernel
    count: int

    @classmethod
    def about(cls, boxes: Shoeboxes, image_shape: tuple[int, int], width: float, shape: str = "gauss") -> PointSpread:
        """The map for the pixels of boxes; what falls beyond the edge of a panel is gone."""
        slow_size, fast_size = image_shape
        radius = min(max(1, round(REACH * width + 0.5)), MOST_RADIUS)
        steps = torch.arange(-radius, radius + 1)
        slow_step, fast_step = (grid.reshape(-1) for grid in torch.meshgrid(steps, steps, indexing="ij"))
        pixels = boxes.pixels
        slow, fast = (pixels // fast_size) % slow_size, pixels % fast_size
        s, f = slow[:, None] + slow_step, fast[:, None] + fast_step
        inside = (s >= 0) & (s < slow_size) & (f >= 0) & (f < fast_size)
        flat = pixels[:, None] + slow_step * fast_size + fast_step
        block = boxes.pixel_block
        key = (block[:, None] * (int(pixels.max()) + fast_size * (radius + 2) + 1) + flat)[inside]
        unique, source = torch.unique(key, return_inverse=True)
        target = torch.arange(len(pixels))[:, None].expand_as(flat)[inside]
        tap = torch.arange(len(slow_step)).flip(0).expand_as(flat)[inside]
        rendered, owner = torch.zeros(len(unique), dtype=torch.int64), torch.zeros(len(unique), dtype=torch.int64)
        rendered[source], owner[source] = flat[inside], block[target]
        return cls(shape, radius, rendered, owner, target, source, tap, len(pixels))

    def keep(self, wanted: Tensor) -> PointSpread:
        """For some [n] of the pixels of the boxes."""
        place = torch.cumsum(wanted.long(), 0) - 1
        kept = wanted[self.target]
        return replace(
            self,
            target=place[self.target[kept]],
            source=self.source[kept],
            tap=self.tap[kept],
            count=int(wanted.sum()),
        )

    def spread(self, values: Tensor, width: Tensor) -> Tensor:
        """Values [m, c] of the rendered pixels -> what the boxes' pixels [n, c] record."""
        return self._applied(self._kernel(width), values)

    def slope(self, values: Tensor, width: Tensor) -> Tensor:
        """The same [n, c], differentiated by the width."""
        return self._applied(torch.func.jvp(self._kernel, (width,), (torch.ones_like(width),))[1], values)

    def _kernel(self, width: Tensor) -> Tensor:
        """Shares of the kernel's elements, flat."""
        spread = Spread(SpreadConfig(shape=self.shape, fwhm_um=width, radius_pixels=None), (1e-6, 1e-6))
        return spread.kernel((self.radius, self.radius)).reshape(-1)

    def _applied(self, kernel: Tensor, values: Tensor) -> Tensor:
        from scipy.sparse import csr_array

        entries = (kernel[self.tap].numpy(), (self.target.numpy(), self.source.numpy()))
        matrix = csr_array(entries, shape=(self.count, len(self.rendered)))
        return torch.from_numpy(matrix @ values.numpy())
