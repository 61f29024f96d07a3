"""Every difference between the conventions of programs, in one place: frames, directions, beam centres, pixel edges.

| matter | dxtbx / imgCIF (used inside) | elsewhere |
|---|---|---|
| frame | z to the source, x the rotation axis | FRAMES: the rotation from each program's frame |
| beam direction | from the sample to the source | XDS, CrystFEL, MOSFLM: from the source to the sample |
| pixel integer | the outer edge of a pixel; 0.5 is the first centre | XDS: 1 is the first centre; ORGX = edge + 0.5 |
| beam centre | fast, slow (mm) where the beam meets the panel | BEAM_CENTRES |
| vectors of a matrix | rows a, b, c | MOSFLM: columns a*, b*, c* times the wavelength |
| polarization | fraction f with the field across the normal | Kahn factor K = 2 f - 1, axis normal x beam |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.records import experiment as record

Vector = NDArray[np.float64]

_HALF_TURN_X = np.diag([1.0, -1.0, -1.0])
_HALF_TURN_Y = np.diag([-1.0, 1.0, -1.0])
_MOSFLM = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])

FRAMES: dict[str, Vector] = {
    "imgcif": np.eye(3),
    "dxtbx": np.eye(3),
    "mcstas": _HALF_TURN_Y,  # NeXus: z along the beam, y up
    "crystfel": _HALF_TURN_Y,  # the same frame
    "xds": _HALF_TURN_X,  # the usual one: x the rotation axis, z along the beam
    "adxv": _HALF_TURN_X,  # as the C program draws it
    "dials": _HALF_TURN_X,  # the C program's -dials, not dxtbx
    "mosflm": _MOSFLM,  # x along the beam, z the rotation axis
    "denzo": _MOSFLM,
}
"""The proper rotation (3, 3) that takes vectors of a program's frame to the imgCIF frame."""

XDS_PIXEL_SHIFT = 0.5
"""XDS counts pixel centres from 1: its coordinate is the distance from the outer edge in pixels plus this."""


def to_imgcif(frame: str, vectors: NDArray[np.float64]) -> Vector:
    """Vectors [..., 3] of a program's frame in the imgCIF frame."""
    return np.asarray(np.asarray(vectors, np.float64) @ FRAMES[frame].T, np.float64)


def from_imgcif(frame: str, vectors: NDArray[np.float64]) -> Vector:
    """Vectors [..., 3] of the imgCIF frame in a program's frame."""
    return np.asarray(np.asarray(vectors, np.float64) @ FRAMES[frame], np.float64)


def incident(beam: record.BeamData) -> Vector:
    """Unit vector along the beam, from the source to the sample."""
    return -beam.direction


def kahn_factor(polarization_fraction: float) -> float:
    """Kahn's polarization factor of dxtbx's fraction."""
    return 2 * polarization_fraction - 1


def electric_axis(beam: record.BeamData) -> Vector | None:
    """Unit vector of the stronger electric field, normal x beam, which is the C program's polarization axis."""
    if beam.polarization_normal is None:
        return None
    return record.unit(np.cross(beam.polarization_normal, incident(beam)), "polarization_normal")


def fold_rotations(goniometer: record.GoniometerData | None, crystal: record.CrystalData) -> tuple[Vector, Vector]:
    """Spindle axis (3,) and rows a, b, c (3, 3) of the same crystal on a goniometer without fixed and setting rotation.

    S R F = R' S F, where R' turns about the axis S axis. Without a goniometer the axis is x.
    """
    if goniometer is None:
        return np.array([1.0, 0.0, 0.0]), crystal.real_space
    setting = goniometer.setting_rotation
    return setting @ goniometer.rotation_axis, crystal.real_space @ (setting @ goniometer.fixed_rotation).T


def xds_origin(edge_pixels: float) -> float:
    """ORGX or ORGY of a distance from the outer edge in pixels."""
    return edge_pixels + XDS_PIXEL_SHIFT


def from_xds_origin(org: float) -> float:
    """Distance from the outer edge in pixels of ORGX or ORGY."""
    return org - XDS_PIXEL_SHIFT


@dataclass(frozen=True)
class BeamOnPanel:
    """Where beam and panel meet (mm). `foot` is the point of the panel's plane nearest to the sample."""

    fast_mm: float
    slow_mm: float
    foot_fast_mm: float
    foot_slow_mm: float
    distance_mm: float  # along the beam
    close_distance_mm: float  # along the normal
    pixel_mm: tuple[float, float]
    size_mm: tuple[float, float]

    @property
    def inside(self) -> bool:
        """Whether the beam meets the panel itself, not only its plane."""
        return 0 <= self.fast_mm <= self.size_mm[0] and 0 <= self.slow_mm <= self.size_mm[1]


def beam_on_panel(panel: record.PanelData, beam: record.BeamData) -> BeamOnPanel | None:
    """Where the beam meets a panel's plane; None where it runs parallel to it or away from it."""
    forward, normal = incident(beam), panel.normal
    close, slope = float(panel.origin_mm @ normal), float(forward @ normal)
    if abs(slope) < 1e-12 or close / slope <= 0:
        return None
    distance = close / slope
    spot, foot = (_in_plane(panel, point - panel.origin_mm) for point in (distance * forward, close * normal))
    size = tuple(n * p for n, p in zip(panel.image_size, panel.pixel_size_mm, strict=True))
    return BeamOnPanel(*spot, *foot, distance, abs(close), panel.pixel_size_mm, (size[0], size[1]))


