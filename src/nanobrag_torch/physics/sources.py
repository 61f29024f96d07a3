"""X-ray sources: the divergence and dispersion grid (section 4.1) as a table of directions, wavelengths and weights."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobrag_torch.physics.rotations import axis_rotation, unit
from nanobrag_torch.units import SOURCE_DISTANCE_M

ROUND_LIMIT = 1.1


def centred_steps(range_: Tensor, step: Tensor, count: int, *, lopsided: bool = False) -> Tensor:
    """Offsets [count] of a scan, evenly about zero; lopsided: beginning at -range/2 wherever it ends (D56)."""
    index = torch.arange(count, dtype=step.dtype, device=step.device)
    return step * index - range_ / 2 if lopsided else step * (index - (count - 1) / 2)


def inside_ellipse(h: Tensor, v: Tensor, ranges: tuple[Tensor, Tensor], steps: tuple[Tensor, Tensor]) -> Tensor:
    """Which points of the divergence grid [H, V] a round beam keeps; all of them where a range is zero."""

    def share(angle: Tensor, range_: Tensor, step: Tensor) -> Tensor:
        even = 1.0 if angle.numel() % 2 == 0 else 0.0
        return (angle * angle - step * step / 4 * even) / range_ / range_

    total = share(h, ranges[0], steps[0])[:, None] + share(v, ranges[1], steps[1])[None, :]
    return ~(4 * total > ROUND_LIMIT)


def source_behind(beam: Tensor) -> Tensor:
    """Vector [3] from the sample (m) against the beam; no component is minus zero, as after a turn by zero."""
    return -SOURCE_DISTANCE_M * beam + 0.0


def grid_directions(beam: Tensor, polar: Tensor, h: Tensor, v: Tensor) -> Tensor:
    """Vectors from the sample to each source [H, V, 3] (m): turned by v about `polar`, then by h across it."""
    vertical = unit(torch.linalg.cross(beam, polar, dim=-1))
    turned = axis_rotation(polar, v) @ source_behind(beam)  # [V, 3]
    return torch.einsum("hij,vj->hvi", axis_rotation(vertical, h), turned)
