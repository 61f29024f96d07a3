"""Rates of this tree over those of another checkout: `python -m benchmarks.against OTHER [scene ...] [--rounds N]`.

A process of each tree holds the same scene, and they take turns measurement by measurement, the first of a round
changing, so that a machine's moods meet both. Where the pages of a process happen to lie makes a scene of a few
milliseconds faster or slower by up to a tenth for as long as the process lives, so both are started anew several times
and the ratios of all starts count. Ratios above one: this tree is faster. Either is measured by its own
benchmarks/scenes.py and measure.py, for these call what the tree has; what only one of them measures is left out, and
`backward` where the other has no loss, for that was of another one then.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.scenes import CASES

HERE = Path(__file__).resolve().parents[1]
KINDS = ("value", "gradients", "one_pass", "loss", "backward", "program")
SCENES = ("a", "c", "d 1", "d 10", "d 100", "e")
ROUNDS, STARTS = 15, 7
SERVER = """
import sys
from benchmarks.measure import timers_of
from benchmarks.scenes import CASES
talk, sys.stdout = sys.stdout, sys.stderr
timers = timers_of(CASES[sys.argv[1]](), None)
for timer in timers.values():
    timer.run()
print(*timers, file=talk, flush=True)
for line in sys.stdin:
    timer = timers[line.strip()]
    timer.once()
    print(timer.seconds[-1], file=talk, flush=True)
"""
"""What runs in each tree: names of measurements in, seconds out."""


class Tree:
    """A checkout, and the process in which it renders one scene."""

    def __init__(self, folder: Path, scene: str) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{folder / 'src'}:{folder}"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, scene],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.kinds = self._answer().split()

    def seconds(self, kind: str) -> float:
        """One more measurement of this kind."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a tree's process ended; its error is above")
        return line


def compare(other: Path, scene: str, rounds: int, starts: int = STARTS) -> dict[str, dict[str, Any]]:
    """By kind: medians (s) of both trees over starts, and the median over starts of each one's median ratio of rounds,
    other over this; the ratios of the starts are in ascending order."""
    runs = [_start(other, scene, rounds, reverse=number % 2 == 1) for number in range(starts)]
    found: dict[str, dict[str, Any]] = {}
    for kind in runs[0]:
        middles = {name: statistics.median(run[kind][name] for run in runs) for name in runs[0][kind]}
        found[kind] = {**middles, "ratios": sorted(run[kind]["ratio"] for run in runs)}
    return found


def _start(other: Path, scene: str, rounds: int, *, reverse: bool) -> dict[str, dict[str, float]]:
    """The same of one start of both trees; reverse: the other one is started first."""
    folders = {"this": HERE, "other": other}
    trees = {name: Tree(folders[name], scene) for name in sorted(folders, reverse=not reverse)}
    found = {}
    shared = [kind for kind in KINDS if all(kind in tree.kinds for tree in trees.values())]
    if "loss" not in shared:
        shared.remove("backward")
    for kind in shared:
        seconds: dict[str, list[float]] = {"this": [], "other": []}
        for number in range(rounds):
            for name in sorted(trees, reverse=number % 2 == 0):
                seconds[name].append(trees[name].seconds(kind))
        ratios = [theirs / ours for ours, theirs in zip(seconds["this"], seconds["other"], strict=True)]
        found[kind] = {
            "this_s": statistics.median(seconds["this"]),
            "other_s": statistics.median(seconds["other"]),
            "ratio": statistics.median(ratios),
        }
    for tree in trees.values():
        tree.close()
    return found


def main() -> None:
    """Compare, print a line a scene, and keep it where --out says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("scenes", nargs="*", metavar="scene", help=f"of {', '.join(CASES)}; default {SCENES}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {}
    for scene in arguments.scenes or SCENES:
        found[scene] = compare(arguments.other.resolve(), scene, arguments.rounds, arguments.starts)
        words = [
            f"{kind} {row['ratio']:.3f} ({row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f})"
            for kind, row in found[scene].items()
        ]
        print(f"{scene:8s}" + "  ".join(words), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
