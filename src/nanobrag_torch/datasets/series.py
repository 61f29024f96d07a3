"""A rotation series to one NXmx file or to numbered files, packed by a pool of threads, and resumable.

    with open_series("lyso_####.cbf", experiment, frames=900, resume=True) as series:
        for index in series.missing():
            series.write(index, render(index))

Every frame is on the disk, whole, as soon as it is packed: as its numbered file, or in a folder beside the NXmx file
until the last one lets the file be put together. A hidden ledger beside the output (`io/ledger.py`) says what is
finished, so that a series that was cut off goes on where it stood. Who writes owns the output (`io/ownership.py`): a
second run of the same series waits for the first and goes on from there, one of another series is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import open_output, require_writable
from nanobrag_torch.io.fileformat import FileFormat, FrameStore
from nanobrag_torch.io.geometry import refuse_losses
from nanobrag_torch.io.images import frame_experiment, output_format, write_image
from nanobrag_torch.io.ingredients import Ingredients, ingredients, require_same
from nanobrag_torch.io.ledger import Ledger, fingerprint
from nanobrag_torch.io.ownership import owned
from nanobrag_torch.records.experiment import ExperimentData

WORKERS = 2
WAITING = 2  # frames a worker may have before `write` waits
SECONDS_BETWEEN = 0.1  # two signs of progress
WHOLE = "file"  # the piece of a ledger that is the file put together of all frames

_HASHES = re.compile(r"#+")
_PERCENT = re.compile(r"%0?(\d*)d")


class Store(Protocol):
    """Where the frames of a series go."""

    ledger: Ledger
    """What is finished."""

    def is_there(self) -> bool:
        """Whether anything of an earlier series is there."""

    def begin(self) -> None:
        """Forget what is there of an earlier series."""

    def complete(self) -> set[int]:
        """Frames (from 0) that are there, whole, and of this series."""

    def put(self, index: int, image: NDArray[Any]) -> None:
        """Pack and write one frame; called from several threads."""

    def finish(self) -> None:
        """All frames are there: leave the final files only."""


class SeriesWriter:
    """Writes frames in any order. Leave its block, and all frames are on the disk; see `open_series`."""

    def __init__(
        self, store: Store, frames: int, dtype: DTypeLike, workers: int, progress: bool, ownership: ExitStack
    ) -> None:
        self.frames, self.dtype, self._store, self._ownership = frames, np.dtype(dtype), store, ownership
        self._done = store.complete()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="frames")
        self._room = threading.Semaphore(workers * WAITING)
        self._pending: list[Future[None]] = []
        self._bar = _Bar(frames, len(self._done)) if progress else None

    def missing(self) -> Iterator[int]:
        """The frames (from 0) that are still to be written, in order."""
        return (index for index in range(self.frames) if index not in self._done)

    def write(self, index: int, image: NDArray[Any]) -> None:
        """Hand over frame `index` (from 0), of the shape of the detector; it must not change afterwards.

        Waits while the pool is behind. Raises InputError for a wrong frame, and what an earlier frame ran into.
        """
        if not 0 <= index < self.frames:
            raise InputError("index", index, f"a frame from 0 to {self.frames - 1}")
        if image.dtype != self.dtype:
            raise InputError("image", str(image.dtype), f"pixels of the series' type, {self.dtype}")
        self._raise_failures()
        self._room.acquire()
        self._pending.append(self._pool.submit(self._put, index, image))

    def __enter__(self) -> SeriesWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._ownership:
            self._pool.shutdown(wait=True)
            if self._bar is not None:
                self._bar.stop()
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        self._raise_failures()
        absent = list(self.missing())
        if absent:
            raise InputError("frames", f"{len(absent)} not written, such as {absent[0]}", "every frame of the series")
        self._store.finish()

    def _put(self, index: int, image: NDArray[Any]) -> None:
        try:
            self._store.put(index, image)
            self._done.add(index)
            if self._bar is not None:
                self._bar.show(len(self._done))
        finally:
            self._room.release()

    def _raise_failures(self) -> None:
        """Raise what a finished frame ran into, and forget those that went well."""
        finished = [future for future in self._pending if future.done()]
        self._pending = [future for future in self._pending if not future.done()]
        for future in finished:
            future.result()


def open_series(
    path: str | os.PathLike[str],
    experiment: ExperimentData,
    frames: int,
    *,
    dtype: DTypeLike = np.uint16,
    resume: bool = False,
    workers: int = WORKERS,
    progress: bool = False,
    allow_loss: bool = False,
    made_of: Mapping[str, object] | None = None,
) -> SeriesWriter:
    """A writer for a series: one file for .nxs and .h5, otherwise a template with #### or %04d for the image number.

    `made_of` is everything that decides the pixels, by name: options, and checksums of the files that were read. With
    `resume` frames that are there already, whole and of this very series, are left alone (`missing`); without it
    everything is written anew. Raises InputError for a name without a place for numbers, a scan of another length,
    what the format would lose, and for a series to resume that is made of something else, which is named.
    """
    if experiment.scan is not None and experiment.scan.frames != frames:
        raise InputError("frames", frames, f"the {experiment.scan.frames} images of the scan")
    found, pixels = output_format(path), np.dtype(dtype)
    if found.holds:
        refuse_losses(experiment if found.frames else frame_experiment(experiment, 0), found, allow_loss)
    whole = ingredients(experiment, frames, pixels, made_of or {})
    store: Store
    if found.frames is not None:
        store = _OneFileStore(Path(path), found.frames, experiment, frames, pixels, whole)
    else:
        store = _NumberedStore(str(path), found, experiment, frames, pixels, allow_loss, whole)
    with ExitStack() as ownership:
        joined = ownership.enter_context(owned(store.ledger.path, fingerprint(whole), flag="output"))
        _go_on_or_begin(store, resume, joined, str(path))
        return SeriesWriter(store, frames, dtype, workers, progress, ownership.pop_all())


def _go_on_or_begin(store: Store, resume: bool, joined: bool, name: str) -> None:
    """joined: another run of the same series was waited for; what it has finished is finished."""
    there = store.ledger.recorded()
    if joined and there == store.ledger.job:
        return
    if resume and store.is_there():
        require_same(there, store.ledger.job, name)
    else:
        store.begin()


def numbered(template: str, number: int) -> str:
    """The name of one image: #### or %04d replaced. Raises InputError if there is no place for the number."""
    hashes, percent = list(_HASHES.finditer(template)), list(_PERCENT.finditer(template))
    if len(hashes) + len(percent) == 0:
        raise InputError("output", template, "a name with #### or %04d for the number of the image")
    place = (hashes or percent)[-1]
    width = len(place[0]) if hashes else int(place[1] or 0)
    return f"{template[: place.start()]}{number:0{width}d}{template[place.end() :]}"


