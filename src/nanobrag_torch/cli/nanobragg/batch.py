"""Many command lines in one process: `nanoBragg -batch FILE`, which starts Python once and compiles nothing twice."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TextIO

from nanobrag_torch.cli.boundary import INTERRUPTED, exit_code
from nanobrag_torch.cli.dropin import takes_anything
from nanobrag_torch.cli.nanobragg.journal import Journal, begin
from nanobrag_torch.cli.nanobragg.outputs import output_files
from nanobrag_torch.cli.nanobragg.parsing import last_value
from nanobrag_torch.cli.nanobragg.prepare import read_words
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.cli.nanobragg.settings import in_flags
from nanobrag_torch.cli.nanobragg.structure import tables_kept
from nanobrag_torch.cli.progress import Report, progress_meter
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input

NAME = "nanoBragg"
OWN = ("-batch", "-resume", "-progress", "-noprogress")
"""Flags that are about the whole batch."""
SAID_ONCE = (f"{NAME}: warning: ", "correction ", "nanobrag_torch: ")
"""How lines begin that a batch says at once, with the number of the first line that they hold for."""
_PLAIN = re.compile(r"[-+\w./:,=@% \t]*", re.ASCII)
"""Text that a shell only splits, which takes it a tenth of the time."""
SHOWN = 8
"""Failed lines that the summary names at most."""


class Run(Protocol):
    """One run of the command."""

    def __call__(self, words: Sequence[str], *, clock_seed: int, report: Report | None, read: Request) -> int:
        """Exit code of the words. clock_seed: for seeds that nobody gave. report: takes the fraction done. read: what
        the words said, headers left out."""


def run_batch(words: Sequence[str], run: Run) -> int:
    """Every line of the file that -batch names; the exit code of the worst, or 130 after an interrupt.

    Raises InputError for a file that cannot be read, or without a command line.
    """
    path = Path(last_value(words, "-batch") or "").resolve()
    lines = read_lines(path)
    batch = _Batch(path, _shared_words(words), run, resume="-resume" in words)
    begun, shown = time.perf_counter(), _progress_is_shown(words)
    with contextlib.chdir(path.parent), tables_kept(), progress_meter(shown, what="command lines") as report:
        for place, (number, text) in enumerate(lines):
            batch.go_on(number, text, _part_of(report, place, len(lines)))
            if batch.interrupted_at is not None:
                break
            if report is not None:
                report((place + 1) / len(lines))
    print("\n".join(batch.summary(len(lines), time.perf_counter() - begun)), flush=True)
    return INTERRUPTED if batch.interrupted_at is not None else max(batch.codes.values(), default=0)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Number and text of every line with a command. Raises InputError for a file that cannot be read, or has none."""
    content = read_input(path, "-batch", "a text file with a command line a line")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError("-batch", str(path), f"a text file in UTF-8 (byte {error.start} is none)") from error
    numbered = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    found = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not found:
        raise InputError("-batch", str(path), "a file with a command line a line")
    return found


def _shared_words(words: Sequence[str]) -> list[str]:
    """The words beside those about the batch."""
    kept = list(words)
    for flag in OWN:
        while flag in kept:
            at = kept.index(flag)
            del kept[at : at + (2 if flag == "-batch" else 1)]
    return kept


def _progress_is_shown(words: Sequence[str]) -> bool:
    asked = [word for word in words if word in ("-progress", "-noprogress")]
    return not asked or asked[-1] == "-progress"


def _part_of(report: Report | None, place: int, count: int) -> Report | None:
    """A report for one of `count` tasks."""
    return None if report is None else lambda fraction: report((place + fraction) / count)


