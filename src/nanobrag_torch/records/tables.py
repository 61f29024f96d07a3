"""A table of observed reflections as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nanobrag_torch.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class ReflectionData:
    """A reflection table. Every column has one row a reflection; `skipped` names those that are not numbers."""

    rows: int
    identifiers: dict[int, str]
    columns: dict[str, NDArray[Any]]
    skipped: tuple[str, ...] = ()

    def column(self, name: str) -> NDArray[Any]:
        """A column. Raises InputError naming those there are."""
        if name not in self.columns:
            raise InputError("column", name, ", ".join(sorted(self.columns)))
        return self.columns[name]
