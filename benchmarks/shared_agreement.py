"""Whether shots that share intensities give the same however they are solved and divided, on rendered stills.

As a program, run by torchrun or alone: refines some of a pool's shots as one process of several.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.brute_force import dense_step
from benchmarks.rows import ROOT, Found
from benchmarks.shot_pool import near
from numpy.typing import NDArray

from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.company import shared_shots
from nanobrag_torch.refinement.ensemble import Ensemble, refine_intensities
from nanobrag_torch.refinement.merged import SharedStep
from nanobrag_torch.refinement.reducers import Distributed, Files, Local, Reducer
from nanobrag_torch.refinement.shared_prior import SharedPrior
from nanobrag_torch.refinement.shared_shot import SharedShot
from nanobrag_torch.workers import Place, joined, place_of_process

GROUPS = ("P 43 21 2", "P 21 21 21")
STEPS = 3
AFTER = 10
"""Sums after the first step at which a process is killed."""


def shots_of(group: str, numbers: Sequence[int]) -> tuple[list[SharedShot], Asymmetric]:
    """Some shots of the stills near one orientation, in this order."""
    pool = near(group)
    shared = Asymmetric.of(pool.start)
    kept = [shot for number in numbers for shot in pool.kept(1, number)]
    return shared_shots(kept, shared)[0], shared


def brute_force(count: int) -> Found:
    """One step by elimination and conjugate gradients against the dense matrix of everything, in two space groups."""
    worst, said = 0.0, []
    for group in GROUPS:
        shots, shared = shots_of(group, range(count))
        ensemble = Ensemble(shots, shared, Local(), SharedPrior())
        ensemble.begin()
        equations = ensemble.equations()
        answer = ensemble.system(equations, damped=False).solve()
        steps = np.concatenate([e.undamped().follow(answer.change).numpy() for e in equations])
        dense, often = dense_step(ensemble), ensemble.multiplicity().numpy()
        seen = often > 0
        off = [
            np.abs(found - wanted).max() / np.abs(wanted).max()
            for found, wanted in (
                (answer.change.numpy()[seen], dense.intensities[seen]),
                (steps, dense.parameters),
            )
        ]
        worst = max(worst, *off)
        boxes = np.mean([len(shot.reflections) for shot in shots])
        said.append(
            f"{group}: {off[0]:.0e} of intensities, {off[1]:.0e} of parameters, {dense.unknowns} unknowns, "
            f"{boxes:.0f} boxes a shot, multiplicity {often[seen].mean():.1f}"
        )
    return Found("elimination and conjugate gradients as the dense matrix, 1e-8", "; ".join(said), worst < 1e-8, count)


def processes(count: int) -> Found:
    """Shuffled shots, 2 and 3 uneven processes, one without shots, files, and a kill, against one process."""
    worst: dict[str, float] = {}
    for group in GROUPS:
        with tempfile.TemporaryDirectory() as name:
            for way, found in _ways(Path(name), group, count).items():
                worst[way] = max(worst.get(way, 0.0), found)
    said = ", ".join(f"{way} {off:.0e}" for way, off in worst.items())
    return Found("intensities as of one process within 1e-9", said, max(worst.values()) < 1e-9, count)


def _ways(place: Path, group: str, count: int) -> dict[str, float]:
    """By how much each way differs from one process, relative."""
    shots, shared = shots_of(group, range(count))
    alone = refine_intensities(shots, shared, most_steps=STEPS)
    seen = alone.seen

    def off(intensity: NDArray[np.float64]) -> float:
        return float(np.abs(intensity / alone.intensity - 1)[seen].max())

    order = np.random.default_rng(1).permutation(count).tolist()
    mixed, _ = shots_of(group, order)
    found = {"shuffled": off(refine_intensities(mixed, shared, most_steps=STEPS).intensity)}
    third = count // 3
    splits = {
        "2 processes": [order[:third], order[third:]],
        "3 processes, one without shots": [order[: 2 * third], [], order[2 * third :]],
        "files": [order[:third], order[third:]],
        "files, one killed in step 2": [order[:third], order[third:]],
    }
    for number, (way, split) in enumerate(splits.items()):
        target = place / str(number)
        words = [str(target), group, "/".join(",".join(map(str, part)) for part in split)]
        if way.startswith("files"):
            _with_files(words, len(split), kill="killed" in way)
        else:
            _with_torch(words, len(split))
        found[way] = max(off(np.load(f"{target}_{rank}.npy")) for rank in range(len(split)))
    return found


def _environment(**more: str) -> dict[str, str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **one, **more}


def _with_torch(words: Sequence[str], size: int) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    command = [*launcher, "-m", "benchmarks.shared_agreement", *words, "torch"]
    subprocess.run(command, env=_environment(), check=True, capture_output=True)


def _with_files(words: Sequence[str], size: int, *, kill: bool) -> None:
    def begin(rank: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.shared_agreement", *words, "files"]
        return subprocess.Popen(command, env=_environment(RANK=str(rank), WORLD_SIZE=str(size)))

    running = [begin(rank) for rank in range(size)]
    if kill:
        while not list(Path(words[0]).glob("in_step_2_00001")):
            time.sleep(0.01)
        running[1].send_signal(signal.SIGKILL)
        running[1].wait()
        running[1] = begin(1)
    if any(process.wait() for process in running):
        raise RuntimeError(f"a process of {words} failed")


class Marked(Files):
    """Sums that leave a mark when a process is some sums into its second step, and wait a little there."""

    left = -1

    def total(self, part: torch.Tensor) -> torch.Tensor:
        """The sum."""
        self.left -= 1
        mark = self.folder / f"in_step_2_{self.place.rank:05d}"
        if self.left == 0 and not mark.exists():
            mark.touch()
            time.sleep(5)
        return super().total(part)


class Begun:
    """Starts the count to the mark when a step has been made; keeps nothing."""

    def __init__(self, sums: Reducer) -> None:
        self.sums = sums

    def restored(self, ensemble: Ensemble) -> list[SharedStep]:
        """Nothing."""
        return []

    def keep(self, ensemble: Ensemble, history: Sequence[SharedStep]) -> None:
        """Start the count."""
        if isinstance(self.sums, Marked) and len(history) == 1:
            self.sums.left = AFTER


def main(target: str, group: str, split: str, how: str) -> None:
    """Refine with the shots that `split` gives this process, numbers by commas and processes by slashes."""
    torch.set_num_threads(1)
    place = place_of_process()
    shots, shared = shots_of(group, [int(n) for n in split.split("/")[place.rank].split(",") if n])
    with joined(place if how == "torch" else Place()):
        reducer: Reducer = Marked(Path(target), place) if how == "files" else Distributed()
        found = refine_intensities(shots, shared, reducer=reducer, most_steps=STEPS, keeper=Begun(reducer))
    np.save(f"{target}_{place.rank}.npy", found.intensity)


if __name__ == "__main__":
    main(*sys.argv[1:])
