"""Image files of every kind, read and written by whichever format of `formats.py` they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.fabio_image import ACCEPTED
from nanobrag_torch.io.fileformat import FileFormat, ImageOptions
from nanobrag_torch.io.formats import find_format, reads_images, require_name
from nanobrag_torch.io.geometry import refuse_losses
from nanobrag_torch.records.experiment import ExperimentData, part_of_scan
from nanobrag_torch.records.images import ImageData


def read_image(path: str | os.PathLike[str], frame: int = 0) -> ImageData:
    """Frame `frame` (from 0) of an image file, whichever kind it is.

    Raises InputError naming the file and the reason if it cannot be read, is cut short, or has no such frame.
    """
    read = find_format(path, reads_images, accepted=ACCEPTED).read_image
    assert read is not None
    return read(Path(path), frame)


def writes_images(found: FileFormat) -> object:
    """Whether images can be written in a format."""
    return found.write_image


def output_format(path: str | os.PathLike[str], *, flag: str = "output") -> FileFormat:
    """The image format that a name asks for. Raises InputError if it asks for none."""
    return require_name(path, writes_images, flag=flag)


def write_image(
    path: str | os.PathLike[str],
    pixels: NDArray[Any],
    experiment: ExperimentData | None = None,
    *,
    index: int = 0,
    pixel_type: str | None = None,
    allow_loss: bool = False,
    title: str = "",
) -> None:
    """Write one image, of the kind that the name asks for: .img .cbf .nxs .npy .png.

    `index` is its place in the scan. Pixels that the format cannot hold exactly (fractions, below or beyond its range)
    are refused, or rounded and clipped with `allow_loss`. `pixel_type` u2 or u4 is that of SMV; None: 16 bits if they
    suffice. Raises InputError also where the format needs a geometry that is not there, or would lose some of it.
    """
    found = output_format(path)
    one = None if experiment is None else frame_experiment(experiment, index)
    if found.holds:
        if one is None:
            raise InputError("experiment", None, f"a geometry, which the header of {path} states")
        if not allow_loss:
            refuse_losses(one, found, allow_loss)
    assert found.write_image is not None
    found.write_image(Path(path), pixels, one, ImageOptions(pixel_type=pixel_type, allow_loss=allow_loss, title=title))


def frame_experiment(experiment: ExperimentData, index: int) -> ExperimentData:
    """The experiment of one image of a scan. Raises InputError for an image that it does not have."""
    scan = experiment.scan
    if scan is None:
        return experiment
    if not 0 <= index < scan.frames:
        raise InputError("index", index, f"an image from 0 to {scan.frames - 1} of the scan")
    return part_of_scan(experiment, index, 1)