class _NumberedStore:
    """One file a frame."""

    def __init__(
        self,
        template: str,
        found: FileFormat,
        experiment: ExperimentData,
        frames: int,
        dtype: np.dtype[Any],
        allow_loss: bool,
        whole: Ingredients,
    ) -> None:
        first = 1 if experiment.scan is None else experiment.scan.image_range[0]
        self.paths = [Path(numbered(template, first + index)) for index in range(frames)]
        self.experiment = experiment
        wide = [kind for kind in found.pixel_types if np.dtype(kind).itemsize >= dtype.itemsize]
        self.options: dict[str, Any] = {"pixel_type": wide[0] if wide else None, "allow_loss": allow_loss}
        self.ledger = Ledger(_beside(_one_name(template)), whole)
        self._written: dict[Path, tuple[int, int]] = {}

    def is_there(self) -> bool:
        return self.ledger.path.exists() or any(path.exists() for path in self.paths)

    def begin(self) -> None:
        require_writable(self.paths[0])
        self.ledger.begin()

    def complete(self) -> set[int]:
        return set(map(int, self.ledger.finished({str(i): path for i, path in enumerate(self.paths)})))

    def put(self, index: int, image: NDArray[Any]) -> None:
        path = self.paths[index]
        write_image(path, image, self.experiment, index=index, **self.options)
        self._written[path] = _version(path)
        self.ledger.note(str(index), path)

    def finish(self) -> None:
        """Every file has its name already; none may have been replaced meanwhile by who knows of no ownership."""
        for path, version in self._written.items():
            if not path.exists() or _version(path) != version:
                raise InputError("output", str(path), "a file that nothing else writes during the run (--resume)")