BEAM_CENTRES: dict[str, tuple[str, Callable[[BeamOnPanel], tuple[float, float]]]] = {
    "dxtbx fast, slow (mm)": ("", lambda b: (b.fast_mm, b.slow_mm)),
    "dxtbx fast, slow (pixels)": ("", lambda b: (b.fast_mm / b.pixel_mm[0], b.slow_mm / b.pixel_mm[1])),
    "XDS ORGX, ORGY (pixels)": (
        "the foot of the perpendicular",
        lambda b: (xds_origin(b.foot_fast_mm / b.pixel_mm[0]), xds_origin(b.foot_slow_mm / b.pixel_mm[1])),
    ),
    "MOSFLM X, Y (mm)": ("", lambda b: (b.slow_mm - b.pixel_mm[1] / 2, b.fast_mm - b.pixel_mm[0] / 2)),
    "DENZO X, Y (mm)": ("", lambda b: (b.slow_mm, b.fast_mm)),
    "ADXV X, Y (mm)": ("Y from the far edge", lambda b: (b.fast_mm, b.size_mm[1] - b.slow_mm)),
    "Pilatus Beam_xy (pixels)": ("", lambda b: (b.fast_mm / b.pixel_mm[0], b.slow_mm / b.pixel_mm[1])),
    "NeXus beam_center_x, y (pixels)": ("", lambda b: (b.fast_mm / b.pixel_mm[0], b.slow_mm / b.pixel_mm[1])),
}
"""Beam centre in every convention: name -> (remark, function). In the C program's frames X and Y are as named there."""


def rotate_experiment(data: record.ExperimentData, turn: Vector) -> record.ExperimentData:
    """The same experiment in a lab frame that a proper rotation `turn` (3, 3) leads to: v becomes turn v."""
    return replace(
        data,
        beam=None if data.beam is None else _turn_beam(data.beam, turn),
        detector=None if data.detector is None else turn_detector(data.detector, turn),
        goniometer=None if data.goniometer is None else _turn_goniometer(data.goniometer, turn),
        crystal=None if data.crystal is None else _turn_crystal(data.crystal, turn),
    )


def turn_detector(detector: record.DetectorData, turn: Vector) -> record.DetectorData:
    """Panels and groups turned about the sample."""
    panels = tuple(
        replace(p, origin_mm=turn @ p.origin_mm, fast=turn @ p.fast, slow=turn @ p.slow) for p in detector.panels
    )
    return record.DetectorData(panels=panels, root=None if detector.root is None else _turn_group(detector.root, turn))


def turn_to_z(direction: Vector) -> Vector:
    """The smallest rotation (3, 3) that takes a record.unit vector to +z, for files whose beam is always along z."""
    axis, cosine = np.array([direction[1], -direction[0], 0.0]), float(direction[2])
    if cosine < -1 + 1e-12:
        return _HALF_TURN_X.copy()
    cross = np.array([[0.0, 0.0, axis[1]], [0.0, 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    return np.asarray(np.eye(3) + cross + cross @ cross / (1 + cosine), np.float64)


def _in_plane(panel: record.PanelData, offset: Vector) -> tuple[float, float]:
    """Coordinates (mm) of a point of the plane along fast and slow, which need not be perpendicular."""
    fast, slow = panel.fast, panel.slow
    f, s = fast @ offset, slow @ offset
    ff, fs, ss = fast @ fast, fast @ slow, slow @ slow
    area = ff * ss - fs * fs
    return float((ss * f - fs * s) / area), float((ff * s - fs * f) / area)


def _turn_beam(beam: record.BeamData, turn: Vector) -> record.BeamData:
    normal = beam.polarization_normal
    points = beam.s0_at_scan_points
    return replace(
        beam,
        direction=turn @ beam.direction,
        polarization_normal=None if normal is None else turn @ normal,
        s0_at_scan_points=None if points is None else points @ turn.T,
    )


def _turn_group(group: record.GroupData, turn: Vector) -> record.GroupData:
    children = tuple(child if isinstance(child, int) else _turn_group(child, turn) for child in group.children)
    return replace(
        group, origin_mm=turn @ group.origin_mm, fast=turn @ group.fast, slow=turn @ group.slow, children=children
    )


def _turn_goniometer(given: record.GoniometerData, turn: Vector) -> record.GoniometerData:
    points = given.setting_at_scan_points
    return replace(
        given,
        rotation_axis=turn @ given.rotation_axis,
        fixed_rotation=_turn_matrix(given.fixed_rotation, turn),
        setting_rotation=_turn_matrix(given.setting_rotation, turn),
        axes=None if given.axes is None else given.axes @ turn.T,
        setting_at_scan_points=None if points is None else turn @ points @ turn.T,
    )


def _turn_matrix(matrix: Vector, turn: Vector) -> Vector:
    """A rotation in the turned frame; none stays exactly none."""
    return matrix if np.array_equal(matrix, np.eye(3)) else np.asarray(turn @ matrix @ turn.T, np.float64)


def _turn_crystal(crystal: record.CrystalData, turn: Vector) -> record.CrystalData:
    points = crystal.A_at_scan_points
    return replace(
        crystal,
        real_space=crystal.real_space @ turn.T,
        A_at_scan_points=None if points is None else turn @ points,
    )
