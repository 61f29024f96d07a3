"""How fine a detector sees: the spacing d that belongs to a point of it."""

from __future__ import annotations

import numpy as np

from nanobrag_torch.records.experiment import BeamData, DetectorData, Vector
from nanobrag_torch.records.frames import beam_on_panel, incident

BORDER_POINTS = 2001  # along each side of a panel


def inverse_spacing(points_mm: Vector, beam: BeamData) -> Vector:
    """1/d (1/Angstrom) [...] at points [..., 3] of the lab."""
    unit = points_mm / np.linalg.norm(points_mm, axis=-1, keepdims=True)
    return np.asarray(np.linalg.norm(unit - incident(beam), axis=-1) / beam.wavelength_A, np.float64)


def corner_resolution(detector: DetectorData, beam: BeamData) -> float:
    """The smallest d (Angstrom) at any corner of any panel."""
    ends = np.array([0.0, 1.0])
    corners = (p.positions_mm(ends * p.image_size[0], ends[:, None] * p.image_size[1]) for p in detector.panels)
    return 1 / max(float(inverse_spacing(points, beam).max()) for points in corners)


def edge_resolution(detector: DetectorData, beam: BeamData) -> float | None:
    """The d (Angstrom) of the largest ring that lies whole on a single panel; None if there is none."""
    spot = beam_on_panel(detector.panels[0], beam)
    if len(detector.panels) > 1 or spot is None or not spot.inside:
        return None
    panel, along = detector.panels[0], np.linspace(0, 1, BORDER_POINTS)
    (fast, slow), zero = panel.image_size, np.zeros_like(along)
    border = np.concatenate([
        panel.positions_mm(along * fast, zero), panel.positions_mm(along * fast, zero + slow),
        panel.positions_mm(zero, along * slow), panel.positions_mm(zero + fast, along * slow),
    ])  # fmt: skip
    nearest = float(inverse_spacing(border, beam).min())
    return 1 / nearest if nearest > 0 else None
