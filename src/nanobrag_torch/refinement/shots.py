"""Many exposures, one process each with one thread: folders that can be gone on with, and one table of all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nanobrag_torch
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import open_output
from nanobrag_torch.io.digest import content_digest
from nanobrag_torch.io.geometry import read_experiments
from nanobrag_torch.io.images import read_image
from nanobrag_torch.io.ledger import Ledger
from nanobrag_torch.memory import without_collecting
from nanobrag_torch.refinement.inputs import image_of, shots_of
from nanobrag_torch.refinement.kept import KEPT
from nanobrag_torch.refinement.outputs import FILES_OF_A_SHOT, PARAMETERS

if TYPE_CHECKING:
    from nanobrag_torch.records.experiment import ExperimentData
    from nanobrag_torch.refinement.result import StillResult

_LOG = logging.getLogger(__name__)
FINGERPRINT = "fingerprint"
FILES = ("spectrum", "mask")
"""Options that are files."""
SUMMARY, LEDGER = "summary.json", ".finished"
LONGEST_REASON = 150


@dataclass(frozen=True, kw_only=True)
class Task:
    """One exposure of a run: shot and frame number, its image where it is not the experiment's, and its folder.

    named: the image that the experiment names, if it is there.
    """

    name: str
    shot: int
    frame: int
    image: str | None
    folder: str
    named: str | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A refinement of many exposures: the files, the options of `refine_still`, and the folder."""

    experiments: str
    reflections: str
    structure_factors: str | None
    folder: str
    options: Mapping[str, Any] = field(default_factory=dict)
    figures: bool = True


def tasks_of(
    run: Run,
    *,
    images: Sequence[str] = (),
    frames: Sequence[int] | None = None,
    skip: int = 0,
    limit: int | None = None,
) -> list[Task]:
    """A task for every exposure of the experiment list: each still, and the frames of each scan.

    images: a file for each exposure, or one that holds those of all. frames: of the scans, from 0; None: all. Raises
    InputError for another number of images, or where nothing is left.
    """
    if skip < 0:
        raise InputError("--skip", skip, "0 or more")
    if limit is not None and limit < 1:
        raise InputError("--limit", limit, "1 or more")
    experiments = read_experiments(run.experiments)
    shots, places = shots_of(experiments), []
    for shot, members in enumerate(shots):
        scan = experiments[members[0]].scan
        count = 1 if scan is None else scan.frames
        wanted = range(count) if frames is None else [f for f in frames if 0 <= f < count]
        places += [(shot, frame) for frame in wanted]
    chosen = places[skip : None if limit is None else skip + limit]
    if not chosen:
        raise InputError("shots", len(places), "at least one exposure after --skip, --limit and --frames")
    if len(images) not in (0, 1, len(chosen), len(places)):
        raise InputError("--images", len(images), f"none, one, or one for each of {len(chosen)} exposures")
    if len(images) == 1 < len(chosen) and read_image(images[0]).frames == 1:
        raise InputError("--images", images[0], f"a file of several images, or one for each of {len(chosen)} exposures")
    given = list(images) * len(chosen) if len(images) == 1 else list(images)
    given = given[skip : skip + len(chosen)] if len(given) == len(places) else given
    found = []
    for place, (shot, frame) in enumerate(chosen):
        name = f"shot_{shot:05d}" if frames is None and places.count((shot, 0)) and _is_still(places, shot) else ""
        name = name or f"shot_{shot:05d}_{frame:05d}"
        image = given[place] if given else None
        named = None if image else _named_image(experiments[shots[shot][0]], run, frame)
        folder = str(Path(run.folder) / name)
        found.append(Task(name=name, shot=shot, frame=frame, image=image, folder=folder, named=named))
    return found


def _named_image(data: ExperimentData, run: Run, frame: int) -> str | None:
    try:
        return str(image_of(data, Path(run.experiments).parent, frame)[0])
    except InputError:  # pixels of the reflection table, or a line about the image, come later
        return None


def _is_still(places: Sequence[tuple[int, int]], shot: int) -> bool:
    return sum(s == shot for s, _ in places) == 1


