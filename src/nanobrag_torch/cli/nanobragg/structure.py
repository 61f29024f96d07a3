"""Where the structure factors of a run come from (reference-behaviour 7.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nanobrag_torch.io.hkl import HklTable

MOST_KEPT = 4
"""Tables that the runs of a batch share at most."""
_KEPT: ContextVar[dict[tuple[object, ...], HklTable] | None] = ContextVar("tables", default=None)


@dataclass(frozen=True)
class StructureFactors:
    """A table of amplitudes and its index limits, or none; how many reflections it is said to hold."""

    grid: NDArray[np.float64] | None = None  # [H, K, L]
    metadata: dict[str, int] | None = None
    count: int = 0
    from_dump: bool = False
    non_integer: list[tuple[str, float]] = field(default_factory=list)
    tidied: bool = False  # lines of text were skipped, or columns past the fourth
    commented: bool = False


def structure_factors(request: Request, *, stop_at_text: bool) -> StructureFactors:
    """The table of -hkl, else that of the dump file if there is one, else none.

    Raises InputError when nothing scatters, and for files that cannot be read.
    """
    if request.hklfile is not None:
        table = _table(request.hklfile, request.default_F, stop_at_text)
        return StructureFactors(
            table.grid,
            table.metadata,
            table.count,
            non_integer=table.non_integer,
            tidied=table.tidied,
            commented=table.commented,
        )
    if Path(request.dumpfile).exists():
        return _from_dump(request)
    if request.default_F == 0:
        raise InputError("-hkl, -default_F", "nothing", "a file of structure factors, or an amplitude other than 0")
    if "-dump" in request.fired:
        request.warnings.append(f"-dump: there is no file {request.dumpfile!r}; every reflection is -default_F")
    return StructureFactors()


@contextmanager
def tables_kept() -> Iterator[None]:
    """While this lasts, a file of structure factors that several runs name is read once, as long as it is the same."""
    before = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(before)


def _table(path: str, default_F: float, stop_at_text: bool) -> HklTable:
    from nanobrag_torch.io.digest import file_mark
    from nanobrag_torch.io.hkl import read_hkl_arrays

    kept = _KEPT.get()
    if kept is None:
        return read_hkl_arrays(path, default_F, stop_at_text=stop_at_text)
    key = (file_mark(path), default_F, stop_at_text)
    if key not in kept:
        while len(kept) >= MOST_KEPT:
            del kept[next(iter(kept))]
        kept[key] = read_hkl_arrays(path, default_F, stop_at_text=stop_at_text)
    return kept[key]


def _from_dump(request: Request) -> StructureFactors:
    from nanobrag_torch.io.dump import read_dump_file

    grid, metadata = read_dump_file(request.dumpfile)
    if "-dump" not in request.fired:
        request.warnings.append(
            f"structure factors come from the file {request.dumpfile!r} that an earlier run left in this folder; "
            "remove it, or name another with -dump, if that is not wanted"
        )
    return StructureFactors(grid, metadata, grid.size, from_dump=True)


def structure_lines(request: Request, table: StructureFactors) -> Iterator[str]:
    """What the C program prints while it reads structure factors."""
    if table.grid is None:
        return
    if table.from_dump:
        yield f"reading Fs from {request.dumpfile}"
        return
    yield f"counting entries in {request.hklfile}"
    for axis, value in table.non_integer:
        yield f"WARNING: non-integer value for {axis} ({value:g})"
    if request.default_F != 0:
        yield f"initializing to default_F = {request.default_F:f}:"
        yield "done initializing:"
    yield f"re-reading {request.hklfile}"
    yield f"writing dump file for next time: {request.dumpfile}"


def comments_cost_reflections(request: Request, table: StructureFactors) -> bool:
    """Whether the C program would have read another table, because it stops at a comment (D27)."""
    if request.hklfile is None or not (table.tidied or table.commented):
        return False
    import numpy as np

    try:
        stopped = _table(request.hklfile, request.default_F, stop_at_text=True)
    except InputError:
        return True
    return stopped.metadata != table.metadata or not np.array_equal(stopped.grid, table.grid)  # type: ignore[arg-type]
