"""What a run of noisify works on: the photons of the input, their shape, and the header of what is written."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nanobrag_torch.cli.dropin import smv_text
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.ctext import format_g
from nanobrag_torch.io.smv import PIXEL_TYPES, HeaderText, read_smv_header
from nanobrag_torch.response.config import CALIBRATION_SEED
from nanobrag_torch.units import R_E_SQUARED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanobrag_torch.cli.noisify.flags import NoisifyRequest

PIXEL_TYPE = {16: "unsigned_short", 32: "long_integer"}
ANGSTROM_PER_M = 1e10


@dataclass(frozen=True)
class Scene:
    """A run whose input is read."""

    request: NoisifyRequest
    photons: NDArray[np.float32]  # [slow, fast], as the input has them, negative ones too
    header: str  # of both images
    seed: int
    calibration_seed: int

    @property
    def as_c(self) -> bool:
        """Whether the C program's images are wanted."""
        return self.request.compat == "c"


def read_scene(request: NoisifyRequest, *, clock: int) -> Scene:
    """The input of a run. Raises InputError for files that do not hold an image of its size."""
    header = None if request.header is None else read_smv_header(request.header, flag="-header")
    if header is not None:
        request = _with_header(request, header)
    assert request.floatfile is not None
    content = read_input(request.floatfile, "-floatfile", "32-bit floats, a pixel each")
    if len(content) % 4:
        raise InputError("-floatfile", f"{request.floatfile} ({len(content)} bytes)", "4 bytes a pixel")
    values = np.frombuffer(content, np.float32)
    shape = _shape(request, values.size)
    factor = request.fluence * R_E_SQUARED * request.scale
    photons = (factor * values.astype(np.float64)).astype(np.float32).reshape(shape)
    if not np.isfinite(photons).all():
        raise InputError("-floatfile", f"{request.floatfile}: pixels that are not finite", "finite photons per pixel")
    return Scene(
        request=request,
        photons=photons,
        header=_own_header(request, shape) if header is None else _kept_header(request, header),
        seed=clock if request.seed is None else request.seed,
        calibration_seed=CALIBRATION_SEED if request.calib_seed is None else request.calib_seed,
    )


def _with_header(request: NoisifyRequest, header: HeaderText) -> NoisifyRequest:
    """The size of the image is the header's, where no flag says it."""
    slow, fast = header.dimensions()
    pixel = header.real("PIXEL_SIZE")
    return replace(
        request,
        detpixels_x=request.detpixels_x or max(fast, 0),
        detpixels_y=request.detpixels_y or max(slow, 0),
        pixel_mm=pixel if pixel > 0 and "-pixel" not in request.fired else request.pixel_mm,
    )


def _shape(request: NoisifyRequest, pixels: int) -> tuple[int, int]:
    """Slow and fast pixels: as stated, else as square as the number of pixels allows."""
    fast, slow = request.detpixels_x, request.detpixels_y
    if not fast and not slow:
        fast = max(n for n in range(1, int(pixels**0.5) + 1) if pixels % n == 0)
    fast = fast or pixels // slow
    slow = slow or pixels // fast
    if slow * fast != pixels:
        accepted = f"{slow * fast} pixels of 4 bytes, {fast} x {slow}"
        raise InputError("-floatfile", f"{request.floatfile}: {pixels} pixels", accepted)
    return slow, fast


def _own_header(request: NoisifyRequest, shape: tuple[int, int]) -> str:
    sizes = request.detsize_x_mm, request.detsize_y_mm
    counted = request.detpixels_x, request.detpixels_y
    width, height = (
        n * request.pixel_mm if many or size is None else size
        for size, n, many in zip(sizes, shape[::-1], counted, strict=True)
    )
    x = width / 2 if request.Xbeam_mm is None else request.Xbeam_mm
    y = height / 2 if request.Ybeam_mm is None else request.Ybeam_mm
    entries = [
        ("PIXEL_SIZE", request.pixel_mm),
        ("DISTANCE", request.distance_mm),
        ("WAVELENGTH", request.lambda_A),
        ("BEAM_CENTER_X", x),
        ("BEAM_CENTER_Y", height - y),
        ("PHI", request.phi_deg),
        ("OSC_START", request.phi_deg),
        ("OSC_RANGE", request.osc_deg),
    ]
    return smv_text(PIXEL_TYPE[request.bits], shape, entries)


def _kept_header(request: NoisifyRequest, header: HeaderText) -> str:
    """The header as it was; the C program's has the wavelength in 1e10 Angstrom."""
    kind = PIXEL_TYPES.get(header.pixel_type(), "")
    if kind[1:] != str(request.bits // 8):
        raise InputError("-bits", request.bits, f"the TYPE of -header {request.header}, {header.pixel_type()}")
    text = header.text[: header.text.index("\f") + 1] if "\f" in header.text else header.text.rstrip() + "\f"
    if request.compat != "c" or header.entry("WAVELENGTH") is None:
        return text
    shown = format_g(header.exact_real("WAVELENGTH") / ANGSTROM_PER_M)
    return re.sub(r"^WAVELENGTH=[^;\n]*", f"WAVELENGTH={shown}", text, flags=re.MULTILINE)
