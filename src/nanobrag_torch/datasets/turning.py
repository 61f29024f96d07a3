"""Rotations of a data set's lattices, beams and detectors: a dozen an image, so that what a library asks of every call
would cost as much as the labels do."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

SMALL = 1e-8
"""Angle (radians) below which its square is nothing beside one."""


def turns_of(vectors: Reals) -> Reals:
    """Rotations [..., 3, 3] about vectors [..., 3] by their lengths in radians (Rodrigues)."""
    angle = np.sqrt((vectors * vectors).sum(-1))[..., None, None]
    safe = np.maximum(angle, SMALL)
    sine, versine = np.sin(safe) / safe, 2 * (np.sin(safe / 2) / safe) ** 2
    cross = np.zeros((*vectors.shape, 3))
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    cross[..., 2, 1], cross[..., 0, 2], cross[..., 1, 0] = x, y, z
    cross[..., 1, 2], cross[..., 2, 0], cross[..., 0, 1] = -x, -y, -z
    return np.asarray(np.eye(3) + sine * cross + versine * (cross @ cross))


def uniform_turn(u: float, v: float, w: float) -> Reals:
    """A rotation [3, 3] of three uniform deviates, every rotation as likely (Shoemake (1992), Graphics Gems III)."""
    short, long = math.sqrt(1 - u), math.sqrt(u)
    first, second = 2 * math.pi * v, 2 * math.pi * w
    x, y = short * math.sin(first), short * math.cos(first)
    z, r = long * math.sin(second), long * math.cos(second)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - r * z), 2 * (x * z + r * y)],
            [2 * (x * y + r * z), 1 - 2 * (x * x + z * z), 2 * (y * z - r * x)],
            [2 * (x * z - r * y), 2 * (y * z + r * x), 1 - 2 * (x * x + y * y)],
        ]
    )
