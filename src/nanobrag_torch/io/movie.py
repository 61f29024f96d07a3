"""Frames of a series as an animation: GIF by pillow, MP4 where the program ffmpeg is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import output_path
from nanobrag_torch.io.picture import DOTS_PER_INCH, block_maximum, image_figure

LONGEST_SIDE = 600  # screen pixels
ENDINGS = (".gif", ".mp4")
FLAG = "--output"


def write_movie(
    path: str | os.PathLike[str],
    images: Iterable[NDArray[Any]],
    titles: Sequence[str],
    *,
    rate: float = 5.0,
    units: str = "pixel value",
) -> None:
    """Write images (slow, fast) of one size one after the other, `rate` a second, in the greys of the first.

    Raises InputError for no image, images of different sizes, an ending that is neither .gif nor .mp4, and MP4 where
    there is no ffmpeg.
    """
    from matplotlib import animation

    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise InputError(FLAG, str(path), f"a name that ends in {' or '.join(ENDINGS)}")
    if ending == ".mp4" and not animation.FFMpegWriter.isAvailable():
        raise InputError(FLAG, str(path), "a .gif: there is no program ffmpeg here, which .mp4 needs")
    kind: Any = animation.PillowWriter if ending == ".gif" else animation.FFMpegWriter
    sequence = iter(images)
    first = next(sequence, None)
    if first is None:
        raise InputError("images", 0, "at least one")
    with output_path(path, FLAG) as place:
        beside = place.with_name(f"{place.name}{ending}")  # the writer goes by the ending
        try:
            _record(kind(fps=rate), beside, chain([first], sequence), titles, first, units)
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)


def _record(
    writer: Any, path: Any, images: Iterable[NDArray[Any]], titles: Sequence[str], first: NDArray[Any], units: str
) -> None:
    figure, axes = image_figure(first, titles[0], units, LONGEST_SIDE)
    drawn: Any = axes.images[0]
    block = -(-max(first.shape) // LONGEST_SIDE)
    with writer.saving(figure, str(path), DOTS_PER_INCH):
        for image, title in zip(images, titles, strict=True):
            if image.shape != first.shape:
                raise InputError("images", image.shape, f"the size of the first, {first.shape}")
            drawn.set_data(np.maximum(block_maximum(image, block), drawn.norm.vmin * 1e-3))
            axes.set_title(title, fontsize=10, parse_math=False)
            writer.grab_frame()
