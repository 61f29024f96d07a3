"""Files that can be read or are one-line errors, and files that appear whole or not at all.

An output is written beside its final name and renamed when it is complete; whatever goes wrong leaves the folder as it
was, and what a killed process left there is removed by the next one (`leftovers.py`). A name that is no regular file (a
pipe, /dev/null) is written directly.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.leftovers import part_of, remove_leftovers
from nanobrag_torch.memory import require_memory

Target = str | os.PathLike[str] | BinaryIO
"""Where a writer writes: a path, or a binary file that is open already."""


PACKED: tuple[tuple[bytes, Callable[[Any], Any]], ...] = ((b"\x1f\x8b\x08", gzip.open), (b"BZh", bz2.open))
"""First bytes of a packed file, and what unpacks it."""
LARGEST_UNPACKED, UNASKED_UNPACKED, MOST_FOLD = 2**30, 2**27, 100
"""Bytes that may be unpacked: at most; from any file; beyond that so many times the bytes read, which text and pixels
stay below. A few that are packed a thousandfold would fill any memory."""
PIECE = 2**22
START = 2**16  # bytes that suffice to tell most formats apart


def read_input(path: str | os.PathLike[str], flag: str, accepted: str, *, unpack: bool = True) -> bytes:
    """The bytes of an input file, unpacked if gzip or bzip2 packed them.

    Raises InputError naming flag, path and the reason if it cannot be read, is damaged or is empty. `unpack` False is
    for files whose first bytes may be anything.
    """
    require_ordinary(path, flag, accepted)
    try:
        require_memory(flag, str(path), 2 * Path(path).stat().st_size)
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(flag, str(path), f"{accepted} ({_reason(error)})") from error
    opener = next((each for start, each in PACKED if unpack and content.startswith(start)), None)
    if opener is not None:
        try:
            content = _unpacked(opener, content, f"{flag}: {path}")
        except InputError:
            raise
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise InputError(flag, str(path), f"{accepted} (damaged gzip or bzip2: {error})") from error
    if not content:
        raise InputError(flag, str(path), f"{accepted} (the file is empty)")
    return content


def _unpacked(opener: Callable[[Any], Any], content: bytes, name: str) -> bytes:
    """What bytes unpack to, piece by piece. Raises InputError where that is more than any file of ours."""
    below, found = io.BytesIO(content), bytearray()
    with opener(below) as packed:
        while piece := packed.read(PIECE):
            found += piece
            most = min(LARGEST_UNPACKED, max(UNASKED_UNPACKED, MOST_FOLD * below.tell()))
            if len(found) > most:
                value = f"{len(content)} bytes that unpack to more than {len(found)}"
                raise InputError(name, value, f"a file that unpacks to {most >> 20} MB at most")
    return bytes(found)


def require_ordinary(path: str | os.PathLike[str], flag: str, accepted: str) -> None:
    """Raise InputError for what is no file: a device or a pipe may never end.

    What is not there at all is left to who opens it. Nothing is said of its size: of a series of images that no
    memory holds, one frame is read.
    """
    try:
        state = Path(path).stat()
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        raise InputError(flag, str(path), f"{accepted} (an ordinary file, no device and no pipe)")


def read_start(path: str | os.PathLike[str], flag: str, accepted: str) -> bytes:
    """The first bytes of a file, START at most, unpacked; a large file is not read whole. Raises as read_input."""
    require_ordinary(path, flag, accepted)
    try:
        with Path(path).open("rb") as file:
            start = file.read(START)
    except OSError as error:
        raise InputError(flag, str(path), f"{accepted} ({_reason(error)})") from error
    if not start or is_packed(start):
        return read_input(path, flag, accepted)[:START]
    return start


@contextmanager
def unpacked_path(path: str | os.PathLike[str], flag: str, accepted: str) -> Iterator[Path]:
    """The file for a library that opens it by name: itself, or what it unpacks to, which is removed afterwards."""
    given = Path(path)
    require_ordinary(path, flag, accepted)
    with given.open("rb") as file:
        packed = is_packed(file.read(8))
    if not packed:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / (given.stem if given.suffix in (".gz", ".bz2") else given.name)
        bare.write_bytes(read_input(path, flag, accepted))
        yield bare


def is_packed(start: bytes) -> bool:
    """Whether a file that begins so is packed by gzip or bzip2."""
    return any(start.startswith(each) for each, _ in PACKED)


class OutputFile(io.BufferedWriter):
    """A binary file under a temporary name; `commit` gives it its own, `discard` removes it."""

    def __init__(self, path: str | os.PathLike[str], flag: str) -> None:
        """Open beside path. Raises InputError if that file could not be written."""
        self.path, self.flag = str(path), flag
        try:
            self._final, is_file = _place(self.path)
            self._temporary = part_of(self._final) if is_file else None
            raw = io.FileIO(self._temporary or self._final, "wb" if self._temporary is None else "xb")
        except OSError as error:
            raise self._failure(error) from error
        super().__init__(raw)

    def write(self, data: Any) -> int:
        """As a file's write; a full disk is an InputError that names the flag and the file."""
        try:
            return super().write(data)
        except OSError as error:
            raise self._failure(error) from error

    def flush(self) -> None:
        """As a file's flush; errors as those of write."""
        try:
            super().flush()
        except OSError as error:
            raise self._failure(error) from error

    def finish(self) -> None:
        """Bring everything to the disk, still under the temporary name."""
        try:
            self.close()
        except OSError as error:
            raise self._failure(error) from error

    def commit(self) -> None:
        """Give the finished file its own name, with the permissions of the file that it replaces."""
        if self._temporary is None:
            return
        try:
            with suppress(FileNotFoundError):  # nothing is replaced
                self._temporary.chmod(stat.S_IMODE(self._final.stat().st_mode))
            self._temporary.replace(self._final)
        except OSError as error:
            raise self._failure(error) from error
        self._temporary = None  # nothing is left to remove, and looking for it takes as long as a small image

    def discard(self) -> None:
        """Remove the temporary file."""
        with suppress(OSError, InputError):  # what is thrown away need not be whole
            self.close()
        if self._temporary is not None:
            with suppress(OSError):
                self._temporary.unlink()

    def _failure(self, error: OSError) -> InputError:
        return InputError(self.flag, self.path, f"a file that can be written ({_reason(error)})")


