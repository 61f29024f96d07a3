"""Which images a page carries: an overview that a screen shows whole, a finer one, and squares of single pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.io.plane import Panels, Plane, Raster

SCREEN = 600  # cells of the longer side of the overview: fewer than screen pixels, so that each is drawn
TILE = 32  # pixels
MOST_TILES = 200
BUDGET = 4_800_000  # bytes of pixels, before they are written as text


@dataclass(frozen=True, eq=False)
class Level:
    """Rasters of one fineness; block is the width of a cell in pixels."""

    rasters: tuple[Raster, ...]
    block: int

    @property
    def says(self) -> str:
        """What a value is."""
        return "pixel value" if self.block == 1 else f"highest of {self.block} x {self.block} pixels"


def levels(plane: Plane, panels: Panels, *, full: bool = False) -> tuple[Level, ...]:
    """Images from coarse to fine; not `full`: at most 4.8 MB, with single pixels where the brightest are."""
    low, high = plane.bounds
    cells = (high - low) / plane.pixel
    coarse = max(1, int(np.ceil(cells.max() / SCREEN)))
    room = BUDGET / max(compact(part).itemsize for part in panels) - (cells / coarse).prod() - MOST_TILES * TILE**2
    fine = 1 if full else max(1, int(np.ceil(np.sqrt(cells.prod() / room))))
    found = [Level((plane.raster(panels, coarse),), coarse)]
    if fine < coarse:
        found.append(Level((plane.raster(panels, fine),), fine))
    if min(fine, coarse) > 1:
        found.append(Level(tuple(_tiles(plane, panels)), 1))
    return tuple(found)


def _tiles(plane: Plane, panels: Panels) -> list[Raster]:
    """The squares with the highest pixels, at most 200."""
    corners, highest = [], []
    for number, pixels in enumerate(panels):
        filled = np.nan_to_num(pixels, nan=-np.inf)
        for slow in range(0, pixels.shape[0], TILE):
            row = filled[slow : slow + TILE]
            tops = np.maximum.reduceat(row.max(0), np.arange(0, pixels.shape[1], TILE))
            highest += tops.tolist()
            corners += [(number, slow, TILE * i) for i in range(len(tops))]
    best = np.argsort(-np.array(highest), kind="stable")[:MOST_TILES]
    return [_tile(plane, panels, *corners[i]) for i in best if np.isfinite(highest[i])]


def _tile(plane: Plane, panels: Panels, number: int, slow: int, fast: int) -> Raster:
    return plane.tile(panels[number][slow : slow + TILE, fast : fast + TILE], number, slow, fast)


def compact(values: NDArray[np.float32]) -> NDArray[Any]:
    """Values in 16 bits where that changes none."""
    fits = bool(np.isfinite(values).all() and values.min() >= 0 and values.max() < 2**16)
    return values.astype(np.uint16) if fits and np.array_equal(values, np.rint(values)) else values
