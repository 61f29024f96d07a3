"""The one operation of the package, and the choice of its implementation.

What renders a scene on which device is kernels.backends' to say, and how torch sees it kernels.operators'. The
reference kernel renders everything, slowly, and defines what is right.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import cache

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import reference, transforms
from nanobrag_torch.kernels.arguments import SCENE, require_sound
from nanobrag_torch.kernels.backends import left_to_reference, obstacle
from nanobrag_torch.kernels.cpu.kept import KEEPS, Kept
from nanobrag_torch.kernels.empty import is_dark
from nanobrag_torch.kernels.operators import OPERATORS, all_pixels, nobody_looks_on, pull_back, push_forward, render
from nanobrag_torch.kernels.problem import Options, Pull, Scene, values_shape

_LOG = logging.getLogger(__name__)
KERNELS = ("auto", "reference", "fused")


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
    structure factors do not contribute to the gradients of anything but themselves. Gradients of the fused kernel
    cannot be differentiated again. Raises InputError for an unknown kernel, for "fused" where it cannot be had, and for
    a tensor of another shape or type than Scene declares.

    A batch of B scenes is one call, with values [B, n]: any tensor of the scene may have a batch axis in front, and so
    may the list of pixels, whose rows are filled up with -1 where they are shorter, which gives zero.
    """
    _require_kernel(kernel)
    if torch.compiler.is_compiling() and kernel != "reference" and not left_to_reference(options):
        compiled: Tensor = OPERATORS.call.intensity(pixels, *SCENE.pack(scene, options))
        return compiled  # one node of the graph; the operator says what it cannot do when it runs
    require_sound(scene, pixels)
    pixels = None if pixels is None else pixels.to(scene.panels.device)
    moves = _moves(scene)
    if _goes_to_reference(kernel, scene, options, to_tangents=moves):
        listed = all_pixels(scene, options) if pixels is None else pixels
        return reference.intensity(listed, scene, options, progress=progress)
    return _fused(pixels, scene, options, progress, differentiates=moves or _differentiates(scene))


def _require_kernel(kernel: str) -> None:
    if kernel not in KERNELS:
        raise InputError("kernel", kernel, ", ".join(KERNELS))


def _goes_to_reference(kernel: str, scene: Scene, options: Options, *, to_tangents: bool) -> bool:
    """Whether the reference kernel is asked for, or has to take over, which is said once."""
    if kernel == "reference":
        return True
    found = obstacle(scene, options, to_tangents=to_tangents)
    if found and kernel == "fused" and not left_to_reference(options):
        raise InputError("kernel", "fused", f"reference: {found}")
    if found:
        _warn_once(found)
    return bool(found)


def _moves(scene: Scene) -> bool:
    """Whether forward-mode differentiation is under way by any tensor of the scene."""
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in scene.tensors())  # type: ignore[no-untyped-call]


def _fused(
    pixels: Tensor | None,
    scene: Scene,
    options: Options,
    progress: reference.Progress | None,
    *,
    differentiates: bool,
) -> Tensor:
    if not differentiates and nobody_looks_on(scene.tensors()):
        backend = OPERATORS.backend(scene)
        if progress is not None and backend.reports:
            return render(backend, pixels, scene, options, progress)
        result = render(backend, pixels, scene, options)
    else:
        result = transforms.intensity(pixels, scene, options)
    if progress is not None:
        progress(1.0)
    return result


def _differentiates(scene: Scene) -> bool:
    return any(map(_is_followed, scene.tensors()))


def _is_followed(tensor: Tensor) -> bool:
    return torch.is_grad_enabled() and tensor.requires_grad


@cache
def _warn_once(message: str) -> None:
    _LOG.warning(message)