class OutputSet:
    """Several outputs of one run that appear together: `with OutputSet() as outputs: outputs.open(path, flag)`.

    All are given their names when the block ends well; when it raises, none is left behind.
    """

    def __init__(self) -> None:
        self._files: list[OutputFile] = []

    def open(self, path: str | os.PathLike[str], flag: str) -> OutputFile:
        """A binary file to write; raises InputError now if path cannot be written."""
        output = OutputFile(path, flag)
        self._files.append(output)
        return output

    def __enter__(self) -> OutputSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                for output in self._files:
                    output.finish()
                for output in self._files:
                    output.commit()
        finally:
            for output in self._files:
                output.discard()


@contextmanager
def open_output(target: Target, flag: str = "output file") -> Iterator[BinaryIO]:
    """The binary file of a target: that of a path appears whole when the block ends; an open file is passed on.

    Raises InputError naming flag and path if the file cannot be written.
    """
    if not isinstance(target, str | os.PathLike):
        yield target
        return
    with OutputSet() as outputs:
        output = outputs.open(target, flag)
        try:
            yield output
        except OSError as error:  # numpy writes past `write`
            raise output._failure(error) from error


@contextmanager
def output_path(path: str | os.PathLike[str], flag: str = "output file") -> Iterator[Path]:
    """A temporary name for a writer that opens the file itself; renamed to path when the block ends well, else removed.

    Raises InputError if path cannot be written.
    """
    output = OutputFile(path, flag)
    output.finish()
    try:
        yield output._temporary or output._final
        output.commit()
    except OSError as error:  # HDF5 raises it too
        raise output._failure(error) from error
    finally:
        output.discard()


def require_writable(path: str | os.PathLike[str], flag: str = "output file") -> None:
    """Raise InputError now, not after the work, if path cannot be written; nothing is left behind."""
    probe = OutputFile(path, flag)
    probe.finish()
    probe.discard()


def require_place(path: str | os.PathLike[str], flag: str = "output file") -> Path:
    """Where a file will be, links followed; InputError for a name that no file can have, or whose file may not be
    replaced. Tries nothing out."""
    try:
        return _place(str(path))[0]
    except OSError as error:
        raise InputError(flag, str(path), f"a file that can be written ({_reason(error)})") from error


def _place(path: str) -> tuple[Path, bool]:
    """Final name, links followed, and whether it is of a regular file; /dev/null is none."""
    if path == "":
        raise FileNotFoundError("the name is empty")
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:  # or a link to nowhere
        mode = 0
    if stat.S_ISDIR(mode):
        raise IsADirectoryError("it is a folder")
    if mode and not os.access(path, os.W_OK):
        raise PermissionError("permission denied")
    if mode and not stat.S_ISREG(mode):
        return Path(path), False
    final = Path(os.path.realpath(path))
    remove_leftovers(final.parent)
    return final, True


def _reason(error: OSError) -> str:
    return (os.strerror(error.errno) if error.errno else " ".join(str(error).split())).lower()
