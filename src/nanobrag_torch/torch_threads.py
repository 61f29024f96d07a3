"""How many threads torch works with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch on one thread, and as before afterwards.

    Its results are then the same whatever a process is set to. And its threads do not spin on for some milliseconds
    after every operation, where those of a compiled kernel are to run next.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
