"""Geometry and masks from the headers of other images, -img and -mask (reference-behaviour section 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nanobrag_torch.cli.nanobragg.parsing import header_files
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nanobrag_torch.io.smv import HeaderText

MM_PER_M = 1000.0
_PLAIN_KEYS = {
    "DISTANCE": "distance_mm",
    "CLOSE_DISTANCE": "close_distance_mm",
    "WAVELENGTH": "lambda_A",
    "BEAM_CENTER_X": "Xbeam_mm",
    "BEAM_CENTER_Y": "Ybeam_mm",
    "ORGX": "ORGX",
    "ORGY": "ORGY",
    "PHI": "phi_deg",
    "OSC_RANGE": "osc_deg",
    "TWOTHETA": "header_twotheta_deg",
}
"""Header key -> field of Request whose number it is, in the same unit."""
_ABOVE_ZERO = ("PIXEL_SIZE", "WAVELENGTH")


@dataclass
class Ingested:
    """What the headers said, the mask [slow, fast] if there is one, and what to print about it."""

    request: Request = field(default_factory=Request)
    mask: NDArray[np.uint16] | None = None
    lines: list[str] = field(default_factory=list)


def ingest(words: Sequence[str], *, as_c_finds: bool) -> Ingested:
    """First pass over the command line: read the mask, then the image header, into an otherwise empty request.

    as_c_finds: a key is its last appearance anywhere in the header, so that DISTANCE finds CLOSE_DISTANCE; else it is
    the entry of exactly that name. Raises InputError for files that cannot be read or are no SMV images.
    """
    from nanobrag_torch.io.smv import read_smv_header, read_smv_image

    mask_file, image_file = header_files(words)
    result = Ingested()
    if mask_file is not None:
        header, result.mask = read_smv_image(mask_file, flag="-mask")
        result.lines.append(f"reading {mask_file}")
        _apply(result.request, header, f"-mask {mask_file}", as_c_finds, flip=True)
    if image_file is not None:
        header = read_smv_header(image_file, flag="-img")
        result.lines.append(f"reading {image_file}")
        _apply(result.request, header, f"-img {image_file}", as_c_finds, flip=False)
    return result


def check_mask(mask: NDArray[np.uint16] | None, spixels: int, fpixels: int) -> None:
    """Raise InputError unless the mask has the detector's final size."""
    if mask is not None and mask.shape != (spixels, fpixels):
        slow, fast = mask.shape
        raise InputError("-mask", f"{fast} x {slow} pixels", f"the detector's {fpixels} x {spixels}")


def _apply(request: Request, header: HeaderText, source: str, as_c_finds: bool, *, flip: bool) -> None:
    """The keys of one header, in the C program's order: size and pixel first, since the flip needs them."""
    find = header.real if as_c_finds else _exact_with_xds_origin(header)
    slow, fast = header.dimensions()
    if slow > 0 and fast > 0:
        request.detpixels_s, request.detpixels_f = slow, fast
    for key in _ABOVE_ZERO:
        if find(key) <= 0:
            raise InputError(source, f"{key}={find(key):g}", "a number above 0")
    _set(request, "pixel_mm", find("PIXEL_SIZE"))
    request.detsize_f_mm = request.pixel_mm * request.detpixels_f or request.detsize_f_mm
    request.detsize_s_mm = request.pixel_mm * request.detpixels_s or request.detsize_s_mm
    for key, name in _PLAIN_KEYS.items():
        _set(request, name, find(key))
    if flip and not math.isnan(find("BEAM_CENTER_Y")):
        pixel = request.pixel_mm / MM_PER_M
        request.Ybeam_mm = (pixel * request.detpixels_s - find("BEAM_CENTER_Y") / MM_PER_M) * MM_PER_M


def _set(request: Request, name: str, value: float) -> None:
    if not math.isnan(value):
        setattr(request, name, value)


def _exact_with_xds_origin(header: HeaderText) -> Callable[[str], float]:
    """Exact keys, but XDS_ORGX still counts as ORGX: that is what the C program itself writes."""

    def find(key: str) -> float:
        value = header.exact_real(key)
        return header.exact_real(f"XDS_{key}") if math.isnan(value) and key.startswith("ORG") else value

    return find