@dataclass
class _Batch:
    """What has become of the lines so far."""

    path: Path
    shared: list[str]
    run: Run
    resume: bool
    codes: dict[int, int] = field(default_factory=dict)  # line number -> exit code of a run
    finished_before: int = 0
    interrupted_at: int | None = None

    def __post_init__(self) -> None:
        self.journal = Journal(self.path.with_name(f".{self.path.name}.batch"), resume=self.resume)
        self.log = self.path.with_name(f"{self.path.name}.log")
        self.begun = int(time.time())
        self.said = _Said()
        own = (self.path, self.journal.path, self.log)
        self.taken = {os.path.realpath(path): f"the batch's own {path.name}" for path in own}
        begin(self.log, go_on=self.resume)

    def go_on(self, number: int, text: str, report: Report | None) -> None:
        """Run a line, or leave it out where it is finished. What goes wrong is said, and the next line may come."""
        printed = io.StringIO()
        self.said.number = number
        with (
            contextlib.redirect_stdout(_Tee(printed, self.said, sys.stdout)),
            contextlib.redirect_stderr(_Tee(printed, self.said, sys.stderr, everything=True)),
        ):
            code = exit_code(f"{NAME}: line {number}", lambda: self._line(number, text, report), in_words=_in_flags)
        if code == INTERRUPTED:
            self.interrupted_at = number
        if printed.tell():
            with self.log.open("a") as file:
                file.write(f"line {number}: {text}\n{printed.getvalue()}\n")

    def _line(self, number: int, text: str, report: Report | None) -> int:
        self.codes[number] = 2  # until it has gone well
        words = [*self.shared, *_words_of(text), "-noprogress"]
        request = read_words(words)
        self._claim(request, number)
        made_of = self.journal.fingerprint(words, request)
        if self.resume and self.journal.is_finished(made_of):
            self.finished_before += 1
            del self.codes[number]
            return 0
        code = self.run(words, clock_seed=self.begun + number, report=report, read=request)
        self.codes[number] = code
        if code == 0:
            self.journal.note(made_of, request)
        return code

    def _claim(self, request: Request, number: int) -> None:
        """Raise InputError for an output that another line, or the batch itself, writes."""
        for flag, path in output_files(request):
            place = os.path.realpath(path)
            if self.taken.setdefault(place, f"line {number}") != f"line {number}" and not takes_anything(place):
                raise InputError(flag, path, f"a file of its own, not that of {self.taken[place]}")

    def summary(self, lines: int, seconds: float) -> Iterator[str]:
        """What was done, in lines."""
        yield from self.said.repeated()
        failed = [number for number, code in self.codes.items() if code]
        done = len(self.codes) - len(failed)
        parts = [f"{done} rendered", *([f"{self.finished_before} finished before"] if self.resume else [])]
        if self.interrupted_at is not None:
            failed = [number for number in failed if number != self.interrupted_at]
            parts.append(f"interrupted at line {self.interrupted_at} (-resume goes on there)")
        if failed:
            named = ", ".join(map(str, failed[:SHOWN])) + (", ..." if len(failed) > SHOWN else "")
            parts.append(f"{len(failed)} failed (line {named})")
        each = f", {1000 * seconds / done:.3g} ms each" if done and not self.finished_before else ""
        yield f"{lines} command lines of {self.path.name}: {', '.join(parts)}; {seconds:.2f} s{each}"
        yield f"what each printed is in {self.log}"


def _in_flags(error: InputError) -> str:
    return str(in_flags(error))


def _words_of(text: str) -> list[str]:
    """The words of a line as a shell has them, without the name of the program. Raises InputError."""
    try:
        words = text.split() if _PLAIN.fullmatch(text) else shlex.split(text, comments=True)
    except ValueError as error:
        raise InputError("line", text, f"words as in a shell ({str(error).lower()})") from error
    if words and Path(words[0]).name == NAME:
        words = words[1:]
    for word in words:
        if word in ("-batch", "-resume", "-h", "-help", "--help", "--version"):
            raise InputError(word, "within a batch", "the flags of one run")
    return words


class _Said:
    """Warnings and notes, each said once, with the number of the line that it first held for."""

    def __init__(self) -> None:
        self.number = 0
        self.first: dict[str, int] = {}
        self.count: Counter[str] = Counter()

    def say(self, line: str, stream: TextIO) -> None:
        """Pass a line on unless it was said before, or is about one line of the batch anyway."""
        begins = next((word for word in SAID_ONCE if line.startswith(word)), None)
        if begins is None:
            print(line, file=stream, flush=True)
            return
        self.count[line] += 1
        if self.count[line] == 1:
            self.first[line] = self.number
            program, _, rest = line.partition(": ")
            place = f"line {self.number}: "
            print(place + line if " " in program else f"{program}: {place}{rest}", file=stream, flush=True)

    def repeated(self) -> Iterator[str]:
        """A line for each that was held back."""
        for line, count in self.count.items():
            if count > 1:
                yield f"as line {self.first[line]}, {count - 1} more: {line}"


class _Tee(io.TextIOBase):
    """A stream whose text is kept, and whose lines are passed on: all of them, or those that are said once."""

    def __init__(self, kept: io.StringIO, said: _Said, stream: TextIO, *, everything: bool = False) -> None:
        self.kept, self.said, self.stream, self.everything = kept, said, stream, everything
        self._line = ""

    def write(self, text: str) -> int:
        self.kept.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if self.everything or line.startswith(SAID_ONCE):
                self.said.say(line, self.stream)
        return len(text)
