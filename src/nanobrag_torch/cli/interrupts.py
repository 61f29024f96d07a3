"""Ctrl-C and SIGTERM end a command within seconds, whatever its main thread is at.

Python says so to the main thread, which hears it only between two of its own instructions: a pixel of a thousand
million steps is one of them. A thread that the system tells at once waits for the main one, and ends the process where
that takes too long, as tidily as it can.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from nanobrag_torch.io.leftovers import remove_own
from nanobrag_torch.io.ownership import give_back_claims

HEARS_SECONDS, ENDS_SECONDS = 5.0, 30.0
"""Until the main thread has heard of an interrupt, and until the command has ended: what works for it is told too."""
_HEARD = threading.Event()


@contextlib.contextmanager
def interruptible(last_words: str, code: int) -> Iterator[None]:
    """SIGTERM ends the work inside as Ctrl-C does: KeyboardInterrupt, or the last words on stderr and the exit code."""
    alone = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) != _interrupt
    if not alone:  # only the main thread may say so, and once
        yield
        return
    _HEARD.clear()
    with _handled(), _watched(lambda: _end(last_words, code)):
        yield


@contextlib.contextmanager
def _handled() -> Iterator[None]:
    """Signals that nobody ignores or handles otherwise raise KeyboardInterrupt."""
    plain = signal.getsignal(signal.SIGINT) == signal.default_int_handler
    numbers = [signal.SIGTERM, *([signal.SIGINT] if plain else [])]
    before = [signal.signal(number, _interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _interrupt(_: int, __: FrameType | None) -> None:
    _HEARD.set()
    raise KeyboardInterrupt


@contextlib.contextmanager
def _watched(end: Callable[[], None]) -> Iterator[None]:
    hears, told = socket.socketpair()
    told.setblocking(False)
    over = threading.Event()
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(hears, over, end), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        told.close()
        watch.join()
        hears.close()


def _watch(hears: socket.socket, over: threading.Event, end: Callable[[], None]) -> None:
    """Wait for a signal, then for the main thread; return when it is over."""
    ours = {signal.SIGTERM, signal.SIGINT} if signal.getsignal(signal.SIGINT) == _interrupt else {signal.SIGTERM}
    while numbers := hears.recv(64):
        if not ours.isdisjoint(numbers):
            _HEARD.wait(HEARS_SECONDS)
            if not over.wait(ENDS_SECONDS if _HEARD.is_set() else 0.0):
                end()


def _end(last_words: str, code: int) -> None:
    """End this process and those that work for it; remove what it has half written, and its claims."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            child.kill()
    remove_own()
    give_back_claims()
    with contextlib.suppress(OSError, ValueError):
        print(last_words, file=sys.stderr, flush=True)
    os._exit(code)
