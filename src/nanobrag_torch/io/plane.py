"""Panels on the plane where they are looked at: the place of each pixel, and images that keep the highest pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.io.picture import ResolutionMap, block_maximum, ring_spacings
from nanobrag_torch.records.experiment import BeamData, DetectorData, PanelData
from nanobrag_torch.records.frames import beam_on_panel, incident, turn_to_z

EDGE_ON = 1e-3
LABEL_MARGIN = 0.03  # of the plane, at its edges
ON_THE_EDGE = 1e-6  # of a square: such a pixel belongs to the last one
RING_NODES = 40  # of the grid on which resolution is worked out
Real = NDArray[np.float64]
Panels = Sequence[NDArray[np.float32]]  # (slow, fast) each, NaN where there is no measurement


@dataclass(frozen=True, eq=False)
class Raster:
    """Values (y, x) on a rectangle of the plane; NaN where there is nothing."""

    values: NDArray[np.float32]
    low: tuple[float, float]  # x, y of its first corner
    size: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Plane:
    """The place of a pixel is corners + fast * steps[:, 0] + slow * steps[:, 1], in pixels or mm."""

    corners: Real  # [panel, 2]
    steps: Real  # [panel, 2, 2]
    sizes: tuple[tuple[int, int], ...]  # slow, fast
    in_pixels: bool

    @property
    def pixel(self) -> float:
        """The size of the smallest pixel; sides that are seen edge-on do not count."""
        sides = np.linalg.norm(self.steps, axis=2)
        return float(sides[sides > EDGE_ON * sides.max()].min())

    def is_edge_on(self, panel: int) -> bool:
        """Whether a panel is seen from its side, so that its pixels lie on a line."""
        sides = np.linalg.norm(self.steps[panel], axis=1)
        area = abs(float(np.linalg.det(self.steps[panel])))
        return bool(area <= EDGE_ON * max(float(sides.max()), 1e-300) ** 2)

    @property
    def bounds(self) -> tuple[Real, Real]:
        """The lowest and the highest x and y of all panels."""
        ends = np.concatenate([self.place(i, np.array(_corners(size))) for i, size in enumerate(self.sizes)])
        return ends.min(0), ends.max(0)

    def place(self, panel: int, pixels: Real) -> Real:
        """x and y [n, 2] of points [n, 2] (fast, slow) of a panel, in pixels from its outer edge."""
        return np.asarray(self.corners[panel] + pixels @ self.steps[panel])

    def raster(self, panels: Panels, block: int) -> Raster:
        """The highest pixel of every square of the plane, which is `block` pixels wide."""
        low, high = self.bounds
        if self.in_pixels:
            values = _shown(block_maximum(_ranked(panels[0]), block))
            return Raster(values, (0.0, 0.0), (values.shape[1] * block, values.shape[0] * block))
        return self.part(panels, range(len(panels)), low, high, block)

    def part(self, panels: Panels, chosen: Sequence[int], low: Real, high: Real, block: int) -> Raster:
        """As `raster`, between two corners of the plane, of the panels chosen."""
        cell = block * self.pixel
        columns, rows = (max(int(n), 1) for n in np.ceil((high - low) / cell - 1e-9))
        grid = np.full((rows, columns), -np.inf, np.float32)
        for number in chosen:
            self._pull(grid, panels[number], number, low, cell)
            self._push(grid, panels[number], number, low, cell)
        return Raster(_shown(grid), (float(low[0]), float(low[1])), (columns * cell, rows * cell))

    def tile(self, values: NDArray[np.float32], number: int, slow: int, fast: int) -> Raster:
        """Pixels (slow, fast) that begin there on a panel, at their place; the strongest of a cell counts."""
        size = (values.shape[0], values.shape[1])
        if self.in_pixels:
            return Raster(values, (float(fast), float(slow)), (float(size[1]), float(size[0])))
        corner = self.place(number, np.array([[fast, slow]], np.float64))
        alone = Plane(corner, self.steps[number : number + 1], (size,), False)
        return alone.strongest([values], 1)

    def strongest(self, panels: Panels, block: int) -> Raster:
        """As `raster`, of the pixel that is farthest from zero."""
        above, below = self.raster(panels, block), self.raster([-part for part in panels], block).values
        return replace(above, values=np.where(above.values >= below, above.values, -below))

    def _push(
        self, grid: NDArray[np.float32], pixels: NDArray[np.float32], number: int, low: Real, cell: float
    ) -> None:
        """Every pixel to the square that its centre is in, so that none is lost."""
        slow, fast = np.indices(pixels.shape).reshape(2, -1)
        at = (self.place(number, np.stack((fast, slow), 1).astype(np.float64) + 0.5) - low) / cell
        ends = np.array(grid.shape[::-1])
        x, y = np.where(np.abs(at - ends) < ON_THE_EDGE, ends - 1, np.floor(at)).astype(np.int64).T
        inside = (x >= 0) & (y >= 0) & (x < grid.shape[1]) & (y < grid.shape[0])
        np.maximum.at(grid, (y[inside], x[inside]), _ranked(pixels).reshape(-1)[inside])

    def _pull(
        self, grid: NDArray[np.float32], pixels: NDArray[np.float32], number: int, low: Real, cell: float
    ) -> None:
        """Every square from the pixel under its centre, so that a turned panel has no holes."""
        if self.is_edge_on(number):
            return
        y, x = np.indices(grid.shape).reshape(2, -1)
        centres = low + (np.stack((x, y), 1) + 0.5) * cell - self.corners[number]
        fast, slow = np.floor(centres @ np.linalg.inv(self.steps[number])).astype(np.int64).T
        inside = (fast >= 0) & (slow >= 0) & (fast < pixels.shape[1]) & (slow < pixels.shape[0])
        target = y[inside], x[inside]
        grid[target] = np.maximum(grid[target], _ranked(pixels)[slow[inside], fast[inside]])


def pixel_plane(size: tuple[int, int]) -> Plane:
    """The plane of one panel (slow, fast) in its own pixels."""
    return Plane(np.zeros((1, 2)), np.eye(2)[None], (size,), True)


def laboratory_plane(detector: DetectorData, beam: BeamData) -> Plane:
    """All panels as seen along the beam, from the source: x to the right and y up in mm, the beam at the origin."""
    turn = turn_to_z(beam.direction)[:2]
    corners = np.stack([turn @ panel.origin_mm for panel in detector.panels])
    steps = np.stack(
        [[turn @ p.fast * p.pixel_size_mm[0], turn @ p.slow * p.pixel_size_mm[1]] for p in detector.panels]
    )
    return Plane(corners, steps, tuple(panel.shape for panel in detector.panels), False)


def panel_resolution(panel: PanelData, beam: BeamData) -> ResolutionMap:
    """Where on a panel which resolution is."""
    fast, slow = (np.linspace(0, size, RING_NODES) for size in panel.image_size)
    positions = panel.positions_mm(fast[None, :], slow[:, None])
    return ResolutionMap.from_positions(fast, slow, positions, incident(beam), beam.wavelength_A)


def beam_place(plane: Plane, detector: DetectorData, beam: BeamData) -> tuple[float, float] | None:
    """Where on the plane the direct beam hits; None where a panel in its own pixels is missed."""
    if not plane.in_pixels:
        return 0.0, 0.0
    spot = beam_on_panel(detector.panels[0], beam)
    if spot is None or not spot.inside:
        return None
    return spot.fast_mm / spot.pixel_mm[0], spot.slow_mm / spot.pixel_mm[1]


def rings(plane: Plane, detector: DetectorData, beam: BeamData) -> list[tuple[str, Real]]:
    """Labels and points [n, 2] on the plane of rings of resolution, with a row of NaN between pieces."""
    maps = [panel_resolution(panel, beam) for panel in detector.panels]
    hit = beam_place(plane, detector, beam) is not None and any(one.inverse_d.min() < 1e-3 for one in maps)
    lowest = 0.0 if hit else min(float(one.inverse_d.min()) for one in maps)
    found = []
    for d in ring_spacings(lowest, max(float(one.inverse_d.max()) for one in maps)):
        points = np.concatenate([plane.place(i, one.ring(d)) for i, one in enumerate(maps)])
        if np.isfinite(points).any():
            found.append((f"{d:g} Å", points))
    return found


def ring_label(plane: Plane, points: Real) -> Real:
    """The point of a ring that is farthest to the upper right, where there is room for a label beside it."""
    low, high = plane.bounds
    margin = LABEL_MARGIN * (high - low)
    known = points[np.isfinite(points).all(1)]
    roomy = known[((known > low + margin) & (known < high - margin)).all(1)]
    chosen = roomy if len(roomy) else known
    place = chosen[np.argmax(chosen @ (0.7, -0.72 if plane.in_pixels else 0.72))]
    return np.asarray(np.clip(place, low + margin, high - margin))


def _corners(size: tuple[int, int]) -> list[tuple[float, float]]:
    slow, fast = size
    return [(0.0, 0.0), (fast, 0.0), (0.0, slow), (fast, slow)]


def _ranked(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """NaN as the lowest of all, for maxima."""
    return np.where(np.isnan(values), np.float32(-np.inf), values)


def _shown(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isneginf(values), np.float32(np.nan), values).astype(np.float32)
