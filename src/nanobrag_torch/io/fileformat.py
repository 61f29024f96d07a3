"""What there is to know about a file format: how to recognise, read and write it, and what it holds and counts to.

A format is one `FileFormat`, made in the module that reads and writes it and listed in `formats.py`; everything that
opens or names files asks that list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, read_input, read_start
from nanobrag_torch.io.guard import guarded
from nanobrag_torch.records.atoms import AtomicModel
from nanobrag_torch.records.bounds import check_atoms, check_experiment, check_reflections
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.records.images import ImageData
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.records.tables import ReflectionData

T = TypeVar("T")
READERS = ("read_experiments", "read_image", "read_reflections", "read_atoms", "read_table", "rows")
"""Fields of a format that take the path of a file first."""


class FileStart:
    """The first bytes of a file, and all of them for the formats that are told apart only so; unpacked."""

    def __init__(self, path: Path, flag: str, accepted: str) -> None:
        """Raises InputError naming flag and path if the file cannot be read or is empty."""
        self.path, self._flag, self._accepted = path, flag, accepted
        self.start = read_start(path, flag, accepted)

    @cached_property
    def content(self) -> bytes:
        """The whole file."""
        return read_input(self.path, self._flag, self._accepted)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a geometry file may leave to its reader."""

    wavelength_A: float | None = None  # a MOSFLM matrix contains it as a factor
    data_file: Path | None = None  # images that a CrystFEL geometry points into


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of the amplitudes of a file to read."""

    column: str | None = None
    anomalous: bool | None = None
    flag: str = "structure factors"


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How to write an image: `pixel_type` is one of the format's, None the first that suffices."""

    pixel_type: str | None = None
    allow_loss: bool = False
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class FrameStore:
    """How a format that keeps all frames in one file packs a frame, and puts the file together."""

    pack: Callable[[NDArray[Any]], bytes]  # of the stacked array (slow, fast)
    assemble: Callable[[Path, ExperimentData, np.dtype[Any], int, Iterable[bytes], str], None]
    """Path, experiment, pixels, frames, packed frames, and a text that says which series it is."""


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """One format. What is None cannot be done with it; readers raise InputError naming file, place and reason."""

    name: str
    title: str  # for people
    recognises: Callable[[FileStart], bool]
    fallback: bool = False  # recognises every file, and is tried last
    suffixes: tuple[str, ...] = ()  # of the files that are written
    name_parts: tuple[str, ...] = ()  # of files known by a word in their name

    read_experiments: Callable[[Path, Given], list[ExperimentData]] | None = None
    write_experiment: Callable[[Target, ExperimentData], None] | None = None
    holds: frozenset[str] = frozenset()  # words of records/contents.py; what is missing here is lost in it

    read_image: Callable[[Path, int], ImageData] | None = None
    write_image: Callable[[Path, NDArray[Any], ExperimentData | None, ImageOptions], None] | None = None
    pixel_types: tuple[str, ...] = ()  # what it stores; whole numbers that are made for it are of the first
    frames: FrameStore | None = None  # None: one image a file

    read_reflections: Callable[[Path, Choice], Reflections] | None = None
    write_reflections: Callable[[Target, Reflections, str], None] | None = None
    listed_in_P1: bool = False  # reflections are a list of all of P1, without symmetry
    read_atoms: Callable[[Path, str], AtomicModel] | None = None
    rows: Callable[[Path], list[tuple[str, str]]] | None = None  # what else a file of reflections holds, for people
    read_table: Callable[[Path], ReflectionData] | None = None
    apart: bool = False  # whether readers run in a process of their own, since their library can crash or loop

    def __post_init__(self) -> None:
        """Every reader meets damaged files: what its library raises there is one line that names the file."""
        for name in READERS:
            reader = getattr(self, name)
            if reader is not None:
                object.__setattr__(self, name, guarded(reader, self.title, apart=self.apart))
        for name, check in _CHECKS.items():
            reader = getattr(self, name)
            if reader is not None:
                object.__setattr__(self, name, _checked(reader, check))

    @property
    def fractions(self) -> bool:
        """Whether pixels may be fractions, and are expected photons rather than counts."""
        return bool(self.pixel_types) and np.dtype(self.pixel_types[0]).kind == "f"

    @property
    def largest_count(self) -> int:
        """The highest whole number that its first type of pixel holds."""
        return int(np.iinfo(self.pixel_types[0]).max)

    def is_name(self, path: Path) -> bool:
        """Whether a name asks for this format."""
        name = path.name.lower()
        return name.endswith(self.suffixes) or any(part.lower() in name for part in self.name_parts)


def _checked(read: Callable[..., T], check: Callable[[T], T]) -> Callable[..., T]:
    """A reader that refuses numbers which nothing real can have, naming the file and the field."""

    def checked(path: Path, *arguments: Any) -> T:
        found = read(path, *arguments)
        try:
            return check(found)
        except InputError as error:
            raise InputError(f"{path}: {error.name}", error.value, error.accepted) from error

    return checked


def _check_experiments(found: list[ExperimentData]) -> list[ExperimentData]:
    for each in found:
        check_experiment(each)
    return found


def _check_image(found: ImageData) -> ImageData:
    """Pixels are good all the same where the geometry of their header cannot be meant."""
    try:
        if found.experiment is not None:
            check_experiment(found.experiment)
    except InputError as error:
        return replace(found, experiment=None, no_geometry=str(error))
    return found


def _checking(check: Callable[[T], None]) -> Callable[[T], T]:
    def checked(found: T) -> T:
        check(found)
        return found

    return checked


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "read_experiments": _check_experiments,
    "read_image": _check_image,
    "read_reflections": _checking(check_reflections),
    "read_atoms": _checking(check_atoms),
}
