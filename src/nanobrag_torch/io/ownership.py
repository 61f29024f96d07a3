"""Who is at work on what: a small file a piece of work, with host, process, job and a heartbeat.

Two forms. `claimed`: pieces that several runs share (the shards of a data set); who finds a piece claimed takes
another. `owned`: an output that one run writes alone; a second run of the same job waits, one of another job is
refused. What is finished of a job says its ledger (`ledger.py`).

A claim whose process is gone is taken over. On the same host the system says whether it is gone; on another one a
heartbeat that stands still. A claim appears whole, is judged and taken over by one process at a time, and is changed or
removed only by the process that has it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.leftovers import SILENT_SECONDS, part_of
from nanobrag_torch.io.processes import is_running, this_host, this_process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BEAT_SECONDS = 2.0
STALE_SECONDS = 60.0
"""A shared piece of another host counts as given up after so long: two who make it do the work twice, no harm else."""
WAIT_SECONDS = 0.5
_LOG = logging.getLogger(__name__)
_HELD: list[Claim] = []


@dataclass
class Claim:
    """A piece of work that this process has; `done` is told to who looks at the folder."""

    path: Path
    mark: dict[str, Any]
    done: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def beat(self) -> None:
        """Write the claim anew: alive, and how far. One that somebody took over is left alone."""
        if not self.is_ours():
            self._stop.set()
            return
        beside = part_of(self.path)
        try:
            beside.write_text(json.dumps({**self.mark, "done": self.done}))
            beside.replace(self.path)
        except OSError:  # a full disk stops the work itself, with a line; a missed beat must not
            with suppress(OSError):
                beside.unlink()

    def is_ours(self) -> bool:
        """Whether the claim on the disk is this one."""
        return bool((read_claim(self.path) or {}).get("token") == self.mark["token"])

    def give_back(self) -> None:
        """Remove the claim, unless somebody took it over."""
        self._stop.set()
        if self.is_ours():
            with suppress(OSError):
                self.path.unlink()

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            self.beat()


@contextmanager
def claimed(path: Path, *, run: str, fingerprint: str) -> Iterator[Claim | None]:
    """The claim on a piece of work until the block ends; None where a living process has it.

    run: the run that this process belongs to. What another process of the same run claimed is taken over: who deals out
    the work of a run does so again only when the first one is gone.
    """
    claim = _taken(path, {"run": run, "fingerprint": fingerprint}, STALE_SECONDS, but=run)
    if claim is None:
        yield None
        return
    with _kept(claim):
        yield claim


@contextmanager
def owned(output: str | os.PathLike[str], job: str, *, flag: str = "-o") -> Iterator[bool]:
    """The right to write an output until the block ends; yields whether another run of the same job was waited for.

    output: a file, or one name for a series; the claim lies beside it, hidden. job: a fingerprint of everything that
    decides the result. Raises InputError at once where a living run of another job has the output, or this process
    already, and where the claim cannot be written.
    """
    with _owned(_lock_of(output), job, str(output), flag, SILENT_SECONDS) as waited:
        yield waited


@contextmanager
def owned_folder(folder: Path, job: str, *, rank: int | None = None, flag: str = "-o") -> Iterator[bool]:
    """The same of a folder, which is made; the claim lies in it.

    rank: of a process that works together with others of the same job; each has a claim of its own. It also raises
    where another job has the folder alone, and a process alone where another job's first process has it.
    """
    place, alone = folder / ".lock", rank is None
    first, own = folder / ".process-0.lock", folder / f".process-{rank}.lock"
    stale = SILENT_SECONDS if alone else STALE_SECONDS  # who is started again elsewhere goes on soon
    with _owned(place if alone else own, job, str(folder), flag, stale) as waited:
        for other in (first,) if alone else (place, first):
            claim = read_claim(other)
            if claim is not None and claim.get("fingerprint") != job and is_alive(other):
                raise _refusal(claim, other, str(folder), flag)
        yield waited


@contextmanager
def _owned(path: Path, job: str, output: str, flag: str, stale_seconds: float) -> Iterator[bool]:
    waited = False
    while (claim := _locked(path, job, output, flag, stale_seconds)) is None:
        waited = _wait(path, job, output, flag, waited)
    with _kept(claim):
        yield waited


def own_mark() -> dict[str, Any]:
    """What identifies this process among all hosts, whatever number it has."""
    return this_process()._asdict()


def read_claim(path: Path) -> dict[str, Any] | None:
    """What a claim says; None where there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def is_alive(path: Path, *, but: str | None = None, stale_seconds: float = STALE_SECONDS) -> bool:
    """Whether a living process has a claim. but: a run whose claims count as dead."""
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False
    claim = read_claim(path)
    if claim is None:  # damaged, or of a system that cannot make files appear whole
        return age < STALE_SECONDS
    if but is not None and claim.get("run") == but:
        return False
    if claim.get("host") != this_host():
        return age < stale_seconds
    try:
        return is_running(int(claim["process"]), str(claim["started"]))
    except (KeyError, ValueError, TypeError):
        return False


