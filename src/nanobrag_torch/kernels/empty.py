"""What an empty list means, for every kernel: a sum over nothing is zero, and so are its gradients.

Without sources nothing is lit, and the whole image is zero. Without lattices the crystal adds nothing, and what is
added once a pixel (Scene.offset) stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nanobrag_torch.kernels.problem import Scene


def is_dark(shape: Sequence[int], scene: Scene) -> bool:
    """Whether values of this shape are zero for want of pixels, scenes or sources."""
    return 0 in shape or scene.incident.shape[-2] == 0


def dark_image(shape: Sequence[int], scene: Scene, dtype: torch.dtype) -> Tensor:
    """Zeros of this shape that have the gradient zero by every tensor of the scene."""
    nothing = torch.stack([tensor.reshape(-1)[:0].sum().double() for tensor in scene.tensors()]).sum()
    return nothing.to(dtype).expand(shape).clone()


def with_a_lattice(scene: Scene) -> Scene:
    """The same scene, with one lattice of no weight where it has none."""
    if scene.lattice.shape[-3]:
        return scene
    lattice, weights = scene.lattice, scene.lattice_weights
    return replace(
        scene,
        lattice=torch.cat((lattice, lattice.new_zeros((*lattice.shape[:-3], 1, 3, 3))), -3),
        lattice_weights=torch.cat((weights, weights.new_zeros((*weights.shape[:-1], 1))), -1),
    )
