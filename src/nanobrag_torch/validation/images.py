"""Images to compare, from any file that is read here, cut and resampled onto each other."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.floatimage import read_float_image
from nanobrag_torch.io.formats import is_of, reads_images
from nanobrag_torch.io.images import read_image as read_any

Image = NDArray[np.float64]
Region = tuple[int, int, int, int]
"""First and last fast pixel, first and last slow pixel, both included: the order of -roi."""

_LOG = logging.getLogger(__name__)

ACCEPTED = "an image of any kind that nb reads, or raw 32-bit floats"
RAW_SUFFIXES = ("", ".bin", ".raw", ".float", ".dat")


def read_image(path: str | os.PathLike[str], name: str, shape: tuple[int, int] | None = None, frame: int = 0) -> Image:
    """An image (slow, fast), of whichever format; several panels lie one below the other.

    What is of no format is raw floats, which tell no shape: without one given they count as square. Raises InputError
    for files that cannot be read, have another shape, or hold pixels that are not finite.
    """
    image = _of_format(path, name, shape, frame)
    if image is None:
        size = len(read_input(path, name, ACCEPTED, unpack=False))
        image = read_float_image(path, shape or _square(size, path, name), flag=name).astype(np.float64)
    if shape is not None and image.shape != shape:
        raise InputError(name, f"{path}: {image.shape[0]} x {image.shape[1]} pixels", f"{shape[0]} x {shape[1]}")
    return finite(image, name)


def _of_format(path: str | os.PathLike[str], name: str, shape: tuple[int, int] | None, frame: int) -> Image | None:
    """The pixels of an image file; None for one that may be raw floats."""
    found = is_of(path, reads_images, flag=name)
    if found is None or (found.fallback and (shape is not None or Path(path).suffix.lower() in RAW_SUFFIXES)):
        return None
    try:
        read = read_any(path, frame if found.frames is not None else 0)
    except InputError as error:
        raise InputError(f"{name}, {error.name}", error.value, error.accepted) from error
    if read.frames > 1:
        _LOG.warning("%s: image %d of %d (--frame for another)", path, frame, read.frames)
    detector = None if read.experiment is None else read.experiment.detector
    pixels = read.pixels
    if pixels.ndim == 3:
        pixels = pixels.reshape(-1, pixels.shape[-1]) if detector is None else detector.stack(pixels)
    return np.asarray(pixels, np.float64)


def finite(image: Image, name: str) -> Image:
    """The image itself. Raises InputError when a pixel is not finite."""
    count = int((~np.isfinite(image)).sum())
    if count:
        raise InputError(name, f"{count} pixels that are not finite", "finite pixels")
    return image


def resampled(image: Image, shape: tuple[int, int]) -> Image:
    """The same photons in other pixels, by the area that old and new pixels share; the sum is kept."""
    slow, fast = (_shares(old, new) for old, new in zip(image.shape, shape, strict=True))
    return np.asarray(slow @ image @ fast.T)


def cut(image: Image, region: Region | None) -> Image:
    """The pixels of a region. Raises InputError for one that does not lie in the image."""
    if region is None:
        return image
    f0, f1, s0, s1 = region
    if not (0 <= f0 <= f1 < image.shape[1] and 0 <= s0 <= s1 < image.shape[0]):
        accepted = f"FMIN FMAX SMIN SMAX, fast 0 to {image.shape[1] - 1}, slow 0 to {image.shape[0] - 1}"
        raise InputError("--roi", region, accepted)
    return image[s0 : s1 + 1, f0 : f1 + 1]


def _square(size: int, path: str | os.PathLike[str], name: str) -> tuple[int, int]:
    side = math.isqrt(size // 4)
    if 4 * side * side != size:
        raise InputError(name, f"{path} ({size} bytes)", "a square image, or --shape SLOW FAST")
    return side, side


def _shares(old: int, new: int) -> Image:
    """[new, old]: the share of each old pixel along one axis that falls into each new one."""
    edges = np.arange(new + 1) * (old / new)
    low, high = np.maximum.outer(edges[:-1], np.arange(old)), np.minimum.outer(edges[1:], np.arange(1, old + 1))
    return np.asarray(np.clip(high - low, 0, None))
