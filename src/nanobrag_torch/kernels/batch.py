"""Batches of scenes: what one of them is, and how what renders a scene at a time takes them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.kernels.problem import Scene, scene_count, without_absent


def scene_of(scene: Scene, number: int) -> Scene:
    """One scene of a batch."""
    stacked = scene.stacked()
    kind: Any = type(scene)
    found: Scene = kind(**{name: t[number] if name in stacked else t for name, t in scene.named().items()})
    return found


def by_scene(render: Callable[[Tensor | None, Scene, int], Tensor], pixels: Tensor | None, scene: Scene) -> Tensor:
    """[..., B, n] of a function that gives [..., n] of a list of pixels, a scene and its number in the batch."""
    count = scene_count(pixels, scene)
    assert count is not None
    if pixels is None or pixels.dim() == 1:
        return torch.stack([render(pixels, scene_of(scene, b), b) for b in range(count)], -2)
    parts = [render(row, scene_of(scene, b), b) for b, row in enumerate(pixels.clamp(min=0))]
    return without_absent(torch.stack(parts, -2), pixels)


def directions_of(directions: Mapping[str, Tensor], scene: Scene, number: int) -> dict[str, Tensor]:
    """Stacks [T, *shape] for one scene, from [T, B, *shape] of what has a batch axis."""
    stacked = scene.stacked()
    return {name: stack[:, number] if name in stacked else stack for name, stack in directions.items()}
