"""The axes of each program's frame (section 5.1), as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from nanobrag_torch.config import DetectorConvention, DetectorPivot

Axis = tuple[float, float, float]


@dataclass(frozen=True)
class Convention:
    """Default vectors of a frame, what its beam centre is counted from, and its pivot."""

    beam: Axis
    fast: Axis
    slow: Axis
    normal: Axis
    twotheta: Axis
    polar: Axis
    spindle: Axis
    pivot: DetectorPivot


_MOSFLM: tuple[Axis, Axis, Axis, Axis] = ((1, 0, 0), (0, 0, 1), (0, -1, 0), (1, 0, 0))

CONVENTIONS = {
    DetectorConvention.MOSFLM: Convention(*_MOSFLM, (0, 0, -1), (0, 0, 1), (0, 0, 1), DetectorPivot.BEAM),
    DetectorConvention.DENZO: Convention(*_MOSFLM, (0, 0, -1), (0, 0, 1), (0, 0, 1), DetectorPivot.BEAM),
    DetectorConvention.ADXV: Convention(
        (0, 0, 1), (1, 0, 0), (0, -1, 0), (0, 0, 1), (-1, 0, 0), (1, 0, 0), (1, 0, 0), DetectorPivot.BEAM
    ),
    DetectorConvention.XDS: Convention(
        (0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (1, 0, 0), (1, 0, 0), DetectorPivot.SAMPLE
    ),
    DetectorConvention.DIALS: Convention(
        (0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 0), (0, 1, 0), (0, 1, 0), DetectorPivot.SAMPLE
    ),
    DetectorConvention.CUSTOM: Convention(*_MOSFLM, (0, 1, 0), (0, 0, 1), (0, 0, 1), DetectorPivot.BEAM),
}
