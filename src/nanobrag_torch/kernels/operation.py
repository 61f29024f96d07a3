"""The one operation of the package: as a torch operator with its gradients, and the choice of its implementation.

`nanobrag_torch::intensity` takes a list of pixels, the tensors of a Scene and the numbers of an Options. It has an
implementation per device: "cpu" is compiled by numba (kernels.cpu), and another device registers its own with
`torch.library.register_kernel`, for `intensity` and `intensity_adjoint`. Its derivative is the operator
`intensity_adjoint`, so that torch.compile and functional transforms see one node each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nanobrag_torch.compilation import available
from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import reference
from nanobrag_torch.kernels.cpu import launch as cpu
from nanobrag_torch.kernels.cpu.tangent import launch as cpu_tangent
from nanobrag_torch.kernels.cuda import devices as cuda_devices
from nanobrag_torch.kernels.cuda import launch as cuda
from nanobrag_torch.kernels.empty import dark_image, is_dark, with_a_lattice
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.physics.lattice_factor import Profile

_LOG = logging.getLogger(__name__)
KERNELS = ("auto", "reference", "fused")
FUSED_DEVICES = {"cpu", "cuda"}
"""Devices with an implementation of the operators."""
LARGEST_TABLE = 2**31 - 1
MOST_PIXELS = 2**31 - 2**10
"""On a GPU, whose kernel counts pixels, and whole tiles of them, in 32 bits."""
TENSORS = 14
_PIXELS = "Tensor? pixels"
_SCENE = (
    "Tensor panels, Tensor pixel_size, Tensor sensor, Tensor curvature, Tensor incident, Tensor wavelengths, "
    "Tensor source_weights, Tensor polarization, Tensor lattice, Tensor lattice_weights, Tensor shape, "
    "Tensor structure_factors, Tensor default_F, Tensor offset"
)
_OPTIONS = "SymInt[] integers, float dmin, ScalarType dtype"


def intensity(
    pixels: Tensor | None,
    scene: Scene,
    options: Options,
    *,
    kernel: str = "auto",
    progress: reference.Progress | None = None,
) -> Tensor:
    """Image values [n] of the flat pixel indices [n] over [panel, slow, fast], differentiable by every scene tensor.

    pixels None: all of them, in order, without a list of indices. kernel "fused" and "reference" demand one, "auto"
    takes the fused one where it can. F of the nearest reflection has no slope in hkl: away from interpolation the
    structure factors do not contribute to the gradients of anything but themselves. Raises InputError for an unknown
    kernel, or for "fused" where it cannot be had.
    """
    if kernel not in KERNELS:
        raise InputError("kernel", kernel, ", ".join(KERNELS))
    if torch.compiler.is_compiling() and kernel != "reference" and not _left_to_reference(options):
        compiled: Tensor = torch.ops.nanobrag_torch.intensity(pixels, *scene.tensors(), *pack_options(options))
        return compiled  # one node of the graph; the operator says what it cannot do when it runs
    pixels = None if pixels is None else pixels.to(scene.panels.device)
    obstacle = "" if kernel == "reference" else _obstacle(scene, options)
    if kernel != "reference" and not obstacle and (slow := _obstacle_to_tangents(scene)) and _moves(scene):
        obstacle = slow
    if kernel == "reference" or obstacle:
        if kernel == "fused" and not _left_to_reference(options):
            raise InputError("kernel", "fused", f"reference: {obstacle}")
        if obstacle:
            _warn_once(obstacle)
        listed = _all_pixels(scene, options) if pixels is None else pixels
        return reference.intensity(listed, scene, options, progress=progress)
    return _fused(pixels, scene, options, progress)


def _moves(scene: Scene) -> bool:
    """Whether forward-mode differentiation is under way by any tensor of the scene."""
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in scene.tensors())  # type: ignore[no-untyped-call]


def _fused(pixels: Tensor | None, scene: Scene, options: Options, progress: reference.Progress | None) -> Tensor:
    primals, slopes = zip(*map(forward_ad.unpack_dual, scene.tensors()), strict=True)
    moves = any(slope is not None for slope in slopes)
    if progress is not None and scene.panels.device.type == "cpu" and not moves and not _differentiates(scene):
        return _value(cpu.value, pixels, scene, options, progress)
    result: Tensor = torch.ops.nanobrag_torch.intensity(pixels, *primals, *pack_options(options))
    if moves:
        slope = _slope(pixels, Scene(*primals), slopes, options)
        result = forward_ad.make_dual(result, slope)  # type: ignore[no-untyped-call]
    if progress is not None:
        progress(1.0)
    return result


def _slope(pixels: Tensor | None, scene: Scene, slopes: Sequence[Tensor | None], options: Options) -> Tensor:
    """Slope [n] along one direction, for forward-mode differentiation, which operators cannot register."""
    device = scene.panels.device
    directions = [torch.zeros(0, device=device) if slope is None else slope[None] for slope in slopes]
    return tangents(pixels, scene, directions, options)[0]


def _differentiates(scene: Scene) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in scene.tensors())


def _obstacle(scene: Scene, options: Options) -> str:
    """Why the fused kernel cannot be used; empty if it can."""
    device = scene.panels.device.type
    if _left_to_reference(options):
        return "D3 or D5 of compat c depends on the order of steps: the reference kernel renders it, many times slower"
    if device not in FUSED_DEVICES:
        return f"no fused kernel for device {device}: the reference kernel renders, many times slower"
    if device == "cpu" and not available().usable:
        return f"{available().reason}: the reference kernel renders, about a hundred times slower"
    if device == "cuda" and (found := cuda_devices.obstacle(scene.panels.device)):
        return found
    if device != "cpu" and _count(None, scene.panels, options.image_shape) > MOST_PIXELS:
        return f"more than {MOST_PIXELS} pixels: the reference kernel renders, many times slower"
    if scene.structure_factors.numel() > LARGEST_TABLE:
        return f"more than {LARGEST_TABLE} structure factors: the reference kernel renders, many times slower"
    return ""


def _obstacle_to_tangents(scene: Scene) -> str:
    device = scene.panels.device.type
    if device == "cpu":
        return ""
    return (
        f"no fused kernel of slopes along directions (forward-mode differentiation, normal equations) for device "
        f"{device}: the reference kernel takes them one by one, many times slower; images and backward gradients "
        "are not concerned"
    )


def _left_to_reference(options: Options) -> bool:
    return options.running_factors or options.interpolation_latch


@cache
def _warn_once(message: str) -> None:
    _LOG.warning(message)


def _all_pixels(scene: Scene, options: Options) -> Tensor:
    slow, fast = options.image_shape
    return torch.arange(scene.panels.shape[0] * slow * fast, device=scene.panels.device)


def pack_options(options: Options) -> tuple[list[int], float, torch.dtype]:
    """Options as arguments of the operators."""
    switches = (
        options.interpolate,
        options.point_pixel,
        options.curved,
        options.oversample_omega,
        options.oversample_polar,
        options.oversample_thick,
        options.last_layer_capture,
    )
    counts = (*options.image_shape, int(options.profile), *options.hkl_first, options.oversample, options.layers)
    return [*counts, *map(int, switches), options.threads], options.dmin, options.dtype


def unpack_options(integers: Sequence[int], dmin: float, dtype: torch.dtype) -> Options:
    """The inverse of pack_options."""
    slow, fast, profile, h, k, l, oversample, layers, *switches, threads = integers
    interpolate, point_pixel, curved, omega, polar, thick, last = (bool(switch) for switch in switches)
    return Options(
        image_shape=(slow, fast),
        profile=Profile(profile),
        hkl_first=(h, k, l),
        oversample=oversample,
        layers=layers,
        dmin=dmin,
        interpolate=interpolate,
        point_pixel=point_pixel,
        curved=curved,
        oversample_omega=omega,
        oversample_polar=polar,
        oversample_thick=thick,
        last_layer_capture=last,
        dtype=dtype,
        threads=threads,
    )


def _count(pixels: Tensor | None, panels: Tensor, integers: Sequence[int]) -> int:
    return panels.shape[0] * integers[0] * integers[1] if pixels is None else pixels.numel()


torch.library.define("nanobrag_torch::intensity", f"({_PIXELS}, {_SCENE}, {_OPTIONS}) -> Tensor")
torch.library.define(
    "nanobrag_torch::intensity_adjoint",
    f"(Tensor upstream, {_PIXELS}, {_SCENE}, {_OPTIONS}, bool[] wanted, bool value) -> Tensor[]",
)


def _value(kernel: Callable[..., Tensor], pixels: Tensor | None, scene: Scene, options: Options, *more: Any) -> Tensor:
    """Values [n] by the kernel of a device, which need not know empty lists."""
    count = _count(pixels, scene.panels, options.image_shape)
    if is_dark(count, scene):
        return dark_image(count, scene, options.dtype)
    return kernel(pixels, with_a_lattice(scene), options, *more)


@torch.library.impl("nanobrag_torch::intensity", "cpu")
def _intensity_cpu(pixels: Tensor | None, *arguments: Any) -> Tensor:
    return _value(cpu.value, pixels, Scene(*arguments[:TENSORS]), unpack_options(*arguments[TENSORS:]))


def _intensity_cuda(pixels: Tensor | None, *arguments: Any) -> Tensor:
    return _value(cuda.forward, pixels, Scene(*arguments[:TENSORS]), unpack_options(*arguments[TENSORS:]))


def _intensity_fake(pixels: Tensor | None, *arguments: Any) -> Tensor:
    panels, integers, dtype = arguments[0], arguments[TENSORS], arguments[TENSORS + 2]
    return torch.empty(_count(pixels, panels, integers), dtype=dtype, device=panels.device)


def _gradients(kernel: Callable[..., Any], upstream: Tensor, pixels: Tensor | None, *arguments: Any) -> list[Tensor]:
    """Gradients by the scene's tensors, empty where not wanted, and the values, empty unless asked for."""
    *packed, wanted, value = arguments[TENSORS:]
    scene, options = Scene(*arguments[:TENSORS]), unpack_options(*packed)
    if is_dark(upstream.numel(), scene):
        gradients = [torch.zeros_like(t) if w else t.new_zeros(0) for t, w in zip(scene.tensors(), wanted, strict=True)]
        return [*gradients, dark_image(upstream.numel() if value else 0, scene, options.dtype)]
    gradients, values = kernel(upstream, pixels, with_a_lattice(scene), options, wanted, value=value)
    if scene.lattice.shape[0] == 0:  # one was put in its place
        gradients = [g[:0] if not t.numel() else g for g, t in zip(gradients, scene.tensors(), strict=True)]
    return [*gradients, values]