def fingerprint(run: Run, task: Task) -> str:
    """Of everything that decides a task's result: the content of the files, the options, and the version."""
    given = [run.experiments, run.reflections, run.structure_factors, task.image or task.named]
    files = [*given, *(run.options.get(name) for name in FILES)]
    contents = [content_digest(name) if name and Path(name).is_file() else name for name in files]
    options = {k: repr(v) for k, v in sorted(run.options.items()) if k not in FILES}
    text = json.dumps([nanobrag_torch.__version__, contents, task.shot, task.frame, options])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def require_apart(run: Run, tasks: Sequence[Task]) -> None:
    """Raise InputError where a file that is read would be written, or go with what an earlier run left."""
    from nanobrag_torch.refinement.collected import FILES_OF_ALL
    from nanobrag_torch.report.shot import PAGE

    read = [run.experiments, run.reflections, run.structure_factors, *(p for t in tasks for p in (t.image, t.named))]
    chosen = (run.options.get(name) for name in ("mask", "spectrum", "groups"))
    read += [str(value) for value in chosen if isinstance(value, str | Path)]
    inputs = {Path(place).resolve() for place in read if place}
    folders = {task.folder: (LEDGER, KEPT, *FILES_OF_A_SHOT) for task in tasks}
    folders[run.folder] = (*FILES_OF_ALL, SUMMARY, PAGE, *folders.get(run.folder, ()))
    for folder, names in folders.items():
        for name in names:
            if (Path(folder) / name).resolve() in inputs:
                raise InputError("-o", run.folder, f"another folder: {name} in it is among what is read")


def check_shared(run: Run) -> None:
    """Raise InputError for options, or for files that all exposures share, that make no refinement."""
    from nanobrag_torch.crystallography.structure_factors import read_structure_factors
    from nanobrag_torch.io.amplitudes import amplitude_format
    from nanobrag_torch.io.refl import read_refl
    from nanobrag_torch.refinement.options import options_of
    from nanobrag_torch.refinement.spectra import read_spectrum

    chosen = options_of(run.options)
    if chosen.spectrum is not None:
        read_spectrum(Path(chosen.spectrum))
    if isinstance(chosen.mask, str | Path):
        read_image(chosen.mask)
    read_refl(run.reflections)
    if run.structure_factors is not None and amplitude_format(run.structure_factors).read_atoms is None:
        read_structure_factors(run.structure_factors, column=chosen.column)


def job_of(run: Run, tasks: Sequence[Task]) -> str:
    """The fingerprint of a whole run: of its tasks, and what is drawn of them."""
    text = json.dumps([run.figures, [fingerprint(run, task) for task in tasks]])
    return hashlib.sha256(text.encode()).hexdigest()


def finished(task: Task, mark: str) -> dict[str, Any] | None:
    """The record of a task whose files are all as they were written, of the fingerprint `mark`; None: to do."""
    ledger, folder = _ledger(task, mark), Path(task.folder)
    noted = set(ledger.checksums())
    if PARAMETERS not in noted or ledger.finished({name: folder / name for name in noted}) != noted:
        return None
    record: dict[str, Any] = json.loads((folder / PARAMETERS).read_text())
    return record


def _ledger(task: Task, mark: str) -> Ledger:
    return Ledger(Path(task.folder) / LEDGER, {FINGERPRINT: mark})


def _note(task: Task, mark: str) -> None:
    """Write down what was written, the record last: without it nothing counts as finished."""
    ledger, folder = _ledger(task, mark), Path(task.folder)
    ledger.begin()
    for name in (KEPT, *FILES_OF_A_SHOT):
        if (folder / name).is_file():
            ledger.note(name, folder / name)


@without_collecting()
def refine_one(run: Run, task: Task, fingerprint: str) -> dict[str, Any]:
    """Refine one exposure in this process, write its folder, and return its record.

    fingerprint: of the task, as `fingerprint` gives it. Input that cannot be refined, or on which arithmetic
    breaks down, is a record with the status `input` and the reason, so that others go on.
    """
    import torch

    from nanobrag_torch.refinement.outputs import record, write_result
    from nanobrag_torch.refinement.still import refine_still

    torch.set_num_threads(1)
    begun = time.perf_counter()
    own = {**run.options, "shot": task.shot, "frame": task.frame}
    mark = {"name": task.name, FINGERPRINT: fingerprint}
    try:
        result = refine_still(run.experiments, run.reflections, task.image, run.structure_factors, **own)
    except (InputError, ArithmeticError, LookupError, RuntimeError, ValueError) as error:  # LinAlgError is one of them
        _LOG.debug("%s: not refined", task.name, exc_info=True)
        name = "" if isinstance(error, InputError) else f"the fit broke down: {type(error).__name__}: "
        reason = name + (str(error) if not name else str(error).partition("\n")[0][:LONGEST_REASON])
        return {**mark, "status": "input", "reason": reason, "seconds_in_all": time.perf_counter() - begun}
    more = {**mark, "seconds_in_all": round(time.perf_counter() - begun, 3)}
    keep(result, task, own)
    write_result(result, task.folder, figures=run.figures, more=more)
    _note(task, fingerprint)
    return {**record(result), **more}


