"""sha256.txt over all files of a folder, in the format of the command sha256sum."""

from __future__ import annotations

import re
from pathlib import Path

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.digest import file_digest

NAME = "sha256.txt"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def write_checksums(folder: Path) -> None:
    """Write sha256.txt over every other file of the folder and the folders in it."""
    lines = [f"{file_digest(path)}  {path.relative_to(folder).as_posix()}" for path in _files(folder)]
    (folder / NAME).write_text("\n".join(lines) + "\n")


def verify_checksums(folder: Path, flag: str = "--verify") -> tuple[int, list[str]]:
    """How many files are as sha256.txt says, and a line for each that is changed, missing or not listed.

    Raises InputError for a folder without a readable sha256.txt.
    """
    if not folder.is_dir():
        raise InputError(flag, str(folder), f"a folder with {NAME}")
    text = read_input(folder / NAME, flag, f"a folder with {NAME}").decode("utf-8", "replace")
    entries = [_LINE.fullmatch(line) for line in text.splitlines() if line.strip()]
    stated = {match[2]: match[1] for match in entries if match is not None}
    if not stated or len(stated) != len(entries):
        raise InputError(flag, str(folder / NAME), "lines of a SHA-256 digest and a file name")
    present = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    problems = [f"missing: {name}" for name in stated if name not in present]
    problems += [f"not listed: {name}" for name in present if name not in stated]
    same = {name for name, path in present.items() if name in stated and file_digest(path) == stated[name]}
    problems += [f"changed: {name}" for name in stated if name in present and name not in same]
    return len(same), problems


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
