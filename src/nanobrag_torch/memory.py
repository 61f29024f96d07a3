"""What something would need and what there is, before memory is taken for it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from nanobrag_torch.errors import InputError

SHARE = 0.75
"""Of the free memory that one thing may take."""
UNASKED = 2**27
"""Bytes that every machine has."""
GIGABYTE = 1e9


def require_memory(name: str, value: object, needed_bytes: float) -> None:
    """Raise InputError naming the field where it would need more memory than is free."""
    if needed_bytes <= UNASKED:
        return
    import psutil

    free = psutil.virtual_memory().available
    if not needed_bytes <= SHARE * free:
        needed, there = needed_bytes / GIGABYTE, free / GIGABYTE
        raise InputError(name, value, f"what fits into memory: it needs {needed:.3g} GB, {there:.3g} GB are free")


@contextmanager
def without_collecting() -> Iterator[None]:
    """Nothing looks for garbage meanwhile: among modules that are imported it takes a sixth of that, and a shot that is
    refined makes it go through all of torch and matplotlib several times. What came up is looked at right afterwards.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
