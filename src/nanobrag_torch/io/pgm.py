"""Grey-scale picture in 8 bits, PGM type P5, as the C program writes it (section 10.4)."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output, read_input
from nanobrag_torch.io.ctext import c_atof, format_g
from nanobrag_torch.records.images import as_array

FLAG = "-pgmfile"

_GAP = rb"(?:\s|#[^\n]*\n)+"
_HEADER = re.compile(rb"P5" + _GAP + rb"([0-9]+)" + _GAP + rb"([0-9]+)" + _GAP + rb"255\s")
_SCALE = re.compile(rb"# pixels scaled by ([^\n]*)\n")


def pgm_header(fpixels: int, spixels: int, scale: float) -> str:
    """The text before the pixels."""
    return f"P5\n{fpixels} {spixels}\n# pixels scaled by {format_g(scale)}\n255\n"


def write_pgm_bytes(target: Target, grey: NDArray[np.uint8], scale: float, *, flag: str = FLAG) -> None:
    """Write bytes (slow, fast) and the factor that made them from photons.

    Raises InputError if the file cannot be written.
    """
    spixels, fpixels = grey.shape
    with open_output(target, flag) as file:
        file.write(pgm_header(fpixels, spixels, scale).encode())
        file.write(np.ascontiguousarray(grey, np.uint8).data)


def write_pgm(filepath: Target, image: Any, pgm_scale: float = 1.0) -> None:
    """Write an image (slow, fast), array or tensor, as grey levels: value * pgm_scale, from 0 to 255, rounded down.

    Raises InputError for another shape, and if the file cannot be written.
    """
    values = as_array(image)
    if values.ndim != 2:
        raise InputError("image", values.shape, "an image (slow, fast)")
    grey = np.clip(np.floor(values * float(pgm_scale)), 0, 255).astype(np.uint8)
    write_pgm_bytes(filepath, grey, pgm_scale)


def read_pgm(path: str | os.PathLike[str], *, flag: str = FLAG) -> tuple[NDArray[np.uint8], float | None]:
    """Bytes (slow, fast) of a PGM file and the factor in its comment, if it has one.

    Raises InputError for a file that is no 8-bit P5 picture or is cut short.
    """
    content = read_input(path, flag, "a PGM picture, type P5, of 8 bits")
    header = _HEADER.match(content)
    if header is None:
        raise InputError(flag, str(path), "a PGM picture, type P5, of 8 bits")
    fpixels, spixels = int(header[1]), int(header[2])
    if len(content) < header.end() + fpixels * spixels:
        raise InputError(flag, f"{path} ({len(content)} bytes)", f"{fpixels} x {spixels} pixels after the header")
    grey = np.frombuffer(content, np.uint8, fpixels * spixels, header.end()).reshape(spixels, fpixels).copy()
    scale = _SCALE.search(content, 0, header.end())
    return grey, c_atof(scale[1].decode("ascii", "replace")) if scale else None
