"""A MOSFLM matrix as the crystal of an experiment."""

from __future__ import annotations

import os
import re

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, read_start
from nanobrag_torch.io.fileformat import FileFormat, Given
from nanobrag_torch.io.mosflm import read_mosflm_matrix, write_mosflm_matrix
from nanobrag_torch.records.experiment import BeamData, CrystalData, ExperimentData
from nanobrag_torch.records.frames import from_imgcif, to_imgcif

_NUMBER = r"[-+]?(?:[0-9]++\.?[0-9]*+|\.[0-9]+)(?:[eEdD][-+]?[0-9]+)?"
_WORD = re.compile(_NUMBER)
_LINE = re.compile(rf"\s*(?:{_NUMBER}(?:\s+|(?=-)))*{_NUMBER}\s*")
BARE, WHOLE = (3, 3, 3), (3, 3, 3, 3, 3, 3, 3, 6)
"""Numbers a line: A alone, or A, missetting angles, U and cell, then perhaps missetting angles again."""
ACCEPTED = "a MOSFLM matrix: three lines of three numbers; or those, missetting angles, U and the cell"


def is_matrix(start: bytes) -> bool:
    """Whether a file that begins so is a MOSFLM matrix, not a list of other numbers."""
    rows: list[int] = []
    for line in start[:4096].decode("latin-1").splitlines():
        if not line.strip():
            continue
        if not _LINE.fullmatch(line):
            break
        rows.append(len(_WORD.findall(line)))
    return tuple(rows) == BARE or (tuple(rows[:8]) == WHOLE and rows[8:] in ([], [3]))


def require_matrix(path: str | os.PathLike[str], flag: str) -> None:
    """Raise InputError for a file that is no MOSFLM matrix."""
    start = read_start(path, flag, ACCEPTED)
    if not is_matrix(start):
        raise InputError(flag, f"{path}: {start[:40].decode('latin-1')}", ACCEPTED)


def read_mosflm_geometry(path: str | os.PathLike[str], given: Given) -> list[ExperimentData]:
    """The crystal of a MOSFLM matrix, and the wavelength that was given, without which it raises InputError."""
    if given.wavelength_A is None:
        raise InputError(f"{path}: wavelength", None, "a wavelength (a MOSFLM matrix contains it as a factor)")
    stars = to_imgcif("mosflm", np.stack(read_mosflm_matrix(path, given.wavelength_A)))
    beam = BeamData(wavelength_A=given.wavelength_A)
    return [ExperimentData(beam=beam, crystal=CrystalData.from_reciprocal(stars.T))]


def write_mosflm_geometry(target: Target, data: ExperimentData, *, flag: str = "output file") -> None:
    """Write the crystal, as the goniometer holds it at angle 0, as a MOSFLM matrix."""
    data.need("beam", "crystal", where="a MOSFLM matrix")
    if data.beam is None or data.crystal is None:
        return
    held = np.eye(3) if data.goniometer is None else data.goniometer.rotation(0.0)
    a_star, b_star, c_star = from_imgcif("mosflm", (held @ data.crystal.A).T)
    write_mosflm_matrix(target, a_star, b_star, c_star, data.beam.wavelength_A, flag=flag)


FORMAT = FileFormat(
    name="mosflm",
    title="MOSFLM matrix",
    recognises=lambda file: is_matrix(file.start),
    suffixes=(".mat",),
    read_experiments=read_mosflm_geometry,
    write_experiment=write_mosflm_geometry,
    holds=frozenset({"crystal", "space group setting"}),
)
