"""Images to compare, from raw floats, NumPy files or SMV, cut and resampled onto each other."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.floatimage import read_float_image
from nanobrag_torch.io.smv import read_smv

Image = NDArray[np.float64]
Region = tuple[int, int, int, int]
"""First and last fast pixel, first and last slow pixel, both included: the order of -roi."""

ACCEPTED = "an image: raw 32-bit floats, .npy or SMV"


def read_image(path: str | os.PathLike[str], name: str, shape: tuple[int, int] | None = None) -> Image:
    """An image (slow, fast). Raw floats tell no shape: without one given they count as square.

    Raises InputError for files that cannot be read, have another shape, or hold pixels that are not finite.
    """
    content = read_input(path, name, ACCEPTED)
    if content.startswith(b"{\nHEADER_BYT"):
        image = read_smv(path, flag=name)[1].astype(np.float64)
    elif content.startswith(b"\x93NUMPY"):
        image = _read_npy(path, name)
    else:
        image = read_float_image(path, shape or _square(len(content), path, name), flag=name).astype(np.float64)
    if shape is not None and image.shape != shape:
        raise InputError(name, f"{path}: {image.shape[0]} x {image.shape[1]} pixels", f"{shape[0]} x {shape[1]}")
    return finite(image, name)


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


def _read_npy(path: str | os.PathLike[str], name: str) -> Image:
    try:
        image = np.load(Path(path), allow_pickle=False)
    except ValueError as error:
        raise InputError(name, str(path), f"{ACCEPTED} ({error})") from error
    if image.ndim != 2 or image.dtype.kind not in "fiu":
        raise InputError(name, f"{path}: shape {image.shape} of {image.dtype}", "numbers (slow, fast)")
    return np.asarray(image, np.float64)


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
