"""An image that depends on the scattering angle alone, but for polarization, solid angle and capture of each pixel.

    value(pixel) = mean over sub-pixels of sum over directions of T(sin theta) P omega capture

T is a table over sin(theta), a row a direction of the beam, interpolated linearly. `radial_values` is the truth, in
plain torch, differentiable by everything. On a CPU the same is done in machine code, as long as nothing but the table
is differentiated: the image is linear in it, and the adjoint is the transposed sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.background.radial_fused import Sight, pull_rows, render_rows
from nanobrag_torch.compilation import available
from nanobrag_torch.physics.geometry import curve, decompose_pixels, flat_positions, solid_angle
from nanobrag_torch.physics.polarization import polarization_factor

EDGE = 65
"""Places along each edge where the scattering angle is looked for; those of a flat panel are largest at a corner."""
BACKWARDS = 0.5**0.5
"""sin(theta) of a right angle to the beam. Beyond, the largest angle may be anywhere on a panel."""
_AT_ONCE = 2**19
_A_THREAD = 2**15
_FILL: Callable[..., None] = render_rows
_PULL: Callable[..., None] = pull_rows


@dataclass(frozen=True)
class View:
    """What every pixel has of its own: the detector, and the directions of the beam. float64, metres."""

    panels: Tensor  # [P, 4, 3] origin, fast, slow, normal
    pixel_size: Tensor  # [P, 2]
    depth: Tensor  # [P] sensor thickness times attenuation; 0: everything is captured
    close_distance: Tensor  # [P] of each panel's plane
    incident: Tensor  # [D, 3]
    polarization: Tensor  # [D, 3, 3]
    image_shape: tuple[int, int]
    oversample: int = 1
    point_pixel: bool = False
    curved: bool = False  # a sphere about the sample, which every ray meets at a right angle

    def tensors(self) -> tuple[Tensor, ...]:
        """Those that an image could be differentiated by."""
        return (self.panels, self.pixel_size, self.depth, self.close_distance, self.incident, self.polarization)


def radial_image(
    pixels: Tensor | None, view: View, table: Tensor, step: float, dtype: torch.dtype, *, fused: bool | None = None
) -> Tensor:
    """Values [n] of flat pixel indices [n] over [panel, slow, fast], all of them for None; table [D, m] float64.

    step: of sin(theta) between entries of the table, whose last two lie beyond every pixel. fused: None: machine code
    where it can be.
    """
    moving = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in view.tensors())
    if fused is None:
        fused = table.device.type == "cpu" and available().usable and not moving and not view.curved
    if fused:
        image: Tensor = _Fused.apply(table, pixels, view, step, dtype)  # type: ignore[no-untyped-call]
        return image
    if pixels is None:
        pixels = torch.arange(view.panels.shape[0] * math.prod(view.image_shape), device=table.device)
    parts = [radial_values(pixels[i : i + _AT_ONCE], view, table, step) for i in range(0, pixels.numel(), _AT_ONCE)]
    return torch.cat(parts).to(dtype) if parts else torch.zeros(0, dtype=dtype, device=table.device)


def radial_values(pixels: Tensor, view: View, table: Tensor, step: float) -> Tensor:
    """The values [n] in plain torch, float64."""
    no_layer = torch.zeros_like(view.depth)
    position = flat_positions(pixels, view.panels, view.pixel_size, no_layer, view.image_shape, view.oversample, 1)
    panel, _, _ = decompose_pixels(pixels, view.image_shape)
    position = _placed(position, panel, view)[:, 0]
    radius = torch.linalg.vector_norm(position, dim=-1)  # [n, J]
    direction = position / radius[..., None]
    sine = 0.5 * torch.linalg.vector_norm(direction[..., None, :] - view.incident, dim=-1)  # [n, J, D]
    place = (sine / step).clamp(max=table.shape[1] - 1.001)
    low = place.detach().floor()
    row = torch.arange(table.shape[0], device=table.device)
    below, above = table[row, low.to(torch.int64)], table[row, low.to(torch.int64) + 1]
    profile = below + (place - low) * (above - below)
    area, close = view.pixel_size.prod(-1)[panel, None], view.close_distance[panel, None]
    omega = solid_angle(radius, area, close, point_pixel=view.point_pixel)
    cosine = torch.ones_like(radius) if view.curved else (direction * view.panels[panel, 3][:, None]).sum(-1)
    depth = view.depth[panel, None]
    capture = torch.where(depth > 0, -torch.expm1(-depth / cosine), torch.ones_like(cosine))
    seen: Tensor = (profile * polarization_factor(direction, view.polarization)).sum(-1)
    return (seen * omega * capture).mean(-1)


def _placed(position: Tensor, panel: Tensor, view: View) -> Tensor:
    """Positions [n, ..., 3] on flat panels [n], where they are on the detector as it is."""
    if not view.curved:
        return position
    _, fast, slow, normal = view.panels[panel].unbind(1)
    return curve(position, fast, slow, normal, view.close_distance[panel])


def last_sine(view: View) -> float:
    """The largest sin(theta) of any pixel and direction, that of some place on the edge of a panel; 1 where one is
    behind the sample."""
    slow, fast = view.image_shape
    along_fast, along_slow = torch.linspace(0, fast, EDGE), torch.linspace(0, slow, EDGE)
    edge = torch.cat([
        torch.cartesian_prod(along_fast, torch.tensor([0.0, slow])),
        torch.cartesian_prod(torch.tensor([0.0, fast]), along_slow),
    ]).to(view.panels)  # fmt: skip
    size = view.pixel_size.detach()
    origin, fast_axis, slow_axis, _ = view.panels.detach().unbind(1)
    steps = edge[:, None] * size  # [n, P, 2] m
    flat = origin + steps[..., :1] * fast_axis + steps[..., 1:] * slow_axis
    panel = torch.arange(len(origin), device=origin.device).expand(len(edge), -1).flatten()
    directions = torch.nn.functional.normalize(_placed(flat.reshape(-1, 3), panel, view).detach(), dim=-1)
    difference = directions[:, None] - view.incident.detach()
    largest = float(0.5 * torch.linalg.vector_norm(difference, dim=-1).max())
    return 1.0 if largest > BACKWARDS else largest


class _Fused(torch.autograd.Function):
    """The image as a linear function of the table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, pixels: Tensor | None, view: View, step: float, dtype: torch.dtype) -> Tensor:
        ctx.pixels, ctx.view, ctx.step, ctx.dtype, ctx.entries = pixels, view, step, dtype, table.shape[1]
        return _render(table, pixels, view, step, dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _pull(slopes[0], ctx.pixels, ctx.view, ctx.step, ctx.entries), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _render(tangents[0], ctx.pixels, ctx.view, ctx.step, ctx.dtype)


def _sight(view: View, pixels: Tensor | None, step: float) -> Sight:
    arrays = [np.ascontiguousarray(tensor.detach().numpy(), np.float64) for tensor in view.tensors()]
    index = np.empty(0, np.int64) if pixels is None else np.ascontiguousarray(pixels.numpy(), np.int64)
    return Sight._make((*arrays, *view.image_shape, view.oversample, view.point_pixel, index, 1 / step))


def _render(table: Tensor, pixels: Tensor | None, view: View, step: float, dtype: torch.dtype) -> Tensor:
    count = view.panels.shape[0] * math.prod(view.image_shape) if pixels is None else pixels.numel()
    image = torch.empty(count, dtype=dtype)
    sight, rows, target = _sight(view, pixels, step), table.detach().contiguous().numpy(), image.numpy()
    _in_threads(count, lambda start, end: _FILL(rows, sight, start, target[start:end]))
    return image


def _pull(slopes: Tensor, pixels: Tensor | None, view: View, step: float, entries: int) -> Tensor:
    sight = _sight(view, pixels, step)
    given = slopes.detach().to(torch.float64).contiguous().numpy()
    parts: list[Any] = []

    def pull(start: int, end: int) -> None:
        part = np.zeros((view.incident.shape[0], entries))
        _PULL(part, sight, start, given[start:end])
        parts.append((start, part))

    _in_threads(given.size, pull, at_once=max(_A_THREAD, -(-given.size // (2 * torch.get_num_threads()))))
    total = np.zeros((view.incident.shape[0], entries))
    for _, part in sorted(parts, key=lambda pair: pair[0]):  # in order, so that sums do not depend on threads' speed
        total += part
    return torch.from_numpy(total)


def _in_threads(count: int, work: Any, at_once: int = _A_THREAD) -> None:
    spans = [(start, min(start + at_once, count)) for start in range(0, count, at_once)]
    for span in spans[:1]:
        work(*span)  # compiles once, before there are threads
    if torch.get_num_threads() < 2 or len(spans) < 2:
        for span in spans[1:]:
            work(*span)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(lambda span: work(*span), spans[1:]))
