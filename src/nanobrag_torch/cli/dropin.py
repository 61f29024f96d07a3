"""What the drop-in commands share: where their files go, and what they say of corrections."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanobrag_torch.cli.boundary import exit_code
from nanobrag_torch.compat import RESPONSE_ROWS
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import OutputFile, require_place
from nanobrag_torch.io.ctext import format_g

if TYPE_CHECKING:
    from nanobrag_torch.cli.nanobragg.flags import Flag

_TRIED: set[object] = set()
"""Folders in which this process could make a file, with what decides who may."""


@dataclass(frozen=True)
class Command:
    """A drop-in command: what its help says, and what it does with words that ask for none."""

    name: str
    introduction: str
    notes: str
    flags: Sequence[Flag]
    subjects: Sequence[str]
    run: Callable[[Sequence[str]], None]

    def main(self, argv: Sequence[str] | None) -> int:
        """Run it. Returns 0, or 2 after one line on stderr for bad input, or 130 when interrupted."""
        words = list(sys.argv[1:] if argv is None else argv)
        return exit_code(self.name, lambda: self._run(words))

    def _run(self, words: Sequence[str]) -> int:
        text = answer(words, self.name, self._help)
        if text is None:
            self.run(words)
        else:
            print(text)
        return 0

    def _help(self) -> str:
        from nanobrag_torch.cli.nanobragg.help import help_of

        return help_of(self.introduction, self.flags, self.subjects, self.notes)


def answer(words: Sequence[str], name: str, help_text: Callable[[], str]) -> str | None:
    """What a question for help or for the version is answered with; None for words that ask for neither."""
    if any(word in ("-h", "-help", "--help") for word in words):
        return help_text().rstrip()
    if "--version" not in words:
        return None
    from nanobrag_torch.cli.nanobragg.help import version_text

    return version_text(name)


def check_places(files: Sequence[tuple[str, str]], taken: dict[str, str]) -> None:
    """Raise InputError for an output (flag, path) that cannot be written, or whose place is taken.

    taken: real paths, and what they are; the outputs join them.
    """
    for flag, path in files:
        place = os.path.realpath(path)
        if place in taken:
            raise InputError(flag, path, f"a name of its own, not that of {taken[place]}")
        if takes_anything(place):
            continue  # and opening it could wait
        taken[place] = flag
        _try_folder(require_place(path, flag).parent, path, flag)


def takes_anything(path: str) -> bool:
    """Whether a name is a pipe or a device such as /dev/null."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _try_folder(folder: Path, path: str, flag: str) -> None:
    """Raise InputError where no file can be made; a folder that took one takes the next, unless it was changed."""
    state = folder.stat() if folder.exists() else None
    known = state and (state.st_dev, state.st_ino, state.st_mode, state.st_uid, os.getpid())
    if known is None or known not in _TRIED:
        OutputFile(path, flag).discard()
        _TRIED.add(known)


def correction_lines(changed: Iterable[str], what: str = "image") -> Iterator[str]:
    """One line for each row of RESPONSE_ROWS that a run's image felt."""
    rows = {row.id: row for row in RESPONSE_ROWS}
    for name in changed:
        yield f"correction {name} changed the {what}: {rows[name].here} (the C program: {rows[name].c_program})"


def smv_text(pixel_type: str, shape: tuple[int, int], entries: Iterable[tuple[str, float]]) -> str:
    """An SMV header of 512 bytes for pixels (slow, fast), with some entries, as the companion programs write it."""
    lines = [
        "HEADER_BYTES=512;",
        "DIM=2;",
        f"BYTE_ORDER={sys.byteorder}_endian;",
        f"TYPE={pixel_type};",
        f"SIZE1={shape[1]};",
        f"SIZE2={shape[0]};",
        *(f"{key}={format_g(value)};" for key, value in entries),
        "DETECTOR_SN=000;",
        "BEAMLINE=fake;",
    ]
    return "{\n" + "\n".join(lines) + "\n}\f"
