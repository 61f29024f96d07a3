"""Counts what becomes of damaged files: `make fuzz COUNT=20000 FORMAT=mtz`.

The files are read in a process that is watched: one that dies, or takes longer than a reader may, is counted, and
reading goes on behind the file that did it. Every file has a number that makes it again (`--first N --count 1`).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from fuzz_worker import KINDS, damaged

CPU_SECONDS = 10.0
"""Of one file, the process that reads it and its child together."""
WALL_SECONDS = 120.0
"""For readers that wait instead; a machine under load is slow."""
FAULTS = ("traceback", "crash", "hang", "memory", "not finite")
OUTCOMES = ("accepted", "refused", *FAULTS)


@dataclass
class Result:
    """What became of the files of one kind."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    peak_kb: int = 0
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, index: int, outcome: str, detail: str) -> None:
        """Note one file."""
        self.counts[outcome] += 1
        if outcome in FAULTS:
            self.faults.append((index, outcome, detail))


WORKER = Path(__file__).with_name("fuzz_worker.py")
CHUNK = 1000
STAGES = (1000, 5000)
"""Files that every format gets before one gets more."""


def fuzz(kind: str, count: int, first: int = 0, worker: Path = WORKER) -> Result:
    """Read `count` damaged files of a kind, from number `first` on."""
    result, began, after = Result(kind), time.monotonic(), first + count
    while first < after:
        done, cause = _watched(result, first, after - first, worker)
        first += done
        if cause:
            result.count(first, cause, "")
            first += 1
    result.seconds = time.monotonic() - began
    return result


def _watched(result: Result, first: int, count: int, worker: Path) -> tuple[int, str]:
    """How many files one process read, and what ended it before its time, if anything did."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(worker), result.kind, str(first), str(count)]
    done = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        while _line_comes(process):
            line = process.stdout.readline().decode("utf-8", "replace").rstrip("\n")
            if not line:
                return done, "crash" if process.wait() != 0 or done < count else ""
            index, peak, outcome, detail = line.split("\t", 3)
            assert int(index) == first + done, line
            result.count(int(index), outcome, detail)
            result.peak_kb = max(result.peak_kb, int(peak))
            done += 1
        for each in (*psutil.Process(process.pid).children(recursive=True), process):
            each.kill()
    return done, "hang"


def _line_comes(process: subprocess.Popen[bytes]) -> bool:
    """Whether a line (or the end) comes before the process has taken too long over it."""
    before, began = _cpu_seconds(process.pid), time.monotonic()
    assert process.stdout is not None
    while not select.select([process.stdout.fileno()], [], [], 1.0)[0]:
        if _cpu_seconds(process.pid) - before > CPU_SECONDS or time.monotonic() - began > WALL_SECONDS:
            return False
    return True


def _cpu_seconds(pid: int) -> float:
    try:
        process = psutil.Process(pid)
        times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0.0
    return sum(each.user + each.system for each in times)


def table(results: list[Result]) -> str:
    """Counts of each kind, a line each."""
    head = f"{'format':8}{'files':>8}" + "".join(f"{name:>12}" for name in OUTCOMES) + f"{'peak MB':>9}{'s':>7}"
    rows = [
        f"{each.kind:8}{each.counts.total():8}"
        + "".join(f"{each.counts[name]:12}" for name in OUTCOMES)
        + f"{each.peak_kb // 1024:9}{each.seconds:7.0f}"
        for each in results
    ]
    return "\n".join([head, *rows])


def campaign(kinds: Sequence[str], count: int, path: Path, keep: Path | None = None) -> None:
    """Fuzz `count` files of each kind in turns; a line of JSON is added to a file for each chunk that it lacks."""
    done = {(each["format"], each["first"], each["files"]) for each in recorded(path)}
    for stage in sorted({min(each, count) for each in (*STAGES, count)}):
        for kind in kinds:
            for first in range(0, stage, CHUNK):
                files = min(CHUNK, count - first)
                if (kind, first, files) not in done:
                    done.add((kind, first, files))
                    _record(path, fuzz(kind, files, first), first, keep)


def _record(path: Path, result: Result, first: int, keep: Path | None) -> None:
    tell(result, keep)
    entry = {
        "format": result.kind, "first": first, "files": result.counts.total(), "version": _version(),
        **{name: result.counts[name] for name in OUTCOMES},
        "peak_mb": result.peak_kb // 1024, "seconds": round(result.seconds, 1), "faults": result.faults,
    }  # fmt: skip
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def _version() -> str:
    """The commit of this tree, with a plus if it was changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit, changed = (
        subprocess.run([*git, *words], capture_output=True, text=True, check=False).stdout.strip()
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    return commit + ("+" if changed else "")


def recorded(path: Path) -> list[dict[str, Any]]:
    """The chunks that a campaign has written down."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def page(entries: Sequence[dict[str, Any]]) -> str:
    """A table in Markdown of the chunks of a campaign, a line a format; equal chunks count once."""
    lines = [f"| format | files | {' | '.join(OUTCOMES)} | peak MB |", "|---|" + "---:|" * (len(OUTCOMES) + 2)]
    for kind in KINDS:
        own = {each["first"]: each for each in entries if each["format"] == kind}.values()
        sums = [sum(each[name] for each in own) for name in ("files", *OUTCOMES)]
        lines.append(f"| {' | '.join(map(str, (kind, *sums, max(each['peak_mb'] for each in own))))} |")
    return "\n".join(lines) + "\n"


def tell(result: Result, keep: Path | None) -> None:
    """Print what went wrong, and keep the files that did."""
    for index, outcome, detail in result.faults:
        print(f"{result.kind} {index}: {outcome} {detail}", flush=True)
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{result.kind}-{index}").write_bytes(damaged(result.kind, index))
    print(table([result]).splitlines()[-1], flush=True)


def main() -> int:
    """Fuzz the kinds asked for; 1 if anything but accepting and refusing happened."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="files a format")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--format", choices=KINDS, action="append", help="all unless given; may be repeated")
    parser.add_argument("--keep", type=Path, help="folder for the files that were read neither well nor refused")
    parser.add_argument("--results", type=Path, help="file that gets a line a chunk; chunks in it are not repeated")
    options = parser.parse_args()
    kinds = options.format or KINDS
    if options.results:
        campaign(kinds, options.count, options.results, options.keep)
        return 1 if any(each["faults"] for each in recorded(options.results)) else 0
    results = []
    for kind in kinds:
        results.append(fuzz(kind, options.count, options.first))
        tell(results[-1], options.keep)
    print(table(results))
    return 1 if any(each.faults for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())
