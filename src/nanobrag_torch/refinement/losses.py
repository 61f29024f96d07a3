"""A loss of pixels and its gradient, a tile of pixels at a time: memory is that of a tile, whatever the image.

Every tile is rendered, the loss says what flows back into it, and its slopes are taken while the tile is at hand. Where
the kernel can, it keeps of every pixel what its slopes take, so that what the loss says is all that is left to go
through. What they sum up to by the few tensors of the scene goes back to the parameters once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.cpu.kept import KEEPS, Kept, bytes_kept
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.refinement.normal_equations import chosen_pixels, require_grad
from nanobrag_torch.simulator import Simulator
from nanobrag_torch.torch_threads import one_torch_thread

PIXELS_AT_ONCE = 2**20
"""The most of a tile: where a pixel has few lattices, what every call of the loss and of the kernels takes counts."""
KEPT_BYTES = 2**26
"""The most that is kept of a tile until its loss is known."""
FEWEST_KEPT = 2**11
"""Pixels that a tile has at least, or nothing is kept of it."""

FEWEST_LATTICES = 30
"""Lattices from which on keeping pays: what is kept of a pixel takes as long as the slopes of some."""

PixelLoss = Callable[[Tensor, Tensor], Tensor]
"""(photons [n], flat indices [n] of these pixels) -> the sum of what they lose []."""


class LossAndGradient(NamedTuple):
    """A loss and its gradients, in the order of the parameters and in their shapes."""

    loss: Tensor  # [], float64
    gradients: tuple[Tensor, ...]


def loss_and_gradient(
    simulator: Simulator | Callable[[], Simulator],
    loss: PixelLoss,
    parameters: Sequence[Tensor],
    *,
    pixels: Tensor | None = None,
) -> LossAndGradient:
    """A loss that is a sum over pixels, and its gradients by the parameters.

    loss: any function of torch, such as `lambda photons, at: (w[at] * (photons - data[at]) ** 2).sum()`; it is called
    for one tile of pixels after another, and its values are added up. parameters: leaf tensors that require grad and
    that the simulator's configurations hold, or that a function without arguments builds the simulator from. pixels:
    flat indices [n] over [panel, slow, fast] of those that count, by default all that the simulator renders. Photons
    are those before any response. On a CPU torch works on one thread meanwhile, as its own would stand in the way of
    the kernel's. Raises InputError for a parameter that does not shape the image, for a loss that is
    no number, for pixels that are none, under the C program's phi row (compat D2), and where there is a response.
    """
    simulator = simulator if isinstance(simulator, Simulator) else simulator()
    require_grad(parameters)
    with one_torch_thread() if simulator.device.type == "cpu" else nullcontext():
        return _loss_and_gradient(simulator, loss, parameters, chosen_pixels(simulator, pixels))


def _loss_and_gradient(
    simulator: Simulator, loss: PixelLoss, parameters: Sequence[Tensor], wanted: Tensor
) -> LossAndGradient:
    with torch.enable_grad():
        scenes = _scenes(simulator)
        cut = [(Scene(*map(_leaf, scene.tensors())), options) for scene, options in scenes]
        moving, leaves = _moving(scenes), _moving(cut)
        keeps = _keeps(simulator, *cut[0])
        total, found = _over_tiles(simulator, loss, cut, [*leaves, *parameters], wanted, keeps)
        flow = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found[: len(leaves)], strict=True)]
        through = (
            torch.autograd.grad(moving, parameters, flow, allow_unused=True) if moving else [None] * len(parameters)
        )
    triples = zip(parameters, found[len(leaves) :], through, strict=True)
    return LossAndGradient(total, tuple(_sum(parameter, ways) for parameter, *ways in triples))


def _scenes(simulator: Simulator) -> list[tuple[Scene, Options]]:
    """What is rendered by the operation, and added up: the crystal, and water if there is any."""
    crystal = simulator.scene(), simulator.options()
    water = simulator.water_scene(*crystal)
    return [crystal] if water is None else [crystal, water]


def _leaf(tensor: Tensor) -> Tensor:
    """The same numbers, cut off from what they were made of, differentiable where they were."""
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _moving(scenes: Sequence[tuple[Scene, Options]]) -> list[Tensor]:
    return [tensor for scene, _ in scenes for tensor in scene.tensors() if tensor.requires_grad]


def _moving_of(scene: Scene) -> dict[str, Tensor]:
    """Tensors of a scene that gradients are by, by name."""
    return {name: tensor for name, tensor in scene.named().items() if tensor.requires_grad}


def _keeps(simulator: Simulator, scene: Scene, options: Options) -> int:
    """Pixels of a tile of which all is kept that the gradients of the crystal's scene take; none where that is not all,
    or takes longer than two passes.

    Lattices have to change alike for it: kernels.cpu.keep.
    """
    count = min(PIXELS_AT_ONCE, KEPT_BYTES // bytes_kept(scene, options))
    pays = scene.lattice.shape[-3] >= FEWEST_LATTICES and count >= min(FEWEST_KEPT, PIXELS_AT_ONCE)
    moving = _moving_of(scene)
    if not (pays and moving.keys() <= KEEPS):
        return 0
    spindle = simulator.detector.axes(simulator.compat).spindle
    alike = "lattice" not in moving or simulator.crystal.turns_alike(spindle, simulator.compat)
    return count if alike else 0


def _over_tiles(
    simulator: Simulator,
    loss: PixelLoss,
    scenes: Sequence[tuple[Scene, Options]],
    inputs: Sequence[Tensor],
    pixels: Tensor,
    keeps: int,
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss of all pixels, and its gradients by the inputs; None for what nothing depends on."""
    total = torch.zeros((), dtype=torch.float64, device=pixels.device)
    sums: list[Tensor | None] = [None for _ in inputs]
    moving = _moving_of(scenes[0][0])
    for tile in torch.split(pixels, keeps or PIXELS_AT_ONCE):
        kept = operation.keep(tile, *_bare(*scenes[0]), moving, kernel=simulator.kernel) if keeps else None
        first = operation.intensity(tile, *scenes[0], kernel=simulator.kernel) if kept is None else _leaf_of(kept)
        lost = loss(_photons(simulator, first, scenes[1:], tile), tile)
        if not isinstance(lost, Tensor) or lost.numel() != 1 or not lost.requires_grad:
            raise InputError("loss", "no number that photons decide", "a function whose value is a sum over the pixels")
        total += lost.detach().reshape(())
        given = inputs if kept is None else (*inputs, first)
        found: list[Tensor | None] = list(torch.autograd.grad(lost, given, allow_unused=True))
        if kept is not None and (flow := found.pop()) is not None:
            found = _with_kept(found, inputs, kept, flow, scenes[0][0])
        sums = [_added(mine, theirs) for mine, theirs in zip(sums, found, strict=True)]
    return total, sums