def _lock_of(output: str | os.PathLike[str]) -> Path:
    """Where the claim on an output lies, links followed."""
    final = Path(os.path.realpath(output))
    return final.with_name(f".{final.name.lstrip('.')[:200]}.lock")


def _wait(path: Path, job: str, output: str, flag: str, waited: bool) -> bool:
    """Wait a little for the same job; raise InputError for another one."""
    claim = read_claim(path)
    if claim is None:
        time.sleep(WAIT_SECONDS)
        return waited
    if claim.get("fingerprint") != job:
        raise _refusal(claim, path, output, flag)
    if this_process()._asdict().items() <= claim.items():
        raise InputError(flag, output, "an output that is not open in this process already")
    if not waited:
        _LOG.warning("%s: %s is at the same job; waiting for it (its claim is %s)", output, _who(claim), path)
    time.sleep(WAIT_SECONDS)
    return True


def _refusal(claim: dict[str, Any], path: Path, output: str, flag: str) -> InputError:
    accepted = f"an output that no other run is writing ({_who(claim)} is; its claim is {path.name})"
    return InputError(flag, output, accepted)


def _who(claim: dict[str, Any]) -> str:
    return f"process {claim.get('process')} on {(str(claim.get('host')).split() or ['?'])[0]}"


def _locked(path: Path, job: str, output: str, flag: str, stale_seconds: float) -> Claim | None:
    try:
        return _taken(path, {"fingerprint": job}, stale_seconds)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(flag, output, f"a place that can be written ({reason})") from error


def give_back_claims() -> None:
    """Give back all claims of this process, before it ends without finishing its work."""
    for claim in list(_HELD):
        if claim.mark["process"] == os.getpid():  # a fork has none of them
            claim.give_back()


@contextmanager
def _kept(claim: Claim) -> Iterator[None]:
    """Show signs of life until the block ends, then give the claim back."""
    thread = threading.Thread(target=claim._keep_beating, daemon=True)
    thread.start()
    _HELD.append(claim)
    try:
        yield
    finally:
        claim._stop.set()
        thread.join()  # a last sign of life must not come after it
        claim.give_back()
        _HELD.remove(claim)


def _taken(path: Path, words: dict[str, Any], stale_seconds: float, *, but: str | None = None) -> Claim | None:
    """Make a claim; None where a living process has it. Raises OSError where it cannot be written."""
    claim = Claim(path, {**own_mark(), **words, "token": secrets.token_hex(8)})
    path.parent.mkdir(parents=True, exist_ok=True)
    if _made(claim):
        return claim
    with _alone_in(path.parent):
        there = read_claim(path)
        if is_alive(path, but=but, stale_seconds=stale_seconds):
            return None
        _put_away(path, there)
        return claim if _made(claim) else None


def _made(claim: Claim) -> bool:
    """Let the claim appear, whole, unless there is one."""
    beside = part_of(claim.path)
    try:
        beside.write_text(json.dumps({**claim.mark, "done": 0}))
        os.link(beside, claim.path)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            beside.unlink()
    return True


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process of this host at a time, where the system has such locks; they go with the process."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # file systems of networks lock no folders: _put_away looks again
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _put_away(path: Path, dead: dict[str, Any] | None) -> None:
    """Remove a claim that was found dead; one that somebody took over meanwhile is put back."""
    aside = part_of(path)
    with suppress(FileNotFoundError):
        path.rename(aside)
        if (read_claim(aside) or {}).get("token") != (dead or {}).get("token"):
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()
