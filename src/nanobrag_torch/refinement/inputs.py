"""Files, or what was read from them, to what a refinement of one exposure needs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.crystallography.completeness import possible_reflections
from nanobrag_torch.crystallography.structure_factors import read_structure_factors
from nanobrag_torch.crystallography.symmetry import rotations
from nanobrag_torch.errors import InputError
from nanobrag_torch.experiment import Experiment
from nanobrag_torch.io.atomic import read_start
from nanobrag_torch.io.geometry import read_experiments
from nanobrag_torch.io.hdf5_links import is_hdf5
from nanobrag_torch.io.images import read_image
from nanobrag_torch.io.nxmx_read import read_nxmx_geometry
from nanobrag_torch.io.refl import read_refl
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.records.reflections import Cell, Reflections
from nanobrag_torch.records.tables import ReflectionData
from nanobrag_torch.refinement.kept_pixels import image_of_shoeboxes
from nanobrag_torch.refinement.setup import array_index, space_group_of
from nanobrag_torch.refinement.spectra import read_spectrum
from nanobrag_torch.units import EV_ANGSTROM

PathLike = str | os.PathLike[str]
Geometry = PathLike | ExperimentData | Experiment | Sequence[ExperimentData]
Amplitudes = PathLike | Reflections | None
Source = tuple[Path, int]
"""A file of images, and which of them."""
NO_F = 100.0
NO_F_DMIN = 1.2
SAME_BEAM = 0.01
"""Of the wavelength; a spectrum whose mean is further off is that of another beam."""
MOVED_EV = 0.1
OTHER_LENGTH, OTHER_ANGLE = 0.1, 5.0
"""Relative, and degrees; a cell that is further off is that of another crystal, or of other axes."""


@dataclass(frozen=True, eq=False)
class Shot:
    """One exposure: an experiment for each of its crystals, its reflections, its counts and its structure factors."""

    experiments: tuple[ExperimentData, ...]
    numbers: dict[int, int]  # experiment in the reflection table -> crystal
    table: ReflectionData
    counts: NDArray[Any]
    factors: tuple[Reflections, ...]
    frame: int
    notes: tuple[str, ...] = ()


def read_shot(
    experiment: Geometry,
    reflections: PathLike | ReflectionData,
    image: PathLike | NDArray[Any] | None,
    structure_factors: Amplitudes | Sequence[Amplitudes],
    *,
    frame: int = 0,
    shot: int = 0,
    column: str | None = None,
    spectrum: PathLike | None = None,
) -> Shot:
    """The exposure `shot` of an experiment list: experiments that share detector, beam and image are its crystals.

    image None: by the template of the experiment, relative to its file. structure_factors None: all the same. Raises
    InputError naming what is missing.
    """
    experiments, folder = _experiments(experiment)
    table = reflections if isinstance(reflections, ReflectionData) else read_refl(reflections, shoeboxes=image is None)
    groups = shots_of(experiments)
    if not 0 <= shot < len(groups):
        raise InputError("shot", shot, f"0 to {len(groups) - 1}")
    chosen = groups[shot]
    members = tuple(experiments[i] for i in chosen)
    members[0].need("beam", "detector", "crystal", where="a refinement")
    members = members if spectrum is None else with_spectrum(members, spectrum)
    several = structure_factors if isinstance(structure_factors, list | tuple) else [structure_factors] * len(members)
    if len(several) != len(members):
        raise InputError("structure_factors", len(several), f"one, or one for each of {len(members)} crystals")
    factors, notes = [], []
    for data, source in zip(members, several, strict=True):
        listed, said = _factors(data, source, column)
        factors.append(listed)
        notes += said
    numbers = {_number_in(table, experiments[i].identifier, i): place for place, i in enumerate(chosen)}
    counts, source, said = _counts(image, members[0], folder, frame, table, numbers)
    notes += said
    if spectrum is None:
        members, said = _with_spectrum_of_file(members, _own_file(experiment, frame), source)
        notes += said
    members = tuple(with_places(data, source, folder) for data in members)
    return Shot(members, numbers, table, counts, tuple(factors), frame, tuple(notes))


def _number_in(table: ReflectionData, identifier: str, number: int) -> int:
    """The number that an experiment has in a reflection table: by its identifier, as DIALS has it, else its place.

    Raises InputError for a table of other experiments.
    """
    if not identifier or not table.identifiers:
        return number
    found = [key for key, name in table.identifiers.items() if name == identifier]
    if not found:
        others = ", ".join(list(table.identifiers.values())[:3])
        raise InputError("reflections", f"those of {others}", f"some of the experiment {identifier}")
    return found[0]


def with_spectrum(experiments: Sequence[ExperimentData], path: PathLike) -> tuple[ExperimentData, ...]:
    """The experiments in a beam of the wavelengths and weights of a file; the wavelength is their mean."""
    wavelengths, weights = read_spectrum(Path(path))
    mean = float((wavelengths * weights).sum() / weights.sum())
    return _in_beam(experiments, mean, EV_ANGSTROM / wavelengths, weights)


def _in_beam(
    experiments: Sequence[ExperimentData], mean: float, energies: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[ExperimentData, ...]:
    beam = experiments[0].beam
    assert beam is not None
    changed = replace(beam, wavelength_A=mean, spectrum_energies_eV=energies, spectrum_weights=weights)
    return tuple(replace(data, beam=changed) for data in experiments)


def _own_file(experiment: Geometry, frame: int) -> Source | None:
    """The NXmx file that is the experiment list itself, which was read for its first frame."""
    if isinstance(experiment, str | os.PathLike) and is_hdf5(read_start(experiment, "experiments", "a geometry")):
        return Path(experiment), frame
    return None


def _with_spectrum_of_file(
    experiments: tuple[ExperimentData, ...], own: Source | None, image: Source | None
) -> tuple[tuple[ExperimentData, ...], list[str]]:
    """The experiments in the spectrum of the file of their geometry or image, about the wavelength that they have.

    Experiment lists of DIALS hold none: it stays with the images. Raises InputError where it is another beam's.
    """
    now, place = experiments[0].beam, own or image
    if now is None or place is None or (own is None and now.spectrum_energies_eV is not None):
        return experiments, []
    found = read_nxmx_geometry(*place).beam if is_hdf5(read_start(place[0], "image", "an image")) else None
    if found is None or found.spectrum_energies_eV is None or found.spectrum_weights is None:
        return experiments, []
    wavelengths = EV_ANGSTROM / found.spectrum_energies_eV
    mean = float(np.average(wavelengths, weights=found.spectrum_weights))
    if not abs(mean / now.wavelength_A - 1) <= SAME_BEAM:
        said = f"a spectrum about {mean:.5g} A"
        raise InputError(str(place[0]), said, f"one about {now.wavelength_A:.5g} A, as the experiment (or --spectrum)")
    energies = found.spectrum_energies_eV * (mean / now.wavelength_A)
    note = f"the spectrum of {len(energies)} channels is that of {place[0].name}"
    off = float(np.mean(energies - found.spectrum_energies_eV))
    note += f", moved by {off:+.1f} eV to the experiment's wavelength" if abs(off) > MOVED_EV else ""
    return _in_beam(experiments, now.wavelength_A, energies, found.spectrum_weights), [note]


def _experiments(given: Geometry) -> tuple[list[ExperimentData], Path]:
    if isinstance(given, Experiment):
        return [given.data], Path()
    if isinstance(given, ExperimentData):
        return [given], Path()
    if isinstance(given, str | os.PathLike):
        folder = Path(given).parent
        return list(read_experiments(given)), folder
    return list(given), Path()


def shots_of(experiments: Sequence[ExperimentData]) -> list[list[int]]:
    """Numbers of the experiments of each exposure: those with the same beam, detector, scan and image."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, data in enumerate(experiments):
        parts = (id(data.beam), id(data.detector), id(data.goniometer), id(data.scan))
        alone = data.image_template is None and not data.images and data.scan is None
        same_image = (
            data.image_template,
            data.images,
            data.image_numbers,
            number if alone and not _is_shared(experiments, number) else None,
        )
        groups.setdefault((*parts, *same_image), []).append(number)
    return list(groups.values())


