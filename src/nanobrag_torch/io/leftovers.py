"""Temporary names that say who writes, so that what a killed process left is found and removed by the next one.

A temporary file or folder lies beside its final name and is called `.NAME.HOST-PROCESS-START-RANDOM.part`. It is
removed when its process is gone; on another host, when nothing was written to it for an hour.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from nanobrag_torch.io.processes import host_digest, is_running, this_process

SILENT_SECONDS = 3600.0
"""After so long without a sign of life a process of another host counts as gone."""
_PART = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)-(?P<started>\d*)-[0-9a-f]{8}\.part")
_LOOKED_AT: set[tuple[int, Path]] = set()
_WRITTEN_IN: set[Path] = set()


def part_of(final: Path) -> Path:
    """A temporary name for a file or folder that will be called `final`."""
    own = this_process()
    _WRITTEN_IN.add(final.parent)
    return final.with_name(
        f".{final.name[:180]}.{host_digest()}-{own.process}-{own.started}-{secrets.token_hex(4)}.part"
    )


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder; a process looks there once. Nothing is said or raised."""
    looked = (os.getpid(), folder)
    if looked in _LOOKED_AT:
        return
    _LOOKED_AT.add(looked)
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.endswith(".part") and is_left(entry):
                remove_left(Path(entry.path))


def remove_own() -> None:
    """Remove what this process has under temporary names, before it ends without finishing it."""
    own = this_process()
    mark = f".{host_digest()}-{own.process}-{own.started}-"
    for folder in list(_WRITTEN_IN):
        with suppress(OSError):
            for entry in os.scandir(folder):
                if mark in entry.name and _PART.fullmatch(entry.name):
                    remove_left(Path(entry.path))


def is_left(entry: os.DirEntry[str]) -> bool:
    """Whether a file or folder has a temporary name and nobody writes it any more."""
    named = _PART.fullmatch(entry.name)
    if named is None:
        return False
    if named["host"] == host_digest():
        return not is_running(int(named["process"]), named["started"])
    try:
        return time.time() - _last_change(Path(entry.path)) > SILENT_SECONDS
    except OSError:
        return False


def _last_change(path: Path) -> float:
    """The latest change of a file, or of anything in a folder."""
    inside = [each.stat().st_mtime for each in path.rglob("*")] if path.is_dir() else []
    return max([path.stat().st_mtime, *inside])


def remove_left(path: Path) -> None:
    """Remove a file or folder that nobody writes any more."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # somebody else was quicker, or it is not ours to remove
            path.unlink()
