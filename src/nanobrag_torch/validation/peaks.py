"""Peaks of two images found, and matched so that the sum of their distances is smallest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float64]  # [n, 2] slow, fast

MOST = 200
FAINTEST = 1e-3


@dataclass(frozen=True)
class Match:
    """Peaks of two images and the pairs among them, brightest first."""

    in_a: Positions
    in_b: Positions
    pairs: NDArray[np.int64]  # [m, 2] places in in_a and in_b

    @property
    def shifts(self) -> Positions:
        """Position in b minus position in a of each pair [m, 2] (pixels)."""
        return np.asarray(self.in_b[self.pairs[:, 1]] - self.in_a[self.pairs[:, 0]])

    def plain(self) -> dict[str, Any]:
        """As plain data for JSON."""
        distances = np.hypot(*self.shifts.T)
        found = len(distances) > 0
        return {
            "in_a": len(self.in_a),
            "in_b": len(self.in_b),
            "matched": len(distances),
            "mean_error_px": float(distances.mean()) if found else None,
            "rms_error_px": float(np.sqrt((distances**2).mean())) if found else None,
            "largest_error_px": float(distances.max()) if found else None,
            "mean_shift_slow_fast_px": self.shifts.mean(0).tolist() if found else None,
        }


def find_peaks(image: NDArray[np.float64], *, most: int = MOST, faintest: float = FAINTEST) -> Positions:
    """Positions [n, 2] (slow, fast) of the brightest local maxima above `faintest` of the highest pixel.

    A plateau counts once, at the first of its pixels.
    """
    from scipy import ndimage

    highest = image.max(initial=0.0)
    if highest <= 0:
        return np.zeros((0, 2))
    top = (image == ndimage.maximum_filter(image, 3, mode="constant")) & (image > faintest * highest)
    labels, count = ndimage.label(top, np.ones((3, 3)))
    _, first = np.unique(labels, return_index=True)
    places = np.column_stack(np.unravel_index(first[-count:], image.shape)) if count else np.zeros((0, 2), np.int64)
    order = np.argsort(-image[places[:, 0], places[:, 1]], kind="stable")[:most]
    return _tops(image, places[order])


def _tops(image: NDArray[np.float64], places: NDArray[np.int64]) -> Positions:
    """The top of the parabola through each highest pixel and its two neighbours, along each axis."""
    padded = np.pad(image, 1, mode="edge")
    slow, fast = places.T + 1
    before = np.stack((padded[slow - 1, fast], padded[slow, fast - 1]), -1)
    after = np.stack((padded[slow + 1, fast], padded[slow, fast + 1]), -1)
    bend = 2 * padded[slow, fast][:, None] - before - after
    return np.asarray(places + (after - before) / 2 / np.where(bend > 0, bend, np.inf))


def match_peaks(in_a: Positions, in_b: Positions, gate_px: float) -> Match:
    """Pair peaks one to one with the smallest sum of distances; none further apart than the gate (pixels)."""
    from scipy.optimize import linear_sum_assignment

    distance = np.linalg.norm(in_a[:, None] - in_b[None], axis=-1)
    rows, columns = linear_sum_assignment(np.minimum(distance, 2 * gate_px))
    near = distance[rows, columns] <= gate_px
    return Match(in_a, in_b, np.column_stack((rows[near], columns[near])).astype(np.int64))
