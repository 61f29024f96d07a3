"""The implementations of the operation: one record each, by the kind of device that they run on.

A kernel is given scenes with at least one pixel, source and lattice (kernels.empty knows the others), on its own kind
of device, with the shapes and types that Scene declares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from nanobrag_torch.compilation import available
from nanobrag_torch.kernels.cpu import gradients as cpu_gradients
from nanobrag_torch.kernels.cpu import kept as cpu_kept
from nanobrag_torch.kernels.cpu import launch as cpu
from nanobrag_torch.kernels.cpu.tangent import launch as cpu_tangent
from nanobrag_torch.kernels.cuda import devices as cuda_devices
from nanobrag_torch.kernels.cuda import launch as cuda
from nanobrag_torch.kernels.problem import Options, Pull, Scene, pixel_count

LARGEST_TABLE = 2**31 - 1
MOST_PIXELS = 2**31 - 2**10
"""On a GPU, whose kernel counts pixels, and whole tiles of them, in 32 bits."""
_REFERENCE = "the reference kernel renders, many times slower"


@dataclass(frozen=True)
class Backend:
    """One implementation. All that it is called with lies on `device`."""

    name: str
    device: str  # type of torch device
    value: Callable[..., Tensor]  # (pixels, scene, options) -> [n]; with `reports` a fourth argument, the progress
    gradients: Callable[[Pull, Tensor | None, Scene, Options], tuple[Tensor, dict[str, Tensor]]]
    """-> values [n], without element unless asked for, and the wanted gradients by name."""
    tangents: Callable[[Tensor | None, Scene, Mapping[str, Tensor], Options], Tensor] | None  # -> [T, n]
    obstacle: Callable[[Scene, Options], str]  # why it cannot render this; empty if it can
    reports: bool = False
    batches: bool = (
        False  # whether it takes scenes with a batch axis; else kernels.in_turn hands it one after the other
    )
    keep: Callable[[Tensor, Scene, Options, Collection[str]], cpu_kept.Kept | None] | None = None
    """-> values and what is kept of them until a loss says what flows in; None of scenes that it does not take."""


def _cpu_obstacle(scene: Scene, options: Options) -> str:
    if not available().usable:
        return f"{available().reason}: the reference kernel renders, about a hundred times slower"
    return _table_obstacle(scene)


def _cuda_obstacle(scene: Scene, options: Options) -> str:
    if found := cuda_devices.obstacle(scene.panels.device):
        return found
    return too_large(scene, options)


def too_large(scene: Scene, options: Options) -> str:
    """Why a scene is too large for a GPU's kernel; empty if it is not."""
    if pixel_count(None, scene, options) > MOST_PIXELS:
        return f"more than {MOST_PIXELS} pixels: {_REFERENCE}"
    return _table_obstacle(scene)


def _table_obstacle(scene: Scene) -> str:
    if scene.structure_factors.numel() > LARGEST_TABLE:
        return f"more than {LARGEST_TABLE} structure factors: {_REFERENCE}"
    return ""


CPU = Backend(
    "numba",
    "cpu",
    cpu.value,
    cpu_gradients.gradients,
    cpu_tangent.tangents,
    _cpu_obstacle,
    reports=True,
    batches=True,
    keep=cpu_kept.keep,
)
CUDA = Backend("triton", "cuda", cuda.forward, cuda.adjoint, cuda.tangents, _cuda_obstacle)
BACKENDS: dict[str, Backend] = {backend.device: backend for backend in (CPU, CUDA)}


def obstacle(scene: Scene, options: Options, *, to_tangents: bool = False) -> str:
    """Why no backend can render a scene where it lies, or take its slopes along directions; empty if one can."""
    if left_to_reference(options):
        return "D3 or D5 of compat c depends on the order of steps: the reference kernel renders it, many times slower"
    kind = scene.panels.device.type
    backend = BACKENDS.get(kind)
    if backend is None:
        return f"no fused kernel for device {kind}: {_REFERENCE}"
    if found := backend.obstacle(scene, options):
        return found
    if to_tangents and backend.tangents is None:
        return (
            f"no fused kernel of slopes along directions (forward-mode differentiation, normal equations) for device "
            f"{kind}: the reference kernel takes them one by one, many times slower; images and backward gradients "
            "are not concerned"
        )
    return ""


def left_to_reference(options: Options) -> bool:
    """Whether the order of steps counts, which the reference kernel alone keeps."""
    return options.running_factors or options.interpolation_latch