class _OneFileStore:
    """Packed frames in a folder beside the file, which is put together from them at the end."""

    def __init__(
        self,
        path: Path,
        how: FrameStore,
        experiment: ExperimentData,
        frames: int,
        dtype: np.dtype[Any],
        whole: Ingredients,
    ) -> None:
        experiment.need("beam", "detector", where="a series in one file")
        self.path, self.how, self.experiment, self.frames, self.dtype = path, how, experiment, frames, dtype
        place = Path(os.path.realpath(path))
        self.folder = place.with_name(f".{place.name}.frames")
        self.ledger = Ledger(_beside(place), whole)
        require_writable(path)

    def is_there(self) -> bool:
        return self.ledger.path.exists() or self.path.is_file()

    def begin(self) -> None:
        self.ledger.begin()
        shutil.rmtree(self.folder, ignore_errors=True)

    def complete(self) -> set[int]:
        if self._is_finished():
            return set(range(self.frames))
        return set(map(int, self.ledger.finished({str(i): self._chunk(i) for i in range(self.frames)})))

    def put(self, index: int, image: NDArray[Any]) -> None:
        detector = self.experiment.detector
        if detector is None:
            raise InputError("detector", None, "an experiment with a detector")
        self.folder.mkdir(exist_ok=True)
        with open_output(self._chunk(index)) as file:
            file.write(self.how.pack(np.ascontiguousarray(detector.stack(image))))
        self.ledger.note(str(index), self._chunk(index))

    def finish(self) -> None:
        if not self._is_finished():
            packed, mark = self._packed(), json.dumps(self.ledger.job)
            self.how.assemble(self.path, self.experiment, self.dtype, self.frames, packed, mark)
            self.ledger.note(WHOLE, self.path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _packed(self) -> Iterator[bytes]:
        """The packed frames in order. Raises InputError for one that is not what was written."""
        noted = self.ledger.checksums()
        for index in range(self.frames):
            packed = self._chunk(index).read_bytes()
            if hashlib.sha256(packed).hexdigest() != noted.get(str(index)):
                raise InputError("frames", str(self._chunk(index)), "the frame as it was written; --resume makes it")
            yield packed

    def _chunk(self, index: int) -> Path:
        return self.folder / f"{index:06d}"

    def _is_finished(self) -> bool:
        return bool(self.ledger.finished({WHOLE: self.path}))


def _beside(output: Path) -> Path:
    """Where the ledger of an output is."""
    return output.with_name(f".{output.name}.series")


def _one_name(template: str) -> Path:
    """A template in one form, links followed: ## and %02d name the same files, which have one ledger and one owner."""
    place = Path(template)
    found = list(_HASHES.finditer(place.name)) or list(_PERCENT.finditer(place.name))
    if not found:  # the number is in the name of a folder
        return place
    width = len(found[-1][0]) if "#" in found[-1][0] else int(found[-1][1] or 1)
    name = f"{place.name[: found[-1].start()]}{'#' * width}{place.name[found[-1].end() :]}"
    return Path(os.path.realpath(place.parent)) / name


def _version(path: Path) -> tuple[int, int]:
    """What changes when a file is replaced or written again."""
    state = path.stat()
    return state.st_ino, state.st_mtime_ns


class _Bar:
    """One bar of progress on standard error, told a few times a second: telling it takes as long as a small frame."""

    def __init__(self, frames: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task, self._done = self._progress.add_task("frames", total=frames, completed=done), done
        self._progress.start()
        self._told_s = time.monotonic()

    def show(self, done: int) -> None:
        self._done = max(done, self._done)
        if time.monotonic() - self._told_s >= SECONDS_BETWEEN:
            self._told_s = time.monotonic()
            self._progress.update(self._task, completed=self._done)

    def stop(self) -> None:
        self._progress.update(self._task, completed=self._done)
        self._progress.stop()