def gradients(
    upstream: Tensor,
    pixels: Tensor | None,
    scene: Scene,
    options: Options,
    wanted: Collection[str],
    *,
    value: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of sum(upstream * values) by the wanted tensors of the scene, by name, in one pass of the fused kernel.

    upstream [n] in options.dtype. With the values [n], without element unless asked for. Raises InputError where there
    is no fused kernel.
    """
    require_sound(scene, pixels)
    _goes_to_reference("fused", scene, options, to_tangents=False)
    fixed = Scene(*(tensor.detach() for tensor in scene.tensors()))
    if not _is_followed(upstream) and nobody_looks_on((upstream, *fixed.tensors())):
        pull = Pull(upstream.detach(), frozenset(name for name in SCENE.names if name in wanted), value)
        return pull_back(OPERATORS.backend(scene), pull, pixels, fixed, options)
    arguments = SCENE.pack(fixed, options)
    *found, values = OPERATORS.call.intensity_adjoint(upstream, pixels, *arguments, SCENE.flags(wanted), value)
    return values, {name: tensor for name, tensor in zip(SCENE.names, found, strict=True) if name in wanted}


def keep(
    pixels: Tensor, scene: Scene, options: Options, wanted: Collection[str] = KEEPS, *, kernel: str = "auto"
) -> Kept | None:
    """Values of the pixels [n] with what their gradients by the wanted tensors take, in one pass.

    wanted: of KEEPS of kernels.cpu.kept; the fewer, the less time it may take. None where this cannot be had:
    `intensity` and its backward pass are the way then.
    """
    _require_kernel(kernel)
    require_sound(scene, pixels)
    if kernel == "reference" or obstacle(scene, options) or is_dark(values_shape(pixels, scene, options), scene):
        return None
    given = OPERATORS.backend(scene).keep
    stacked = scene.stacked() or scene.lattice.shape[0] == 0
    return None if given is None or stacked else given(pixels, scene, options, wanted)


def tangents(
    pixels: Tensor | None,
    scene: Scene,
    directions: Mapping[str, Tensor],
    options: Options,
    *,
    kernel: str = "auto",
) -> Tensor:
    """Jacobian-vector products [T, n] along T directions of the scene's tensors at once; [T, B, n] of a batch.

    directions: by the names of the tensors that move, stacks [T, *shape], batch axis included. pixels and kernel as for
    `intensity`; where a device has no fused kernel of them, "auto" says so once and the reference kernel takes its
    place. Not differentiable again. Raises InputError like `intensity`, and for directions that fit no tensor.
    """
    _require_kernel(kernel)
    require_sound(scene, pixels)
    require_directions(directions, scene)
    pixels = None if pixels is None else pixels.to(scene.panels.device)
    fixed = Scene(*(tensor.detach() for tensor in scene.tensors()))
    if _goes_to_reference(kernel, scene, options, to_tangents=True):
        return reference.tangents(all_pixels(scene, options) if pixels is None else pixels, fixed, directions, options)
    given = directions.values()
    if not any(map(_is_followed, given)) and nobody_looks_on((*given, *fixed.tensors())):
        return push_forward(OPERATORS.backend(scene), pixels, fixed, directions, options)
    arguments = SCENE.pack(fixed, options)
    found: Tensor = OPERATORS.call.intensity_tangents(pixels, *arguments, SCENE.in_order(directions, scene))
    return found


def require_directions(directions: Mapping[str, Tensor], scene: Scene) -> None:
    """InputError unless every stack is [T, *shape] of a tensor of the scene, with one T for all."""
    named, counts = scene.named(), {stack.shape[0] for stack in directions.values() if stack.dim()}
    if len(counts) != 1:
        raise InputError("directions", f"stacks of {sorted(counts)}", "the same number of directions of each tensor")
    for name, stack in directions.items():
        if name not in named or stack.shape[1:] != named[name].shape:
            accepted = list(named[name].shape) if name in named else ", ".join(named)
            raise InputError(f"directions[{name!r}]", list(stack.shape), f"[T, *{accepted}]")
