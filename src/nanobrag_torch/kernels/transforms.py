"""The operators under torch's transforms: backward and forward mode, torch.func and vmap, one level or several.

torch.func does not look into operators, but into functions such as these: each says how it is differentiated either way
and what a batch of it is. Scenes of a batch are one call, and so are directions; batches of batches are taken in turn.
Derivatives of derivatives are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.kernels.arguments import SCENE
from nanobrag_torch.kernels.operators import OPERATORS, nobody_looks_on, push_forward, refused_again, render
from nanobrag_torch.kernels.problem import RANKS, Options, Scene

END = 1 + SCENE.count
"""Of the list of pixels and the tensors of a scene among the inputs."""
Dims = tuple[Any, ...]


def intensity(pixels: Tensor | None, scene: Scene, options: Options) -> Tensor:
    """Values [n]; see kernels.operators."""
    values: Tensor = _Intensity.apply(pixels, *scene.tensors(), options)  # type: ignore[no-untyped-call]
    return values


class _Once(torch.autograd.Function):
    """What has no derivative."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        """Refused."""
        raise refused_again()

    @staticmethod
    def jvp(ctx: Any, *slopes: Any) -> Any:
        """Refused."""
        raise refused_again()


class _Intensity(torch.autograd.Function):
    """(pixels, tensors of the scene, options) -> values.

    Options are one argument: torch takes the arguments apart and puts them together at every level of its transforms.
    """

    @staticmethod
    def forward(pixels: Tensor | None, *arguments: Any) -> Tensor:
        scene, options = Scene(*arguments[:-1]), arguments[-1]
        if nobody_looks_on(scene.tensors()):
            return render(OPERATORS.backend(scene), pixels, scene, options)
        values: Tensor = OPERATORS.call.intensity(pixels, *SCENE.pack(scene, options))
        return values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:END])
        ctx.save_for_forward(*inputs[:END])
        ctx.options = inputs[END]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        flags = list(ctx.needs_input_grad[1:END])
        found = iter(_Adjoint.apply(upstream, *ctx.saved_tensors, ctx.options, flags))  # type: ignore[no-untyped-call]
        return None, *(next(found) if flag else None for flag in flags), None

    @staticmethod
    def jvp(ctx: Any, *slopes: Any) -> Tensor:
        moving = slopes[1:END]
        tensors = ctx.saved_tensors
        directions = [t.new_zeros(0) if s is None else s[None] for s, t in zip(moving, tensors[1:], strict=True)]
        found: Tensor = _Tangents.apply(*tensors, ctx.options, *directions)  # type: ignore[no-untyped-call]
        return found[0]

    @staticmethod
    def vmap(info: Any, in_dims: Dims, *arguments: Any) -> tuple[Tensor, int]:
        if _is_first_batch(in_dims[:END], arguments[:END]):
            whole: Tensor = _Intensity.apply(*_in_front(in_dims, arguments))  # type: ignore[no-untyped-call]
            return whole, 0
        parts = [_Intensity.apply(*part) for part in _one_by_one(info.batch_size, in_dims, arguments)]  # type: ignore[no-untyped-call]
        return torch.stack(parts), 0


class _Adjoint(_Once):
    """(upstream, pixels, scene, options, wanted) -> the gradients that are wanted."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        upstream, pixels, *tensors, options, flags = arguments
        given = SCENE.pack(Scene(*tensors), options)
        *found, _ = OPERATORS.call.intensity_adjoint(upstream, pixels, *given, flags, False)
        return tuple(gradient for gradient, flag in zip(found, flags, strict=True) if flag)

    @staticmethod
    def vmap(info: Any, in_dims: Dims, *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Every scene has gradients of its own, also by tensors that are the same in all."""
        if _is_first_batch(in_dims[1 : 1 + END], arguments[1 : 1 + END]):
            given = _in_front(in_dims, arguments)
            flags = [False, False, *arguments[-1]]
            apart = [
                value.expand(info.batch_size, *value.shape) if flag and not isinstance(dim, int) else value
                for value, dim, flag in zip(given[: 1 + END], in_dims[: 1 + END], flags, strict=True)
            ]
            if not isinstance(in_dims[0], int):
                apart[0] = apart[0].expand(info.batch_size, *apart[0].shape)
            whole = _Adjoint.apply(*apart, *given[1 + END :])  # type: ignore[no-untyped-call]
            return whole, (0,) * len(whole)
        parts = [_Adjoint.apply(*part) for part in _one_by_one(info.batch_size, in_dims, arguments)]  # type: ignore[no-untyped-call]
        found = tuple(torch.stack(gradients) for gradients in zip(*parts, strict=True))
        return found, (0,) * len(found)


class _Tangents(_Once):
    """(pixels, scene, options, directions one by one) -> slopes [T, n]."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        pixels, scene, options = arguments[0], Scene(*arguments[1:END]), arguments[END]
        directions = arguments[END + 1 :]
        if nobody_looks_on((*scene.tensors(), *directions)) and OPERATORS.backend(scene).tangents is not None:
            named = dict(zip(SCENE.names, directions, strict=True))
            return push_forward(OPERATORS.backend(scene), pixels, scene, named, options)
        slopes: Tensor = OPERATORS.call.intensity_tangents(pixels, *SCENE.pack(scene, options), list(directions))
        return slopes

    @staticmethod
    def vmap(info: Any, in_dims: Dims, *arguments: Any) -> tuple[Tensor, int]:
        """A batch of directions, as torch.func.jacfwd asks for them, or of scenes, in one pass."""
        count = info.batch_size
        if _is_first_batch(in_dims[:END], arguments[:END]):
            slopes: Tensor = _Tangents.apply(*_with_directions(count, in_dims, arguments))  # type: ignore[no-untyped-call]
            return slopes, 1
        if any(isinstance(dim, int) for dim in in_dims[: -SCENE.count]):
            parts = [_Tangents.apply(*part) for part in _one_by_one(count, in_dims, arguments)]  # type: ignore[no-untyped-call]
            return torch.stack(parts), 0
        pairs = zip(arguments[-SCENE.count :], in_dims[-SCENE.count :], strict=True)
        whole = [_in_a_row(stack, dim, count) for stack, dim in pairs]
        slopes = _Tangents.apply(*arguments[: -SCENE.count], *whole)  # type: ignore[no-untyped-call]
        return slopes.reshape(count, slopes.shape[0] // count, *slopes.shape[1:]), 0


def _is_first_batch(in_dims: Dims, arguments: Sequence[Any]) -> bool:
    """Whether some of pixels and tensors are a batch, and not one of batches; without a list there is none of lists."""
    ranks = zip(arguments[1:], in_dims[1:], RANKS.values(), strict=True)
    plain = all(value.dim() == rank + isinstance(dim, int) for value, dim, rank in ranks)
    pixels = arguments[0]
    listed = pixels is None or pixels.dim() == 1 + isinstance(in_dims[0], int)
    return plain and listed and any(isinstance(dim, int) for dim in in_dims)


def _in_front(in_dims: Dims, arguments: Sequence[Any]) -> list[Any]:
    """The arguments, batch axes in front."""
    pairs = zip(arguments, in_dims, strict=True)
    return [value.movedim(dim, 0) if isinstance(dim, int) else value for value, dim in pairs]


def _with_directions(count: int, in_dims: Dims, arguments: Sequence[Any]) -> list[Any]:
    """The same with directions [T, B, *shape] of every tensor that has a batch axis, or whose directions had one."""
    given = _in_front(in_dims, arguments)
    for place in range(1, END):
        behind = len(given) - END + place  # its directions are among the last
        stack, dim = given[behind], in_dims[behind]
        if stack.numel() and isinstance(dim, int):
            given[behind] = stack.transpose(0, 1)
            if not isinstance(in_dims[place], int):
                given[place] = given[place].expand(count, *given[place].shape)
        elif stack.numel() and isinstance(in_dims[place], int):
            given[behind] = stack[:, None].expand(-1, count, *stack.shape[1:])
    return given


def _one_by_one(count: int, in_dims: Dims, arguments: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The arguments of every member of a batch."""
    pairs = [
        [value.select(dim, i) if isinstance(dim, int) else value for value, dim in zip(arguments, in_dims, strict=True)]
        for i in range(count)
    ]
    return [tuple(part) for part in pairs]


def _in_a_row(stack: Tensor, dim: int | None, count: int) -> Tensor:
    """Batched stacks [count, T, *shape] one after the other; the same ones `count` times where there is no batch."""
    if stack.numel() == 0:
        return stack
    return stack.repeat(count, *[1] * (stack.dim() - 1)) if dim is None else stack.movedim(dim, 0).flatten(0, 1)
