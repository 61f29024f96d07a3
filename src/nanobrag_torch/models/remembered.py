"""What follows from plain numbers of a configuration alone is worked out once: placing a detector takes longer than
rendering a small image.

Kept is only what no later change can reach: as long as every field is the very same immutable object, and any tensor
among the arguments has the same values. A field that holds a tensor, a list or an array, which may be changed in place,
is read anew every time, and gradients never go through what was kept. Callers are given copies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, wraps
from operator import is_
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

P = ParamSpec("P")
Model = TypeVar("Model")
Result = TypeVar("Result")

MOST = 64
"""Results that a model keeps: those of a few methods under a few settings of compat."""


class _Kept(NamedTuple):
    """A result, and what it was made of."""

    values: list[Any]
    given: list[Tensor]
    result: Any


_KEPT: WeakKeyDictionary[Any, dict[Any, _Kept]] = WeakKeyDictionary()
"""By model; outside it, so that copies and pickles of a model carry nothing of it."""
_LAST: dict[Any, tuple[Any, _Kept]] = {}
"""The last results of models of a kind, with all values spelled out: the next one often differs in nothing."""


def remembered(
    *unseen: str,
) -> Callable[[Callable[Concatenate[Model, P], Result]], Callable[Concatenate[Model, P], Result]]:
    """Decorator of a model's method: the result is kept while `config` and `device` are the same.

    unseen: fields of the configuration, and of records in it, that the method does not read.
    """

    skipped = frozenset(unseen)

    def decorate(method: Callable[Concatenate[Model, P], Result]) -> Callable[Concatenate[Model, P], Result]:
        @wraps(method)
        def recall(self: Model, /, *args: P.args, **kwargs: P.kwargs) -> Result:
            if any(isinstance(value, Tensor) for value in kwargs.values()):
                return method(self, *args, **kwargs)
            if torch.compiler.is_compiling() or not _is_ordinary(torch.empty(0)):
                return _beside_transforms(recall, method, skipped, self, *args, **kwargs)
            plainly = (a for a in (*args, *kwargs.items()) if not isinstance(a, Tensor))
            key = (method, self.device, *plainly)  # type: ignore[attr-defined]
            given = [a for a in args if isinstance(a, Tensor)]
            values = _read(self, skipped)
            kept = _KEPT.setdefault(self, {})
            found = kept.get(key)
            if found is not None and _is_same(found.values, values) and _are_equal(found.given, given):
                return cast(Result, _copied(found.result))
            plain, kind = all(is_plain(v, skipped) for v in values), (type(self), *key)
            spelled = _spelled(tuple(values), skipped) if plain else None
            last = _LAST.get(kind) if plain else None
            if last is not None and last[0] == spelled and _are_equal(last[1].given, given):
                kept[key] = last[1]._replace(values=values)
                return cast(Result, _copied(last[1].result))
            result = method(self, *args, **kwargs)
            if not _is_same(values, _read(self, skipped)):  # another thread changed them meanwhile
                return result
            if plain and all(map(_is_ordinary, (*given, *_tensors(result)))):
                for results in (kept, _LAST):
                    if len(results) >= MOST:
                        results.clear()
                kept[key] = _Kept(values, [a.clone() for a in given], _copied(result))
                _LAST[kind] = spelled, kept[key]
            return result

        return recall

    return decorate


def _beside_transforms(
    recall: Callable[..., Result],
    method: Callable[..., Result],
    unseen: Collection[str],
    model: Any,
    /,
    *args: Any,
    **kwargs: Any,
) -> Result:
    """The result where a transform of torch.func is under way: what none of its values go into is not taken through it,
    which takes ten times as long."""
    if not torch.compiler.is_compiling() and all(is_plain(value, unseen) for value in _read(model, unseen)):
        with temporarily_clear_interpreter_stack():
            if all(map(_is_ordinary, (torch.empty(0), *(a for a in args if isinstance(a, Tensor))))):
                return recall(model, *args, **kwargs)
    return method(model, *args, **kwargs)


def _read(model: Any, unseen: Collection[str]) -> list[Any]:
    return [value for name, value in vars(model.config).items() if name not in unseen]


def is_plain(value: Any, unseen: Collection[str] = ()) -> bool:
    """Whether a value can never change: a number, a word, a choice, a tuple or a frozen record of such."""
    if value is None or isinstance(value, (float, int, str, Enum)):
        return True
    if isinstance(value, tuple):
        return all(is_plain(item, unseen) for item in value)
    frozen = is_dataclass(value) and value.__dataclass_params__.frozen  # type: ignore[union-attr]
    return frozen and all(is_plain(v, unseen) for name, v in vars(value).items() if name not in unseen)


def _spelled(value: Any, unseen: Collection[str]) -> Any:
    """A plain value as what is equal for the very same value alone: 0.0, -0.0, 0 and False are four, and NaN is one."""
    if value is None or isinstance(value, (float, int, str)):
        return type(value), repr(value)
    if isinstance(value, tuple):
        return tuple([_spelled(item, unseen) for item in value])
    if is_dataclass(value):
        return type(value), *(_spelled(v, unseen) for name, v in vars(value).items() if name not in unseen)
    return type(value), repr(value)


def _is_same(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(map(is_, before, now))


def _are_equal(before: list[Tensor], now: list[Tensor]) -> bool:
    return len(before) == len(now) and all(
        _is_ordinary(b) and b.device == a.device and b.dtype == a.dtype and torch.equal(a, b)
        for a, b in zip(before, now, strict=True)
    )


def _is_ordinary(tensor: Tensor) -> bool:
    """Whether a tensor is nothing but its values: no gradient, no transform and no mode of torch is about it.

    Those of other devices are not, for whoever compares them waits for the device.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    if type(tensor) is not Tensor or tensor.device.type != "cpu" or wrapped:
        return False
    moves = forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
    return not (tensor.requires_grad or tensor.is_inference() or moves)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else vars(value).values() if is_dataclass(value) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _copied(value: Any) -> Any:
    """The same tuple or record with a copy of every tensor in it."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple([_copied(item) for item in value])
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(*[_copied(getattr(value, name)) for name in _names(type(value))])
    return value


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
