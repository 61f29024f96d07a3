"""The whole geometry of a one-panel image as header entries of our own, beside those that other programs read.

SMV and mini-CBF headers have no words for a tilted panel, an oblique beam, the sensor or the crystal. These entries
have; other programs pass over them. All values are in the frame and units of `experiment.py`, written in full. No name
contains a word that the C program looks for (section 2): it takes any substring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.fields import naming, words_as_numbers
from nanobrag_torch.records import experiment as record

MARK = "PANEL_ORIGIN_MM"
"""The entry whose presence says that the others are to be believed."""


def own_entries(data: record.ExperimentData, index: int = 0) -> dict[str, str]:
    """The entries of image `index` (from 0). Raises InputError if there is not exactly one panel, or no beam."""
    data.need("beam", "detector", where="an image header")
    if data.beam is None or data.detector is None or len(data.detector.panels) != 1:
        raise InputError("panels", len(data.detector.panels) if data.detector else 0, "one panel a file")
    entries = _panel_entries(data.detector.panels[0]) | _beam_entries(data.beam)
    if data.goniometer is not None:
        entries["ROTATION_AXIS"] = data.goniometer.rotation_axis
        entries["FIXED_ROTATION"] = data.goniometer.fixed_rotation
        entries["SETTING_ROTATION"] = data.goniometer.setting_rotation
    if data.scan is not None:
        entries |= _scan_entries(data.scan, index)
    if data.crystal is not None:
        entries |= {"CELL_VECTORS_A": data.crystal.real_space, "SPACE_GROUP_HALL": data.crystal.space_group_hall}
        entries["MOSAICITY_DEG"] = data.crystal.mosaicity_deg
    return {key: _text(value) for key, value in entries.items() if value is not None}


def experiment_of_entries(entries: Mapping[str, str], image_size: tuple[int, int], path: str) -> record.ExperimentData:
    """The experiment that own entries describe; `image_size` is fast, slow. Raises InputError naming a bad entry."""
    read = _Reader(entries, path)
    with naming(path):
        return record.ExperimentData(
            beam=_beam(read),
            detector=record.DetectorData(panels=(_panel(read, image_size),)),
            goniometer=_goniometer(read),
            scan=_scan(read),
            crystal=_crystal(read),
        )


class _Reader:
    """Entries by name, as numbers of a stated count."""

    def __init__(self, entries: Mapping[str, str], path: str) -> None:
        self.entries, self.path = entries, path

    def numbers(self, key: str, count: int) -> record.Vector | None:
        if key not in self.entries:
            return None
        values = words_as_numbers(self.path, key, self.entries[key].replace(",", " ").split())
        if len(values) != count:
            raise InputError(f"{self.path}: {key}", self.entries[key], f"{count} numbers")
        return values

    def needed(self, key: str, count: int) -> record.Vector:
        values = self.numbers(key, count)
        if values is None:
            raise InputError(f"{self.path}: {key}", None, f"{count} numbers (the entry is missing)")
        return values

    def number(self, key: str) -> float | None:
        values = self.numbers(key, 1)
        return None if values is None else float(values[0])

    def matrix(self, key: str) -> record.Vector:
        values = self.numbers(key, 9)
        return np.eye(3) if values is None else values.reshape(3, 3)


def _panel_entries(panel: record.PanelData) -> dict[str, Any]:
    return {
        MARK: panel.origin_mm,
        "PANEL_FAST": panel.fast,
        "PANEL_SLOW": panel.slow,
        "PANEL_PITCH_MM": panel.pixel_size_mm,
        "PANEL_NAME": panel.name or None,
        "PANEL_GAIN": panel.gain,
        "PANEL_PEDESTAL": panel.pedestal,
        "SENSOR_THICKNESS_MM": panel.thickness_mm,
        "SENSOR_MU_PER_MM": panel.mu_per_mm,
        "SENSOR_MATERIAL": panel.material,
        "TRUSTED_LIMITS": panel.trusted_range,
    }


def _beam_entries(beam: record.BeamData) -> dict[str, Any]:
    return {
        "SOURCE_DIRECTION": beam.direction,
        "LAMBDA_A": beam.wavelength_A,
        "POLARIZATION_FRACTION": beam.polarization_fraction,
        "POLARIZATION_NORMAL": beam.polarization_normal,
        "FLUX_PER_S": beam.flux,
        "DIVERGENCE_DEG": beam.divergence_deg,
        "SIGMA_DIVERGENCE_DEG": beam.sigma_divergence_deg,
    }


def _scan_entries(scan: record.ScanData, index: int) -> dict[str, Any]:
    if not 0 <= index < scan.frames:
        raise InputError("index", index, f"an image from 0 to {scan.frames - 1} of the scan")
    return {
        "IMAGE_NUMBER": scan.image_range[0] + index,
        "SCAN_START_DEG": scan.start_deg(index),
        "SCAN_WIDTH_DEG": scan.oscillation_width_deg,
        "EXPOSURE_S": None if scan.exposure_times_s is None else scan.exposure_times_s[index],
        "EPOCH_S": None if scan.epochs is None else scan.epochs[index],
    }


def _text(value: ArrayLike) -> str:
    if isinstance(value, str):
        return value
    return " ".join(repr(int(x)) if isinstance(value, int) else repr(float(x)) for x in np.ravel(value))


def _panel(read: _Reader, image_size: tuple[int, int]) -> record.PanelData:
    pitch, limits = read.needed("PANEL_PITCH_MM", 2), read.numbers("TRUSTED_LIMITS", 2)
    return record.PanelData(
        origin_mm=read.needed(MARK, 3),
        fast=read.needed("PANEL_FAST", 3),
        slow=read.needed("PANEL_SLOW", 3),
        pixel_size_mm=(float(pitch[0]), float(pitch[1])),
        image_size=image_size,
        name=read.entries.get("PANEL_NAME", ""),
        gain=read.number("PANEL_GAIN"),
        pedestal=read.number("PANEL_PEDESTAL"),
        thickness_mm=read.number("SENSOR_THICKNESS_MM"),
        mu_per_mm=read.number("SENSOR_MU_PER_MM"),
        material=read.entries.get("SENSOR_MATERIAL"),
        trusted_range=None if limits is None else (float(limits[0]), float(limits[1])),
    )


def _beam(read: _Reader) -> record.BeamData:
    return record.BeamData(
        direction=read.needed("SOURCE_DIRECTION", 3),
        wavelength_A=float(read.needed("LAMBDA_A", 1)[0]),
        polarization_fraction=read.number("POLARIZATION_FRACTION"),
        polarization_normal=read.numbers("POLARIZATION_NORMAL", 3),
        flux=read.number("FLUX_PER_S"),
        divergence_deg=read.number("DIVERGENCE_DEG"),
        sigma_divergence_deg=read.number("SIGMA_DIVERGENCE_DEG"),
    )


def _goniometer(read: _Reader) -> record.GoniometerData | None:
    axis = read.numbers("ROTATION_AXIS", 3)
    if axis is None:
        return None
    fixed, setting = read.matrix("FIXED_ROTATION"), read.matrix("SETTING_ROTATION")
    return record.GoniometerData(rotation_axis=axis, fixed_rotation=fixed, setting_rotation=setting)


def _scan(read: _Reader) -> record.ScanData | None:
    number = read.number("IMAGE_NUMBER")
    if number is None:
        return None
    return record.ScanData(
        image_range=(int(number), int(number)),
        oscillation_start_deg=float(read.needed("SCAN_START_DEG", 1)[0]),
        oscillation_width_deg=float(read.needed("SCAN_WIDTH_DEG", 1)[0]),
        exposure_times_s=read.numbers("EXPOSURE_S", 1),
        epochs=read.numbers("EPOCH_S", 1),
    )


def _crystal(read: _Reader) -> record.CrystalData | None:
    if "CELL_VECTORS_A" not in read.entries:
        return None
    hall, mosaicity = read.entries.get("SPACE_GROUP_HALL"), read.number("MOSAICITY_DEG")
    real_space = read.needed("CELL_VECTORS_A", 9).reshape(3, 3)
    return record.CrystalData(real_space=real_space, space_group_hall=hall, mosaicity_deg=mosaicity)
