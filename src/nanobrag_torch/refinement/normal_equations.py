"""Normal equations of a least-squares fit to an image, formed without ever holding the Jacobian.

The operation gives the slopes of a chunk of pixels along all parameters in one pass; each chunk is folded into J^T W J
and J^T W r and forgotten. Memory is O(pixels of a chunk x parameters), whatever the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import Scene
from nanobrag_torch.simulator import Simulator

PIXELS_AT_ONCE = 2**18
MAX_TANGENTS = 32


class NormalEquations(NamedTuple):
    """Solve `matrix` x = `gradient` for the Gauss-Newton step x; parameters in the order given, each flattened."""

    matrix: Tensor  # [T, T] J^T W J, float64
    gradient: Tensor  # [T] J^T W r, float64


def normal_equations(
    simulator: Simulator | Callable[[], Simulator],
    parameters: Sequence[Tensor],
    residual: Tensor,
    weights: Tensor | None = None,
) -> NormalEquations:
    """J^T W J and J^T W r of an image of `simulator`, for residuals r = data - model and diagonal weights W.

    parameters: leaf tensors that require grad and that the simulator's configurations hold; or that a function
    without arguments builds the simulator from. residual, weights: of the image's shape; weights default to one.
    Raises InputError for a parameter that does not shape the image, and under the C program's phi row (compat D2).
    """
    simulator = simulator if isinstance(simulator, Simulator) else simulator()
    if simulator.compat.stale_phi:
        raise InputError("compat", "c", "corrected, or phi_mode spec: slopes along stale orientations are not defined")
    pixels = simulator.wanted_pixels()
    r = residual.reshape(-1)[pixels].double()
    w = torch.ones_like(r) if weights is None else weights.reshape(-1)[pixels].double()
    count = sum(parameter.numel() for parameter in parameters)
    matrix = torch.zeros((count, count), dtype=torch.float64, device=r.device)
    gradient = torch.zeros(count, dtype=torch.float64, device=r.device)
    for chunk, jacobian in _jacobian_chunks(simulator, parameters, pixels):
        weighted = jacobian * w[chunk]
        matrix += weighted @ jacobian.T
        gradient += weighted @ r[chunk]
    return NormalEquations(matrix, gradient)


def scene_directions(scene: Scene, parameters: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[bool]]:
    """How the tensors of the scene move with each parameter value: [T, *shape], by name; not those that stand still.

    Also which parameters move any. Two reverse passes through the small tensors between parameters and scene: the
    gradient is linear in what flows into it, and the slope of that linear map is the forward derivative.
    """
    moving = {name: tensor for name, tensor in scene.named().items() if tensor.requires_grad}
    if not moving:
        return {}, [False for _ in parameters]
    seeds = [torch.zeros_like(tensor, requires_grad=True) for tensor in moving.values()]
    pulled = torch.autograd.grad(tuple(moving.values()), parameters, seeds, create_graph=True, allow_unused=True)
    used = [gradient is not None for gradient in pulled]
    pairs = zip(pulled, parameters, strict=True)
    flat = torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1).double() for g, p in pairs])
    basis = torch.eye(flat.numel(), dtype=flat.dtype, device=flat.device)
    pushed = torch.autograd.grad(flat, seeds, basis, is_grads_batched=True, allow_unused=True)
    found = zip(moving, pushed, strict=True)
    return {name: slope.detach() for name, slope in found if slope is not None}, used


def _require_used(parameters: Sequence[Tensor], used: list[list[bool]]) -> None:
    for parameter, *anywhere in zip(parameters, *used, strict=True):
        if not any(anywhere):
            raise InputError("parameters", tuple(parameter.shape), "tensors that shape the image")


def _jacobian_chunks(
    simulator: Simulator, parameters: Sequence[Tensor], pixels: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Slices of `pixels` and the transposed Jacobian [T, n] of each, float64."""
    with torch.enable_grad():
        crystal = simulator.scene(), simulator.options()
        water = simulator.water_scene(*crystal)
        scenes = [crystal] if water is None else [crystal, water]
        directions, used = zip(*(scene_directions(scene, parameters) for scene, _ in scenes), strict=True)
    _require_used(parameters, list(used))
    for start in range(0, pixels.numel(), PIXELS_AT_ONCE):
        chunk = slice(start, start + PIXELS_AT_ONCE)
        total: Tensor | None = None
        for (scene, options), direction in zip(scenes, directions, strict=True):
            if not direction:
                continue
            slopes = [
                operation.tangents(pixels[chunk], scene, part, options, kernel=simulator.kernel).double()
                for part in _at_most(direction, MAX_TANGENTS)
            ]
            jacobian = torch.cat(slopes)
            total = jacobian if total is None else total + jacobian
        assert total is not None
        yield chunk, total


def _at_most(directions: Mapping[str, Tensor], count: int) -> Iterator[dict[str, Tensor]]:
    """The directions, at most `count` tangents at a time."""
    total = max(direction.shape[0] for direction in directions.values())
    for start in range(0, total, count):
        yield {name: direction[start : start + count] for name, direction in directions.items()}
