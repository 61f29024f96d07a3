"""CrystFEL geometry (`.geom`): panels by corner, fast and slow vectors; beam along +z.

Read: panels with defaults, res, clen and coffset, the shift of the detector, groups, pixels that are left out, and
wavelength, photon energy or voltage. Values that stand in the HDF5 file of data are refused unless that file is given.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.crystfel_masks import groups_of, masks_of
from nanobrag_torch.io.crystfel_text import ACCEPTED, LENGTHS, NUMBER, GeometryText, as_float, parse
from nanobrag_torch.io.crystfel_write import write_crystfel
from nanobrag_torch.io.fields import naming
from nanobrag_torch.io.fileformat import FileFormat
from nanobrag_torch.records.bounds import check_experiment
from nanobrag_torch.records.experiment import BeamData, DetectorData, ExperimentData, PanelData, Vector
from nanobrag_torch.records.frames import to_imgcif
from nanobrag_torch.units import EV_ANGSTROM

_LOG = logging.getLogger(__name__)

MM_PER_M = 1000.0
ELECTRON_REST_EV = 510998.95
_PANEL_KEY = re.compile(rb"^[ \t]*+[^;=\s/]++/(fs|ss|corner_x|min_fs)[ \t]*+=", re.MULTILINE)
_TERM = re.compile(r"([-+]?)([0-9.]+(?:[eE][-+]?[0-9]+)?)?\*?([xyz])")
_ENERGIES = {"": 1.0, "eV": 1.0, "keV": 1e3, "MeV": 1e6}
_VOLTAGES = {"": 1.0, "V": 1.0, "kV": 1e3}
_WAVELENGTHS = {"": 1e10, "m": 1e10, "A": 1.0}


def read_crystfel(path: str | os.PathLike[str], data_file: Path | None = None) -> ExperimentData:
    """Beam (None if the file gives no energy or wavelength) and detector of a CrystFEL geometry.

    `data_file` holds the values that the geometry only locates. Raises InputError naming file and line for what is
    missing, malformed or stands in another file.
    """
    text = parse(read_input(path, "CrystFEL geometry", ACCEPTED).decode("utf-8", "replace"), str(path), data_file)
    if not text.panels:
        raise InputError(str(path), "no panel", ACCEPTED)
    with naming(str(path)):
        beam = _beam(text)
        panels = {name: _panel(text, name, beam) for name in text.panels}
        check_experiment(ExperimentData(beam=beam, detector=DetectorData(panels=tuple(panels.values()))))
        masks = masks_of(text, panels)  # as large as the panels: their sizes are checked before
        placed = tuple(replace(panel, mask=masks.get(name)) for name, panel in panels.items())
        return ExperimentData(beam=beam, detector=DetectorData(panels=placed, root=groups_of(text, list(panels))))


def _beam(text: GeometryText) -> BeamData | None:
    for key in ("bandwidth", "photon_energy_bandwidth"):
        if (text.number_or_none("", key) or 0.0) != 0.0:
            _LOG.warning("%s: %s is not used; the beam has one wavelength", text.path, key)
    if "wavelength" in text.top:
        return BeamData(wavelength_A=text.quantity("", "wavelength", _WAVELENGTHS, stored="m"))
    if "photon_energy" in text.top:
        return BeamData(wavelength_A=EV_ANGSTROM / _above_zero(text, "photon_energy", _ENERGIES))
    if "electron_voltage" in text.top:
        energy_eV = _above_zero(text, "electron_voltage", _VOLTAGES)
        momentum_eV = float(np.sqrt(energy_eV * (energy_eV + 2 * ELECTRON_REST_EV)))
        return BeamData(wavelength_A=EV_ANGSTROM / momentum_eV, probe="electron")
    return None


def _above_zero(text: GeometryText, key: str, units: dict[str, float]) -> float:
    value = text.quantity("", key, units)
    if value <= 0:
        raise InputError(f"{text.path}: {key}", value, "a number above 0")
    return value


def _panel(text: GeometryText, name: str, beam: BeamData | None) -> PanelData:
    if "clen" not in text.panels[name] and "clen" in text.top:  # one for the whole file, wherever it stands
        text.panels[name]["clen"] = text.top["clen"]
    pixels_per_mm = text.quantity(name, "res", NUMBER) / MM_PER_M
    if pixels_per_mm <= 0:
        raise InputError(f"{text.path}: {name}/res", pixels_per_mm * MM_PER_M, "a number above 0 (pixels a metre)")
    corner = [
        text.quantity(name, f"corner_{axis}", NUMBER) / pixels_per_mm
        + text.quantity("", f"detector_shift_{axis}", LENGTHS, 0.0, stored="m") * MM_PER_M
        for axis in "xy"
    ]
    z = text.quantity(name, "clen", LENGTHS, stored="mm") + text.quantity(name, "coffset", LENGTHS, 0.0)
    fast, slow = (_direction(text, name, key) for key in ("fs", "ss"))
    first_fast, last_fast, first_slow, last_slow = (
        text.whole(name, key) for key in ("min_fs", "max_fs", "min_ss", "max_ss")
    )
    return PanelData(
        name=name,
        origin_mm=to_imgcif("crystfel", np.array([*corner, z * MM_PER_M])),
        fast=to_imgcif("crystfel", fast),
        slow=to_imgcif("crystfel", slow),
        pixel_size_mm=(float(np.linalg.norm(fast)) / pixels_per_mm, float(np.linalg.norm(slow)) / pixels_per_mm),
        image_size=(last_fast - first_fast + 1, last_slow - first_slow + 1),
        trusted_range=_trusted_range(text, name),
        gain=_gain(text, name, beam),
        raw_image_offset=(first_fast, first_slow),
    )


def _trusted_range(text: GeometryText, name: str) -> tuple[float, float] | None:
    highest = [x for key in ("max_adu", "flag_morethan") if (x := text.number_or_none(name, key)) is not None]
    lowest = text.number_or_none(name, "flag_lessthan")
    return (lowest or 0.0, min(highest)) if highest else None


def _gain(text: GeometryText, name: str, beam: BeamData | None) -> float | None:
    """Counts a photon, whether stated so or for each electronvolt."""
    a_photon, an_eV = (text.number_or_none(name, key) for key in ("adu_per_photon", "adu_per_eV"))
    if a_photon is None and an_eV is not None and beam is not None and beam.probe == "x-ray":
        return an_eV * EV_ANGSTROM / beam.wavelength_A
    return a_photon


def _direction(text: GeometryText, name: str, key: str) -> Vector:
    """A vector of text such as "+0.999x -0.01y"; its length is in pixels of res."""
    node = text.node(name, key)
    assert node is not None
    value = "".join(node.value.split())
    words = _TERM.findall(value)
    if not words or _TERM.sub("", value):
        raise node.fail("a sum of numbers times x, y and z, such as +0.99x -0.01y")
    result = np.zeros(3)
    for sign, size, axis in words:
        result["xyz".index(axis)] += (-1 if sign == "-" else 1) * (as_float(size) if size else 1.0)
    if not np.linalg.norm(result) > 0:
        raise node.fail("a vector that has a length")
    return result


FORMAT = FileFormat(
    name="crystfel",
    title="CrystFEL .geom",
    recognises=lambda file: _PANEL_KEY.search(file.content) is not None,
    suffixes=(".geom",),
    read_experiments=lambda path, given: [read_crystfel(path, given.data_file)],
    write_experiment=write_crystfel,
    holds=frozenset({
        "beam", "detector", "several panels", "groups of panels", "trusted range", "gain", "mask",
        "untrusted rectangles",
    }),
)  # fmt: skip
