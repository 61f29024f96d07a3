"""An image as plain data, and its pixels as the whole numbers that a format stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.records.experiment import ExperimentData


@dataclass(frozen=True, eq=False)
class ImageData:
    """An image, what its file says about the experiment (None: nothing that we can read), and the kind of file."""

    pixels: NDArray[Any]  # (slow, fast), or (panel, slow, fast)
    experiment: ExperimentData | None
    format: str
    frames: int = 1
    no_geometry: str = ""  # why the header gives none


def with_geometry(pixels: NDArray[Any], kind: str, read: Callable[[], ExperimentData]) -> ImageData:
    """Pixels with the geometry of their header; without it where it has none, for the pixels are good all the same."""
    try:
        return ImageData(pixels, read(), kind)
    except InputError as error:
        return ImageData(pixels, None, kind, no_geometry=str(error))


def as_array(image: Any) -> NDArray[Any]:
    """An image, array or tensor on any device, as an array."""
    return np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)


def as_counts(pixels: NDArray[Any], pixel_type: str, allow_loss: bool = False) -> NDArray[Any]:
    """Pixels as whole numbers of a numpy type, such as u2.

    Raises InputError for pixels that are not finite, and without `allow_loss` for any that would change.
    """
    low, high = (getattr(np.iinfo(pixel_type), end) for end in ("min", "max"))
    if pixels.dtype.kind in "iu" and low <= np.iinfo(pixels.dtype).min and np.iinfo(pixels.dtype).max <= high:
        return pixels.astype(pixel_type, copy=False)
    if not np.isfinite(pixels).all():
        raise InputError("pixels", "some that are not finite", "finite pixels")
    if pixels.dtype.kind == "f" and not allow_loss and not np.array_equal(pixels, np.rint(pixels)):
        raise InputError("pixels", "fractions", f"whole numbers for {pixel_type}, or --allow-loss to round")
    if not allow_loss and pixels.size and (pixels.min() < low or pixels.max() > high):
        span = f"from {pixels.min()} to {pixels.max()}"
        raise InputError("pixels", span, f"numbers from {low} to {high}, or --allow-loss to clip")
    whole = np.rint(pixels) if pixels.dtype.kind == "f" else pixels
    return np.asarray(np.clip(whole, low, high)).astype(pixel_type)
