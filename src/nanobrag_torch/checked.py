"""Configurations that may be changed: every change is checked as the whole was when it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, ClassVar, Self

from nanobrag_torch.errors import InputError


class Checked:
    """A dataclass whose fields may be set again, to what its constructor would accept beside the other fields.

    Models read their configurations anew at every run, and tensors in them may be changed in place by an optimiser in
    any case: a change counts from the next run on. `dataclasses.replace` leaves the original as it was. A name that is
    no field is an InputError, in the constructor and afterwards.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Names that scripts for other programs use -> how the same is said here."""

    def __new__(cls, *args: Any, **given: Any) -> Self:
        for name, value in given.items():
            if name not in cls.__dataclass_fields__:  # type: ignore[attr-defined]
                cls._require_field(name, value)
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dataclass_fields__:  # type: ignore[attr-defined]
            self._require_field(name, value)
        if name in self.__dict__:
            value = getattr(replace(self, **{name: value}), name)  # type: ignore[type-var]
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        given = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if self._departs(f.name, f.default)]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(given)})"

    def _departs(self, name: str, default: Any) -> bool:
        value = getattr(self, name)
        plain = isinstance(value, (bool, int, float, str, tuple)) or value is None
        return default is MISSING or (value != default if plain else value is not default)

    @classmethod
    def _require_field(cls, name: str, value: object) -> None:
        known = cls.__dataclass_fields__  # type: ignore[attr-defined]
        if name in known:
            return
        from difflib import get_close_matches

        near = get_close_matches(name, known, 3, 0.5)
        instead = f"a field of {cls.__name__}" + (f", such as {', '.join(near)}" if near else "")
        shown = value if isinstance(value, (bool, int, float, str)) or value is None else type(value).__name__
        raise InputError(name, shown, cls.elsewhere.get(name, instead))
