"""Arrays of numpy (.npy) as images: pixels without a geometry."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import open_output, read_input
from nanobrag_torch.io.fileformat import FileFormat, ImageOptions
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.records.images import ImageData

ACCEPTED = "an array of numbers (npy), (slow, fast) or (panel, slow, fast)"


def read_npy_image(path: Path, frame: int = 0) -> ImageData:
    """The pixels of a .npy file. Raises InputError for what is no image, or another frame than 0."""
    if frame != 0:
        raise InputError(f"{path}: frame", frame, "0, for a file of one image")
    try:
        pixels = np.load(io.BytesIO(read_input(path, "image", ACCEPTED)), allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # numpy also raises what its parser of the header does
        raise InputError(str(path), " ".join(str(error).split())[:100], ACCEPTED) from error
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3) or pixels.dtype.kind not in "iufb":
        raise InputError(str(path), f"{pixels.dtype} of shape {pixels.shape}", ACCEPTED)
    if pixels.size == 0:
        raise InputError(str(path), f"pixels of shape {pixels.shape}", "an image with pixels")
    return ImageData(pixels, None, FORMAT.name)


def _write(path: Path, pixels: NDArray[Any], data: ExperimentData | None, options: ImageOptions) -> None:
    memory = io.BytesIO()  # numpy's own writing to a file says nothing of a disk that is full at the end
    np.save(memory, np.ascontiguousarray(pixels), allow_pickle=False)
    with open_output(path) as file:
        file.write(memory.getbuffer())


FORMAT = FileFormat(
    name="npy",
    title="npy image",
    recognises=lambda file: file.start.startswith(b"\x93NUMPY"),
    suffixes=(".npy",),
    read_image=read_npy_image,
    write_image=_write,
    pixel_types=("f4", "f8"),
)
