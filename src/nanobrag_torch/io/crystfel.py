"""CrystFEL geometry (`.geom`): panels by corner, fast and slow vectors; beam along +z.

Read: panels with defaults, res, clen and coffset, rigid groups, bad regions, wavelength or photon energy, mask-free
limits. Refused: distances or energies that stand in the HDF5 file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.crystfel_write import write_crystfel
from nanobrag_torch.io.fields import Node, naming
from nanobrag_torch.io.fileformat import FileFormat
from nanobrag_torch.records.experiment import BeamData, DetectorData, ExperimentData, GroupData, PanelData, Vector
from nanobrag_torch.records.frames import to_imgcif
from nanobrag_torch.units import EV_ANGSTROM

ACCEPTED = "a CrystFEL geometry: lines of the form panel/key = value"
MM_PER_M = 1000.0

_PANEL_KEY = re.compile(rb"^\s*[^;=\s/]+/(fs|ss|corner_x|min_fs)\s*=", re.MULTILINE)
_LINE = re.compile(r"^\s*([^=;]+?)\s*=\s*([^;]*?)\s*(?:;.*)?$")
_QUANTITY = re.compile(r"^([-+0-9.eE]+)\s*([A-Za-z]*)$")
_TERM = re.compile(r"([-+]?)\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)?\s*\*?\s*([xyz])")
_LENGTHS = {"": 1.0, "m": 1.0, "mm": 1e-3, "cm": 1e-2, "um": 1e-6}
_ENERGIES = {"": 1.0, "eV": 1.0, "keV": 1e3, "MeV": 1e6}
_WAVELENGTHS = {"": 1e10, "m": 1e10, "A": 1.0}


@dataclass
class GeometryText:
    """The lines of a file: entries of the file, of each panel and of each bad region, each with its line number."""

    path: str
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
        raise InputError(f"{self.path}: {owner}/{key}", None, "a value (it is missing)")

    def quantity(self, owner: str, key: str, units: dict[str, float], default: float | None = None) -> float:
        """A number with an optional unit, times the factor of the unit."""
        found = self.node(owner, key, optional=default is not None)
        if found is None:
            return float(default or 0.0)
        match = _QUANTITY.match(found.value)
        if match is None or match[2] not in units:
            raise found.fail(f"a number with one of the units {', '.join(u for u in units if u)}")
        return Node(found.path, found.place, _as_float(match[1])).number() * units[match[2]]


def read_crystfel(path: str | os.PathLike[str]) -> ExperimentData:
    """Beam (None if the file gives no energy or wavelength) and detector of a CrystFEL geometry.

    Raises InputError naming file and line for what is missing, malformed or stands in another file.
    """
    text = _parse(read_input(path, "CrystFEL geometry", ACCEPTED).decode("utf-8", "replace"), str(path))
    if not text.panels:
        raise InputError(str(path), "no panel", ACCEPTED)
    with naming(str(path)):
        panels = {name: _panel(text, name) for name in text.panels}
        masks = _bad_pixels(text, panels)
        placed = tuple(replace(panel, mask=masks.get(name)) for name, panel in panels.items())
        return ExperimentData(beam=_beam(text), detector=DetectorData(panels=placed, root=_groups(text, list(panels))))


def _parse(content: str, path: str) -> GeometryText:
    """Entries by owner; what stands before a panel's first entry and names no panel is a default of that panel."""
    text, defaults = GeometryText(path), dict[str, tuple[str, int]]()
    for number, line in enumerate(content.splitlines(), 1):
        if not line.split(";")[0].strip():
            continue
        match = _LINE.match(line)
        if match is None:
            raise InputError(f"{path}: line {number}", line.strip()[:60], ACCEPTED)
        key, entry = match[1], (match[2], number)
        owner, slash, name = key.partition("/")
        if not slash:
            defaults[key] = text.top[key] = entry
        elif owner.startswith("bad"):
            text.bad.setdefault(owner, {})[name] = entry
        else:
            text.panels.setdefault(owner, dict(defaults))[name] = entry
    return text


def _beam(text: GeometryText) -> BeamData | None:
    if "wavelength" in text.top:
        return BeamData(wavelength_A=text.quantity("", "wavelength", _WAVELENGTHS))
    if "photon_energy" in text.top:
        energy_eV = text.quantity("", "photon_energy", _ENERGIES)
        if energy_eV <= 0:
            raise InputError(f"{text.path}: photon_energy", energy_eV, "a number above 0")
        return BeamData(wavelength_A=EV_ANGSTROM / energy_eV)
    return None


