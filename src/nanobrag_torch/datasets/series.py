"""A rotation series to one NXmx file or to numbered files, packed by a pool of threads, and resumable.

    with open_series("lyso_####.cbf", experiment, frames=900, resume=True) as series:
        for index in series.missing():
            series.write(index, render(index))

Every frame is on the disk, whole, as soon as it is packed: as its numbered file, or in a folder beside the NXmx file
until the last one lets the file be put together. A series that was cut off goes on where it stood.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import OutputFile, open_output, output_path
from nanobrag_torch.io.cbf import cbf_header_text, open_cbf
from nanobrag_torch.io.expt_write import experiment_list
from nanobrag_torch.io.geometry import refuse_losses
from nanobrag_torch.io.images import frame_experiment, output_format, write_image
from nanobrag_torch.io.nxmx_read import SIGNATURE
from nanobrag_torch.io.nxmx_write import compress_frame, create_nxmx
from nanobrag_torch.io.smv import read_smv_header
from nanobrag_torch.io.smv_geometry import smv_header_text
from nanobrag_torch.records.experiment import ExperimentData

WORKERS = 2
WAITING = 2  # frames a worker may have before `write` waits
MARK = "nanobrag_torch_series"  # attribute of an NXmx file that says which series it is

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
) -> SeriesWriter:
    """A writer for a series: one file for .nxs and .h5, otherwise a template with #### or %04d for the image number.

    With `resume` frames that are there already, whole and of this very series, are left alone (`missing`); without it
    everything is written anew. Raises InputError for a name without a place for numbers, a scan of another length,
    something there that is of another series, or what the format would lose.
    """
    if experiment.scan is not None and experiment.scan.frames != frames:
        raise InputError("frames", frames, f"the {experiment.scan.frames} images of the scan")
    kind = output_format(path)
    if kind not in ("png", "npy"):
        refuse_losses(experiment if kind == "nxmx" else frame_experiment(experiment, 0), kind, allow_loss)
    store: Store
    if kind == "nxmx":
        store = _NxmxStore(Path(path), experiment, frames, np.dtype(dtype), resume)
    else:
        store = _NumberedStore(str(path), kind, experiment, frames, np.dtype(dtype), allow_loss)
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
    """One file a frame."""

    def __init__(
        self, template: str, kind: str, experiment: ExperimentData, frames: int, dtype: np.dtype[Any], allow_loss: bool
    ) -> None:
        self.allow_loss = allow_loss
        self.kind, self.experiment, self.frames = kind, experiment, frames
        first = 1 if experiment.scan is None else experiment.scan.image_range[0]
        self.paths = [Path(numbered(template, first + index)) for index in range(frames)]
        self.pixel_type = "u2" if dtype.itemsize <= 2 else "u4"

    def complete(self) -> set[int]:
        return {index for index, path in enumerate(self.paths) if path.exists() and self._is_ours(index)}

    def put(self, index: int, image: NDArray[Any]) -> None:
        options: dict[str, Any] = {"index": index, "pixel_type": self.pixel_type, "allow_loss": self.allow_loss}
        write_image(self.paths[index], image, self.experiment, **options)

    def finish(self) -> None:
        """Every file has its name already."""

    def _is_ours(self, index: int) -> bool:
        """Whether a header is the one that would be written; files appear whole, so the pixels are there then."""
        path = self.paths[index]
        try:
            if self.kind == "smv":
                wanted = smv_header_text(self.experiment, self.pixel_type, index)
                return read_smv_header(path).text.rstrip() == wanted.rstrip()
            if self.kind == "cbf":
                return _without_time(open_cbf(path).text) == _without_time(cbf_header_text(self.experiment, index))
        except InputError:  # a file of another kind, which will be replaced
            return False
        return path.stat().st_size > 0


def _without_time(text: str) -> list[str]:
    return [line for line in text.split() if not re.match(r"\d{4}-\d\d-\d\dT", line)]


class _NxmxStore:
    """Packed frames in a folder beside the file, which is put together from them at the end."""

    def __init__(self, path: Path, experiment: ExperimentData, frames: int, dtype: np.dtype[Any], resume: bool) -> None:
        experiment.need("beam", "detector", where="NXmx")
        self.path, self.experiment, self.frames, self.dtype = path, experiment, frames, dtype
        self.folder = path.with_name(f".{path.name}.frames")
        self.print = _fingerprint(experiment, frames, dtype)
        _require_writable(path)
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)
        note = self.folder / "series"
        if note.exists() and note.read_text() != self.print:
            raise InputError("resume", str(self.folder), "frames of this very series, or no resume")
        note.write_text(self.print)

    def complete(self) -> set[int]:
        if self._file_is_ours():
            return set(range(self.frames))
        return {index for index in range(self.frames) if self._chunk(index).exists()}

    def put(self, index: int, image: NDArray[Any]) -> None:
        detector = self.experiment.detector
        if detector is None:
            raise InputError("detector", None, "an experiment with a detector")
        with open_output(self._chunk(index)) as file:
            file.write(compress_frame(np.ascontiguousarray(detector.stack(image))))

    def finish(self) -> None:
        if not self._file_is_ours():
            self._assemble()
        shutil.rmtree(self.folder)

    def _assemble(self) -> None:
        import h5py

        with output_path(self.path) as place, h5py.File(place, "w") as file:
            dataset = create_nxmx(file, self.experiment, self.frames, self.dtype)
            file.attrs[MARK] = self.print
            for index in range(self.frames):
                dataset.id.write_direct_chunk((index, 0, 0), self._chunk(index).read_bytes())

    def _chunk(self, index: int) -> Path:
        return self.folder / f"{index:06d}"

    def _file_is_ours(self) -> bool:
        """Whether the final file is there and holds this very series."""
        import h5py

        if not self.path.is_file() or self._has_chunks():
            return False
        with self.path.open("rb") as start:
            if start.read(8) != SIGNATURE:
                return False
        with h5py.File(self.path, "r") as file:
            return str(file.attrs.get(MARK, "")) == self.print

    def _has_chunks(self) -> bool:
        return self.folder.is_dir() and any(entry.name != "series" for entry in self.folder.iterdir())


def _require_writable(path: Path) -> None:
    """Fail now, not after the last frame."""
    probe = OutputFile(path, "output file")
    probe.finish()
    probe.discard()


def _fingerprint(experiment: ExperimentData, frames: int, dtype: np.dtype[Any]) -> str:
    """What makes two series the same: geometry, number of frames, type of pixel."""
    text = json.dumps([experiment_list([experiment]), frames, dtype.str])
    return hashlib.sha256(text.encode()).hexdigest()


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
