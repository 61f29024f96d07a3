"""Mini-CBF images: a text header in the manner of PILATUS, then pixels packed as byte offsets.

Written under the header convention GENERIC_MINI, by which DIALS takes the entries without looking for a beamline. The
distance, centre and angles are those that other programs read; our own entries (header_entries.py) hold the rest.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output, read_input
from nanobrag_torch.io.fields import naming
from nanobrag_torch.io.fileformat import FileFormat, ImageOptions
from nanobrag_torch.io.header_entries import MARK, experiment_of_entries, own_entries
from nanobrag_torch.io.imgcif import experiment_of_imgcif
from nanobrag_torch.io.unit_words import ANGLES_DEG, LENGTHS_MM, TIMES_S, WAVELENGTHS_A, Units, quantities
from nanobrag_torch.records import experiment as record
from nanobrag_torch.records.contents import HEADER
from nanobrag_torch.records.frames import beam_on_panel
from nanobrag_torch.records.images import ImageData, as_counts, with_geometry

ACCEPTED = "a CBF image with a binary section of x-CBF_BYTE_OFFSET"
SECTION = b"--CIF-BINARY-FORMAT-SECTION--"
START = b"\x0c\x1a\x04\xd5"
PADDING = 4095  # bytes after the pixels, as CBFlib leaves them
ELEMENTS = {
    "signed 8-bit integer": "i1",
    "signed 16-bit integer": "i2",
    "signed 32-bit integer": "i4",
    "unsigned 8-bit integer": "u1",
    "unsigned 16-bit integer": "u2",
    "unsigned 32-bit integer": "u4",
}
COUNTS = Units("a number of counts", {}, {"count": 1.0, "ADU": 1.0, "photon": 1.0})
PIXEL_COUNTS = Units("pixels or lengths", {"px": 1.0}, {"pixel": 1.0})
MATERIALS = {"Silicon": "Si", "CdTe": "CdTe", "GaAs": "GaAs"}
"""What headers call a sensor -> its formula."""

_RECORD = re.compile(r"^#[ \t]*+([A-Za-z_0-9]++)[:=]?[ \t]++([^\n]*)", re.MULTILINE)
_MIME = re.compile(rb"^([A-Za-z0-9-]++):([^\n]*)", re.MULTILINE)


@dataclass(frozen=True)
class CbfFile:
    """A file taken apart: the records of the text header, the fields before the binary section, the packed pixels."""

    path: str
    text: str
    fields: dict[str, str]
    packed: bytes

    def records(self) -> dict[str, str]:
        """Key and text of every "# Key value" line."""
        lines = self.text.replace("\r\n", "\n").replace("\r", "\n")
        return {key: value.rstrip() for key, value in _RECORD.findall(lines)}

    def whole(self, field: str) -> int:
        """A whole number of a field of the binary section."""
        value = self.fields.get(field, "")
        if not value.isdigit():
            raise InputError(f"{self.path}: {field}", value or None, "a whole number")
        return int(value)

    @property
    def image_size(self) -> tuple[int, int]:
        """Fast and slow number of pixels."""
        return self.whole("X-Binary-Size-Fastest-Dimension"), self.whole("X-Binary-Size-Second-Dimension")


def is_cbf(start: bytes) -> bool:
    """Whether a file that begins so is a CBF."""
    return start[:64].lstrip(b"# \r\n").startswith(b"CBF:")


def open_cbf(path: str | os.PathLike[str]) -> CbfFile:
    """Take a CBF file apart. Raises InputError if it cannot be read, is no CBF file, or is cut short."""
    content = read_input(path, "CBF image", ACCEPTED)
    if not is_cbf(content):
        raise InputError(str(path), content[:20].decode("latin-1"), ACCEPTED)
    section = content.find(SECTION)
    start = content.find(START, section) if section >= 0 else -1
    if start < 0:
        raise InputError(str(path), f"{len(content)} bytes without a binary section", ACCEPTED)
    mime = content[section:start]
    if b"x-CBF_BYTE_OFFSET" not in mime:
        raise InputError(f"{path}: conversions", mime[:120].decode("latin-1"), "x-CBF_BYTE_OFFSET")
    lines = mime.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    fields = {key.decode("latin-1"): _bare(value).decode("latin-1") for key, value in _MIME.findall(lines)}
    found = CbfFile(str(path), content[:section].decode("latin-1"), fields, content[start + len(START) :])
    size = found.whole("X-Binary-Size")
    if len(found.packed) < size:
        raise InputError(str(path), f"{len(found.packed)} bytes of pixels", f"{size} (the file is cut short)")
    return CbfFile(found.path, found.text, fields, found.packed[:size])


def _bare(value: bytes) -> bytes:
    """A value without the blanks and quotes around it."""
    return value.strip().removeprefix(b'"').removesuffix(b'"')


def read_cbf(path: str | os.PathLike[str]) -> tuple[CbfFile, NDArray[Any]]:
    """A CBF file and its pixels (slow, fast). Raises InputError also where the pixels do not fit their check sum."""
    import fabio.ext.byte_offset as byte_offset

    file = open_cbf(path)
    fast, slow = file.image_size
    element = file.fields.get("X-Binary-Element-Type", "signed 32-bit integer")
    if element not in ELEMENTS:
        raise InputError(f"{path}: X-Binary-Element-Type", element, ", ".join(ELEMENTS))
    stated = file.fields.get("Content-MD5")
    if stated and stated != _check_sum(file.packed):
        raise InputError(f"{path}: Content-MD5", _check_sum(file.packed), f"{stated} (the pixels are damaged)")
    if len(file.packed) < fast * slow:
        raise InputError(str(path), f"{len(file.packed)} bytes of pixels", f"a byte for each of {slow} x {fast} pixels")
    values = np.asarray(byte_offset.dec_cbf(file.packed, fast * slow))
    return file, values.astype(ELEMENTS[element]).reshape(slow, fast)


def read_cbf_geometry(path: str | os.PathLike[str]) -> record.ExperimentData:
    """Beam, detector, goniometer and scan of a mini-CBF header; see `experiment_of_cbf`."""
    return experiment_of_cbf(open_cbf(path))


def experiment_of_cbf(file: CbfFile) -> record.ExperimentData:
    """The experiment that a header describes: our own entries, or a panel square to the beam at Detector_distance.

    A full imgCIF header is read by its axes. Raises InputError naming what is missing, a tilt without an axis, and what
    is no unit.
    """
    with naming(file.path):
        return _experiment(file, file.records())


def _experiment(file: CbfFile, records: dict[str, str]) -> record.ExperimentData:
    if "_array_data.header_convention" not in file.text:
        return experiment_of_imgcif(file.text, file.path)
    if MARK in records:
        return experiment_of_entries(records, file.image_size, file.path)
    for key, units, unit in (("Detector_2theta", ANGLES_DEG, "deg"), ("Detector_Voffset", LENGTHS_MM, "m")):
        moved = _stated(records, key, file.path, units, unit)
        if moved is not None and moved != 0:
            raise InputError(f"{file.path}: {key}", records[key], "0, for its axis is not stated")
    wavelength = _stated(records, "Wavelength", file.path, WAVELENGTHS_A, "A")
    return record.ExperimentData(
        beam=None if wavelength is None else _beam(records, wavelength, file.path),
        detector=record.DetectorData(panels=(_panel(records, file),)),
        goniometer=record.GoniometerData(rotation_axis=np.array([1.0, 0.0, 0.0])),
        scan=_scan(records, file.path),
    )


UNDATED_S = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC).timestamp()
LATEST_S = datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC).timestamp()


def write_cbf(
    target: Target,
    counts: NDArray[np.integer],
    data: record.ExperimentData,
    *,
    index: int = 0,
    created: datetime.datetime | None = None,
    flag: str = "output file",
) -> None:
    """Write counts (slow, fast) as image `index` of an experiment with one panel, as 32-bit numbers.

    `created` is the time in the header, by default that of the exposure (of a scan that began in 2000 where nobody says
    when it did): the same image has the same bytes. Raises InputError for counts beyond 32 bits or of another size than
    the panel, several panels, a beam that misses the panel's plane, or a file that cannot be written.
    """
    from fabio.compression import compByteOffset

    header = cbf_header_text(data, index, created)
    panel = data.detector.panels[0] if data.detector else None
    if panel is None or counts.shape != panel.shape:
        raise InputError("counts", counts.shape, f"the size of the panel, {panel.shape if panel else None}")
    if not _fits(counts):
        raise InputError("counts", f"{counts.dtype} up to {counts.max()}", "whole numbers of 32 bits, for CBF")
    packed = compByteOffset(np.ascontiguousarray(counts, np.int32))
    with open_output(target, flag) as file:
        file.write(header.encode("latin-1"))
        file.write(_binary_header(packed, counts.shape))
        file.write(START + packed + bytes(PADDING) + b"\r\n" + SECTION + b"--\r\n;\r\n")


def _fits(counts: NDArray[Any]) -> bool:
    """Whether all are whole numbers of 32 bits with a sign; looks at them only where their type does not say it."""
    limits = np.iinfo(np.int32)
    if counts.dtype.kind not in "iu":
        return False
    if np.can_cast(counts.dtype, np.int32) or counts.size == 0:
        return True
    return bool(counts.min() >= limits.min and counts.max() <= limits.max)


def cbf_header_text(data: record.ExperimentData, index: int = 0, created: datetime.datetime | None = None) -> str:
    """The text of a mini-CBF file up to its binary section."""
    own = own_entries(data, index)
    moment = (created or _moment(data, index)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
    lines = [
        "###CBF: VERSION 1.5",
        "",
        "data_image",
        "",
        '_array_data.header_convention "GENERIC_MINI"',
        "_array_data.header_contents",
        ";",
        f"# {moment}",
        *(f"# {key} {value}" for key, value in _records(data, index).items()),
        *(f"# {key} {value}" for key, value in own.items()),
        ";",
        "",
        "_array_data.data",
        ";",
        "",
    ]
    return "\r\n".join(lines)


def _moment(data: record.ExperimentData, index: int) -> datetime.datetime:
    """When an image is exposed."""
    scan, seconds = data.scan, UNDATED_S
    if scan is not None and scan.epochs is not None:
        seconds = float(scan.epochs[index])
    elif scan is not None and scan.exposure_times_s is not None:
        seconds += float(np.sum(scan.exposure_times_s[:index]))
    return datetime.datetime.fromtimestamp(min(max(seconds, 0.0), LATEST_S), datetime.UTC)


def _records(data: record.ExperimentData, index: int) -> dict[str, str]:
    """What other programs read; what is not known is left out, or 0 where DIALS asks for a number."""
    beam, panel, scan = data.beam, data.detector.panels[0] if data.detector else None, data.scan
    if beam is None or panel is None:
        raise InputError("experiment", "no beam or no detector", "both, for a CBF header")
    spot = beam_on_panel(panel, beam)
    if spot is None:
        raise InputError("direction", beam.direction.tolist(), "a beam that meets the plane of the panel, for CBF")
    fast, slow = (size / 1000 for size in panel.pixel_size_mm)
    cutoff = np.iinfo(np.int32).max if panel.trusted_range is None else panel.trusted_range[1]
    records = {
        "Pixel_size": f"{fast!r} m x {slow!r} m",
        "Count_cutoff": f"{int(min(cutoff, np.iinfo(np.int32).max))} counts",
        "Wavelength": f"{beam.wavelength_A!r} A",
        "Detector_distance": f"{spot.distance_mm / 1000!r} m",
        "Beam_xy": f"({spot.fast_mm / panel.pixel_size_mm[0]!r}, {spot.slow_mm / panel.pixel_size_mm[1]!r}) pixels",
        "Start_angle": f"{0.0 if scan is None else scan.start_deg(index)!r} deg.",
        "Angle_increment": f"{0.0 if scan is None else scan.oscillation_width_deg!r} deg.",
    }
    sensor = {formula: word for word, formula in MATERIALS.items()}.get(panel.material or "")
    if sensor is not None and panel.thickness_mm is not None:
        records[sensor] = f"sensor, thickness {panel.thickness_mm / 1000!r} m"
    times = None if scan is None else scan.exposure_times_s
    seconds = 0.0 if times is None else float(times[index])
    records |= {"Exposure_time": f"{seconds!r} s", "Exposure_period": f"{seconds!r} s"}
    if beam.polarization_fraction is not None:
        records["Polarization"] = repr(beam.polarization_fraction)
    if beam.flux is not None:
        records["Flux"] = repr(beam.flux)
    return records


def _binary_header(packed: bytes, shape: tuple[int, ...]) -> bytes:
    lines = [
        SECTION.decode(),
        "Content-Type: application/octet-stream;",
        '     conversions="x-CBF_BYTE_OFFSET"',
        "Content-Transfer-Encoding: BINARY",
        f"X-Binary-Size: {len(packed)}",
        "X-Binary-ID: 1",
        'X-Binary-Element-Type: "signed 32-bit integer"',
        "X-Binary-Element-Byte-Order: LITTLE_ENDIAN",
        f"Content-MD5: {_check_sum(packed)}",
        f"X-Binary-Number-of-Elements: {shape[0] * shape[1]}",
        f"X-Binary-Size-Fastest-Dimension: {shape[1]}",
        f"X-Binary-Size-Second-Dimension: {shape[0]}",
        f"X-Binary-Size-Padding: {PADDING}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


def _check_sum(packed: bytes) -> str:
    return base64.b64encode(hashlib.md5(packed, usedforsecurity=False).digest()).decode()


def _stated(records: dict[str, str], key: str, path: str, units: Units, unit: str) -> float | None:
    """The number of a record, by the unit that it states, else by the usual one; None if there is no such record."""
    return quantities(records[key], units, unit, f"{path}: {key}")[0] if key in records else None


def _needed(records: dict[str, str], key: str, path: str, units: Units, unit: str, count: int = 1) -> list[float]:
    if key not in records:
        raise InputError(f"{path}: {key}", None, "a value (the record is missing)")
    return quantities(records[key], units, unit, f"{path}: {key}", count)


def _panel(records: dict[str, str], file: CbfFile) -> record.PanelData:
    pitch = _needed(records, "Pixel_size", file.path, LENGTHS_MM, "m", 2)
    beam = _beam_pixels(records, (pitch[0], pitch[1]), file.path)
    distance = _needed(records, "Detector_distance", file.path, LENGTHS_MM, "m")[0]
    word = next((name for name in MATERIALS if name in records), None)
    cutoff = _stated(records, "Count_cutoff", file.path, COUNTS, "counts")
    return record.PanelData(
        origin_mm=np.array([-beam[0] * pitch[0], beam[1] * pitch[1], -distance]),
        fast=np.array([1.0, 0.0, 0.0]),
        slow=np.array([0.0, -1.0, 0.0]),
        pixel_size_mm=(pitch[0], pitch[1]),
        image_size=file.image_size,
        thickness_mm=None if word is None else _needed(records, word, file.path, LENGTHS_MM, "m")[0],
        material=None if word is None else MATERIALS[word],
        trusted_range=None if cutoff is None else (0.0, cutoff),
    )


def _beam_pixels(records: dict[str, str], pitch_mm: tuple[float, float], path: str) -> list[float]:
    """The beam centre along fast and slow in pixels, whether it is stated so or as lengths."""
    try:
        return _needed(records, "Beam_xy", path, PIXEL_COUNTS, "pixels", 2)
    except InputError:
        lengths = _needed(records, "Beam_xy", path, LENGTHS_MM, "pixels", 2)
    return [length / pitch for length, pitch in zip(lengths, pitch_mm, strict=True)]


def _beam(records: dict[str, str], wavelength: float, path: str) -> record.BeamData:
    polarization = _stated(records, "Polarization", path, COUNTS, "counts")
    return record.BeamData(
        wavelength_A=wavelength,
        polarization_fraction=polarization,
        polarization_normal=None if polarization is None else np.array([0.0, 1.0, 0.0]),
    )


def _scan(records: dict[str, str], path: str) -> record.ScanData | None:
    start, width = (_stated(records, key, path, ANGLES_DEG, "deg") for key in ("Start_angle", "Angle_increment"))
    if start is None or width is None:
        return None
    exposure = _stated(records, "Exposure_time", path, TIMES_S, "s")
    return record.ScanData(
        image_range=(1, 1),
        oscillation_start_deg=start,
        oscillation_width_deg=width,
        exposure_times_s=np.array([exposure]) if exposure else None,
    )


def _read_image(path: Path, frame: int) -> ImageData:
    if frame != 0:
        raise InputError(f"{path}: frame", frame, "0, for a file of one image")
    file, pixels = read_cbf(path)
    return with_geometry(pixels, FORMAT.name, lambda: experiment_of_cbf(file))


def _write_image(path: Path, pixels: NDArray[Any], data: record.ExperimentData | None, options: ImageOptions) -> None:
    assert data is not None
    write_cbf(path, as_counts(pixels, "i4", options.allow_loss), data)


FORMAT = FileFormat(
    name="cbf",
    title="CBF image",
    recognises=lambda file: is_cbf(file.start),
    suffixes=(".cbf",),
    read_experiments=lambda path, _: [read_cbf_geometry(path)],
    holds=HEADER,
    read_image=_read_image,
    write_image=_write_image,
    pixel_types=("i4",),
)
