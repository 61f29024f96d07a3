"""A Scene and its Options as arguments of the operators, and back: from their fields alone.

The operators take the tensors of a scene and the options one by one, in the order of the fields and under their names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.physics.lattice_factor import Profile

SceneKind = TypeVar("SceneKind", bound=Scene)


class _Kind(NamedTuple):
    """How options of one type travel."""

    schema: str
    there: Any  # option -> argument
    back: Any  # argument -> option


def _as_it_is(value: Any) -> Any:
    return value


_KINDS = {
    "int": _Kind("SymInt", _as_it_is, _as_it_is),
    "float": _Kind("float", float, _as_it_is),
    "bool": _Kind("bool", bool, _as_it_is),
    "tuple[int, int]": _Kind("SymInt[]", list, tuple),
    "tuple[int, int, int]": _Kind("SymInt[]", list, tuple),
    "Profile": _Kind("SymInt", int, Profile),
    "torch.dtype": _Kind("ScalarType", _as_it_is, _as_it_is),
}
"""By the type that a field of Options is annotated with."""
_OPTIONS = {field.name: _KINDS[str(field.type)] for field in fields(Options)}


class Arguments(Generic[SceneKind]):
    """The arguments that stand for a kind of scene and its options."""

    def __init__(self, kind: type[SceneKind]) -> None:
        self.kind = kind
        self.names = tuple(field.name for field in fields(kind))
        self.count = len(self.names)
        scene = [f"Tensor {name}" for name in self.names]
        self.schema = ", ".join([*scene, *(f"{way.schema} {name}" for name, way in _OPTIONS.items())])

    def pack(self, scene: SceneKind, options: Options) -> tuple[Any, ...]:
        """Tensors and options as an operator takes them."""
        return *scene.tensors(), *(way.there(getattr(options, name)) for name, way in _OPTIONS.items())

    def unpack(self, arguments: Sequence[Any]) -> tuple[SceneKind, Options, Sequence[Any]]:
        """The inverse of `pack`, and the arguments behind."""
        end = self.count + len(_OPTIONS)
        pairs = zip(_OPTIONS.items(), arguments[self.count : end], strict=True)
        options = Options(**{name: way.back(value) for (name, way), value in pairs})
        return self.kind(*arguments[: self.count]), options, arguments[end:]

    def in_order(self, named: Mapping[str, Tensor], scene: Scene) -> list[Tensor]:
        """Tensors by name as a list in the order of the fields; without element where there is none."""
        absent = [name for name in named if name not in self.names]
        if absent:
            raise KeyError(f"no tensor of a scene is called {absent[0]}")
        return [named.get(name, tensor.new_zeros(0)) for name, tensor in zip(self.names, scene.tensors(), strict=True)]

    def flags(self, wanted: Collection[str]) -> list[bool]:
        """Which names are wanted, in the order of the fields."""
        return [name in wanted for name in self.names]

    def chosen(self, flags: Sequence[bool]) -> list[str]:
        """The inverse of `flags`."""
        return [name for name, flag in zip(self.names, flags, strict=True) if flag]


SCENE = Arguments(Scene)
BATCH = "B"
"""The letter of the batch axis."""


@cache
def _declared(kind: Any) -> tuple[tuple[str, tuple[int | str, ...], tuple[torch.dtype, ...]], ...]:
    return tuple((field.name, field.metadata["shape"], field.metadata["dtypes"]) for field in fields(kind))


def require_sound(scene: Scene, pixels: Tensor | None = None) -> None:
    """InputError that names the tensor, unless every one has the shape and type that Scene declares.

    A batch axis is allowed in front, of one length B; of the list of pixels too. The compiled kernels do not check
    bounds. Only shapes are looked at, never values, so no GPU is waited for.
    """
    lengths: dict[str, int] = {}
    kind: Any = type(scene)
    for name, shape, dtypes in _declared(kind):
        tensor = getattr(scene, name)
        found = tensor.shape
        if len(found) == len(shape) + 1:
            shape = (BATCH, *shape)
        if len(found) == len(shape) and tensor.dtype in dtypes:
            for length, size in zip(found, shape, strict=True):
                if (lengths.setdefault(size, length) if type(size) is str else size) != length:
                    break
            else:
                continue
        _refuse(name, tensor, shape, dtypes, lengths)
    if pixels is None or pixels.dim() == 1:
        return
    count = lengths.get(BATCH, pixels.shape[0] if pixels.dim() else 1)
    if pixels.dim() != 2 or pixels.shape[0] != count:
        raise InputError("pixels", list(pixels.shape), f"[n], or a row for each scene: [{count}, n]")


def _refuse(
    name: str, tensor: Tensor, shape: Sequence[int | str], dtypes: Sequence[torch.dtype], lengths: Mapping[str, int]
) -> None:
    known = {str(size): f"{size} = {length}" for size, length in lengths.items()}
    sizes = ", ".join(known.get(str(size), str(size)) for size in shape)
    types = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    given = f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
    raise InputError(f"scene.{name}", given, f"[{sizes}] {types}")
