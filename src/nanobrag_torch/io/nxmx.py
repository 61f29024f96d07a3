"""NXmx as a format: nxmx_read.py and nxmx_write.py do the work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.io.fileformat import FileFormat, FrameStore, Given, ImageOptions
from nanobrag_torch.io.hdf5_links import is_hdf5
from nanobrag_torch.io.nxmx_read import read_nxmx, read_nxmx_geometry
from nanobrag_torch.io.nxmx_write import compress_frame, write_nxmx, write_nxmx_chunks
from nanobrag_torch.records.contents import HEADER
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.records.images import ImageData


def _read_image(path: Path, frame: int) -> ImageData:
    pixels, experiment, frames = read_nxmx(path, frame)
    return ImageData(pixels, experiment, FORMAT.name, frames)


def _read_experiments(path: Path, _: Given) -> list[ExperimentData]:
    return [read_nxmx_geometry(path)]


def _write_image(path: Path, pixels: NDArray[Any], data: ExperimentData | None, options: ImageOptions) -> None:
    assert data is not None
    write_nxmx(path, pixels[None], data)


def _assemble(
    path: Path, data: ExperimentData, dtype: np.dtype[Any], frames: int, packed: Iterable[bytes], mark: str
) -> None:
    write_nxmx_chunks(path, packed, frames, dtype, data, mark=mark)


FORMAT = FileFormat(
    name="nxmx",
    title="NXmx image",
    recognises=lambda file: is_hdf5(file.start),
    suffixes=(".nxs", ".h5", ".hdf5"),
    read_experiments=_read_experiments,
    apart=True,
    holds=(HEADER - {"epochs"})
    | {
        "several panels", "groups of panels", "nested groups", "group frames", "mask", "untrusted rectangles",
        "spectrum", "wavelength for each image", "goniometer axes", "several images",
        "images that do not follow one another",
    },
    read_image=_read_image,
    write_image=_write_image,
    pixel_types=("i4", "u1", "i1", "u2", "i2", "u4", "f4", "f8"),
    frames=FrameStore(pack=compress_frame, assemble=_assemble),
)  # fmt: skip
