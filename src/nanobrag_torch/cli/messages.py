"""What the library logs, as lines of a command on stderr."""

from __future__ import annotations

import logging
import sys
from typing import ClassVar

LOGGER = "nanobrag_torch"
DEPARTURES = "nanobrag_torch.departures"
"""Lines for scripts: what they are about has a flag of its own in a command, with one meaning."""


class _Lines(logging.Handler):
    """Writes each line once to what sys.stderr is at the time, which tests and notebooks change."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if line not in self.said:
            self.said.add(line)
            print(line, file=sys.stderr, flush=True)


def show_messages() -> None:
    """From here on lines of the library's log go to stderr, each once, after the name of the package."""
    logger = logging.getLogger(LOGGER)
    attached = [handler for handler in logger.handlers if isinstance(handler, _Lines)]
    for handler in attached:
        handler.said.clear()
    if not attached:
        handler = _Lines()
        handler.addFilter(lambda record: record.name != DEPARTURES)
        handler.setFormatter(logging.Formatter(f"{LOGGER}: %(message)s"))
        logger.addHandler(handler)


class Loudness:
    """How much a command says: `say` is silent where it was asked to be quiet; verbose shows notes of the library."""

    quiet: ClassVar[bool] = False

    @classmethod
    def set(cls, asked: str) -> None:
        """asked: "quiet", "verbose" or nothing; counts until it is set again."""
        cls.quiet = asked == "quiet"
        levels = {"quiet": logging.ERROR, "verbose": logging.DEBUG}
        logging.getLogger(LOGGER).setLevel(levels.get(asked, logging.WARNING))


def say(line: str) -> None:
    """A line on stdout about what is done, unless nobody wants to know."""
    if not Loudness.quiet:
        print(line, flush=True)
