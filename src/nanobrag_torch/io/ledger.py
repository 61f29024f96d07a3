"""What is finished of a job: a file that names the job, and of every finished piece its size and checksum.

    ledger = Ledger(path, ingredients)      # io/ingredients.py: everything that decides the result, by name
    ledger.begin()                          # or, to go on: require_same(ledger.recorded(), ingredients, name)
    ledger.finished({"0": first_file})      # the pieces whose files are what was written
    ledger.note("0", first_file)

A piece is finished when the ledger is of this very job and the file has the size and the checksum that it had when it
was noted: what was cut short, damaged or put there by somebody else is not. Who writes has the output by `owned`.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import open_output
from nanobrag_torch.io.digest import file_digest
from nanobrag_torch.io.ingredients import Ingredients


def fingerprint(job: Mapping[str, str]) -> str:
    """One text for a job, equal for equal jobs."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


class Ledger:
    """The record of a job beside its output: the job in the first line, then a line a finished piece."""

    def __init__(self, path: Path, job: Ingredients) -> None:
        self.path, self.job = path, job
        self._lock = threading.Lock()

    def recorded(self) -> Ingredients | None:
        """The job that the ledger is of; None if there is none, or it is damaged."""
        try:
            found = json.loads(self._text().partition("\n")[0])
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def begin(self) -> None:
        """Nothing of this job is finished. Raises InputError if the ledger cannot be written."""
        with open_output(self.path) as file:
            file.write(json.dumps(self.job).encode() + b"\n")

    def note(self, piece: str, file: Path) -> None:
        """A piece is finished and in a file; called from several threads. Raises InputError as begin."""
        line = f"{piece} {file.stat().st_size} {file_digest(file)}\n".encode()
        with self._lock:
            try:
                with self.path.open("ab") as ledger:
                    ledger.write(line if self._ends_whole() else b"\n" + line)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise InputError("output file", str(self.path), f"a file that can be written ({reason})") from error

    def finished(self, pieces: Mapping[str, Path]) -> set[str]:
        """Those of the pieces whose files are as they were noted; none where the ledger is of another job."""
        if self.recorded() != self.job:
            return set()
        noted = self._noted()
        return {piece for piece, file in pieces.items() if piece in noted and _is(file, *noted[piece])}

    def checksums(self) -> dict[str, str]:
        """Of every piece that was noted."""
        return {piece: checksum for piece, (_, checksum) in self._noted().items()}

    def _ends_whole(self) -> bool:
        """Whether the last line is one: a process that was killed, or a full disk, may have left half of it."""
        with self.path.open("rb") as ledger:
            ledger.seek(-1, os.SEEK_END)
            return ledger.read() == b"\n"

    def _noted(self) -> dict[str, tuple[int, str]]:
        lines = (line.split(" ") for line in self._text().splitlines()[1:])
        return {words[0]: (int(words[1]), words[2]) for words in lines if len(words) == 3 and words[1].isdigit()}

    def _text(self) -> str:
        try:
            return self.path.read_text(errors="replace")
        except OSError:
            return ""


def _is(file: Path, size: int, checksum: str) -> bool:
    with suppress(OSError, InputError):
        return file.is_file() and file.stat().st_size == size and file_digest(file) == checksum
    return False
