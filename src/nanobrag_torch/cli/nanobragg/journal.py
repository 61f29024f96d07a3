"""Which lines of a batch are finished: made of what they are made of now, and all their files there and whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanobrag_torch import __version__
from nanobrag_torch.cli.nanobragg.outputs import input_files, output_files
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.digest import content_digest, file_digest

Files = dict[str, tuple[int, str]]
"""Path of an output -> its size in bytes and its checksum."""


class Journal:
    """A hidden file beside the batch: a line of JSON a finished run. Paths are relative to the current folder."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Go on with a journal, or begin one. Raises InputError if it cannot be written."""
        self.path = path
        self._finished = dict(_entries(path)) if resume else {}
        begin(path, go_on=resume)

    def fingerprint(self, words: Sequence[str], request: Request) -> str:
        """What decides the files of a run: the program, the words, and the contents of the files that are read."""
        read = input_files(request)
        if request.hklfile is None and Path(request.dumpfile).exists():
            read.append(request.dumpfile)
        parts = [__version__, list(words), [(path, content_digest(path)) for path in read]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def is_finished(self, fingerprint: str) -> bool:
        """Whether the files of a run are there as they were written."""
        files = self._finished.get(fingerprint)
        return bool(files) and all(_is_whole(path, size, digest) for path, (size, digest) in (files or {}).items())

    def note(self, fingerprint: str, request: Request) -> None:
        """A run is finished. Outputs that are no files, such as /dev/null, cannot be found again and do not count."""
        paths = [path for _, path in output_files(request) if Path(path).is_file()]
        files = {path: (Path(path).stat().st_size, file_digest(path)) for path in paths}
        with self.path.open("a") as file:
            file.write(json.dumps({"made_of": fingerprint, "files": files}) + "\n")


def begin(path: Path, *, go_on: bool) -> None:
    """Empty a file of the batch, or begin a new line in it. Raises InputError if it cannot be written."""
    try:
        with path.open("a" if go_on else "w") as file:
            file.write("\n" if go_on and file.tell() else "")  # after what may be half a line
    except OSError as error:
        raise InputError("-batch", str(path), f"a file that can be written ({error.strerror or error})") from error


def _is_whole(path: str, size: int, digest: str) -> bool:
    try:
        return Path(path).stat().st_size == size and file_digest(path) == digest
    except (OSError, InputError):
        return False


def _entries(path: Path) -> Iterator[tuple[str, Files]]:
    """What a journal says; a line that a crash cut off says nothing."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry: Any = json.loads(line)
            yield str(entry["made_of"]), {str(p): (int(size), str(d)) for p, (size, d) in entry["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
