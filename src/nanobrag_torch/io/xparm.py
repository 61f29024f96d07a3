"""XDS geometry: XPARM.XDS and GXPARM.XDS.

XDS uses any lab frame; files are read and written in its usual one (conventions.FRAMES["xds"]: z along the beam), a
fixed rotation from the frame used here. Crystal axes are those at spindle angle 0.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output, read_input
from nanobrag_torch.io.fields import Node, naming, words_as_numbers
from nanobrag_torch.io.fileformat import FileFormat, FileStart
from nanobrag_torch.records import experiment as record
from nanobrag_torch.records.frames import fold_rotations, from_imgcif, from_xds_origin, incident, to_imgcif, xds_origin
from nanobrag_torch.records.symmetry import hall_of_number, number_of_hall

ACCEPTED = "an XPARM.XDS or GXPARM.XDS file: a line that starts with XPARM.XDS, then its numbers"
HEADER_NUMBERS = 32  # before the segments
SEGMENT_NUMBERS = 14
PERPENDICULAR = 1e-9
LONGEST_OLDER = 4096  # bytes
OLDER_LINES = (6, 4, 4, 3, 3, 3, 3, 7, 3, 3, 3)
"""Numbers a line of the older form."""


def read_xparm(path: str | os.PathLike[str]) -> record.ExperimentData:
    """Beam, detector, goniometer, crystal and the start of the scan, as a scan of the one image that the file names.

    Raises InputError if the file cannot be read, is not such a file, or is cut short.
    """
    text = read_input(path, "XDS parameters", ACCEPTED).decode("latin-1")
    if is_older(text):
        with naming(str(path)):
            return _older_experiment(words_as_numbers(str(path), "the file", text.split()), str(path))
    title, _, body = text.partition("\n")
    if "XPARM.XDS" not in title:
        raise InputError(f"{path}: line 1", title[:60], ACCEPTED)
    words = body.split()
    if len(words) < HEADER_NUMBERS:
        raise InputError(str(path), f"{len(words)} numbers", f"{HEADER_NUMBERS} at least ({ACCEPTED})")
    numbers = words_as_numbers(str(path), "after line 1", words)
    with naming(str(path)):
        return _experiment(numbers, str(path))


def _experiment(numbers: record.Vector, path: str) -> record.ExperimentData:
    image, start, width = numbers[:3]
    frame = Node(path, "number of the first image", float(image)).whole()
    beam_vector = to_imgcif("xds", numbers[7:10])
    return record.ExperimentData(
        beam=record.BeamData(direction=-beam_vector, wavelength_A=float(numbers[6])),
        detector=_detector(numbers[26:], path),
        goniometer=record.GoniometerData(rotation_axis=to_imgcif("xds", numbers[3:6])),
        scan=record.ScanData(
            image_range=(frame, frame), oscillation_start_deg=float(start), oscillation_width_deg=float(width)
        ),
        crystal=record.CrystalData(
            real_space=to_imgcif("xds", numbers[17:26].reshape(3, 3)),
            space_group_hall=hall_of_number(Node(path, "space group", float(numbers[10])).whole(), path),
        ),
    )


def is_older(text: str) -> bool:
    """Whether a file is the XPARM.XDS of versions before 2012: no title, one detector, geometry before the crystal."""
    return tuple(len(line.split()) for line in text.splitlines() if line.strip()) == OLDER_LINES


def _older_experiment(numbers: record.Vector, path: str) -> record.ExperimentData:
    """Image, angle, width, axis; wavelength, beam; size, pixel; distance, origin; three axes; group, cell; a, b, c."""
    cell, distance = numbers[26:42], numbers[14]
    size, pixel = numbers[10:12], numbers[12:14]
    segment = [1.0, 1.0, size[0], 1.0, size[1], 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    detector = [1.0, *size, *pixel, *numbers[15:17], distance, *numbers[17:26], *segment]
    return _experiment(np.array([*numbers[:10], *cell, *detector]), path)


def _detector(tail: record.Vector, path: str) -> record.DetectorData:
    """Panels of the numbers from the count of segments on."""
    count = Node(path, "number of segments", float(tail[0])).whole()
    size = 17 + SEGMENT_NUMBERS * count
    if count < 1 or len(tail) < size:
        raise InputError(f"{path}: segments", f"{count} of {len(tail)} numbers", f"1 at least, {size} numbers")
    pixel = (float(tail[3]), float(tail[4]))
    shift = np.array([-tail[5] * pixel[0], -tail[6] * pixel[1], tail[7]])
    axes = tail[8:17].reshape(3, 3)  # rows: fast, slow, normal in the XDS frame
    segments = tail[17:size].reshape(count, SEGMENT_NUMBERS)
    return record.DetectorData(panels=tuple(_panel(segment, pixel, shift, axes) for segment in segments))


def _panel(
    segment: record.Vector, pixel: tuple[float, float], shift: record.Vector, axes: record.Vector
) -> record.PanelData:
    """A segment: a pixel (x, y) is, in the detector's frame, at qx (x - ORGX) e1 + qy (y - ORGY) e2 + F e3."""
    x1, x2, y1, y2 = (int(value) for value in segment[1:5])
    own = np.stack((segment[8:11], segment[11:14], np.cross(segment[8:11], segment[11:14])))
    corner = np.array([x1, y1]) - 1 + from_xds_origin(1.0)  # the outer edge of the first pixel, as XDS counts
    steps = np.array([(corner[0] - segment[5]) * pixel[0], (corner[1] - segment[6]) * pixel[1], segment[7]])
    origin = (steps @ own + shift) @ axes
    fast, slow = to_imgcif("xds", own[:2] @ axes)
    return record.PanelData(
        name=f"segment {int(segment[0])}",
        origin_mm=to_imgcif("xds", origin),
        fast=fast,
        slow=slow,
        pixel_size_mm=pixel,
        image_size=(x2 - x1 + 1, y2 - y1 + 1),
        raw_image_offset=(x1 - 1, y1 - 1),
    )


