"""The one operation of the package and the choice of its implementation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import reference
from nanobrag_torch.kernels.problem import Options, Scene

KERNELS = ("auto", "reference", "fused")


def intensity(
    pixels: Tensor, scene: Scene, options: Options, *, kernel: str = "auto", progress: reference.Progress | None = None
) -> Tensor:
    """Image values [n] of the flat pixel indices [n] over [panel, slow, fast], differentiable by every scene tensor.

    Raises InputError for an unknown kernel.
    """
    if kernel not in KERNELS:
        raise InputError("kernel", kernel, ", ".join(KERNELS))
    return reference.intensity(pixels, scene, options, progress=progress)


def tangents(
    pixels: Tensor, scene: Scene, directions: Sequence[Tensor], options: Options, *, kernel: str = "auto"
) -> Tensor:
    """Jacobian-vector products [T, n] along T directions of the scene's tensors; see reference.tangents."""
    if kernel not in KERNELS:
        raise InputError("kernel", kernel, ", ".join(KERNELS))
    return reference.tangents(pixels, scene, directions, options)
