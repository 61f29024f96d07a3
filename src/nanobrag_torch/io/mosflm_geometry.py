"""A MOSFLM matrix as the crystal of an experiment."""

from __future__ import annotations

import os
import re

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target
from nanobrag_torch.io.fileformat import FileFormat, Given
from nanobrag_torch.io.mosflm import read_mosflm_matrix, write_mosflm_matrix
from nanobrag_torch.records.experiment import BeamData, CrystalData, ExperimentData
from nanobrag_torch.records.frames import from_imgcif, to_imgcif

_NUMBER = rb"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eEdD][-+]?[0-9]+)?"
_ROW = rb"[ \t]*" + rb"(?:[ \t]+|(?=-))".join([_NUMBER] * 3) + rb"[ \t]*\r?(?:\n|\Z)"
_MATRIX = re.compile(rb"\s*?" + _ROW * 3)


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
    recognises=lambda file: _MATRIX.match(file.start[:2000]) is not None,
    suffixes=(".mat",),
    read_experiments=read_mosflm_geometry,
    write_experiment=write_mosflm_geometry,
    holds=frozenset({"crystal", "space group setting"}),
)
