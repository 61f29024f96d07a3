"""What the fields of a configuration may hold; each check raises InputError with one line that names the field."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from nanobrag_torch.errors import InputError

NUMBER_SHAPES: tuple[tuple[int, ...], ...] = ((), (1,))


def require_kinds(config: Any) -> None:
    """Every field holds what its annotation says: a number, a vector, a whole number, a switch, a word, records."""
    for name, may_lack, accepts, accepted in _kinds_of(config.__class__):
        value = getattr(config, name)
        if not (may_lack and value is None) and not accepts(value):
            raise InputError(name, described(value), accepted)


@cache
def _kinds_of(kind: type) -> list[tuple[str, bool, Callable[[Any], bool], str]]:
    """Of every field of a class its name, whether it may be None, what it accepts, and that in words.

    Configurations of small scenes are made by the thousand, and to read annotations takes as long as the checks.
    """
    found = []
    for field in fields(kind):
        said = str(field.type)
        accepts, accepted = KINDS.get(bare := said.removesuffix(" | None")) or _records(bare)
        found.append((field.name, said.endswith("None"), accepts, accepted))
    return found


def fields_of(config: Any) -> dict[str, None]:
    """The names of the fields of a record, in order."""
    return _fields_of(config.__class__)


@cache
def _fields_of(kind: type) -> dict[str, None]:
    return dict.fromkeys(field.name for field in fields(kind))


def require_model(name: str, value: object, wanted: type) -> None:
    """A model or a configuration of the right class, and not another one."""
    if not isinstance(value, wanted):
        raise InputError(name, described(value), f"a {wanted.__name__}")


def described(value: object) -> object:
    """A value as an error shows it: as it is where that is short, else by its class and shape."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        size = " x ".join(map(str, shape)) or "one"
        return f"{type(value).__name__} of {size} {str(getattr(value, 'dtype', '')).removeprefix('torch.')}".strip()
    plain = isinstance(value, (str, int, float, complex, list, tuple, dict)) or value is None
    return value if plain else type(value).__name__


def _is_number(value: Any) -> bool:
    """A real number, or an array of one; True and False are none."""
    if hasattr(value, "dtype"):
        return _is_real(value) and tuple(value.shape) in NUMBER_SHAPES
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_real(array: Any) -> bool:
    return not any(word in str(array.dtype) for word in ("bool", "complex", "object", "str", "<U"))


def _is_vector(value: Any) -> bool:
    """A list of numbers, or an array along one axis."""
    if hasattr(value, "dtype"):
        return _is_real(value) and len(value.shape) == 1
    return isinstance(value, (list, tuple)) and all(map(_is_number, value))


def _is_spread(value: Any) -> bool:
    """A number, a vector, or rows of one."""
    if hasattr(value, "dtype"):
        return _is_real(value) and len(value.shape) <= 2
    rows = isinstance(value, (list, tuple)) and all(map(_is_vector, value))
    return _is_number(value) or _is_vector(value) or rows


def _is_cells(value: Any) -> bool:
    """A vector, or rows of one."""
    return _is_spread(value) and not _is_number(value)


def _is_whole(value: Any) -> bool:
    """An integer of Python or numpy; a tensor is none, nor is True."""
    return hasattr(value, "__index__") and not isinstance(value, bool) and not hasattr(value, "detach")


