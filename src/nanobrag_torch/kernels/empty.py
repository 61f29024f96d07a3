"""What an empty list means, for every kernel: a sum over nothing is zero, and so are its gradients.

Without sources nothing is lit, and the whole image is zero. Without lattices the crystal adds nothing, and what is
added once a pixel (Scene.offset) stays.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nanobrag_torch.kernels.problem import Scene


def is_dark(count: int, scene: Scene) -> bool:
    """Whether `count` pixels of a scene are zero for want of pixels or sources."""
    return count == 0 or scene.incident.shape[0] == 0


def dark_image(count: int, scene: Scene, dtype: torch.dtype) -> Tensor:
    """Zeros [count] that have the gradient zero by every tensor of the scene."""
    nothing = torch.stack([tensor.reshape(-1)[:0].sum().double() for tensor in scene.tensors()]).sum()
    return nothing.to(dtype).expand(count).clone()


def with_a_lattice(scene: Scene) -> Scene:
    """The same scene, with one lattice of no weight where it has none."""
    if scene.lattice.shape[0]:
        return scene
    return replace(
        scene,
        lattice=torch.cat((scene.lattice, scene.lattice.new_zeros((1, 3, 3)))),
        lattice_weights=torch.cat((scene.lattice_weights, scene.lattice_weights.new_zeros(1))),
    )
