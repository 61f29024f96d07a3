"""The raw image: Nf * Ns native 32-bit floats in photons per pixel, row by row, no header (section 10.1)."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output, read_input

FLAG = "-floatfile"


def write_float_image(target: Target, image: NDArray[np.floating], *, flag: str = FLAG) -> None:
    """Write an image (slow, fast). Raises InputError if the file cannot be written."""
    with open_output(target, flag) as file:
        file.write(np.ascontiguousarray(image, np.float32).data.cast("B"))


def read_float_image(path: str | os.PathLike[str], shape: tuple[int, int], *, flag: str = FLAG) -> NDArray[np.float32]:
    """The image (slow, fast) of a file, whose shape the file does not tell.

    Raises InputError if the file cannot be read or is not of the size that the shape needs.
    """
    accepted = f"{4 * shape[0] * shape[1]} bytes for {shape[0]} x {shape[1]} pixels"
    content = read_input(path, flag, accepted, unpack=False)
    if len(content) != 4 * shape[0] * shape[1]:
        raise InputError(flag, f"{path} ({len(content)} bytes)", accepted)
    return np.frombuffer(content, np.float32).reshape(shape).copy()
