"""Every other image of a detector, as fabio reads it: pixels alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input, unpacked_path
from nanobrag_torch.io.fileformat import FileFormat
from nanobrag_torch.records.images import ImageData

ACCEPTED = "an image: SMV, CBF, NXmx, npy, or a format that fabio reads"


def read_by_fabio(path: Path, frame: int) -> ImageData:
    """Pixels of any image that fabio opens. Raises InputError naming file and reason."""
    import logging

    import fabio

    read_input(path, "image", ACCEPTED)
    level = logging.getLogger("fabio").level
    logging.getLogger("fabio").setLevel(logging.CRITICAL)  # it logs what it also raises
    try:
        with unpacked_path(path, "image", ACCEPTED) as place, fabio.open(os.fspath(place)) as file:
            frames = int(file.nframes)
            if not 0 <= frame < frames:
                raise InputError(f"{path}: frame", frame, f"a number from 0 to {frames - 1}")
            pixels = np.array(file.data if frame == 0 else file.get_frame(frame).data)
            kind = type(file).__name__.removesuffix("Image").lower()
    except InputError:
        raise
    except Exception as error:  # fabio raises whatever its format modules do
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(str(path), reason, ACCEPTED) from error
    finally:
        logging.getLogger("fabio").setLevel(level)
    if pixels.ndim != 2 or pixels.size == 0:
        raise InputError(str(path), f"pixels of shape {pixels.shape}", "an image (slow, fast)")
    return ImageData(pixels, None, kind, frames)


FORMAT = FileFormat(
    name="fabio",
    title="an image that fabio reads",
    recognises=lambda file: True,
    fallback=True,
    read_image=read_by_fabio,
    apart=True,
)
