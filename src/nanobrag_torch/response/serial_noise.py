"""Counting noise: a Poisson deviate a pixel, the offset, and the 16-bit words of a detector (section 10.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nanobrag_torch.c_random import Streams
from nanobrag_torch.errors import InputError

Floats = npt.NDArray[np.float32]
Roi = tuple[int, int, int, int]  # first and last fast pixel, first and last slow pixel, as -roi: both inclusive

_LARGEST_COUNT = 65535


@dataclass(frozen=True)
class NoiseImage:
    """An image with counting noise, and what the C program prints about it."""

    counts: npt.NDArray[np.uint16]  # [slow, fast], 0 outside the region of interest
    photons: float  # all photons, before the offset
    overloads: int  # pixels above 65535 after the offset
    next_state: int  # of the random stream


def poisson_image(image: npt.ArrayLike, streams: Streams, state: int) -> tuple[Floats, int]:
    """Photons counted where `image` (photons per pixel, any shape) are expected, and the stream's next state.

    Deviates are drawn in the order of memory, with the image rounded to float32, bit for bit as the C program does;
    above a million photons they are normal deviates and not integers. `state` is minus the value of -seed.
    Raises InputError for a pixel that is not finite.
    """
    return streams.poisson(_finite(image), state)


def noise_counts(
    image: npt.ArrayLike, streams: Streams, state: int, *, adc: float = 40.0, roi: Roi | None = None
) -> NoiseImage:
    """The image [slow, fast] (photons per pixel) as a detector would record it: photons + adc, cut off to 0...65535.

    Pixels outside the region of interest draw no deviate and stay 0. Raises InputError for a pixel or an offset that is
    not finite, and for a negative bound.
    """
    expected = _finite(image)
    if not np.isfinite(adc):
        raise InputError("adc", adc, "a finite number")
    window = _window(roi)
    photons, next_state = poisson_image(expected[window], streams, state)
    recorded = photons.astype(np.float64) + adc
    counts = np.zeros(expected.shape, np.uint16)
    counts[window] = np.clip(recorded, 0, _LARGEST_COUNT).astype(np.uint16)
    overloads = int(np.count_nonzero(recorded > _LARGEST_COUNT))
    return NoiseImage(counts, float(photons.sum(dtype=np.float64)), overloads, next_state)


def _finite(image: npt.ArrayLike) -> Floats:
    expected = np.asarray(image, np.float32)
    finite = np.isfinite(expected)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError("image", f"{expected[where]} in pixel {where}", "finite photons per pixel")
    return expected


def _window(roi: Roi | None) -> tuple[slice, slice] | slice:
    if roi is None:
        return slice(None)
    if min(roi) < 0:
        raise InputError("roi", roi, "first and last fast, first and last slow pixel, from 0 up")
    first_fast, last_fast, first_slow, last_slow = roi
    return slice(first_slow, last_slow + 1), slice(first_fast, last_fast + 1)
