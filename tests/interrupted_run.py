"""Refines shared intensities under torchrun; the last process is killed once, within the second step.

A mark on disk says that it was. Started again, the first process comes a while after the last one, which meanwhile
could only find the addresses of processes that are no more.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from nanobrag_torch.refinement.ensemble import Ensemble
from nanobrag_torch.refinement.intensities import Request, run
from nanobrag_torch.refinement.reducers import Distributed
from nanobrag_torch.workers import joined, place_of_process

SUMS_OF_THE_STEP = 10
LATE_S = 1.0


class Killed(Distributed):
    """Sums of a process that is killed some sums after it has kept its first step, unless one was before."""

    def __init__(self, states, own, mark):
        super().__init__()
        self.first, self.mark, self.left = states / f"step_001_{own:05d}.npz", mark, SUMS_OF_THE_STEP

    def total(self, part):
        self.left -= self.first.exists()
        if not self.left and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().total(part)


def main(folder):
    """The folder holds out/ and start.mtz; results go to torchrun/."""
    place = place_of_process()
    begun = []
    begin = Ensemble.begin

    def counted(self):
        begun.append(1)
        begin(self)

    setattr(Ensemble, "begin", counted)  # noqa: B010  (a method)
    asked = Request(folder=folder / "out", structure_factors=folder / "start.mtz", output=folder / "torchrun")
    doomed = Killed(asked.output / "states", place.rank, folder / "killed")
    if doomed.mark.exists() and not place.rank:
        time.sleep(LATE_S)
    with joined(place):
        found = run(asked, place, doomed if place.rank == place.size - 1 else Distributed())
    text = f"{found.status} {len(found.history)} {len(begun)}"
    (folder / f"torchrun_{place.rank}.txt").write_text(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
