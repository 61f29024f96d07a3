"""One entry to every file of structure factors, whichever format of `formats.py` it is."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.fileformat import Choice, FileFormat
from nanobrag_torch.io.formats import find_format, reads_amplitudes, require_name
from nanobrag_torch.records.reflections import Reflections

_LOG = logging.getLogger(__name__)

FLAG = "structure factors"


def amplitude_format(path: str | os.PathLike[str], *, flag: str = FLAG) -> FileFormat:
    """The format of a file of structure factors or atoms, by its content.

    Raises InputError naming file and reason if it is none of these or cannot be read.
    """
    return find_format(path, reads_amplitudes, flag=flag)


def read_reflections(
    path: str | os.PathLike[str], *, column: str | None = None, anomalous: bool | None = None, flag: str = FLAG
) -> Reflections:
    """The reflections of an MTZ, CIF, hkl or Fdump file.

    Text and Fdump files list everything there is, so their space group is None and their cell unknown; those have no
    columns to choose from. Raises InputError naming file, place and reason.
    """
    found = amplitude_format(path, flag=flag)
    if found.read_reflections is None:
        raise InputError(flag, str(path), "a file of reflections, not of atoms")
    reflections = found.read_reflections(Path(path), Choice(column=column, anomalous=anomalous, flag=flag))
    if reflections.remark:
        _LOG.warning("%s: %s", path, reflections.remark)
    return reflections


def writes_amplitudes(found: FileFormat) -> object:
    """Whether reflections can be written in a format."""
    return found.write_reflections


def reflection_output(path: str | os.PathLike[str], *, flag: str = "-o") -> FileFormat:
    """The format that the name of an output of structure factors asks for. Raises InputError if it asks for none."""
    return require_name(path, writes_amplitudes, flag=flag)
