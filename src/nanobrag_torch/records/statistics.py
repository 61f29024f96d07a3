"""Statistics of a rendered image and the scaled integers made from it (sections 8.4, 10.2 and 10.4).

Images are (slow, fast) in 32-bit floats and are worked through in blocks of rows: no copy of an image in doubles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Roi = tuple[int, int, int, int]
"""First and last fast pixel, first and last slow pixel, inclusive; limits beyond the image are cut to it."""

INTEGER_FULL_SCALE = 55000.0
LARGEST_COUNT = 65535.0
GREY_FULL_SCALE = 250.0
GREY_SIGMAS = 5.0
LARGEST_GREY = 255.0

_BLOCK_PIXELS = 1 << 16


@dataclass(frozen=True)
class ImageStatistics:
    """What the C program prints of an image, in photons per pixel."""

    max_I: float  # 0 when no pixel is above 0
    max_pixel: tuple[int, int] | None  # slow, fast: the first pixel that holds max_I
    mean: float  # over rendered pixels
    rms: float
    rmsd: float  # over the region of interest, pixels that the mask skips included


def image_statistics(image: Image, *, roi: Roi | None = None, mask: Mask | None = None) -> ImageStatistics:
    """Maximum, mean, rms and rms deviation of an image (slow, fast). Section 8.4.

    roi: the part rendered; mask (slow, fast): False or 0 where it was skipped. Sums are in doubles, squares in 32 bits
    as in the C program, whose divisors never count fewer than two pixels.
    """
    image = _region(np.asarray(image, np.float32), roi)
    mask = None if mask is None else _region(np.asarray(mask, bool), roi)
    if image.size == 0:
        return ImageStatistics(0.0, None, 0.0, 0.0, 0.0)
    blocks = [_block_sums(image[rows], None if mask is None else mask[rows]) for rows in _row_blocks(image)]
    sums, squares, counts, highest, places = (np.array(column) for column in zip(*blocks, strict=True))
    count = max(int(counts.sum()), 2)
    mean = float(sums.sum()) / count
    squares_about_mean = sum(_sum_of_squares(image[rows].astype(np.float64) - mean) for rows in _row_blocks(image))
    best = int(highest.argmax())
    max_pixel = _place(int(places[best]), best, image.shape, roi) if highest[best] > 0 else None
    return ImageStatistics(
        max_I=max(float(highest[best]), 0.0),
        max_pixel=max_pixel,
        mean=mean,
        rms=math.sqrt(float(squares.sum()) / (count - 1)),
        rmsd=math.sqrt(squares_about_mean / (max(image.size, 2) - 1)),
    )


def last_subpixel_m(pixel: int, pixel_size: float, oversample: int) -> float:
    """Distance (m) of the centre of a pixel's last sub-pixel from the detector's corner: where max_I is reported."""
    sub = pixel_size / oversample
    return sub * (pixel * oversample + oversample - 1) + sub / 2.0


def integer_scale(max_I: float, scale: float = 0.0) -> float:
    """Counts per photon of the integer image: the user's if above 0, else what brings max_I to 55000. Section 10.2."""
    if scale > 0:
        return scale
    return INTEGER_FULL_SCALE / max_I if max_I > 0 else 1.0


def pgm_scale(rmsd: float, integer_image_scale: float, scale: float = 0.0) -> float:
    """Grey levels per photon: the user's if above 0, else 250 at 5 rmsd, else the integer scale. Section 10.4."""
    if scale > 0:
        return scale
    return GREY_FULL_SCALE / (GREY_SIGMAS * rmsd) if rmsd > 0 else integer_image_scale


def integer_counts(image: Image, scale: float, adc: float, *, roi: Roi | None = None) -> NDArray[np.uint16]:
    """Photons (slow, fast) as 16-bit counts: value * scale + adc rounded, within 0 to 65535; 0 outside roi.

    Pixels that a mask skips get the adc. Section 10.2.
    """

    def counts(block: NDArray[np.float64]) -> NDArray[np.floating]:
        block *= scale
        block += adc
        np.clip(block, 0.0, LARGEST_COUNT, out=block)
        block += 0.5
        return block.astype(np.float32)  # the C program rounds down from single precision

    return np.asarray(_converted(image, roi, np.uint16, counts))


def grey_bytes(image: Image, scale: float, *, roi: Roi | None = None) -> NDArray[np.uint8]:
    """Photons (slow, fast) as grey levels: value * scale cut off at 255, truncated; 0 outside roi. Section 10.4."""

    def grey(block: NDArray[np.float64]) -> NDArray[np.floating]:
        block *= scale
        return np.clip(block, 0.0, LARGEST_GREY, out=block)

    return np.asarray(_converted(image, roi, np.uint8, grey))


def _converted(
    image: Image, roi: Roi | None, word: type, convert: Callable[[NDArray[np.float64]], NDArray[np.floating]]
) -> NDArray[Any]:
    output: NDArray[Any] = np.zeros(image.shape, word)
    source, target = _region(image, roi), _region(output, roi)
    for rows in _row_blocks(source):
        target[rows] = convert(source[rows].astype(np.float64))
    return output


def _region(image: NDArray[Any], roi: Roi | None) -> NDArray[Any]:
    """The view of an array (slow, fast) inside a region of interest."""
    if roi is None:
        return image
    fast_first, fast_last, slow_first, slow_last = roi
    return image[max(slow_first, 0) : max(slow_last + 1, 0), max(fast_first, 0) : max(fast_last + 1, 0)]


def _row_blocks(image: Image) -> Iterator[slice]:
    rows = _rows_a_block(image.shape[1])
    return (slice(first, first + rows) for first in range(0, image.shape[0], rows))


def _rows_a_block(fpixels: int) -> int:
    return max(_BLOCK_PIXELS // max(fpixels, 1), 1)


def _block_sums(block: Image, mask: Mask | None) -> tuple[float, float, int, float, int]:
    """Sum, sum of squares, number, maximum and its place of the pixels of a block that were rendered."""
    if mask is not None:
        block = np.where(mask, block, np.float32(0.0))
    place = int(block.argmax())
    with np.errstate(over="ignore"):  # of values whose square exceeds 32 bits the C program prints an infinite rms too
        squares = float(np.square(block).sum(dtype=np.float64))
    count = block.size if mask is None else int(np.count_nonzero(mask))
    return float(block.sum(dtype=np.float64)), squares, count, float(block.flat[place]), place


def _sum_of_squares(deviation: NDArray[np.float64]) -> float:
    return float(np.square(deviation, out=deviation).sum())


def _place(in_block: int, block: int, shape: tuple[int, ...], roi: Roi | None) -> tuple[int, int]:
    """Slow and fast pixel, in the whole image, of a place within a block of rows of the region."""
    slow, fast = divmod(in_block, shape[1])
    corner = (0, 0) if roi is None else (max(roi[2], 0), max(roi[0], 0))
    return corner[0] + block * _rows_a_block(shape[1]) + slow, corner[1] + fast
