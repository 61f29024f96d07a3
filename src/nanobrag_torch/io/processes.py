"""Which process wrote something, and whether it still runs: host, number and start of a process."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
from pathlib import Path
from typing import NamedTuple


class Writer(NamedTuple):
    """A process among all of all hosts. Numbers are used again: the start tells a process from its successor."""

    host: str
    process: int
    started: str


def this_process() -> Writer:
    """This process; a fork is another one."""
    return _writer(os.getpid())


@functools.cache
def _writer(number: int) -> Writer:
    """Of a process that runs, which began once."""
    return Writer(this_host(), number, _started(number) or "")


@functools.cache
def this_host() -> str:
    """Name of the machine, and of the space in which process numbers count: containers of one name have their own."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux: numbers count on the whole machine
        space = ""
    return f"{socket.gethostname()} {space}".strip()


@functools.cache
def host_digest() -> str:
    """The same as eight letters, for names of files."""
    return hashlib.sha256(this_host().encode()).hexdigest()[:8]


def is_running(process: int, started: str) -> bool:
    """Whether a process of this host still runs: one of this number that started then, and is no zombie."""
    now = _started(process)
    return now is not None and now == started


def _started(process: int) -> str | None:
    """When a process started, in a form that clocks set anew do not change; None if there is none, or a zombie."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZXx" else fields[19]
    import psutil

    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else f"{found.create_time():.0f}"
    except psutil.Error:
        return None
