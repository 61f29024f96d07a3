"""Work dealt out to threads, this one among them, whatever the work is."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

from nanobrag_torch.kernels.problem import Options

Progress = Callable[[float], None]
Room = TypeVar("Room")


def thread_count(options: Options) -> int:
    """Threads to use: those this process may run on, at most options.threads."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(options.threads, allowed) if options.threads > 0 else allowed


def pieces_of(count: int, wanted: int, unit: int) -> list[tuple[int, int]]:
    """Split `count` into about `wanted` ranges whose ends are multiples of `unit`."""
    units = -(-count // unit)
    step = max(1, -(-units // wanted)) * unit
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def deal(
    work: Callable[[Any, Room], None],
    pieces: Sequence[Any],
    threads: int,
    make_room: Callable[[], Room],
    progress: Progress | None,
) -> None:
    """Do the work of every piece on so many threads, this one among them, each in a room of its own."""
    left = deque(pieces)

    def help_out(report: Progress | None = None) -> None:
        room = make_room()
        while left:
            try:
                piece = left.popleft()
            except IndexError:  # another thread was faster
                return
            work(piece, room)
            if report is not None:
                report(1 - len(left) / len(pieces))

    together(help_out, min(threads, len(pieces)), progress, left.clear)


def together(
    work: Callable[..., None], threads: int, progress: Progress | None, leave_the_rest: Callable[[], None]
) -> None:
    """Do the same work on so many threads, this one among them, which alone reports; when it fails, all stop."""
    waiting = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work(progress)
    except BaseException:  # an interrupt above all
        leave_the_rest()
        wait(waiting)  # the arrays that they write are ours, and the interpreter waits for them at its end in any case
        raise
    for helper in waiting:
        helper.result()
    if progress is not None and threads:
        progress(1.0)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work: starting them anew takes as long as a small image."""
    return ThreadPoolExecutor(threads, thread_name_prefix="nanobrag_torch")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of these threads
