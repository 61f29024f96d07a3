"""Structural differences between two JSON documents, as a list that people can read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input


@dataclass(frozen=True)
class Difference:
    """One place where two documents differ, as a path such as `values[3].name`, and what is different there."""

    path: str
    note: str

    def __str__(self) -> str:
        return f"{self.path or '(root)'}: {self.note}"


def read_json(path: str | os.PathLike[str], name: str) -> Any:
    """The document of a file. Raises InputError when it cannot be read or is not JSON."""
    content = read_input(path, name, "a JSON file")
    try:
        return json.loads(content)
    except ValueError as error:
        raise InputError(name, str(path), f"a JSON file ({error})") from error


def json_differences(a: Any, b: Any, *, rtol: float = 0.0, atol: float = 0.0, path: str = "") -> Iterator[Difference]:
    """Where b differs from a: keys and elements that only one has, values of another type, numbers beyond tolerance.

    Numbers may differ by atol + rtol |a|; not-a-number equals itself. Whole and real numbers are one type.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        yield from _of_objects(a, b, rtol, atol, path)
    elif isinstance(a, list) and isinstance(b, list):
        yield from _of_lists(a, b, rtol, atol, path)
    elif _is_number(a) and _is_number(b):
        if not _close(float(a), float(b), rtol, atol):
            yield Difference(path, _number_note(float(a), float(b)))
    elif type(a) is not type(b):
        yield Difference(path, f"{_kind(a)} {_shown(a)} in A, {_kind(b)} {_shown(b)} in B")
    elif a != b:
        yield Difference(path, f"{_shown(a)} in A, {_shown(b)} in B")


def _of_objects(a: dict[str, Any], b: dict[str, Any], rtol: float, atol: float, path: str) -> Iterator[Difference]:
    for key in [*a, *(key for key in b if key not in a)]:
        place = f"{path}.{key}" if path else key
        if key not in b:
            yield Difference(place, f"only in A: {_shown(a[key])}")
        elif key not in a:
            yield Difference(place, f"only in B: {_shown(b[key])}")
        else:
            yield from json_differences(a[key], b[key], rtol=rtol, atol=atol, path=place)


def _of_lists(a: list[Any], b: list[Any], rtol: float, atol: float, path: str) -> Iterator[Difference]:
    if len(a) != len(b):
        yield Difference(path, f"{len(a)} elements in A, {len(b)} in B")
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        yield from json_differences(x, y, rtol=rtol, atol=atol, path=f"{path}[{i}]")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _close(a: float, b: float, rtol: float, atol: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b)) or abs(b - a) <= atol + rtol * abs(a) < math.inf


def _number_note(a: float, b: float) -> str:
    relative = f", relative {abs(b - a) / abs(a):.3g}" if a and math.isfinite(a) else ""
    return f"{a!r} in A, {b!r} in B (difference {b - a:.6g}{relative})"


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 70 else f"{text[:67]}..."