def _bare(scene: Scene, options: Options) -> tuple[Scene, Options]:
    """The scene without anything that gradients are by."""
    return Scene(*(tensor.detach() for tensor in scene.tensors())), options


def _leaf_of(kept: Kept) -> Tensor:
    return kept.values.requires_grad_()


def _with_kept(
    found: Sequence[Tensor | None], inputs: Sequence[Tensor], kept: Kept, flow: Tensor, scene: Scene
) -> list[Tensor | None]:
    """What is found by the inputs, with what flows through the values into the scene's tensors among them."""
    moving = _moving_of(scene)
    through = {id(moving[name]): gradient for name, gradient in kept.gradients(flow, moving).items()}
    return [_added(mine, through.get(id(tensor))) for mine, tensor in zip(found, inputs, strict=True)]


def _photons(simulator: Simulator, crystal: Tensor, others: Sequence[tuple[Scene, Options]], tile: Tensor) -> Tensor:
    """Those of the crystal and of all beside it."""
    parts = [operation.intensity(tile, scene, options, kernel=simulator.kernel) for scene, options in others]
    background = simulator.background_values(tile)
    parts = parts if background is None else [*parts, background]
    return torch.stack([crystal, *parts]).sum(0) if parts else crystal


def _added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return first if second is None else second if first is None else first + second


def _sum(parameter: Tensor, ways: Sequence[Tensor | None]) -> Tensor:
    """The gradient along all ways that lead to a parameter."""
    found = [gradient for gradient in ways if gradient is not None]
    if not found:
        raise InputError("parameters", tuple(parameter.shape), "tensors that shape the image")
    return torch.stack(found).sum(0)
