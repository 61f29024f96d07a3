"""A table of observed reflections as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nanobrag_torch.errors import InputError

VALID_PIXEL = 1
"""Bit of a shoebox's mask: the pixel is a measurement."""


@dataclass(frozen=True, eq=False)
class ShoeboxData:
    """The pixels kept with one reflection: data (counts), mask (bits) and background over frame, slow, fast, or None.

    bbox: fast0 fast1 slow0 slow1 frame0 frame1, ends excluded.
    """

    panel: int
    bbox: NDArray[Any]
    data: NDArray[Any] | None
    mask: NDArray[Any] | None
    background: NDArray[Any] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ReflectionData:
    """A reflection table. Every column has one row a reflection; `skipped` names those that are not numbers.

    shoeboxes: one a row, or none where the table has none or nobody asked for them.
    """

    rows: int
    identifiers: dict[int, str]
    columns: dict[str, NDArray[Any]]
    skipped: tuple[str, ...] = ()
    shoeboxes: tuple[ShoeboxData, ...] = ()

    def column(self, name: str) -> NDArray[Any]:
        """A column. Raises InputError naming those there are."""
        if name not in self.columns:
            raise InputError("column", name, ", ".join(sorted(self.columns)))
        return self.columns[name]