@torch.library.impl("nanobrag_torch::intensity_adjoint", "cpu")
def _adjoint_cpu(upstream: Tensor, pixels: Tensor | None, *arguments: Any) -> list[Tensor]:
    def kernel(*given: Any, value: bool) -> tuple[list[Tensor], Tensor]:
        values, gradients = cpu.gradients(*given, value=value)
        return list(gradients), values

    return _gradients(kernel, upstream, pixels, *arguments)


def _adjoint_cuda(upstream: Tensor, pixels: Tensor | None, *arguments: Any) -> list[Tensor]:
    return _gradients(cuda.adjoint, upstream, pixels, *arguments)


def _adjoint_fake(upstream: Tensor, pixels: Tensor | None, *arguments: Any) -> list[Tensor]:
    integers, _, dtype, wanted, value = arguments[TENSORS:]
    tensors = arguments[:TENSORS]
    count = _count(pixels, tensors[0], integers) if value else 0
    found = [torch.empty_like(t) if w else t.new_empty(0) for t, w in zip(tensors, wanted, strict=True)]
    return [*found, torch.empty(count, dtype=dtype, device=tensors[0].device)]


torch.library.impl("nanobrag_torch::intensity", "cuda", _intensity_cuda)
torch.library.impl("nanobrag_torch::intensity_adjoint", "cuda", _adjoint_cuda)
torch.library.register_fake("nanobrag_torch::intensity", _intensity_fake)
torch.library.register_fake("nanobrag_torch::intensity_adjoint", _adjoint_fake)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pixels, tensors, options = inputs[0], inputs[1 : 1 + TENSORS], inputs[1 + TENSORS :]
    ctx.save_for_backward(*tensors, *([] if pixels is None else [pixels]))
    ctx.options = options


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    tensors, pixels = ctx.saved_tensors[:TENSORS], ctx.saved_tensors[TENSORS:]
    wanted = list(ctx.needs_input_grad[1 : 1 + TENSORS])
    *gradients, _ = torch.ops.nanobrag_torch.intensity_adjoint(
        upstream, pixels[0] if pixels else None, *tensors, *ctx.options, wanted, False
    )
    found = [gradient if w else None for gradient, w in zip(gradients, wanted, strict=True)]
    return (None, *found, None, None, None)


