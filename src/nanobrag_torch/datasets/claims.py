"""Who is working on what: a small file a piece of work, with host, process and a heartbeat.

A claim whose owner is dead is taken over. On the same host its process says so; on another one a heartbeat that stands
still for STALE_SECONDS. Two owners of one piece would do no harm, only the work twice: files appear whole, and what is
in them follows from the recipe.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

BEAT_SECONDS = 2.0
STALE_SECONDS = 60.0


def own_mark() -> dict[str, Any]:
    """What identifies this process among all hosts, whatever number it has."""
    return {"host": socket.gethostname(), "process": os.getpid(), "started": psutil.Process().create_time()}


@dataclass
class Claim:
    """A piece of work that this process owns; `done` is told to who looks at the folder."""

    path: Path
    mark: dict[str, Any]
    done: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def beat(self) -> None:
        """Write the claim anew: alive, and how far."""
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        try:
            beside.write_text(json.dumps({**self.mark, "done": self.done}))
            beside.replace(self.path)
        except OSError:  # a full disk stops the work itself, with a line; a missed beat must not
            with suppress(OSError):
                beside.unlink()

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            self.beat()


@contextmanager
def claimed(path: Path, *, run: str, fingerprint: str) -> Iterator[Claim | None]:
    """The claim on a piece of work until the block ends; None where a living process has it.

    run: the run that this process belongs to. What another process of the same run claimed is taken over: who deals out
    the work of a run does so again only when the first one is gone.
    """
    mark = {**own_mark(), "run": run, "fingerprint": fingerprint}
    if not _taken(path, mark):
        yield None
        return
    claim = Claim(path, mark)
    thread = threading.Thread(target=claim._keep_beating, daemon=True)
    thread.start()
    try:
        yield claim
    finally:
        claim._stop.set()
        thread.join()
        with suppress(FileNotFoundError):
            path.unlink()


def _taken(path: Path, mark: dict[str, Any]) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(3):
        try:
            with path.open("x") as file:
                file.write(json.dumps({**mark, "done": 0}))
            return True
        except FileExistsError:
            if is_alive(path, but=mark["run"]):
                return False
            gone = path.with_name(f".{path.name}.{secrets.token_hex(4)}.dead")
            with suppress(FileNotFoundError):  # somebody else was quicker
                path.rename(gone)
                gone.unlink()
    return False


def read_claim(path: Path) -> dict[str, Any] | None:
    """What a claim says; None where there is none, or it is being written."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def is_alive(path: Path, *, but: str | None = None) -> bool:
    """Whether a living process has a claim. but: a run whose claims count as dead."""
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False
    claim = read_claim(path)
    if claim is None:  # just being written, or left half written by a crash
        return age < STALE_SECONDS
    if but is not None and claim.get("run") == but:
        return False
    if claim.get("host") != socket.gethostname():
        return age < STALE_SECONDS
    try:
        process = psutil.Process(int(claim["process"]))
        same = abs(process.create_time() - float(claim["started"])) < 1
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, KeyError, ValueError, TypeError):
        return False
