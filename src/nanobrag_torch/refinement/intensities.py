"""From a folder of refined shots to merged intensities: one process of however many."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.amplitudes import read_reflections
from nanobrag_torch.io.ownership import is_alive, read_claim
from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.company import STATES, SUMS, StateFiles, everyones, fingerprint, own_shots, shared_shots
from nanobrag_torch.refinement.ensemble import merge_intensities, refine_intensities
from nanobrag_torch.refinement.merged import Merged
from nanobrag_torch.refinement.reducers import Distributed, Files, Local, Reducer
from nanobrag_torch.refinement.shared_prior import SharedPrior
from nanobrag_torch.workers import Place


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of the shots of a folder. held: shots stay as they are (a merge)."""

    folder: Path
    structure_factors: Path
    output: Path
    column: str | None = None
    anomalous: bool = False
    held: bool = False
    prior: SharedPrior = SharedPrior()
    most_steps: int = 12

    def job(self) -> str:
        """A fingerprint of what decides the result. Raises InputError for a folder or a file that is not there."""
        return fingerprint(self.folder, replace(self, output=Path()), self.structure_factors)


def run(request: Request, place: Place, reducer: Reducer, say: Callable[[str], None] = print) -> Merged:
    """Refine or merge as one process of `place.size`; the first has the rows of all shots, the others no rows."""
    mark = request.job()
    request.output.mkdir(parents=True, exist_ok=True)
    shared = Asymmetric.of(
        read_reflections(request.structure_factors, column=request.column), anomalous=request.anomalous
    )
    shots, left_out = shared_shots(own_shots(request.folder, place), shared)
    if place.rank == 0:
        say(f"{len(shots)} shots of process 1 of {place.size}, {len(left_out)} left out; {len(shared)} intensities")
    if request.held:
        found = merge_intensities(shots, shared, reducer=reducer, prior=request.prior)
    else:
        keeper = None if isinstance(reducer, Files) else StateFiles(request.output / STATES, place, mark)
        found = refine_intensities(
            shots, shared, reducer=reducer, prior=request.prior, most_steps=request.most_steps, keeper=keeper
        )
    return replace(found, shots=tuple(everyones([*found.shots, *left_out], request.output, place, reducer)))


def reducer_for(how: str, output: Path, job: str, place: Place) -> Reducer:
    """The reducer that a command asks for: auto, torch or files. Raises InputError for another word.

    job: a fingerprint of what decides the result; sums through files are kept apart by it, that none is taken for
    another, and those of jobs that died are removed. This process has claimed the output.
    """
    if how not in ("auto", "torch", "files"):
        raise InputError("--reducer", how, "auto, torch, files")
    if how == "files":
        if place.rank == 0:
            _forget_others(output, job)
        return Files(output / SUMS / f"{job}-{place.size}", place)
    if place.size == 1:
        return Local()
    if "MASTER_ADDR" not in os.environ:
        accepted = "torch under torchrun, or files where processes cannot reach each other (a folder that all see)"
        raise InputError("--reducer", how, accepted)
    return Distributed()


def _forget_others(output: Path, job: str) -> None:
    """Remove the sums of other jobs, whose processes are all gone. The first process has the folder meanwhile."""
    for claim in output.glob(".*.lock"):
        if is_alive(claim) and (read_claim(claim) or {}).get("fingerprint") != job:
            return
    for old in (output / SUMS).glob("*-*"):
        if not old.name.startswith(f"{job}-"):
            shutil.rmtree(old, ignore_errors=True)
