"""The formats, and which of them a file is or a name asks for.

A new format touches two files: the module that makes its `FileFormat`, and the list here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from nanobrag_torch.errors import InputError
from nanobrag_torch.io import (
    atoms,
    cbf,
    crystfel,
    expt,
    fabio_image,
    mosflm_geometry,
    mtz,
    numpy_image,
    nxmx,
    plain_reflections,
    png_image,
    refl,
    sfcif,
    smv_geometry,
    xparm,
)
from nanobrag_torch.io.fileformat import FileFormat, FileStart

FORMATS: list[FileFormat] = [
    nxmx.FORMAT,
    smv_geometry.FORMAT,
    cbf.FORMAT,
    numpy_image.FORMAT,
    png_image.FORMAT,
    mtz.FORMAT,
    refl.FORMAT,
    expt.FORMAT,
    xparm.FORMAT,
    plain_reflections.DUMP,
    sfcif.FORMAT,
    mosflm_geometry.FORMAT,
    crystfel.FORMAT,
    atoms.FORMAT,
    plain_reflections.HKL,
    fabio_image.FORMAT,
]
"""In the order in which a file is held against them."""

Wanted = Callable[[FileFormat], object]


def reads_experiments(found: FileFormat) -> object:
    """Whether it states a geometry."""
    return found.read_experiments


def reads_images(found: FileFormat) -> object:
    """Whether it holds pixels."""
    return found.read_image


def reads_amplitudes(found: FileFormat) -> object:
    """Whether it holds structure factors, or atoms to calculate them from."""
    return found.read_reflections or found.read_atoms


def anything(found: FileFormat) -> object:
    """Whether it can be read at all."""
    return reads_images(found) or reads_experiments(found) or reads_amplitudes(found) or found.read_table


def accepted_files(wanted: Wanted) -> str:
    """Titles of the formats that can do what is wanted, for an error."""
    return ", ".join(found.title for found in FORMATS if wanted(found))


def find_format(
    path: str | os.PathLike[str], wanted: Wanted = anything, *, flag: str = "", accepted: str = ""
) -> FileFormat:
    """The format of a file, by its content.

    Raises InputError naming the file if it cannot be read or is of no format that can do what is wanted; `flag` and
    `accepted` are put into it.
    """
    accepted = accepted or accepted_files(wanted)
    start = FileStart(Path(path), flag or "file", accepted)
    known = next((each for each in FORMATS if wanted(each) and each.recognises(start)), None)
    other = next((each for each in FORMATS if not each.fallback and each.recognises(start)), None)
    if known is not None and not (known.fallback and other):
        return known
    shown = f"{path} ({other.title})" if other else f"{path}, which starts with {_shown(start.start)}"
    raise InputError(flag or str(path), shown if flag else shown.removeprefix(f"{path}, which "), accepted)


def is_of(path: str | os.PathLike[str], wanted: Wanted, *, flag: str) -> FileFormat | None:
    """As find_format, with None for a file of no such format. Raises InputError if the file cannot be read."""
    start = FileStart(Path(path), flag, accepted_files(wanted))
    return next((each for each in FORMATS if wanted(each) and each.recognises(start)), None)


def format_of_name(path: str | os.PathLike[str], wanted: Wanted) -> FileFormat | None:
    """The format that a name asks for, of those that can do what is wanted; None if it asks for none."""
    return next((each for each in FORMATS if wanted(each) and each.is_name(Path(path))), None)


def format_called(name: str, wanted: Wanted, *, flag: str) -> FileFormat:
    """The format of a name in the list. Raises InputError listing those that can do what is wanted."""
    able = {each.name: each for each in FORMATS if wanted(each)}
    if name not in able:
        raise InputError(flag, name, ", ".join(able))
    return able[name]


def require_name(path: str | os.PathLike[str], wanted: Wanted, *, flag: str = "output") -> FileFormat:
    """The format that the name of an output asks for. Raises InputError listing names that would do."""
    found = format_of_name(path, wanted)
    if found is None:
        raise InputError(flag, str(path), f"a name that ends in {endings(wanted)}")
    return found


def endings(wanted: Wanted) -> str:
    """How names may end that ask for what is wanted."""
    able = [each for each in FORMATS if wanted(each)]
    parts = [part for each in able for part in each.name_parts]
    return ", ".join(suffix for each in able for suffix in each.suffixes) + "".join(f", or has {p}" for p in parts)


def _shown(start: bytes) -> str:
    return repr(start[:20].decode("latin-1"))
