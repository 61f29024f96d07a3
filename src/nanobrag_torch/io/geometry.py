"""Geometry files of every kind, by the format of `formats.py` that they are; and what a conversion would lose."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.fileformat import FileFormat, Given
from nanobrag_torch.io.formats import find_format, format_called, format_of_name, reads_experiments, require_name
from nanobrag_torch.records.contents import contents
from nanobrag_torch.records.experiment import ExperimentData


@dataclass(frozen=True)
class Written:
    """What a conversion left out."""

    format: str
    lost: tuple[str, ...]


def read_experiments(
    path: str | os.PathLike[str], *, wavelength_A: float | None = None, data_file: str | os.PathLike[str] | None = None
) -> list[ExperimentData]:
    """Every experiment that a geometry file describes, whichever kind it is; most describe one.

    `wavelength_A` is needed for a MOSFLM matrix, which contains it; `data_file` for a CrystFEL geometry whose values
    stand in its images. Raises InputError naming file, place and reason.
    """
    read = find_format(path, reads_experiments).read_experiments
    assert read is not None
    given = Given(wavelength_A=wavelength_A, data_file=None if data_file is None else Path(data_file))
    return read(Path(path), given)


def read_geometry(
    path: str | os.PathLike[str],
    *,
    index: int | None = None,
    wavelength_A: float | None = None,
    data_file: str | os.PathLike[str] | None = None,
) -> ExperimentData:
    """As `read_experiments`, the one experiment, or number `index` of several."""
    experiments = read_experiments(path, wavelength_A=wavelength_A, data_file=data_file)
    if index is None and len(experiments) > 1:
        accepted = f"--experiment 0 to {len(experiments) - 1}, to choose one"
        raise InputError(str(path), f"{len(experiments)} experiments", accepted)
    if index is not None and not 0 <= index < len(experiments):
        raise InputError(f"{path}: --experiment", index, f"a number from 0 to {len(experiments) - 1}")
    return experiments[index or 0]


def writes_experiments(found: FileFormat) -> object:
    """Whether a geometry can be written in a format, without an image."""
    return found.write_experiment


def geometry_output(path: str | os.PathLike[str], to: str | None = None) -> FileFormat | None:
    """The geometry format that a name, or `to`, asks for; None if the name asks for none."""
    if to is not None:
        return format_called(to, writes_experiments, flag="--to")
    return format_of_name(path, writes_experiments)


def write_geometry(
    path: str | os.PathLike[str], data: ExperimentData, *, to: str | None = None, allow_loss: bool = False
) -> Written:
    """Write a geometry file, of the kind that its name asks for, or `to`; says what was left out.

    Raises InputError, and writes nothing, if anything would be lost and `allow_loss` is not given.
    """
    found = geometry_output(path, to) or require_name(path, writes_experiments)
    lost = refuse_losses(data, found, allow_loss)
    assert found.write_experiment is not None
    found.write_experiment(path, data)
    return Written(found.name, lost)


def refuse_losses(data: ExperimentData, found: FileFormat, allow_loss: bool) -> tuple[str, ...]:
    """What would be lost. Raises InputError listing it unless `allow_loss`."""
    lost = losses(data, found)
    if lost and not allow_loss:
        raise InputError(f"conversion to {found.name}", ", ".join(lost), "--allow-loss, to leave these out")
    return lost


def losses(data: ExperimentData, found: FileFormat) -> tuple[str, ...]:
    """What the format would lose of an experiment, in words."""
    return tuple(name for name in contents(data) if name not in found.holds)