torch.library.register_autograd("nanobrag_torch::intensity", _backward, setup_context=_keep)


torch.library.define(
    "nanobrag_torch::intensity_tangents", f"({_PIXELS}, {_SCENE}, {_OPTIONS}, Tensor[] directions) -> Tensor"
)


@torch.library.impl("nanobrag_torch::intensity_tangents", "cpu")
def _tangents_cpu(pixels: Tensor | None, *arguments: Any) -> Tensor:
    *packed, directions = arguments[TENSORS:]
    scene, options = Scene(*arguments[:TENSORS]), unpack_options(*packed)
    count = _count(pixels, scene.panels, options.image_shape)
    if is_dark(count, scene):
        return torch.zeros((max(direction.shape[0] for direction in directions), count), dtype=options.dtype)
    return cpu_tangent.tangents(pixels, with_a_lattice(scene), directions, options)


def _tangents_fake(pixels: Tensor | None, *arguments: Any) -> Tensor:
    panels, (integers, _, dtype, directions) = arguments[0], arguments[TENSORS:]
    shape = max(direction.shape[0] for direction in directions), _count(pixels, panels, integers)
    return torch.empty(shape, dtype=dtype, device=panels.device)


def _tangents_together(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
    """A batch of directions, as torch.func.jacfwd asks for them, in one pass; scenes are not batched."""
    *others, directions = arguments
    *fixed, batched = in_dims
    if any(isinstance(dim, int) for dim in fixed):
        raise InputError("vmap", "a batch of scenes", "a batch of directions")
    count = info.batch_size
    whole = [_in_a_row(stack, dim, count) for stack, dim in zip(directions, batched, strict=True)]
    slopes: Tensor = torch.ops.nanobrag_torch.intensity_tangents(*others, whole)
    return slopes.reshape(count, slopes.shape[0] // count, slopes.shape[1]), 0


def _in_a_row(stack: Tensor, dim: int | None, count: int) -> Tensor:
    """Batched stacks [count, T, *shape] one after the other; the same ones `count` times where there is no batch."""
    if stack.numel() == 0:
        return stack
    return stack.repeat(count, *[1] * (stack.dim() - 1)) if dim is None else stack.movedim(dim, 0).flatten(0, 1)


torch.library.register_fake("nanobrag_torch::intensity_tangents", _tangents_fake)
torch.library.register_vmap("nanobrag_torch::intensity_tangents", _tangents_together)


def tangents(
    pixels: Tensor | None, scene: Scene, directions: Sequence[Tensor], options: Options, *, kernel: str = "auto"
) -> Tensor:
    """Jacobian-vector products [T, n] along T directions of the scene's tensors at once.

    directions: for each tensor of the scene, in order, a stack [T, *shape], or an empty tensor where it stands still.
    pixels and kernel as for `intensity`; only the CPU has a fused kernel of them, and "auto" says so once where the
    reference kernel takes its place. Not differentiable again. Raises InputError like `intensity`.
    """
    if kernel not in KERNELS:
        raise InputError("kernel", kernel, ", ".join(KERNELS))
    obstacle = "" if kernel == "reference" else _obstacle(scene, options) or _obstacle_to_tangents(scene)
    if kernel == "fused" and obstacle and not _left_to_reference(options):
        raise InputError("kernel", "fused", f"reference: {obstacle}")
    fixed = Scene(*(tensor.detach() for tensor in scene.tensors()))
    pixels = None if pixels is None else pixels.to(scene.panels.device)
    if obstacle:
        _warn_once(obstacle)
    if kernel == "reference" or obstacle:
        return reference.tangents(_all_pixels(scene, options) if pixels is None else pixels, fixed, directions, options)
    found: Tensor = torch.ops.nanobrag_torch.intensity_tangents(
        pixels, *fixed.tensors(), *pack_options(options), list(directions)
    )
    return found
