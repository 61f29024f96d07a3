"""How far a rendering or another long task is: a bar with the time left on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Report = Callable[[float], None]
SECONDS_BETWEEN_LINES = 5.0
SECONDS_WITHOUT_LINES = 2.0
"""A rendering shorter than this says nothing to a file or a pipe but that it is done."""


@contextmanager
def progress_meter(shown: bool, *, stream: TextIO | None = None, what: str = "rendering") -> Iterator[Report | None]:
    """A function to be called with the fraction done, 0 to 1; None when no meter is wanted. what: the bar's label."""
    stream = sys.stdout if stream is None else stream
    if not shown:
        yield None
    elif stream.isatty():
        with _bar(stream, what) as report:
            yield report
    else:
        yield LineMeter(stream)
        print("100% done", file=stream, flush=True)


@contextmanager
def _bar(stream: TextIO, what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(what),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda fraction: progress.update(task, completed=fraction)


class LineMeter:
    """Prints the percentage done and the time left, at most every few seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self.begun = clock()
        self.last = self.begun + SECONDS_WITHOUT_LINES - SECONDS_BETWEEN_LINES

    def __call__(self, fraction: float) -> None:
        """Note the fraction done."""
        now = self.clock()
        if 0 < fraction < 1 and now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            left = (now - self.begun) * (1 - fraction) / fraction
            print(f"{100 * fraction:.0f}% done, about {duration(left)} left", file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