def keep(result: StillResult, task: Task, options: Mapping[str, Any]) -> None:
    """Leave what later steps need of a shot that has a fit, or nothing of an earlier one."""
    from nanobrag_torch.refinement.kept import kept_shot, packed

    path = Path(task.folder) / KEPT
    path.unlink(missing_ok=True)
    if result.fit is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_output(path, "-o") as file:
            file.write(packed(kept_shot(task.name, result, options)))


def refine_many(
    run: Run,
    tasks: Sequence[Task],
    *,
    workers: int = 1,
    resume: bool = False,
    report: Callable[[dict[str, Any], int], None] | None = None,
) -> list[dict[str, Any]]:
    """Records of all tasks, in order; report is called with each record and how many are done.

    resume: those that were done before are only read; what an earlier run left of the others goes first, so that
    nothing takes it for this run's. The table of all is written at the end, if any could be refined.
    """
    require_apart(run, tasks)
    Path(run.folder).mkdir(parents=True, exist_ok=True)
    marks = {task.name: fingerprint(run, task) for task in tasks}
    before = {task.name: finished(task, marks[task.name]) if resume else None for task in tasks}
    left = [task for task in tasks if before[task.name] is None]
    for task in left:
        for name in (LEDGER, KEPT, *FILES_OF_A_SHOT):
            (Path(task.folder) / name).unlink(missing_ok=True)
    records = {name: record for name, record in before.items() if record is not None}
    for record in _results(run, left, marks, workers):
        records[record["name"]] = record
        if report is not None:
            report(record, len(records))
    found = [records[task.name] for task in tasks]
    if all(record["status"] == "input" for record in found):
        (Path(run.folder) / SUMMARY).unlink(missing_ok=True)  # an earlier run's
        return found
    with open_output(Path(run.folder) / SUMMARY, "-o") as file:
        file.write(json.dumps([brief(record) for record in found], indent=1).encode() + b"\n")
    return found


def _results(run: Run, tasks: Sequence[Task], marks: Mapping[str, str], workers: int) -> Iterator[dict[str, Any]]:
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield refine_one(run, task, marks[task.name])
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin_worker) as pool:
        for future in as_completed([pool.submit(refine_one, run, task, marks[task.name]) for task in tasks]):
            yield future.result()


def _begin_worker() -> None:
    """Many processes of one thread each: pools of threads would wait for each other. Each says a line but once."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        before = len(said)
        said.add(record.getMessage())
        return len(said) > before

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("nanobrag_torch: %(message)s"))
    handler.addFilter(is_new)
    logging.getLogger("nanobrag_torch").addHandler(handler)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose run was killed would write what it has in hand beside the run that goes on, and wait for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def brief(record: Mapping[str, Any]) -> dict[str, Any]:
    """One row a shot: status, figures of the fit, every parameter with sigma and start."""
    row: dict[str, Any] = {
        name: record.get(name)
        for name in ("name", "frame", "status", "reason", "sigma_z", "steps", "shape", "reflections", "seconds_in_all")
    }
    for p in record.get("parameters", ()):
        row |= {p["name"]: p["value"], f"{p['name']}_sigma": p["sigma"], f"{p['name']}_start": p["start"]}
    return row


def exit_code(records: Iterable[Mapping[str, Any]]) -> int:
    """Of one exposure its own: 0 converged, 3 stalled, 4 failed, 2 bad input; of several 0 if any converged."""
    codes = [{"converged": 0, "stalled": 3, "failed": 4}.get(record["status"], 2) for record in records]
    return codes[0] if len(codes) == 1 else 0 if 0 in codes else max(codes)