def _is_shared(experiments: Sequence[ExperimentData], number: int) -> bool:
    """Without images, experiments that share both beam and detector are taken for crystals of one exposure."""
    return any(e.detector is experiments[number].detector for i, e in enumerate(experiments) if i != number)


def _factors(data: ExperimentData, source: Amplitudes, column: str | None) -> tuple[Reflections, list[str]]:
    assert data.crystal is not None and data.beam is not None
    cell = data.crystal.cell
    known: Cell = (cell[0], cell[1], cell[2], cell[3], cell[4], cell[5])
    if isinstance(source, Reflections):
        return source, _said_of_symmetry(source, data, known)
    if source is None:
        empty = Reflections(hkl=np.zeros((0, 3), np.int32), amplitude=np.zeros(0))
        group = space_group_of(data, empty) or "P 1"
        hkl = possible_reflections(known, group, NO_F_DMIN)
        note = "no structure factors were given: every reflection starts from the same one"
        made = Reflections(hkl=hkl, amplitude=np.full(len(hkl), NO_F), cell=known, space_group=group, source="constant")
        return made, [note]
    found = read_structure_factors(source, column=column, wavelength_A=data.beam.wavelength_A)
    if found.space_group is None:  # a plain list says neither cell nor symmetry
        found = replace(found, cell=known)
    return found, _said_of_symmetry(found, data, known)


