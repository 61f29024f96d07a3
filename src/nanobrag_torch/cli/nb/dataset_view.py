"""How far a data set is: a bar with rate and time left on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from nanobrag_torch.cli.progress import duration

if TYPE_CHECKING:
    from nanobrag_torch.datasets.engine import Outcome

SECONDS_BETWEEN_LINES = 60.0
SECONDS_BETWEEN_LOOKS = 1.0


class Watched(Protocol):
    """What is looked at: a data set's folder."""

    def progress(self) -> int:
        """Images that are done."""


class Failures:
    """What went wrong so far, by kind; each kind is said when it first happens."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.counts = stream, Counter[str]()

    def __call__(self, outcome: Outcome) -> None:
        """Take in how a shard ended."""
        if outcome.state == "failed":
            self.counts[outcome.line] += 1
            if self.counts[outcome.line] == 1:
                print(f"shard {outcome.shard} failed: {outcome.line}", file=self.stream, flush=True)

    @property
    def summary(self) -> str:
        """One phrase for the bar."""
        total = sum(self.counts.values())
        return f"{total} shards failed in {len(self.counts)} ways" if total else ""


@contextmanager
def watching(
    folder: Watched, images: int, *, quiet: bool = False, stream: TextIO | None = None, dashboard: str = ""
) -> Iterator[Callable[[Outcome], None]]:
    """Show how a folder fills until the block ends; gives what is to be called with every outcome of a shard."""
    stream = sys.stderr if stream is None else stream
    failures = Failures(stream)
    if quiet:
        yield failures
        return
    if dashboard:
        print(f"dashboard: {dashboard}", file=stream, flush=True)
    shown = _Bar(stream, images, failures) if stream.isatty() else Lines(stream, images, failures)
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            shown.show(folder.progress())

    shown.show(folder.progress())
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join()
        shown.show(folder.progress())
        shown.close()


class Lines:
    """A line a minute: images done, images a second, time left, failures."""

    def __init__(
        self, stream: TextIO, images: int, failures: Failures, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream, self.images, self.failures, self.clock = stream, images, failures, clock
        self.begun = self.last = clock()
        self.first: int | None = None

    def show(self, done: int) -> None:
        """Note how many images are done; print when a minute has passed."""
        self.first = done if self.first is None else self.first
        now = self.clock()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        rate = (done - self.first) / (now - self.begun)
        left = f"{duration((self.images - done) / rate)} left" if rate > 0 else "time left unknown"
        words = [f"{done} of {self.images} images", f"{rate:.3g}/s", left, self.failures.summary]
        print(", ".join(filter(None, words)), file=self.stream, flush=True)

    def close(self) -> None:
        """Nothing is left to be done."""


class _Bar:
    """The same as a bar of rich."""

    def __init__(self, stream: TextIO, images: int, failures: Failures) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("images"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("time left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
        )
        self._failures = failures
        self._progress = Progress(*columns, console=Console(file=stream))
        self._task = self._progress.add_task("images", total=images, rate="", failed="")
        self._progress.start()

    def show(self, done: int) -> None:
        speed = self._progress.tasks[0].speed
        rate = f"{speed:.3g}/s" if speed else ""
        self._progress.update(self._task, completed=done, rate=rate, failed=self._failures.summary)

    def close(self) -> None:
        self._progress.stop()
