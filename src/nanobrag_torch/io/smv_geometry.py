"""SMV headers as geometry: what they state, and a complete header for an experiment.

Read in this order: our own entries (header_entries.py), the DENZO and MOSFLM centres of the C program's headers, and
BEAM_CENTER_X, BEAM_CENTER_Y in MOSFLM's sense, as most ADSC headers and the C program mean them. A header that has only
a centre and a distance describes a panel square to the beam; one that states a tilt without its axis is refused.
"""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.fields import naming
from nanobrag_torch.io.fileformat import FileFormat, ImageOptions
from nanobrag_torch.io.header_entries import MARK, experiment_of_entries, own_entries
from nanobrag_torch.io.smv import BLOCK, HeaderText, is_smv, read_smv_header, read_smv_image, write_smv_image
from nanobrag_torch.io.unit_words import ANGLES_DEG, LENGTHS_MM, TIMES_S, WAVELENGTHS_A, Units, quantities
from nanobrag_torch.records import experiment as record
from nanobrag_torch.records.contents import HEADER
from nanobrag_torch.records.frames import beam_on_panel, xds_origin
from nanobrag_torch.records.images import ImageData, as_counts, with_geometry

TYPES = {"u2": ("unsigned_short", None), "u4": ("unsigned_long", "unsigned long int")}
"""Pixel -> TYPE, and Data_type where readers need it to tell 32 bits from 16."""
ROUND_OFF_MM = 2e-3  # of two distances that the C program writes with six digits, relative to 1 m

_KEY = re.compile(r"^[ \t]*([A-Za-z_0-9]+)[ \t]*=[ \t]*([^;\n]*)", re.MULTILINE)


def read_smv_geometry(path: str | os.PathLike[str]) -> record.ExperimentData:
    """Beam, detector, goniometer and scan of an SMV header; what it does not state is None.

    Raises InputError for a file that is not SMV, lacks pixel size, distance or centre, or states a tilt that it does
    not describe.
    """
    return experiment_of_smv(read_smv_header(path, flag="SMV image"), str(path))


def experiment_of_smv(header: HeaderText, path: str) -> record.ExperimentData:
    """The experiment that a header describes."""
    with naming(path):
        return _experiment(header, path)


def _experiment(header: HeaderText, path: str) -> record.ExperimentData:
    slow, fast = header.dimensions()
    if header.entry(MARK) is not None:
        return experiment_of_entries(dict(_KEY.findall(header.text)), (fast, slow), path)
    pixel, distance = (_needed(header, key, path) for key in ("PIXEL_SIZE", "DISTANCE"))
    _refuse_tilt(header, distance, path)
    along_fast, along_slow = _centre(header, pixel, path)
    wavelength = _stated(header, "WAVELENGTH", path, WAVELENGTHS_A, "A")
    panel = record.PanelData(
        origin_mm=np.array([-along_fast, along_slow, -distance]),
        fast=np.array([1.0, 0.0, 0.0]),
        slow=np.array([0.0, -1.0, 0.0]),
        pixel_size_mm=(pixel, pixel),
        image_size=(fast, slow),
    )
    return record.ExperimentData(
        beam=record.BeamData(wavelength_A=wavelength) if wavelength > 0 else None,
        detector=record.DetectorData(panels=(panel,)),
        goniometer=record.GoniometerData(rotation_axis=np.array([1.0, 0.0, 0.0])),
        scan=_scan(header, path),
    )


def _stated(header: HeaderText, key: str, path: str, units: Units = LENGTHS_MM, unit: str = "mm") -> float:
    """The number of an entry, by the unit that it states, else by the usual one; NaN if there is no such entry."""
    value = header.entry(key)
    return math.nan if value is None else quantities(value, units, unit, f"{path}: {key}")[0]


def _needed(header: HeaderText, key: str, path: str) -> float:
    value = _stated(header, key, path)
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{path}: {key}", header.entry(key), "a number above 0, or the entries of a full geometry")
    return value


def _refuse_tilt(header: HeaderText, distance: float, path: str) -> None:
    two_theta, close = _stated(header, "TWOTHETA", path, ANGLES_DEG, "deg"), _stated(header, "CLOSE_DISTANCE", path)
    tilted = math.isfinite(close) and abs(close - distance) > ROUND_OFF_MM * max(1.0, distance / 1000)
    if tilted or (math.isfinite(two_theta) and two_theta != 0):
        stated = f"TWOTHETA={header.entry('TWOTHETA')}, CLOSE_DISTANCE={header.entry('CLOSE_DISTANCE')}"
        raise InputError(f"{path}: header", stated, "a panel square to the beam, for the axis of a tilt is not stated")


def _centre(header: HeaderText, pixel: float, path: str) -> tuple[float, float]:
    """Where the beam is along fast and slow (mm from the outer edge)."""
    half = pixel / 2
    for x_key, y_key, shift in (
        ("DENZO_X_BEAM", "DENZO_Y_BEAM", 0.0),
        ("MOSFLM_CENTER_X", "MOSFLM_CENTER_Y", half),
        ("BEAM_CENTER_X", "BEAM_CENTER_Y", half),
    ):
        x, y = _stated(header, x_key, path), _stated(header, y_key, path)
        if math.isfinite(x) and math.isfinite(y):
            return y + shift, x + shift
    raise InputError(f"{path}: BEAM_CENTER_X, BEAM_CENTER_Y", None, "a beam centre (mm)")