def _said_of_symmetry(factors: Reflections, data: ExperimentData, cell: Cell) -> list[str]:
    """What to say of structure factors whose symmetry is not the crystal's.

    Raises InputError for those of another cell or of a symmetry that excludes the crystal's: intensities are free, so
    that a fit would hide whose they are. Data of a subgroup, P 1 for one, or of a supergroup have what is needed.
    """
    theirs = factors.cell or cell
    if any(abs(a / b - 1) > OTHER_LENGTH for a, b in zip(theirs[:3], cell[:3], strict=True)) or any(
        abs(a - b) > OTHER_ANGLE for a, b in zip(theirs[3:], cell[3:], strict=True)
    ):
        accepted = f"that of the crystal, {_short(cell)}, or a near one"
        raise InputError("structure factors", f"a cell of {_short(theirs)}", accepted)
    group = space_group_of(data, factors)
    if factors.space_group is None or group is None:
        return []
    own, given = _laue_turns(group), _laue_turns(factors.space_group)
    if not (own <= given or given <= own):
        accepted = f"that of the crystal, {group}, or one above or below it"
        raise InputError("structure factors", f"space group {factors.space_group}", accepted)
    said = f"structure factors are of {factors.space_group}, the crystal is of {group}"
    return [] if own == given else [said]


def _short(cell: Cell) -> str:
    return " ".join(f"{value:.4g}" for value in cell)


def _laue_turns(group: str) -> set[bytes]:
    """The rotations of a space group and of Friedel's law."""
    turns = rotations(group)
    return {turn.tobytes() for turn in (*turns, *-turns)}


def _counts(
    image: PathLike | NDArray[Any] | None,
    data: ExperimentData,
    folder: Path,
    frame: int,
    table: ReflectionData,
    numbers: dict[int, int],
) -> tuple[NDArray[Any], Source | None, list[str]]:
    """The counts of an exposure, the file that they are from, if any, and what to say about it."""
    if image is None:
        try:
            place = image_of(data, folder, frame)
            return read_image(*place).pixels, place, []
        except InputError:
            if not any(box.data is not None for box in table.shoeboxes):
                raise
        assert data.detector is not None
        found = image_of_shoeboxes(table, data.detector, array_index(data, frame), numbers)
        return found, None, ["the images are not there: pixels are those of the reflection table's shoeboxes"]
    if not isinstance(image, str | os.PathLike):
        return np.asarray(image), None, []
    content, inside = read_image(image), frame
    if content.frames > 1 and data.scan is None and not frame:
        inside = data.image_numbers[0] if data.image_numbers else 0
        said = [f"image {inside} of the {content.frames} in {Path(image).name}, counted from 0"]
        return read_image(image, inside).pixels, (Path(image), inside), said
    pixels = read_image(image, frame).pixels if content.frames > 1 and frame else content.pixels
    return pixels, (Path(image), frame if content.frames > 1 else 0), []


def image_of(data: ExperimentData, folder: Path, frame: int) -> tuple[Path, int]:
    """The image file of a frame by the template of an experiment, and which image of that file.

    Raises InputError for an experiment without a template, or a file that is not there.
    """
    if data.images:
        place = min(frame, len(data.images) - 1)
        inside = data.image_numbers[place] if place < len(data.image_numbers) else frame if len(data.images) == 1 else 0
        return _found(Path(data.images[place]), folder), inside
    template = data.image_template
    if template is None:
        raise InputError("image", None, "an image: the experiment does not name one")
    number = frame + (1 if data.scan is None else data.scan.image_range[0])
    # In a file of several images DIALS counts from 0 where it numbers them from 1.
    name, inside = template, data.image_numbers[frame] if frame < len(data.image_numbers) else max(number - 1, 0)
    for mark in ("#", "?"):
        width = template.count(mark)
        if width and mark * width in template:
            name, inside = template.replace(mark * width, str(number).zfill(width)), 0
    return _found(Path(name), folder), inside


def with_places(data: ExperimentData, source: Source | None, folder: Path) -> ExperimentData:
    """The experiment with its images by their whole paths, so that it finds them from another folder too.

    A still's is the file that was read; names of a scan stay as they are where nothing is found by them.
    """
    if source is None:
        return data
    found, inside = source
    if data.scan is None:
        numbers = (inside,) if inside or data.image_numbers else ()
        return replace(data, image_template=None, images=(str(found.absolute()),), image_numbers=numbers)
    template, images = data.image_template, data.images
    if template is not None and fnmatch(found.name, re.sub("#", "?", Path(template).name)):
        template = str(found.parent.absolute() / Path(template).name)
    images = tuple(str(path.absolute()) if (path := _there(Path(name), folder)) else name for name in images)
    return replace(data, image_template=template, images=images)


def _found(place: Path, folder: Path) -> Path:
    """A file as named, relative to the experiment list or beside it. Raises InputError if it is not there."""
    path = _there(place, folder)
    if path is None:
        first = place if place.is_absolute() else folder / place
        raise InputError("image", str(first), "a file that is there, or the images themselves (--images)")
    return path


def _there(place: Path, folder: Path) -> Path | None:
    tried = [place] if place.is_absolute() else [folder / place, place]
    return next((path for path in (*tried, folder / place.name) if path.is_file()), None)