def _is_switch(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")


def _records(kind: str) -> tuple[Callable[[Any], bool], str]:
    """For a sequence of configurations of one class; anything for what has a check of its own."""
    if not kind.startswith("Sequence["):
        return (lambda value: True), ""
    name = kind.removeprefix("Sequence[").removesuffix("]")

    def accepts(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and all(type(item).__name__ == name for item in value)

    return accepts, f"a list of {name}"


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "Real": (_is_number, "a number"),
    "float": (_is_number, "a number"),
    "Vector": (_is_vector, "a vector of numbers, along one axis"),
    "Sequence[int] | Vector": (_is_cells, "a vector of numbers, along one axis, or a matrix of them"),
    "Real | Vector": (_is_spread, "a number, or a vector of numbers along one axis"),
    "int": (_is_whole, "a whole number"),
    "bool": (_is_switch, "True, False"),
    "str": (lambda value: isinstance(value, str), "a word"),
}
"""Annotation of a field -> what it accepts, and in words."""


def require_table(config: Any, name: str, columns: int | None) -> None:
    """Rows of `columns` numbers, or numbers in a row; None is no table."""
    value = getattr(config, name)
    if value is None:
        return
    if hasattr(value, "dtype"):
        fits = _is_real(value) and tuple(value.shape[1:]) == (() if columns is None else (columns,))
    else:
        rows = isinstance(value, (list, tuple)) and all(map(_is_vector, value))
        fits = _is_vector(value) if columns is None else rows and all(len(row) == columns for row in value)
    if not fits:
        wanted = "one number a source" if columns is None else f"{columns} numbers a source"
        raise InputError(name, described(value), wanted)


def require_mask(config: Any) -> None:
    """A mask, where there is one, has the detector's pixels."""
    mask, shape = config.mask_array, (config.spixels, config.fpixels)
    if mask is not None and tuple(getattr(mask, "shape", ())) != shape:
        raise InputError("mask_array", tuple(getattr(mask, "shape", ())), f"an array of shape {shape}")


def flat(value: Any) -> list[float]:
    """The numbers of a scalar, sequence or tensor, for validation alone."""
    if type(value) is float or type(value) is int:
        return [float(value)]
    if type(value) is tuple or type(value) is list:
        return [x for item in value for x in flat(item)]
    if value is None or isinstance(value, (bool, str, Enum)) or is_dataclass(value):
        return []
    if hasattr(value, "detach"):
        return [float(x) for x in value.detach().reshape(-1).tolist()]
    if hasattr(value, "reshape"):
        return [float(x) for x in value.reshape(-1)]
    if isinstance(value, (int, float)):
        return [float(value)]
    return [x for item in value for x in flat(item)]


def shown(value: Any) -> object:
    """The numbers of a value, as an error shows them."""
    numbers = flat(value)
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def require_finite(config: Any, but: tuple[str, ...] = ()) -> None:
    """No infinity and no NaN in any field."""
    for name in fields_of(config):
        value = getattr(config, name)
        if value is not None and name not in but and not all(map(math.isfinite, flat(value))):
            raise InputError(name, shown(value), "finite numbers")


def require_positive(config: Any, *names: str) -> None:
    """Numbers above zero."""
    for name in names:
        value = getattr(config, name)
        if not all(x > 0 for x in flat(value)):
            raise InputError(name, shown(value), "numbers above 0")


def require_at_least(config: Any, least: float, *names: str) -> None:
    """Numbers from `least` up; the elements of a spread's matrix may be below."""
    for name in names:
        value = getattr(config, name)
        if name == "mosaic_spread_deg" and len(flat(value)) == 9:
            continue
        if not all(x >= least for x in flat(value)):
            raise InputError(name, shown(value), f"numbers from {least} up")


def require_at_most(config: Any, most: float, *names: str) -> None:
    """Numbers up to `most`, where there are any: counts of what is held or summed for every pixel."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not all(x <= most for x in flat(value)):
            raise InputError(name, shown(value), f"numbers up to {most}")


def require_length(config: Any, length: int, *names: str) -> None:
    """So many numbers, where there are any."""
    for name in names:
        value = getattr(config, name)
        if value is not None and len(flat(value)) != length:
            raise InputError(name, shown(value), f"{length} numbers")


def require_nonzero(config: Any, *names: str) -> None:
    """Something that is not all zero, where there is something."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not any(flat(value)):
            raise InputError(name, shown(value), "anything but 0")


def is_positive(matrix: Sequence[float]) -> bool:
    """Whether nine numbers are a symmetric 3 x 3 matrix with positive eigenvalues (Sylvester's minors)."""
    a, b, c, d, e, f, g, h, i = matrix
    minor = a * e - b * b
    return (b, c, f) == (d, g, h) and min(a, minor, c * (b * f - c * e) - f * (a * f - b * c) + i * minor) > 0


def spread_shape(value: Any) -> tuple[int, ...]:
    """Shape of a number, a sequence of numbers or of rows, or an array."""
    if hasattr(value, "shape"):
        return tuple(value.shape)
    return () if isinstance(value, (int, float)) else (len(value), *spread_shape(value[0]))


def coerce_enum(config: Any, name: str, kind: type[Enum]) -> None:
    """A member of an Enum, or its name, becomes the member."""
    value = getattr(config, name)
    if isinstance(value, kind):
        return
    known = {member.value: member for member in kind}
    if str(value).lower() not in known:
        raise InputError(name, value, ", ".join(known))
    object.__setattr__(config, name, known[str(value).lower()])