def _scan(header: HeaderText, path: str) -> record.ScanData | None:
    start, phi, width = (_stated(header, key, path, ANGLES_DEG, "deg") for key in ("OSC_START", "PHI", "OSC_RANGE"))
    start = phi if math.isnan(start) else start
    if not (math.isfinite(start) and math.isfinite(width)):
        return None
    number, exposure = header.exact_real("IMAGE_NUMBER"), _stated(header, "TIME", path, TIMES_S, "s")
    image = int(number) if math.isfinite(number) else 1
    return record.ScanData(
        image_range=(image, image),
        oscillation_start_deg=start,
        oscillation_width_deg=width,
        exposure_times_s=np.array([exposure]) if exposure > 0 else None,
    )


def smv_header_text(data: record.ExperimentData, pixel_type: str, index: int = 0) -> str:
    """A complete header for image `index` of an experiment with one panel; `pixel_type` is u2 or u4.

    Raises InputError for what SMV has no place for: several panels, pixels that are not square, a beam that misses the
    panel's plane.
    """
    own = own_entries(data, index)
    if pixel_type not in TYPES:
        raise InputError("pixel type", pixel_type, "u2 or u4 for SMV")
    size = BLOCK
    while len(text := _text(data, own, pixel_type, index, size)) > size:
        size += BLOCK
    return text


def _text(data: record.ExperimentData, own: dict[str, str], pixel_type: str, index: int, size: int) -> str:
    kind, data_type = TYPES[pixel_type]
    entries: dict[str, Any] = {
        "HEADER_BYTES": size,
        "DIM": 2,
        "BYTE_ORDER": f"{sys.byteorder}_endian",
        "TYPE": kind,
        **({} if data_type is None else {"Data_type": data_type}),
        **_geometry_entries(data),
        **_scan_entries(data.scan, index),
        **own,
        "BEAMLINE": "simulated",  # "fake" would have DIALS take the beam centre for one of ADXV, a pixel off
    }
    lines = [f"{key}={value!r};" if isinstance(value, float) else f"{key}={value};" for key, value in entries.items()]
    return "{\n" + "\n".join(lines) + "\n}\f"


def _geometry_entries(data: record.ExperimentData) -> dict[str, Any]:
    """What other programs read."""
    beam, panel = data.beam, data.detector.panels[0] if data.detector else None
    if beam is None or panel is None:
        raise InputError("experiment", "no beam or no detector", "both, for an SMV header")
    pixel, other = panel.pixel_size_mm
    if abs(pixel - other) > 1e-12:
        raise InputError("pixel_size_mm", panel.pixel_size_mm, "square pixels, for SMV")
    spot = beam_on_panel(panel, beam)
    if spot is None:
        raise InputError("direction", beam.direction.tolist(), "a beam that meets the plane of the panel, for SMV")
    mosflm_x, mosflm_y = spot.slow_mm - pixel / 2, spot.fast_mm - pixel / 2
    return {
        "SIZE1": panel.image_size[0],
        "SIZE2": panel.image_size[1],
        "PIXEL_SIZE": pixel,
        "DISTANCE": spot.distance_mm,
        "WAVELENGTH": beam.wavelength_A,
        "BEAM_CENTER_X": spot.slow_mm,  # as DIALS reads them: from the outer corner, along slow and fast
        "BEAM_CENTER_Y": spot.fast_mm,
        "ADXV_CENTER_X": spot.fast_mm,
        "ADXV_CENTER_Y": spot.size_mm[1] - spot.slow_mm,
        # The C program takes the last key that ends so, and counts from the middle of the first pixel.
        "MOSFLM_BEAM_CENTER_X": mosflm_x,
        "MOSFLM_BEAM_CENTER_Y": mosflm_y,
        "MOSFLM_CENTER_X": mosflm_x,
        "MOSFLM_CENTER_Y": mosflm_y,
        "DENZO_X_BEAM": spot.slow_mm,
        "DENZO_Y_BEAM": spot.fast_mm,
        "DIALS_ORIGIN": ",".join(repr(float(x)) for x in panel.origin_mm),
        "XDS_ORGX": xds_origin(spot.foot_fast_mm / pixel),
        "XDS_ORGY": xds_origin(spot.foot_slow_mm / pixel),
        "CLOSE_DISTANCE": spot.close_distance_mm,
    }


def _scan_entries(scan: record.ScanData | None, index: int) -> dict[str, Any]:
    """Spindle angles of image `index`, as other programs read them; they ask for those of a still too."""
    if scan is None:
        return {"OSC_START": 0.0, "OSC_RANGE": 0.0}
    start = scan.start_deg(index)
    return {"PHI": start, "OSC_START": start, "OSC_RANGE": scan.oscillation_width_deg}


def _read_image(path: Path, frame: int) -> ImageData:
    if frame != 0:
        raise InputError(f"{path}: frame", frame, "0, for a file of one image")
    header, pixels = read_smv_image(path, flag="SMV image")
    return with_geometry(pixels, FORMAT.name, lambda: experiment_of_smv(header, str(path)))


def _write_image(path: Path, pixels: NDArray[Any], data: record.ExperimentData | None, options: ImageOptions) -> None:
    assert data is not None
    chosen = options.pixel_type or ("u2" if pixels.size == 0 or pixels.max() <= FORMAT.largest_count else "u4")
    counts = as_counts(pixels, chosen, options.allow_loss)
    write_smv_image(path, counts, smv_header_text(data, chosen), flag="output file")


FORMAT = FileFormat(
    name="smv",
    title="SMV image",
    recognises=lambda file: is_smv(file.start),
    suffixes=(".img", ".smv"),
    read_experiments=lambda path, _: [read_smv_geometry(path)],
    holds=HEADER,
    read_image=_read_image,
    write_image=_write_image,
    pixel_types=("u2", "u4"),
)
