"""A rotation series to one NXmx file or to numbered files, packed by a pool of threads, and resumable.

    with open_series("lyso_####.cbf", experiment, frames=900, resume=True) as series:
        for index in series.missing():
            series.write(index, render(index))

Every frame is on the disk, whole, as soon as it is packed: as its numbered file, or in a folder beside the NXmx file
until the last one lets the file be put together. A series that was cut off goes on where it stood.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nanobrag_torch.datasets.ingredients import Ingredients, ingredients, require_same
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import open_output, require_writable
from nanobrag_torch.io.digest import file_digest
from nanobrag_torch.io.fileformat import FileFormat, FrameStore
from nanobrag_torch.io.geometry import refuse_losses
from nanobrag_torch.io.images import frame_experiment, output_format, write_image
from nanobrag_torch.records.experiment import ExperimentData

WORKERS = 2
WAITING = 2  # frames a worker may have before `write` waits

_HASHES = re.compile(r"#+")
_PERCENT = re.compile(r"%0?(\d*)d")


class Store(Protocol):
    """Where the frames of a series go."""

    def complete(self) -> set[int]:
        """Frames (from 0) that are there, whole, and of this series."""

    def put(self, index: int, image: NDArray[Any]) -> None:
        """Pack and write one frame; called from several threads."""

    def finish(self) -> None:
        """All frames are there: leave the final files only."""


class SeriesWriter:
    """Writes frames in any order. Leave its block, and all frames are on the disk; see `open_series`."""

    def __init__(self, store: Store, frames: int, dtype: DTypeLike, resume: bool, workers: int, progress: bool) -> None:
        self.frames, self.dtype, self._store = frames, np.dtype(dtype), store
        self._done = store.complete() if resume else set()
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
        self._pool.shutdown(wait=True)
        if self._bar is not None:
            self._bar.stop()
        if kind is not None:
            return
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
                self._bar.advance()
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
        store = _OneFileStore(Path(path), found.frames, experiment, frames, pixels, whole, resume)
    else:
        store = _NumberedStore(str(path), found, experiment, frames, pixels, allow_loss, whole, resume)
    return SeriesWriter(store, frames, dtype, resume, workers, progress)


def numbered(template: str, number: int) -> str:
    """The name of one image: #### or %04d replaced. Raises InputError if there is no place for the number."""
    hashes, percent = list(_HASHES.finditer(template)), list(_PERCENT.finditer(template))
    if len(hashes) + len(percent) == 0:
        raise InputError("output", template, "a name with #### or %04d for the number of the image")
    place = (hashes or percent)[-1]
    width = len(place[0]) if hashes else int(place[1] or 0)
    return f"{template[: place.start()]}{number:0{width}d}{template[place.end() :]}"


class _NumberedStore:
    """One file a frame, and a hidden journal beside them: what they are made of, and the checksum of each."""

    def __init__(
        self,
        template: str,
        found: FileFormat,
        experiment: ExperimentData,
        frames: int,
        dtype: np.dtype[Any],
        allow_loss: bool,
        whole: Ingredients,
        resume: bool,
    ) -> None:
        first = 1 if experiment.scan is None else experiment.scan.image_range[0]
        self.paths = [Path(numbered(template, first + index)) for index in range(frames)]
        self.experiment = experiment
        wide = [kind for kind in found.pixel_types if np.dtype(kind).itemsize >= dtype.itemsize]
        self.options: dict[str, Any] = {"pixel_type": wide[0] if wide else None, "allow_loss": allow_loss}
        self.journal = Path(template).with_name(f".{Path(template).name}.series")
        self._lock = threading.Lock()
        if resume and (self.journal.exists() or any(path.exists() for path in self.paths)):
            require_same(_first_line(self.journal), whole, template)
        else:
            require_writable(self.paths[0])
            with open_output(self.journal) as file:
                file.write(json.dumps(whole).encode() + b"\n")

    def complete(self) -> set[int]:
        """Frames whose files are what the journal says was written."""
        lines = (line.split() for line in self.journal.read_text().splitlines()[1:])
        written = {int(words[0]): words[1] for words in lines if len(words) == 2}
        return {
            index
            for index, path in enumerate(self.paths)
            if index in written and path.is_file() and file_digest(path) == written[index]
        }

    def put(self, index: int, image: NDArray[Any]) -> None:
        write_image(self.paths[index], image, self.experiment, index=index, **self.options)
        line = f"{index} {file_digest(self.paths[index])}\n"
        with self._lock, self.journal.open("a") as file:
            file.write(line)

    def finish(self) -> None:
        """Every file has its name already."""


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
        resume: bool,
    ) -> None:
        experiment.need("beam", "detector", where="a series in one file")
        self.path, self.how, self.experiment, self.frames, self.dtype = path, how, experiment, frames, dtype
        self.folder = path.with_name(f".{path.name}.frames")
        self.whole = whole
        require_writable(path)
        note = self.folder / "series"
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif note.exists():
            require_same(_first_line(note), whole, str(path))
        elif path.is_file():
            require_same(_ingredients_of(how.mark(path) or ""), whole, str(path))
        self.folder.mkdir(exist_ok=True)
        note.write_text(json.dumps(whole))

    def complete(self) -> set[int]:
        if self._file_is_ours():
            return set(range(self.frames))
        return {index for index in range(self.frames) if self._chunk(index).exists()}

    def put(self, index: int, image: NDArray[Any]) -> None:
        detector = self.experiment.detector
        if detector is None:
            raise InputError("detector", None, "an experiment with a detector")
        with open_output(self._chunk(index)) as file:
            file.write(self.how.pack(np.ascontiguousarray(detector.stack(image))))

    def finish(self) -> None:
        if not self._file_is_ours():
            packed = (self._chunk(index).read_bytes() for index in range(self.frames))
            self.how.assemble(self.path, self.experiment, self.dtype, self.frames, packed, json.dumps(self.whole))
        shutil.rmtree(self.folder)

    def _chunk(self, index: int) -> Path:
        return self.folder / f"{index:06d}"

    def _file_is_ours(self) -> bool:
        """Whether the final file is there and holds this very series."""
        if not self.path.is_file() or self._has_chunks():
            return False
        return self.how.mark(self.path) == json.dumps(self.whole)

    def _has_chunks(self) -> bool:
        return self.folder.is_dir() and any(entry.name != "series" for entry in self.folder.iterdir())


def _first_line(path: Path) -> Ingredients | None:
    """What a journal says; None if there is none."""
    return _ingredients_of(path.read_text().partition("\n")[0]) if path.exists() else None


def _ingredients_of(text: str) -> Ingredients | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class _Bar:
    """One bar of progress on standard error."""

    def __init__(self, frames: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("frames", total=frames, completed=done)
        self._progress.start()

    def advance(self) -> None:
        self._progress.advance(self._task)

    def stop(self) -> None:
        self._progress.stop()