def write_xparm(target: Target, data: record.ExperimentData, *, flag: str = "output file") -> None:
    """Write an XPARM.XDS file, numbers in full.

    Panels become segments of one array, one below the other; fixed and setting rotations become part of the crystal and
    of the axis. Raises InputError where a beam, detector, goniometer, scan or crystal is missing, or panels differ in
    pixel size or have axes that are not perpendicular.
    """
    data.need("beam", "detector", "goniometer", "scan", "crystal", where="XPARM.XDS")
    with open_output(target, flag) as file:
        file.write(xparm_text(data).encode())


def xparm_text(data: record.ExperimentData) -> str:
    """The text of an XPARM.XDS file."""
    beam, detector, scan = data.beam, data.detector, data.scan
    if beam is None or detector is None or scan is None or data.goniometer is None or data.crystal is None:
        raise InputError("experiment", "a part is missing", "beam, detector, goniometer, scan and crystal")
    axis, cell_axes = fold_rotations(data.goniometer, data.crystal)
    wave = from_imgcif("xds", incident(beam)) / beam.wavelength_A
    lines = [
        " XPARM.XDS    in the frame x = rotation axis, z = beam",
        _row(scan.image_range[0], scan.oscillation_start_deg, scan.oscillation_width_deg, *from_imgcif("xds", axis)),
        _row(beam.wavelength_A, *wave),
        _row(number_of_hall(data.crystal.space_group_hall), *data.crystal.cell),
        *(_row(*row) for row in from_imgcif("xds", cell_axes)),
        *_detector_lines(detector),
    ]
    return "\n".join(lines) + "\n"


def _detector_lines(detector: record.DetectorData) -> list[str]:
    """Size, pixel, and the frame of the detector, which is that of the first panel; then the segments in it."""
    first, sizes = detector.panels[0], {panel.pixel_size_mm for panel in detector.panels}
    if len(sizes) > 1:
        raise InputError("pixel_size_mm", sorted(sizes), "panels of one pixel size, for XDS")
    pixel, axes = np.array(first.pixel_size_mm), np.stack((first.fast, first.slow, first.normal))
    for panel in detector.panels:
        if abs(panel.fast @ panel.slow) > PERPENDICULAR:
            raise InputError("fast, slow", (panel.fast.tolist(), panel.slow.tolist()), "perpendicular axes, for XDS")
    foot = -(axes @ first.origin_mm)[:2] / pixel
    height, width = detector.stacked_shape
    return [
        _row(len(detector.panels), width, height, *pixel),
        _row(xds_origin(foot[0]), xds_origin(foot[1]), first.normal @ first.origin_mm),
        *(_row(*row) for row in from_imgcif("xds", axes)),
        *(
            line
            for number, (panel, start) in enumerate(zip(detector.panels, detector.stack_starts(), strict=True), 1)
            for line in _segment_lines(panel, start, number, first, axes)
        ),
    ]


def _segment_lines(
    panel: record.PanelData, start: int, number: int, first: record.PanelData, axes: record.Vector
) -> list[str]:
    """Where a panel lies in the array, and its place in the detector's frame."""
    slow, fast = panel.shape
    pixel, shift = np.array(first.pixel_size_mm), axes @ first.origin_mm
    foot = -shift[:2] / pixel
    local_axes = np.stack((panel.fast, panel.slow, panel.normal)) @ axes.T
    place = axes @ panel.origin_mm - np.array([*(-(foot + 0.5) * pixel), shift[2]])
    along = local_axes @ place  # in the segment's own frame
    corner = np.array([1, start + 1]) - 1 + from_xds_origin(1.0)
    org = corner - along[:2] / pixel
    return [_row(number, 1, fast, start + 1, start + slow), _row(org[0], org[1], along[2], *local_axes[:2].ravel())]


def _row(*values: Any) -> str:
    return " " + " ".join(repr(int(v)) if isinstance(v, int) else repr(float(v)) for v in values)


def _recognises(file: FileStart) -> bool:
    return b"XPARM.XDS" in file.start[:200].partition(b"\n")[0] or (
        len(file.start) < LONGEST_OLDER and is_older(file.start.decode("latin-1"))
    )


FORMAT = FileFormat(
    name="xparm",
    title="XDS XPARM.XDS or GXPARM.XDS",
    recognises=_recognises,
    suffixes=(".xds",),
    name_parts=("XPARM",),
    read_experiments=lambda path, _: [read_xparm(path)],
    write_experiment=write_xparm,
    holds=frozenset({
        "beam", "oblique beam", "detector", "several panels", "goniometer", "fixed rotation", "scan", "crystal",
        "rotation axis not along x",
    }),
)  # fmt: skip
