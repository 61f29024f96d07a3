"""The lines of a CrystFEL geometry, and values that stand in the data file instead."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.apart import apart
from nanobrag_torch.io.fields import Node
from nanobrag_torch.io.hdf5_links import require_own_folder

ACCEPTED = "a CrystFEL geometry: lines of the form panel/key = value"
LENGTHS = {"": 1.0, "m": 1.0, "mm": 1e-3, "cm": 1e-2, "um": 1e-6}
NUMBER = {"": 1.0}

LONGEST_LINE = 10_000
"""Characters: none of CrystFEL's entries comes near."""
_QUANTITY = re.compile(r"^([-+0-9.eE]++)\s*+([A-Za-z]*)$")
_LOCATION = re.compile(r"^(/\S*)\s*([A-Za-z]*)$")
_TRUE = ("1", "true", "yes", "on")


@dataclass
class GeometryText:
    """The lines of a file: entries of the file, of each panel and of each bad region, each with its line number."""

    path: str
    data_file: Path | None = None
    top: dict[str, tuple[str, int]] = field(default_factory=dict)
    panels: dict[str, dict[str, tuple[str, int]]] = field(default_factory=dict)
    bad: dict[str, dict[str, tuple[str, int]]] = field(default_factory=dict)

    def node(self, owner: str, key: str, optional: bool = False) -> Node | None:
        """The value of a panel, a bad region or the file itself, and its place."""
        entries = self.panels.get(owner) or self.bad.get(owner) or self.top
        if key in entries:
            value, line = entries[key]
            return Node(self.path, f"line {line}, {owner}/{key}" if owner else f"line {line}, {key}", value)
        if optional:
            return None
        raise InputError(f"{self.path}: {owner}/{key}".replace(": /", ": "), None, "a value (it is missing)")

    def quantity(
        self, owner: str, key: str, units: dict[str, float], default: float | None = None, *, stored: str = ""
    ) -> float:
        """A number with an optional unit, times the factor of the unit.

        A location such as /LCLS/clen is looked up in the data file, where `stored` is the unit of one without a word.
        Raises InputError naming the line, for a location also if no data file was given.
        """
        found = self.node(owner, key, optional=default is not None)
        if found is None:
            return float(default or 0.0)
        location = _LOCATION.match(found.value)
        match = location or _QUANTITY.match(found.value)
        if match is None or match[2] not in units:
            raise found.fail(f"a number with one of the units {', '.join(u for u in units if u) or 'none'}")
        if location is not None:
            return self._stored(found, location[1]) * units[match[2] or stored]
        return Node(found.path, found.place, as_float(match[1])).number() * units[match[2]]

    def number_or_none(self, owner: str, key: str) -> float | None:
        """A plain number that may be missing."""
        return None if self.node(owner, key, optional=True) is None else self.quantity(owner, key, NUMBER)

    def whole(self, owner: str, key: str, default: int | None = None) -> int:
        """A whole number."""
        node = self.node(owner, key, optional=default is not None)
        return int(default or 0) if node is None else Node(node.path, node.place, as_float(node.value)).whole()

    def is_true(self, owner: str, key: str) -> bool:
        """Whether a switch is on."""
        node = self.node(owner, key, optional=True)
        return node is not None and node.value.strip().lower() in _TRUE

    def _stored(self, found: Node, location: str) -> float:
        """The one value that the data file holds at a location."""
        if self.data_file is None:
            raise found.fail("a number, or the file of data that holds it (--data-file)")
        values = np.unique(data_at(self.data_file, location, found))
        if len(values) != 1:
            raise found.fail(f"one value for all images, not {len(values)} from {values[0]:g} to {values[-1]:g}")
        return float(values[0])


def data_at(file: Path, location: str, found: Node) -> np.ndarray:
    """The numbers of an HDF5 file at a location. Raises InputError naming the line of the geometry."""
    try:
        values: np.ndarray = apart(
            file, "an HDF5 file", "nanobrag_torch.io.crystfel_text:values_within", file, location
        )
    except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise found.fail(f"a location that {file} has ({' '.join(str(error).split())[:80]})") from error
    if values.size == 0 or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise found.fail(f"finite numbers in {file}")
    return values


def values_within(file: Path, location: str) -> np.ndarray:
    """The numbers at a location, in the process that may crash on a damaged file."""
    import h5py
    import hdf5plugin  # noqa: F401  (registers the filters)

    with h5py.File(file, "r") as data:
        require_own_folder(data, file)
        return np.asarray(data[location][()])


def parse(content: str, path: str, data_file: Path | None) -> GeometryText:
    """Entries by owner; what stands before a panel's first entry and names no panel is a default of that panel."""
    text, defaults = GeometryText(path, data_file), dict[str, tuple[str, int]]()
    for number, line in enumerate(content.splitlines(), 1):
        said = line.partition(";")[0].strip()
        if not said:
            continue
        key, equals, value = (part.strip() for part in said.partition("="))
        if not equals or not key or len(said) > LONGEST_LINE:
            raise InputError(f"{path}: line {number}", said[:60], ACCEPTED)
        entry = value, number
        owner, slash, name = key.partition("/")
        if not slash:
            defaults[key] = text.top[key] = entry
        elif owner.startswith("bad"):
            text.bad.setdefault(owner, {})[name] = entry
        else:
            text.panels.setdefault(owner, dict(defaults))[name] = entry
    return text


def as_float(word: str) -> float:
    """The number of a word; NaN, which is refused later, if it is none."""
    try:
        return float(word)
    except ValueError:
        return float("nan")
