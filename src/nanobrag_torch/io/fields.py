"""Values of a structured file together with where they stand, so that an error can name the place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError

_SHOWN = 60  # letters of a wrong value that an error shows


@dataclass(frozen=True)
class Node:
    """A value of a file, and its place there."""

    path: str
    place: str
    value: Any

    def fail(self, accepted: str) -> InputError:
        """The error to raise: file and place, the value, what is accepted."""
        shown = self.value if isinstance(self.value, int | float | str) else repr(self.value)[:_SHOWN]
        return InputError(f"{self.path}: {self.place}".rstrip(": "), shown, accepted)

    def get(self, key: str | int) -> Node | None:
        """A member, or None if it is missing or null."""
        try:
            value = self.value[key]
        except (KeyError, IndexError, TypeError):
            return None
        return None if value is None else Node(self.path, self._below(key), value)

    def __getitem__(self, key: str | int) -> Node:
        """A member. Raises InputError if it is missing."""
        found = self.get(key)
        if found is None:
            raise InputError(f"{self.path}: {self._below(key)}", None, "a value (it is missing)")
        return found

    def first(self, *keys: str) -> Node | None:
        """The first of these members that is there."""
        found = (self.get(key) for key in keys)
        return next((node for node in found if node is not None), None)

    def mapping(self) -> Node:
        """This node, if it is a mapping."""
        if not isinstance(self.value, dict):
            raise self.fail("an object with named members")
        return self

    def items(self) -> list[Node]:
        """The members of a list."""
        if not isinstance(self.value, list | tuple):
            raise self.fail("a list")
        return [Node(self.path, self._below(i), value) for i, value in enumerate(self.value)]

    def numbers(self, *shape: int) -> NDArray[np.float64]:
        """Finite numbers of a shape; -1 is any length."""
        try:
            array = np.asarray(self.value, np.float64)
        except (TypeError, ValueError) as error:
            raise self.fail(_described(shape)) from error
        fits = array.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, array.shape, strict=True))
        if not fits or not np.isfinite(array).all():
            raise self.fail(_described(shape))
        return array

    def number(self) -> float:
        """One finite number."""
        return float(self.numbers())

    def whole(self) -> int:
        """One whole number."""
        value = self.number()
        if value != int(value):
            raise self.fail("a whole number")
        return int(value)

    def pair(self) -> tuple[float, float]:
        """Two numbers."""
        first, second = self.numbers(2)
        return float(first), float(second)

    def whole_pair(self) -> tuple[int, int]:
        """Two whole numbers."""
        first, second = (node.whole() for node in self.items()) if len(self.items()) == 2 else (None, None)
        if first is None or second is None:
            raise self.fail("two whole numbers")
        return first, second

    def text(self) -> str:
        """Text."""
        if not isinstance(self.value, str):
            raise self.fail("text")
        return self.value

    def _below(self, key: str | int) -> str:
        if isinstance(key, int):
            return f"{self.place}[{key}]"
        return f"{self.place}.{key}" if self.place else key


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Put the file before the name of an InputError that does not name it: those of the data classes."""
    try:
        yield
    except InputError as error:
        if path in error.name or path in str(error.value):
            raise
        raise InputError(f"{path}: {error.name}", error.value, error.accepted) from error


def number_or_none(node: Node | None) -> float | None:
    """The number of a member that may be missing."""
    return None if node is None else node.number()


def words_as_numbers(path: str, place: str, words: Iterable[str]) -> NDArray[np.float64]:
    """Numbers of text. Raises InputError naming the place if one is none."""
    given = list(words)
    try:
        return Node(path, place, [float(word) for word in given]).numbers(-1)
    except ValueError as error:
        raise InputError(f"{path}: {place}", " ".join(given)[:_SHOWN], "finite numbers") from error


def _described(shape: tuple[int, ...]) -> str:
    if shape == ():
        return "a finite number"
    return " x ".join("any number of" if n < 0 else str(n) for n in shape) + " finite numbers"
