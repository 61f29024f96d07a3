"""Stacks of frames in HDF5, one chunk a frame, bitshuffle and LZ4; and files that a full disk cannot crash."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike

from nanobrag_torch.io.atomic import output_path


def frame_dataset(group: Any, name: str, frames: int, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """A dataset (frames, *shape) in an open HDF5 group, empty."""
    import hdf5plugin

    options = hdf5plugin.Bitshuffle(cname="lz4")
    return group.create_dataset(name, (frames, *shape), dtype, chunks=(1, *shape), **options)


class SteadyFile(io.RawIOBase):
    """A file that never fails under a library: what the disk has no room for is kept in memory, with the reason.

    libhdf5 crashes the process when it closes a file of which a part could not be written, and h5py makes something
    else of an interrupt. They are to see neither; `require_whole` raises it where Python can.
    """

    def __init__(self, path: Path) -> None:
        """Open a file that is there and empty."""
        super().__init__()
        self.error: OSError | KeyboardInterrupt | None = None
        self._file = path.open("r+b", buffering=0)
        self._place = 0
        self._end = 0
        self._kept: list[tuple[int, bytes]] = []

    def require_whole(self) -> None:
        """Raise the OSError or the interrupt that was met, if one was."""
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        """Write at the place where the file is, all of it, whatever happens."""
        view = memoryview(data).cast("B")
        if self.error is None:
            try:
                self._file.seek(self._place)
                _write_all(self._file, view)
            except (OSError, KeyboardInterrupt) as error:
                self.error = error
        if self.error is not None:
            self._kept.append((self._place, bytes(view)))
        self._place += len(view)
        self._end = max(self._end, self._place)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Read what was written, as if it were all on the disk; nothing was, where the library left a gap."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        start, stop = self._place, min(self._place + len(view), self._end)
        self._file.seek(start)
        self._file.readinto(view)
        for place, content in self._kept:
            first, last = max(start, place), min(stop, place + len(content))
            if first < last:
                view[first - start : last - start] = content[first - place : last - place]
        self._place = max(start, stop)
        return max(stop - start, 0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end}[whence]
        return self._place

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        self._end = self._place if size is None else size
        if self.error is None:
            try:
                self._file.truncate(self._end)
            except (OSError, KeyboardInterrupt) as error:
                self.error = error
        return self._end

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Close the file; the system may say only now that there was no room."""
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error
        super().close()


def _write_all(file: io.RawIOBase, view: memoryview) -> None:
    """A raw file writes what there is room for, and fails at the next byte."""
    done = 0
    while done < len(view):
        done += file.write(view[done:]) or 0


@contextmanager
def hdf5_output(path: str | os.PathLike[str], flag: str = "output file") -> Iterator[tuple[Any, SteadyFile]]:
    """An HDF5 file that appears at `path`, whole, when the block ends well; and what it is written through.

    Raises InputError if it cannot be written: when the block ends, or where it calls `require_whole`.
    """
    import h5py

    with output_path(path, flag) as place:
        with SteadyFile(place) as under:
            with h5py.File(under, "w") as file:
                yield file, under
            under.require_whole()
        under.require_whole()
