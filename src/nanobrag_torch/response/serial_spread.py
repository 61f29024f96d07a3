"""noisify's point spread, source after source, with its rendering radius by brightness and its wrap at the far edge.

Rules: noise-behaviour, section C. Photons cut off by a radius are added back evenly, those beyond an edge are lost, and
the column right of the last falls on the first of the next row. For `-compat c` alone; response.spread is the real one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nanobrag_torch.compilation import compiled
from nanobrag_torch.response.spread import FIBRE_G

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]


class SerialSpread(NamedTuple):
    """An image [slow, fast] after the spread, and what the C program prints about it."""

    image: Floats
    brightest: float
    radius: int  # of the kernel, before it is cut to the image
    lost: float  # photons added back


def spread_as_noisify(image: Floats, *, fibre: bool, width: float, radius: int = 0) -> SerialSpread:
    """Spread the photons of an image [slow, fast]. width: full width at half maximum in pixels; radius 0: automatic.

    An image without photons comes back blank where the radius is automatic.
    """
    brightest = float(image.max(initial=0.0))
    if brightest <= 0 and radius <= 0:
        return SerialSpread(np.zeros_like(image), brightest, 0, 0.0)
    reach = radius if radius > 0 else _radius(fibre, brightest, width)
    most = max(image.shape)
    kernel = _kernel(fibre, min(reach, most), width)
    slow, fast = image.shape
    target = np.zeros(image.size + fast + 1, np.float32)
    lost = _scatter(np.ascontiguousarray(image, np.float32), target, kernel, fibre, width, radius, most)
    found = target[: image.size].reshape(slow, fast) + np.float32(lost / image.size)
    return SerialSpread(found, brightest, reach, lost)


def _kernel(fibre: bool, radius: int, width: float) -> Reals:
    """Integrals over pixels [2 radius + 1, 2 radius + 1], none outside the circle."""
    from scipy.special import erf

    edges = np.arange(-radius, radius + 2) - 0.5
    y, x = edges[:, None], edges[None, :]
    if fibre:
        g = FIBRE_G * width
        corners = np.arctan(x * y / (g * np.sqrt(g * g + x * x + y * y))) / (2 * math.pi)
    else:
        ln2, ln16 = math.log(2), math.log(16)
        corners = 0.125 * erf(2 * x / width * math.sqrt(ln2)) * erf(y / width * math.sqrt(ln16)) * math.sqrt(ln16 / ln2)
    shares: Reals = np.diff(np.diff(corners, axis=0), axis=1)
    steps = np.arange(-radius, radius + 1)
    return np.where(np.hypot(steps[:, None], steps) > radius, 0.0, shares)


@compiled()
def _radius(fibre: bool, photons: float, width: float) -> int:
    """Radius beyond which a tenth of a standard deviation is left."""
    left = math.sqrt(photons) / 10.0
    if fibre:
        return 1 + int(math.ceil(FIBRE_G * width * photons / left))
    return 1 + int(math.ceil(math.sqrt(-math.log(left / photons) / math.log(4.0) / 2.0) * width))


@compiled()
def _scatter(image: Floats, target: Floats, kernel: Reals, fibre: bool, width: float, given: int, most: int) -> float:
    """Add every source to the target, in the C program's order; the photons that radii cut off."""
    slow, fast = image.shape
    middle, lost, g = kernel.shape[0] // 2, 0.0, FIBRE_G * width
    for y in range(slow):
        for x in range(fast):
            photons = np.float64(image[y, x])
            if photons <= 0:
                continue
            radius = min(given if given > 0 else _radius(fibre, photons, width), most)
            if fibre:
                lost += photons * g / math.sqrt(g * g + radius * radius)
            else:
                lost += photons * math.exp(-math.log(16.0) * (radius / width) ** 2)
            for dx in range(max(-radius, -x), min(radius, fast - x) + 1):
                for dy in range(max(-radius, -y), min(radius, slow - y) + 1):
                    if dx * dx + dy * dy <= radius * radius:
                        share = photons * kernel[middle + dy, middle + dx]
                        target[(y + dy) * fast + x + dx] += np.float32(share)
    return lost
