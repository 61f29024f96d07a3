"""Checksums of what files contain."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.hdf5_links import linked_files


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file. Raises InputError if it cannot be read."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(str(path), "a file that cannot be read", (error.strerror or str(error)).lower()) from error


def content_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file and, where it is HDF5, of those that it takes data from. Raises InputError as file_digest.

    Each is read again only when it has changed. Files that are named and not there do not count.
    """
    own, others = remembered_digest(path), linked_files(path)
    if not others:
        return own
    parts = [(Path(each).name, remembered_digest(each)) for each in others]
    return hashlib.sha256(json.dumps([own, parts]).encode()).hexdigest()


def remembered_digest(path: str | os.PathLike[str]) -> str:
    """The same, of a file that is asked about many times: it is read again only when it has changed."""
    return _digest_of(file_mark(path))


@functools.lru_cache(maxsize=4096)
def _digest_of(mark: tuple[str, int, int, int, int]) -> str:
    return file_digest(mark[0])


def file_mark(path: str | os.PathLike[str]) -> tuple[str, int, int, int, int]:
    """What tells one content of a file from another without reading it: place, file, size and times of its change.

    A file that cannot be looked at has the mark of none; reading it says why.
    """
    try:
        found = Path(path).stat()
    except OSError:
        return (os.path.realpath(path), 0, 0, 0, 0)
    return (os.path.realpath(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
