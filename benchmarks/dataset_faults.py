"""Processes that die, disks that fill, hosts that share: what becomes of a data set, with commands of their own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil
from benchmarks.rows import ROOT, Found, Rows

from nanobrag_torch.datasets.examples import example
from nanobrag_torch.datasets.store import checksum

COMMAND = [sys.executable, "-c", "import sys; from nanobrag_torch.cli.nb.app import main; sys.exit(main())", "dataset"]
IMAGES, SHARDS = 96, 12
SMALLER = {
    "images = 10000": f"images = {IMAGES}",
    "shard_images = 500": f"shard_images = {IMAGES // SHARDS}",
    "oversample = 2": "oversample = 6",  # slow enough to be caught at work
}
SECONDS = 600


@cache
def home() -> Path:
    """A folder with the recipe, for this process."""
    text = example("ml")
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    folder = Path(tempfile.mkdtemp(prefix="dataset-faults-"))
    (folder / "recipe.toml").write_text(text)
    return folder


def start(folder: Path, *words: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """The command, as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    line = [*before, *COMMAND, str(home() / "recipe.toml"), "-o", str(folder), *words]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was said."""
    _, errors = run.communicate(timeout=SECONDS)
    return run.returncode, errors


def sums(folder: Path) -> dict[str, str]:
    """Checksum of every file of the shards and of the manifest."""
    files = [*sorted((folder / "shards").iterdir()), folder / "manifest.json"]
    return {path.name: checksum(path) for path in files}


@cache
def expected() -> dict[str, str]:
    """The checksums that one worker leaves, undisturbed."""
    code, errors = finished(start(home() / "whole", "--workers", "1", "-q"))
    assert code == 0, errors
    return sums(home() / "whole")


def makers(folder: Path) -> list[int]:
    """Processes that claim a shard now."""
    found = []
    for path in (folder / ".claims").glob("0*"):
        with suppress(OSError, ValueError):
            found.append(int(json.loads(path.read_text())["process"]))
    return found


def said(folder: Path, what: str) -> Found:
    """Whether a folder has the expected bytes."""
    same = sums(folder) == expected()
    files = f"{len(expected())} files of {SHARDS} shards"
    return Found("equal SHA-256", f"{what}: {files} {'equal' if same else 'DIFFER'}", same, IMAGES)


def workers(_: int) -> Found:
    """Two and four workers against one."""
    expected()
    for count in (2, 4):
        code, errors = finished(start(home() / f"by-{count}", "--workers", str(count), "-q"))
        assert code == 0, errors
        if sums(home() / f"by-{count}") != expected():
            return said(home() / f"by-{count}", f"{count} workers")
    return said(home() / "by-4", "1, 2 and 4 workers")


def alone(_: int) -> Found:
    """Every shard by a command of its own, two at a time, the last ones first."""
    folder = home() / "alone"
    waiting = list(range(SHARDS))
    while waiting:
        runs = [start(folder, "--shard", str(waiting.pop()), "-q") for _ in range(min(2, len(waiting)))]
        assert all(finished(run)[0] == 0 for run in runs)
    return said(folder, f"`--shard` 0 to {SHARDS - 1}")


def kills(count: int) -> Found:
    """kill -9 of a worker, of the head or of all, drawn each time, at a moment that is drawn too; then --resume."""
    folder, chance = home() / "killed", random.Random(7)
    killed: list[str] = []
    while len(killed) < count:
        run = start(folder, "--workers", "2", "--resume", "-q")
        while run.poll() is None and len(killed) < count:
            victims = [process for process in makers(folder) if process != run.pid]
            if victims:
                time.sleep(chance.uniform(0, 0.7))
                killed.append(kill(run, chance.choice(victims), chance.choice(("worker", "worker", "head", "all"))))
        run.communicate(timeout=SECONDS)
        if run.returncode == 0 and len(killed) < count:  # it is done: make some of it again
            for path in sorted((folder / "shards").glob("*.json"))[::2]:
                path.unlink()
    code, errors = finished(start(folder, "--workers", "2", "--resume", "-q"))
    assert code == 0, errors
    words = ", ".join(f"{killed.count(kind)} of {kind}" for kind in ("worker", "head", "all"))
    found = said(folder, f"{count} times kill -9 ({words}), then `--resume`")
    left = [path for path in (folder / "shards").iterdir() if path.name.startswith(".")]
    return Found(found.bar, found.found, found.met and not left, count)


def kill(run: subprocess.Popen[str], worker: int, kind: str) -> str:
    """Kill what was drawn; what."""
    family = psutil.Process(run.pid).children(recursive=True) if kind == "all" else []
    victims = {"worker": [worker], "head": [run.pid], "all": [run.pid, *(p.pid for p in family)]}[kind]
    for victim in victims:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    return kind


def full_disk(_: int) -> Found:
    """On a file system that is too small: one line, no half shard; after it has grown, --resume."""
    with small_disk(home() / "disk", "3m") as disk:
        code, errors = finished(start(disk / "set", "--workers", "2", "-q"))
        lines = [line for line in errors.splitlines() if "error" in line]
        whole = len(list((disk / "set" / "shards").glob("*.json")))
        left = [p.name for p in (disk / "set" / "shards").iterdir() if p.name.startswith(".")]
        subprocess.run(["mount", "-o", "remount,size=500m", str(disk)], check=True)
        again, more = finished(start(disk / "set", "--workers", "2", "--resume", "-q"))
        assert again == 0, more
        found = said(disk / "set", f"exit code {code}, {len(lines)} line, {whole} whole shards, then `--resume`")
    return Found(found.bar, found.found, found.met and code == 2 and len(lines) == 1 and not left, IMAGES)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system in memory, for those who may mount one."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def hosts(_: int) -> Found:
    """Two network namespaces with host names of their own: a Dask scheduler, a worker in each, the command in one."""
    folder, port = home() / "hosts", 8790
    with two_hosts() as on:
        helpers = [silent(*on[0], *DASK, "scheduler", "--host", "10.77.0.1", "--port", str(port))]
        address = f"tcp://10.77.0.1:{port}"
        for place, prefix in enumerate(on):
            words = [*prefix, *DASK, "worker", address, "--nthreads", "1", "--no-dashboard", "--host"]
            helpers.append(silent(*words, f"10.77.0.{place + 1}"))
        seen: set[str] = set()
        try:
            run = start(folder, "--cluster", address, "-q", before=tuple(on[1]))
            while run.poll() is None:
                seen |= hosts_at_work(folder)
                time.sleep(0.05)
            code, errors = finished(run)
        finally:
            for helper in helpers:
                helper.kill()
                helper.wait()
    assert code == 0, errors
    found = said(folder, f"hosts {', '.join(sorted(seen))} by one Dask scheduler")
    return Found(found.bar, found.found, found.met and len(seen) == 2, IMAGES)


DASK = [sys.executable, "-m", "dask"]


def silent(*words: str) -> subprocess.Popen[bytes]:
    """A process of Dask, which says much."""
    kept = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=kept)


def hosts_at_work(folder: Path) -> set[str]:
    """Names of the hosts whose processes claim a shard now."""
    found = set()
    for path in (folder / ".claims").glob("0*"):
        with suppress(OSError, ValueError):
            found.add(str(json.loads(path.read_text())["host"]))
    return found


@contextmanager
def two_hosts() -> Iterator[list[list[str]]]:
    """Words to put before a command, so that it runs on the first or on the second of two hosts; needs root."""
    names = ("nbhosta", "nbhostb")
    try:
        for name in names:
            succeed("ip", "netns", "add", name)
        succeed("ip", "link", "add", "nbeth0", "netns", names[0], "type", "veth", "peer", "nbeth1", "netns", names[1])
        for place, name in enumerate(names):
            inside = ("ip", "-n", name)
            succeed(*inside, "addr", "add", f"10.77.0.{place + 1}/24", "dev", f"nbeth{place}")
            for device in ("lo", f"nbeth{place}"):
                succeed(*inside, "link", "set", device, "up")
        yield [[*["ip", "netns", "exec"], n, *["unshare", "--uts", "sh", "-c"], named(n), "sh"] for n in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def named(name: str) -> str:
    """A line of shell that takes a host name and then runs its words."""
    return f'hostname {name}; exec "$@"'


def succeed(*words: str) -> None:
    """Run a command, which must go well."""
    subprocess.run(words, check=True)


FAULTS: Rows = {
    "workers": ("1, 2 and 4 workers", workers),
    "alone": ("shard by shard", alone),
    "kills": ("random kill -9", kills),
    "disk": ("a full disk", full_disk),
    "hosts": ("two network namespaces", hosts),
}
