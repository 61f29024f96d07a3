"""Detector geometry: where sub-pixels are, how large they look, and how far away (sections 5.3, 5.4 and 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobrag_torch.physics.rotations import axis_rotation


def decompose_pixels(pixels: Tensor, image_shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Flat index over [panel, slow, fast] -> panel, slow and fast index, each [n]."""
    slow_count, fast_count = image_shape
    fast = pixels % fast_count
    row = torch.div(pixels, fast_count, rounding_mode="floor")
    return torch.div(row, slow_count, rounding_mode="floor"), row % slow_count, fast


def subpixel_offsets(oversample: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Centres of the sub-pixels inside a pixel, as shares of its edge, slow outermost: slow, fast, each [J]."""
    centre = (torch.arange(oversample, dtype=dtype, device=device) + 0.5) / oversample
    slow, fast = torch.meshgrid(centre, centre, indexing="ij")
    return slow.reshape(-1), fast.reshape(-1)


def flat_positions(
    pixels: Tensor,
    panels: Tensor,
    pixel_size: Tensor,
    layer_step: Tensor,
    image_shape: tuple[int, int],
    oversample: int,
    layers: int,
) -> Tensor:
    """Positions (m) [n, L, J, 3] of every sub-pixel of every sensor layer of the pixels [n].

    panels [P, 4, 3]: origin, fast, slow, normal; pixel_size [P, 2]: fast, slow (m); layer_step [P] (m).
    """
    panel, slow, fast = decompose_pixels(pixels, image_shape)
    origin, fast_axis, slow_axis, normal = panels[panel].unbind(1)  # each [n, 3]
    slow_offset, fast_offset = subpixel_offsets(oversample, panels.dtype, panels.device)
    along_fast = (fast[:, None] + fast_offset) * pixel_size[panel, 0, None]  # [n, J]
    along_slow = (slow[:, None] + slow_offset) * pixel_size[panel, 1, None]
    depth = torch.arange(layers, dtype=panels.dtype, device=panels.device) * layer_step[panel, None]  # [n, L]
    in_plane = along_fast[..., None] * fast_axis[:, None] + along_slow[..., None] * slow_axis[:, None] + origin[:, None]
    return in_plane[:, None] + (depth[..., None] * normal[:, None])[:, :, None]


def curve(position: Tensor, fast: Tensor, slow: Tensor, normal: Tensor, radius: Tensor) -> Tensor:
    """Bend a flat detector onto a sphere about the sample that touches it at the foot of its normal.

    position [n, ..., 3]; fast, slow, normal [n, 3], orthonormal; radius [n] (m), the distance of the flat plane. What
    was a distance along fast or slow from the foot is an arc: as far again at any place, seen at a right angle.
    """
    extra = (slice(None),) + (None,) * (position.dim() - 2)
    fast, slow, normal, size = fast[extra], slow[extra], normal[extra], radius[extra][..., None]
    along_fast = (position * fast).sum(-1, keepdim=True) / size
    along_slow = (position * slow).sum(-1, keepdim=True) / size
    upright = torch.cos(along_slow) * normal + torch.sin(along_slow) * slow
    return size * (torch.sin(along_fast) * fast + torch.cos(along_fast) * upright)


def curve_by_lab_axes(position: Tensor, fast_axis: Tensor, slow_axis: Tensor, beam: Tensor, distance: Tensor) -> Tensor:
    """The same as the C program has it (section 5.4, D57): lab y and z over the distance turn the direct beam.

    position [n, ..., 3]; fast_axis, slow_axis [n, 3]; beam [3]; distance [] (m).
    """
    extra = (slice(None),) + (None,) * (position.dim() - 2)
    about_slow = axis_rotation(slow_axis[extra], position[..., 1] / distance)
    about_fast = axis_rotation(fast_axis[extra], position[..., 2] / distance)
    return (about_fast @ (about_slow @ (distance * beam)[..., None])).squeeze(-1)


def solid_angle(radius: Tensor, area: Tensor, close_distance: Tensor, *, point_pixel: bool) -> Tensor:
    """Solid angle (sr) of a pixel of `area` (m^2) at `radius` (m); close_distance (m) is that of its plane.

    area / R^2 * close_distance / R; a point pixel counts 1 / R^2.
    """
    if point_pixel:
        return 1 / (radius * radius)
    return area / (radius * radius) * close_distance / radius
