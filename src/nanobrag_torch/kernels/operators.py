"""The operation as torch operators, with their derivatives, so that compilers and transforms see one node each.

    intensity(pixels?, scene, options) -> values [n]
    intensity_adjoint(upstream, pixels?, scene, options, wanted, value) -> gradients in the order of Scene, and values
    intensity_tangents(pixels?, scene, options, directions) -> slopes [T, n]

Where tensors of the scene, or the list of pixels, have a batch axis, values are [B, n] and slopes [T, B, n].

Their arguments follow from the fields of Scene and Options (kernels.arguments), their implementations from the records
in kernels.backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels.arguments import SCENE, Arguments, require_sound
from nanobrag_torch.kernels.backends import BACKENDS, Backend
from nanobrag_torch.kernels.empty import dark_image, is_dark, with_a_lattice
from nanobrag_torch.kernels.in_turn import one_by_one
from nanobrag_torch.kernels.problem import Options, Pull, Scene, pixel_count, values_shape

ONCE = "reference: the fused kernel has first derivatives alone, so no derivative of its gradients or slopes"


class Implementation:
    """The three operators by one backend. Empty lists and unsound scenes are met here, before any kernel."""

    def __init__(self, arguments: Arguments[Any], backend: Backend) -> None:
        self.arguments, self.backend = arguments, one_by_one(backend)

    def value(self, pixels: Tensor | None, *arguments: Any) -> Tensor:
        """Values [n]."""
        scene, options, _ = self.arguments.unpack(arguments)
        require_sound(scene, pixels)
        return render(self.backend, pixels, scene, options)

    def gradients(self, upstream: Tensor, pixels: Tensor | None, *arguments: Any) -> list[Tensor]:
        """Gradients by the scene's tensors, empty where not wanted, and the values, empty unless asked for."""
        scene, options, (flags, value) = self.arguments.unpack(arguments)
        require_sound(scene, pixels)
        pull = Pull(upstream, frozenset(self.arguments.chosen(flags)), value)
        values, found = pull_back(self.backend, pull, pixels, scene, options)
        return [*self.arguments.in_order(found, scene), values]

    def tangents(self, pixels: Tensor | None, *arguments: Any) -> Tensor:
        """Slopes [T, n]."""
        scene, options, (directions,) = self.arguments.unpack(arguments)
        require_sound(scene, pixels)
        named = dict(zip(self.arguments.names, directions, strict=True))
        return push_forward(self.backend, pixels, scene, named, options)


def render(backend: Backend, pixels: Tensor | None, scene: Scene, options: Options, *more: Any) -> Tensor:
    """Values [n], or [B, n], of a sound scene by a backend, which need not know empty lists."""
    shape = values_shape(pixels, scene, options)
    if is_dark(shape, scene):
        return dark_image(shape, scene, options.dtype)
    return backend.value(pixels, with_a_lattice(scene), options, *more)


def pull_back(
    backend: Backend, pull: Pull, pixels: Tensor | None, scene: Scene, options: Options
) -> tuple[Tensor, dict[str, Tensor]]:
    """Values, empty unless asked for, and the wanted gradients by name, likewise."""
    shape = pull.upstream.shape
    if is_dark(shape, scene):
        found = {name: torch.zeros_like(getattr(scene, name)) for name in pull.wanted}
        return dark_image(shape if pull.value else (0,), scene, options.dtype), found
    values, found = backend.gradients(pull, pixels, with_a_lattice(scene), options)
    if scene.lattice.shape[-3] == 0:  # one was put in its place
        found = {name: g if getattr(scene, name).numel() else g.new_zeros(0) for name, g in found.items()}
        found = {name: g.reshape(getattr(scene, name).shape) for name, g in found.items()}
    return values, {name: found[name] for name in pull.wanted}


def push_forward(
    backend: Backend, pixels: Tensor | None, scene: Scene, directions: Mapping[str, Tensor], options: Options
) -> Tensor:
    """Slopes [T, n], or [T, B, n], likewise, along the directions that have an element."""
    assert backend.tangents is not None
    shape = values_shape(pixels, scene, options)
    moving = {name: stack for name, stack in directions.items() if stack.numel()}
    if not moving or is_dark(shape, scene):
        directed = max(stack.shape[0] for stack in directions.values())
        return torch.zeros((directed, *shape), dtype=options.dtype, device=scene.panels.device)
    return backend.tangents(pixels, with_a_lattice(scene), moving, options)


