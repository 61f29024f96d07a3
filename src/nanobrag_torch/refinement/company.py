"""The shots of a folder that are refined together: who has which, their state from step to step, what is left behind.

Shot number n of the folder belongs to process n modulo the number of processes, for ever. Each gathers its own into a
shard; after every step each keeps its state, so that whatever is started again goes on from the last step of all.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nanobrag_torch
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import open_output
from nanobrag_torch.io.digest import file_digest
from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.ensemble import Ensemble
from nanobrag_torch.refinement.kept import KEPT, KeptShot, fingerprint_of, gathered
from nanobrag_torch.refinement.merged import SharedStep
from nanobrag_torch.refinement.problem import State
from nanobrag_torch.refinement.reducers import Reducer
from nanobrag_torch.refinement.shared_shot import SharedShot
from nanobrag_torch.refinement.verdict import CONVERGED
from nanobrag_torch.workers import Place

Row = dict[str, Any]
MOST = 1000  # steps
SHARDS, STATES, SUMS = "shards", "states", "sums"


def kept_paths(folder: Path) -> list[Path]:
    """The kept shots of a folder that `nb refine` has left, in the order of their names. Raises InputError for none."""
    found = sorted(folder.glob(f"*/{KEPT}"))
    if not found:
        raise InputError("folder", str(folder), f"the output of nb refine: shots with {KEPT} in their folders")
    return found


def own_shots(folder: Path, place: Place) -> list[KeptShot]:
    """The kept shots of this process, from its shard."""
    paths = kept_paths(folder)
    own = [paths[number] for number in place.share(len(paths))]
    return gathered(own, folder / SHARDS / f"shard_{place.rank:05d}_of_{place.size:05d}.zip") if own else []


def shared_shots(kept: Sequence[KeptShot], shared: Asymmetric) -> tuple[list[SharedShot], list[Row]]:
    """Shots that share intensities, and rows of those that are left out before anything is tried.

    A shot that was no success alone is left out, as is one of which no reflection is in the list.
    """
    factors = shared.reflections()
    found, left_out = [], []
    for shot in kept:
        if shot.status != CONVERGED:
            left_out.append(_left_out(shot, f"{shot.status} alone"))
            continue
        known, near = (shared.knows(spots.hkl) for spots in (shot.boxes.spots, shot.neighbours))
        if not known.any():
            left_out.append(_left_out(shot, "none of its reflections is in the list of intensities"))
            continue
        problem, slots, state = shot.only(known, near).problem(factors)
        found.append(SharedShot(shot.name, problem, slots, state, shared))
    return found, left_out


def _left_out(shot: KeptShot, reason: str) -> Row:
    return {"name": shot.name, "sigma_z": None, "sigma_z_alone": shot.sigma_z, "weight": 0.0, "reflections": 0,
            "from_best_sigmas": None, "reason": reason}  # fmt: skip


def fingerprint(folder: Path, given: object, *files: Path) -> str:
    """Of a run: the shots, the version, everything that was asked for, contents of files. The same in every process."""
    contents = [file_digest(file) for file in files]
    text = json.dumps([fingerprint_of(kept_paths(folder)), nanobrag_torch.__version__, repr(given), contents])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StateFiles:
    """States of the processes of one run in a folder: step n of process r is `step_n_r.npz`; two steps are kept."""

    folder: Path
    place: Place
    mark: str

    def restored(self, ensemble: Ensemble) -> list[SharedStep]:
        """Put the ensemble where the last step that all processes kept had left it; the steps until then, or none."""
        here = [step for step in self._steps() if self._whole(step)]
        last = int(
            ensemble.total(torch.nn.functional.one_hot(torch.tensor(here[-1] if here else 0), 1000)).nonzero()[0]
        )
        if last not in here:
            return []
        text, arrays = _read(self._file(last, self.place.rank))
        known = {name: row for rank in range(self.place.size) for name, row in _shots(self._file(last, rank)).items()}
        ensemble.x = torch.from_numpy(arrays["x"])
        for shot in ensemble.shots:
            raw, linear, row = known[shot.name]
            state = State(raw, linear, shot.problem.render(raw), row.pop("objective"))
            shot.state = state
            for name, value in row.items():
                setattr(shot, name, value)
        return [SharedStep(**step) for step in text["history"]]

    def keep(self, ensemble: Ensemble, history: Sequence[SharedStep]) -> None:
        """Keep this state, and forget the one before the last."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {"name": s.name, "damping": s.damping, "refused": s.refused, "weight": s.weight, "alone": s.alone,
             "reason": s.reason, "final": s.final, "objective": s.state.objective}
            for s in ensemble.shots
        ]  # fmt: skip
        text = {"mark": self.mark, "history": [asdict(step) for step in history], "shots": rows}
        arrays = {"text": np.frombuffer(json.dumps(text).encode(), np.uint8), "x": ensemble.x.numpy()}
        for place, shot in enumerate(ensemble.shots):
            arrays |= {f"raw_{place}": shot.state.raw.numpy(), f"linear_{place}": shot.state.linear.numpy()}
        with open_output(self._file(len(history), self.place.rank), "state") as file:
            np.savez(file, allow_pickle=False, **arrays)
        self._file(len(history) - 2, self.place.rank).unlink(missing_ok=True)

    def _steps(self) -> list[int]:
        own = self.folder.glob(f"step_*_{self.place.rank:05d}.npz")
        return sorted(int(path.name.split("_")[1]) for path in own)

    def _whole(self, step: int) -> bool:
        """Whether every process kept this step of this very run."""
        files = [self._file(step, rank) for rank in range(self.place.size)]
        return all(file.is_file() and _read(file)[0]["mark"] == self.mark for file in files)

    def _file(self, step: int, rank: int) -> Path:
        return self.folder / f"step_{step:03d}_{rank:05d}.npz"


def everyones(rows: Sequence[Row], folder: Path, place: Place, reducer: Reducer) -> list[Row]:
    """The rows of all processes in the order of their names, through files; of the first process, others get none."""
    with open_output(folder / f"rows_{place.rank:05d}.json", "rows") as file:
        file.write(json.dumps(rows).encode())
    reducer.total(torch.zeros(1, dtype=torch.float64))  # all have written
    if place.rank:
        return []
    parts = [folder / f"rows_{rank:05d}.json" for rank in range(place.size)]
    found = [row for part in parts for row in json.loads(part.read_text())]
    for part in parts:
        part.unlink()
    return sorted(found, key=lambda row: str(row["name"]))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(arrays.pop("text").tobytes()), arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            str(path), str(error), "a state that this program kept; remove the folder to begin anew"
        ) from error


def _shots(path: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor, dict[str, Any]]]:
    text, arrays = _read(path)
    return {
        row["name"]: (torch.from_numpy(arrays[f"raw_{i}"]), torch.from_numpy(arrays[f"linear_{i}"]), row)
        for i, row in enumerate(text["shots"])
    }