def _panel(text: GeometryText, name: str) -> PanelData:
    pixels_per_mm = text.quantity(name, "res", {"": 1.0}) / MM_PER_M
    if pixels_per_mm <= 0:
        raise InputError(f"{text.path}: {name}/res", pixels_per_mm * MM_PER_M, "a number above 0 (pixels a metre)")
    corner = [text.quantity(name, f"corner_{axis}", {"": 1.0}) / pixels_per_mm for axis in "xy"]
    z = text.quantity(name, "clen", _LENGTHS) + text.quantity(name, "coffset", _LENGTHS, 0.0)
    fast, slow = (_direction(text, name, key) for key in ("fs", "ss"))
    first_fast, last_fast, first_slow, last_slow = (
        _whole(text, name, key) for key in ("min_fs", "max_fs", "min_ss", "max_ss")
    )
    limit = text.node(name, "max_adu", optional=True)
    gain = text.node(name, "adu_per_photon", optional=True)
    return PanelData(
        name=name,
        origin_mm=to_imgcif("crystfel", np.array([*corner, z * MM_PER_M])),
        fast=to_imgcif("crystfel", fast),
        slow=to_imgcif("crystfel", slow),
        pixel_size_mm=(float(np.linalg.norm(fast)) / pixels_per_mm, float(np.linalg.norm(slow)) / pixels_per_mm),
        image_size=(last_fast - first_fast + 1, last_slow - first_slow + 1),
        trusted_range=None if limit is None else (0.0, text.quantity(name, "max_adu", {"": 1.0})),
        gain=None if gain is None else text.quantity(name, "adu_per_photon", {"": 1.0}),
        raw_image_offset=(first_fast, first_slow),
    )


def _direction(text: GeometryText, name: str, key: str) -> Vector:
    """A vector of text such as "+0.999x -0.01y"; its length is in pixels of res."""
    node = text.node(name, key)
    assert node is not None
    words = _TERM.findall(node.value)
    if not words or _TERM.sub("", node.value).strip():
        raise node.fail("a sum of numbers times x, y and z, such as +0.99x -0.01y")
    result = np.zeros(3)
    for sign, size, axis in words:
        result["xyz".index(axis)] += (-1 if sign == "-" else 1) * (_as_float(size) if size else 1.0)
    if not np.linalg.norm(result) > 0:
        raise node.fail("a vector that has a length")
    return result


def _whole(text: GeometryText, name: str, key: str) -> int:
    node = text.node(name, key)
    assert node is not None
    return Node(node.path, node.place, _as_float(node.value)).whole()


def _as_float(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return float("nan")


def _groups(text: GeometryText, names: list[str]) -> GroupData | None:
    """The rigid groups of the last collection, if they hold every panel once."""
    collections = [key for key in text.top if key.startswith("rigid_group_collection_")]
    if not collections:
        return None
    wanted = [word.strip() for word in text.top[collections[-1]][0].split(",")]
    groups = [_group(text, group, names) for group in wanted]
    held = sorted(index for group in groups for index in group.panel_indices())
    if held != list(range(len(names))):
        place = f"{text.path}: line {text.top[collections[-1]][1]}, {collections[-1]}"
        raise InputError(place, ", ".join(wanted)[:60], "groups that hold every panel once")
    return GroupData(name="detector", children=tuple(groups))


def _group(text: GeometryText, group: str, names: list[str]) -> GroupData:
    node = text.node("", f"rigid_group_{group}")
    assert node is not None
    members = [word.strip() for word in node.value.split(",")]
    unknown = [member for member in members if member not in names]
    if unknown:
        raise node.fail(f"names of panels; {unknown[0]} is none")
    return GroupData(name=group, children=tuple(names.index(member) for member in members))


def _bad_pixels(text: GeometryText, panels: dict[str, PanelData]) -> dict[str, NDArray[np.bool_]]:
    """Masks of the panels that bad regions touch; True = use the pixel."""
    masks: dict[str, NDArray[np.bool_]] = {}
    for region, entries in text.bad.items():
        only = entries["panel"][0] if "panel" in entries else None
        for name in [only] if only is not None else list(panels):
            if name not in panels:
                raise InputError(f"{text.path}: line {entries['panel'][1]}, {region}/panel", name, "a panel's name")
            bad = _bad_in_panel(text, region, panels[name])
            if bad.any():
                masks[name] = masks.get(name, np.ones(panels[name].shape, np.bool_)) & ~bad
    return masks


def _bad_in_panel(text: GeometryText, region: str, panel: PanelData) -> NDArray[np.bool_]:
    """Pixels of a panel in a region given by fs and ss of the data array, or by x and y in pixels in the lab frame."""
    slow, fast = np.indices(panel.shape)
    if "min_fs" in text.bad[region]:
        f0, f1, s0, s1 = (_whole(text, region, key) for key in ("min_fs", "max_fs", "min_ss", "max_ss"))
        f, s = fast + panel.raw_image_offset[0], slow + panel.raw_image_offset[1]
        return np.asarray((f >= f0) & (f <= f1) & (s >= s0) & (s <= s1), np.bool_)
    bounds = {key: text.quantity(region, key, {"": 1.0}) for key in ("min_x", "max_x", "min_y", "max_y")}
    x, y = np.moveaxis(to_imgcif("crystfel", panel.positions_mm(fast + 0.5, slow + 0.5)), -1, 0)[:2] / np.array(
        panel.pixel_size_mm[0]
    )
    inside = (x >= bounds["min_x"]) & (x <= bounds["max_x"]) & (y >= bounds["min_y"]) & (y <= bounds["max_y"])
    return np.asarray(inside, np.bool_)


FORMAT = FileFormat(
    name="crystfel",
    title="CrystFEL .geom",
    recognises=lambda file: _PANEL_KEY.search(file.content) is not None,
    suffixes=(".geom",),
    read_experiments=lambda path, _: [read_crystfel(path)],
    write_experiment=write_crystfel,
    holds=frozenset({
        "beam", "detector", "several panels", "groups of panels", "trusted range", "gain", "mask",
        "untrusted rectangles",
    }),
)  # fmt: skip
