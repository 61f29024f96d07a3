"""What compiled functions keep on the disk: read only where it is whole, ours, and what was written there.

numba unpickles its cache, and runs what it finds. A file that somebody else can write is therefore not opened, one that
was cut short, damaged or put there from elsewhere is thrown away and made again, and where nothing can be written the
program goes on without.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import logging
import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

MARK = b"\nsha256 of place and content:"
"""Ends a file together with the checksum; what follows a pickle is passed over by programs that know of none."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LOG = logging.getLogger(__name__)


def why_untrusted(folder: Path) -> str:
    """Why nothing in a folder may be run; empty where only this user, or the system's, can have put it there."""
    if not hasattr(os, "geteuid"):  # Windows: the user's own folders are closed to others
        return ""
    for place in (folder, *folder.absolute().parents):
        state = place.stat()
        sticky = place != folder and state.st_mode & stat.S_ISVTX  # as /tmp: nobody moves what is another's
        if state.st_uid not in (os.geteuid(), 0):
            return f"{place} is another user's"
        if state.st_mode & (_OTHERS_WRITE if place == folder else stat.S_IWOTH) and not sticky:
            return f"other users can write to {place}"
    return ""


def keep_checked(dispatcher: Any) -> None:
    """Let numba's files of a function be checked before they are read, and fail without harm."""
    cache = dispatcher._cache
    cache._cache_file.__class__ = _checked_files()
    look = cache.load_overload

    def load_overload(signature: Any, context: Any) -> Any:
        with interrupts_after():
            try:
                return look(signature, context)
            except Exception as error:  # whatever unpickling or linking meets: it is compiled anew
                _LOG.debug("%s: not loaded (%s: %s)", cache.cache_path, type(error).__name__, error)
                cache._cache_file.forget()
                return None

    cache.load_overload = load_overload


@functools.cache
def _checked_files() -> Any:
    """numba's class of index and data files, with checks."""
    files: Any = importlib.import_module("numba.core.caching").IndexDataCacheFile

    class CheckedFiles(files):  # type: ignore[misc]
        def forget(self) -> None:
            """Remove the index: what it names is made again."""
            _throw_away(Path(self._index_path))

        def _load_index(self) -> Any:
            path = Path(self._index_path)
            if not path.exists() or not is_sound(path):
                return {}
            try:
                return super()._load_index()
            except Exception:  # sound, and of something else
                self.forget()
                return {}

        def _load_data(self, name: str) -> Any:
            path = Path(self._data_path(name))
            if not is_sound(path):
                raise FileNotFoundError(str(path))  # which numba compiles and writes anew
            return super()._load_data(name)

        @contextlib.contextmanager
        def _open_for_write(self, filepath: str) -> Iterator[Any]:
            memory = io.BytesIO()
            yield memory
            try:
                with super()._open_for_write(filepath) as file:
                    if hasattr(os, "fchmod"):
                        os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR)
                    file.write(signed(Path(filepath), memory.getvalue()))
            except OSError as error:
                say_not_kept((error.strerror or str(error)).lower())

    return CheckedFiles


@functools.cache
def say_not_kept(reason: str) -> None:
    """Say once that compiled code cannot be kept, and why."""
    _LOG.warning("compiled code is not kept for the next run: %s", reason)


def signed(path: Path, content: bytes) -> bytes:
    """The content of a file with the checksum that belongs to this content at this place."""
    return content + MARK + _checksum(path, content)


def is_sound(path: Path) -> bool:
    """Whether a file is what was written there, by this user; what is not is thrown away."""
    try:
        state, found = path.stat(), path.read_bytes()
    except OSError:
        return False
    content, mark, checksum = found[: -32 - len(MARK)], found[-32 - len(MARK) : -32], found[-32:]
    ours = not hasattr(os, "geteuid") or (state.st_uid in (os.geteuid(), 0) and not state.st_mode & _OTHERS_WRITE)
    if ours and mark == MARK and checksum == _checksum(path, content):
        return True
    _LOG.info("%s is damaged or not ours: made again", path)
    _throw_away(path)
    return False


def _checksum(path: Path, content: bytes) -> bytes:
    """Of the content, the file's name and the names of the folders that say which function and machine it is of."""
    return hashlib.sha256("/".join(path.parts[-3:]).encode() + b"\0" + content).digest()


def _throw_away(path: Path) -> None:
    with contextlib.suppress(OSError):  # it is never read in any case
        path.unlink()


@contextlib.contextmanager
def interrupts_after() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block ends: libraries swallow what is raised in their callbacks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    met: list[tuple[int, FrameType | None]] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in before.items() if callable(handler)}
    for number in ours:
        signal.signal(number, lambda *what: met.append(what))
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
    for what in met[:1]:
        handler = ours[signal.Signals(what[0])]
        handler(*what)
