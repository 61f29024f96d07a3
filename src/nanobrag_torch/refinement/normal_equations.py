"""Normal equations of a least-squares fit to an image, formed without ever holding the Jacobian.

The operation gives the slopes of a chunk of pixels along all parameters in one pass; each chunk is folded into J^T W J
and J^T W r and forgotten. Memory is O(pixels of a chunk x parameters), whatever the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import Scene
from nanobrag_torch.refinement.columns import Columns, Eliminated, Layout, eliminate
from nanobrag_torch.simulator import Simulator, require_pixels

PIXELS_AT_ONCE = 2**18
MAX_TANGENTS = 32


class NormalEquations(NamedTuple):
    """Solve `matrix` x = `gradient` for the Gauss-Newton step x; parameters in the order given, each flattened.

    Where there are linear columns they are solved for already: `columns.solution(x)` is their own step.
    """

    matrix: Tensor  # [T, T] J^T W J, float64
    gradient: Tensor  # [T] J^T W r, float64
    columns: Eliminated | None = None


def normal_equations(
    simulator: Simulator | Callable[[], Simulator],
    parameters: Sequence[Tensor],
    residual: Tensor,
    weights: Tensor | None = None,
    *,
    pixels: Tensor | None = None,
    columns: Columns | None = None,
) -> NormalEquations:
    """J^T W J and J^T W r of an image of `simulator`, for residuals r = data - model and diagonal weights W.

    parameters: leaf tensors that require grad and that the simulator's configurations hold; or that a function
    without arguments builds the simulator from. residual, weights: of the image's shape, or a value for each of
    `pixels` [n], flat indices over [panel, slow, fast]; weights default to one. columns: linear ones of these pixels
    (planes of boxes, intensities of reflections), which are eliminated exactly; memory is that of their blocks.
    Photons are those before any response. Raises InputError for a parameter that does not shape the image, for pixels
    that are none, under the C program's phi row (compat D2), and where there is a response.
    """
    simulator = simulator if isinstance(simulator, Simulator) else simulator()
    require_grad(parameters)
    chosen = chosen_pixels(simulator, pixels)
    size = None if pixels is not None else math.prod(simulator.image_shape)
    r = _of_pixels(residual, chosen, size, "residual")
    w = torch.ones_like(r) if weights is None else _of_pixels(weights, chosen, size, "weights")
    count = sum(parameter.numel() for parameter in parameters)
    if columns is not None:
        return _with_columns(_jacobian_chunks(simulator, parameters, chosen), count, r, w, columns)
    matrix = torch.zeros((count, count), dtype=torch.float64, device=r.device)
    gradient = torch.zeros(count, dtype=torch.float64, device=r.device)
    for chunk, jacobian in _jacobian_chunks(simulator, parameters, chosen):
        weighted = jacobian * w[chunk]
        matrix += weighted @ jacobian.T
        gradient += weighted @ r[chunk]
    return NormalEquations(matrix, gradient)


def require_grad(parameters: Sequence[Tensor]) -> None:
    """Raise InputError for parameters that slopes cannot be taken by, or none at all."""
    if not parameters or not all(parameter.requires_grad for parameter in parameters):
        raise InputError("parameters", [tuple(p.shape) for p in parameters], "one or more tensors that require grad")


def chosen_pixels(simulator: Simulator, pixels: Tensor | None) -> Tensor:
    """Flat indices [n] of the pixels that a fit looks at. Raises InputError where their slopes are not defined."""
    if simulator.compat.stale_phi:
        raise InputError("compat", "c", "corrected, or phi_mode spec: slopes along stale orientations are not defined")
    if simulator.response_config is not None:
        raise InputError("response", "given", "none: a spread makes a tile of pixels depend on those about it")
    if pixels is None:
        return simulator.wanted_pixels()
    require_pixels(pixels, math.prod(simulator.image_shape))
    return pixels.to(simulator.device)


def _of_pixels(values: Tensor, chosen: Tensor, size: int | None, name: str) -> Tensor:
    """A value [n] for each pixel, of a list of them or of an image of `size`. Raises InputError for another length."""
    count = chosen.numel() if size is None else size
    if values.numel() != count:
        raise InputError(name, tuple(values.shape), f"a value for each of {count} pixels")
    flat = values.reshape(-1)
    return (flat if size is None else flat[chosen]).double()


def _with_columns(
    chunks: Iterator[tuple[slice, Tensor]], parameters: int, residual: Tensor, weights: Tensor, columns: Columns
) -> NormalEquations:
    """The sums of every block over the chunks, and the columns eliminated from them; parameters: their values."""
    if columns.block.numel() != residual.numel():
        raise InputError("columns", columns.block.numel(), f"a block for each of {residual.numel()} pixels")
    size = columns.values.shape[1]
    gram = residual.new_zeros((columns.count, size + parameters, size + parameters))
    right = residual.new_zeros((columns.count, size + parameters))
    for chunk, jacobian in chunks:
        every = torch.cat((columns.values[chunk].double(), jacobian.T), 1)
        sums = Layout(columns.block[chunk], columns.count).gram(every, weights[chunk], weights[chunk] * residual[chunk])
        gram += sums[0]
        right += sums[1]
    if columns.precision is not None:
        gram[:, :size, :size] += torch.diag_embed(columns.precision.double())
    eliminated = eliminate(gram, right, size)
    return NormalEquations(eliminated.matrix, eliminated.right, eliminated)


def scene_directions(scene: Scene, parameters: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[bool]]:
    """How the tensors of the scene move with each parameter value: [T, *shape], by name; not those that stand still.

    Also which parameters move any.
    """
    moving = {name: tensor for name, tensor in scene.named().items() if tensor.requires_grad}
    if not moving:
        return {}, [False for _ in parameters]
    return directions_of(moving, parameters)


def directions_of(moving: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[bool]]:
    """How tensors move with each value of the parameters that they were made from, and which parameters move any.

    Two reverse passes through what is between: the gradient is linear in what flows into it, and the slope of that
    linear map is the forward derivative. torch's own forward mode takes seconds to be loaded, and longer a pass.
    """
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
    _require_used(parameters, [*used, _background_slopes(simulator, parameters, pixels[:1])[1]])
    for start in range(0, pixels.numel(), PIXELS_AT_ONCE):
        chunk = slice(start, start + PIXELS_AT_ONCE)
        total = _background_slopes(simulator, parameters, pixels[chunk])[0]
        for (scene, options), direction in zip(scenes, directions, strict=True):
            if not direction:
                continue
            slopes = [
                operation.tangents(pixels[chunk], scene, part, options, kernel=simulator.kernel).double()
                for part in at_most(direction, MAX_TANGENTS)
            ]
            jacobian = torch.cat(slopes)
            total = jacobian if total is None else total + jacobian
        assert total is not None
        yield chunk, total


def _background_slopes(
    simulator: Simulator, parameters: Sequence[Tensor], pixels: Tensor
) -> tuple[Tensor | None, list[bool]]:
    """Slopes [T, n] of what amorphous materials add, None where it stands still, and which parameters move it."""
    with torch.enable_grad():
        values = simulator.background_values(pixels, fused=False)  # machine code has no slope of its gradient
        moving = {} if values is None or not values.requires_grad else {"photons": values}
        slopes, used = directions_of(moving, parameters) if moving else ({}, [False for _ in parameters])
    found = slopes.get("photons")
    return None if found is None else found.double(), used


def at_most(directions: Mapping[str, Tensor], count: int) -> Iterator[dict[str, Tensor]]:
    """The directions, at most `count` tangents at a time."""
    total = max(direction.shape[0] for direction in directions.values())
    for start in range(0, total, count):
        yield {name: direction[start : start + count] for name, direction in directions.items()}