class Operators:
    """The operators of a namespace for one kind of scene."""

    def __init__(self, namespace: str, arguments: Arguments[Any], backends: Iterable[Backend]) -> None:
        self.namespace, self.arguments = namespace, arguments
        self.by_device: dict[str, Implementation] = {}
        given = f"Tensor? pixels, {arguments.schema}"
        self._define("intensity", f"({given}) -> Tensor", self._fake_value)
        pulled = f"(Tensor upstream, {given}, bool[] wanted, bool value) -> Tensor[]"
        self._define("intensity_adjoint", pulled, self._fake_adjoint)
        self._define("intensity_tangents", f"({given}, Tensor[] directions) -> Tensor", self._fake_tangents)
        self._differentiate()
        for backend in backends:
            self.add(backend)

    def _define(self, name: str, schema: str, fake: Callable[..., Any]) -> None:
        torch.library.define(f"{self.namespace}::{name}", schema)
        torch.library.register_fake(f"{self.namespace}::{name}", fake)

    def _differentiate(self) -> None:
        intensity, adjoint, tangents = (
            f"{self.namespace}::{name}" for name in ("intensity", "intensity_adjoint", "intensity_tangents")
        )
        torch.library.register_autograd(intensity, self._backward, setup_context=self._keep)
        torch.library.register_autograd(adjoint, _refuse_again, setup_context=_keep_nothing)
        torch.library.register_autograd(tangents, _refuse_again, setup_context=_keep_nothing)

    def add(self, backend: Backend) -> None:
        """Let a backend work on its kind of device."""
        made = self.by_device[backend.device] = Implementation(self.arguments, backend)
        work: dict[str, Callable[..., object]] = {"intensity": made.value, "intensity_adjoint": made.gradients}
        if backend.tangents is not None:
            work["intensity_tangents"] = made.tangents
        for name, function in work.items():
            torch.library.impl(f"{self.namespace}::{name}", backend.device, function)

    def backend(self, scene: Scene) -> Backend:
        """What renders on the device of a scene, batches too."""
        return self.by_device[scene.panels.device.type].backend

    @property
    def call(self) -> Any:
        """The namespace of torch.ops."""
        return getattr(torch.ops, self.namespace)

    def _fake_value(self, pixels: Tensor | None, *arguments: Any) -> Tensor:
        scene, options, _ = self.arguments.unpack(arguments)
        return _announced(values_shape(pixels, scene, options), scene, options)

    def _fake_adjoint(self, upstream: Tensor, pixels: Tensor | None, *arguments: Any) -> list[Tensor]:
        scene, options, (flags, value) = self.arguments.unpack(arguments)
        found = {name: torch.empty_like(getattr(scene, name)) for name in self.arguments.chosen(flags)}
        shape = values_shape(pixels, scene, options) if value else (0,)
        return [*self.arguments.in_order(found, scene), _announced(shape, scene, options)]

    def _fake_tangents(self, pixels: Tensor | None, *arguments: Any) -> Tensor:
        scene, options, (directions,) = self.arguments.unpack(arguments)
        count = max(direction.shape[0] for direction in directions)
        shape = values_shape(pixels, scene, options)
        return torch.empty((count, *shape), dtype=options.dtype, device=scene.panels.device)

    def _keep(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        end = 1 + self.arguments.count
        pixels, tensors, ctx.options = inputs[0], inputs[1:end], inputs[end:]
        ctx.save_for_backward(*tensors, *([] if pixels is None else [pixels]))

    def _backward(self, ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        count = self.arguments.count
        tensors, pixels = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        wanted = list(ctx.needs_input_grad[1 : 1 + count])
        *gradients, _ = self.call.intensity_adjoint(
            upstream, pixels[0] if pixels else None, *tensors, *ctx.options, wanted, False
        )
        found = [gradient if w else None for gradient, w in zip(gradients, wanted, strict=True)]
        return (None, *found, *[None] * len(ctx.options))


def _announced(shape: tuple[int, ...], scene: Scene, options: Options) -> Tensor:
    return torch.empty(shape, dtype=options.dtype, device=scene.panels.device)


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """What is refused needs nothing."""


def _refuse_again(ctx: Any, *upstream: Any) -> Any:
    raise refused_again()


def refused_again() -> InputError:
    """What asking for a derivative of derivatives gives."""
    return InputError("kernel", "fused", ONCE)


def nobody_looks_on(tensors: Iterable[Tensor]) -> bool:
    """Whether no transform or mode of torch, nor a kind of tensor of its own, has to see an operator.

    Calling one through torch takes longer than a small image. Only there are signs that a view puts off worked out.
    """
    modes = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()
    if modes or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    known = OPERATORS.by_device  # a device of shapes alone has operators, and no kernel
    return all(type(one) is Tensor and one.device.type in known and not one.is_neg() for one in tensors)


def all_pixels(scene: Scene, options: Options) -> Tensor:
    """Flat indices [n] of all pixels."""
    return torch.arange(pixel_count(None, scene, options), device=scene.panels.device)


OPERATORS = Operators("nanobrag_torch", SCENE, BACKENDS.values())
