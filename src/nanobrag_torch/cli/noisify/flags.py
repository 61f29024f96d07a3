"""Every flag of the command `noisify` in one table, and what they fill (noise-behaviour, section A)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from nanobrag_torch.cli.nanobragg.flags import FILE, INT, REAL, WORD, Flag
from nanobrag_torch.cli.nanobragg.parsing import apply_words, compat_of, last_value
from nanobrag_torch.cli.nanobragg.request import HeaderWords, OutputWords
from nanobrag_torch.errors import InputError
from nanobrag_torch.units import DEFAULT_FLUENCE

INPUT_NAME = "floatimage.bin"
"""A word without a dash that has this in it is the input, too."""
MODES = ("corrected", "c")
SPREADS = ("gauss", "fiber")


@dataclass
class DetectorWords:
    """What the detector does to photons."""

    gain: float = 1.0
    readout: float = 0.0
    flicker: float = 0.0
    calibration: float = 0.03
    calib_seed: int | None = None
    unused_seed: int = 0
    psf: str | None = None
    psf_fwhm_um: float = 46.0
    psf_radius: int = 0
    bits: int = 16


@dataclass
class NoisifyRequest(DetectorWords, HeaderWords, OutputWords):
    """What the words ask for, in the units of the flags."""

    compat: str = "corrected"
    floatfile: str | None = None
    header: str | None = None
    scale: float = 1.0
    fluence: float = DEFAULT_FLUENCE
    detpixels_x: int = 0
    detpixels_y: int = 0
    detsize_x_mm: float | None = None
    detsize_y_mm: float | None = None
    osc_deg: float = 1.0


_OFF = (("write_noise", False), ("readout", 0.0), ("flicker", 0.0), ("calibration", 0.0))
FLAGS: tuple[Flag, ...] = (
    Flag(whole=("-h", "-help", "--help"), stop=True, text="this text"),
    Flag(whole=("-compat",), values=WORD, sets=("compat",), stop=True, default="corrected", shown="corrected|c",
         text="correct the C program's defects, or give its images"),
    Flag(("-floatfile", "-floatimage", "-bin"), values=FILE, sets=("floatfile",), subject="input",
         text="photons per pixel, 32-bit floats; any word with floatimage.bin in it will do"),
    Flag(("-header",), values=FILE, sets=("header",), subject="input", text="SMV image whose header is kept"),
    Flag(("-scale",), values=REAL, sets=("scale",), subject="input", default="1", text="factor of the input"),
    Flag(("-fluence",), values=REAL, sets=("fluence",), subject="input", unit="photons/m2", default="1.25932e+29",
         text="the input is multiplied by this and the Thomson cross section"),
    Flag(("-gain",), values=REAL, sets=("gain",), subject="detector", unit="ADU/photon", default="1", text="gain"),
    Flag(("-adc",), values=REAL, sets=("adc",), subject="detector", unit="ADU", default="40", text="offset"),
    Flag(("-readout", "-readnoi"), values=REAL, sets=("readout",), subject="detector", unit="ADU rms", default="0",
         text="readout noise"),
    Flag(("-flicker",), values=REAL, sets=("flicker",), subject="detector", unit="fraction", default="0",
         text="flicker of the source, once an image"),
    Flag(("-calibration",), values=REAL, sets=("calibration",), subject="detector", unit="fraction", default="0.03",
         text="error of the sensitivity of pixels"),
    Flag(("-psf_fwhm", "-psf_si", "-psf_wi"), values=REAL, sets=("psf_fwhm_um",), stop=True, subject="detector",
         unit="um", default="46", text="full width at half maximum of the point spread"),
    Flag(("-psf_rad",), values=INT, sets=("psf_radius",), stop=True, subject="detector", unit="pixels",
         default="automatic", text="where the point spread is cut off"),
    Flag(whole=("-psf",), values=WORD, sets=("psf",), subject="detector", default="none", shown="gauss|fiber",
         text="shape of the point spread"),
    Flag(("-bits",), values=INT, sets=("bits",), subject="outputs", default="16", shown="16|32", text="of a pixel"),
    Flag(("-seed",), values=INT, sets=("seed",), subject="random numbers", default="from the clock",
         text="seed of the image"),
    Flag(("-calib_seed",), values=INT, sets=("calib_seed",), subject="random numbers", default="123456789",
         text="seed of the detector"),
    Flag(("-badpix_seed", "-hotpix_seed"), values=INT, sets=("unused_seed",), subject="random numbers",
         text="accepted, no effect", inert="there are no bad or hot pixels"),
    Flag(whole=("-detpixels",), values=INT, sets=("detpixels_x", "detpixels_y"), subject="geometry", unit="pixels",
         default="from the file", text="pixels along both axes"),
    *(Flag((f"-detpixels_{a}",), values=INT, sets=(f"detpixels_{a}",), subject="geometry", unit="pixels",
           default="from the file", text=f"pixels along {a}") for a in "xy"),
    Flag(whole=("-detsize",), values=REAL, sets=("detsize_x_mm", "detsize_y_mm"), subject="geometry", unit="mm",
         default="from the pixels", text="size along both axes"),
    *(Flag((f"-detsize_{a}",), values=REAL, sets=(f"detsize_{a}_mm",), subject="geometry", unit="mm",
           default="from the pixels", text=f"size along {a}") for a in "xy"),
    Flag(("-pixel",), values=REAL, sets=("pixel_mm",), subject="geometry", unit="mm", default="0.1",
         text="edge of a pixel"),
    Flag(("-distance",), values=REAL, sets=("distance_mm",), subject="geometry", unit="mm", default="100",
         text="for the header"),
    Flag(("-lambda",), values=REAL, sets=("lambda_A",), subject="geometry", unit="A", default="1",
         text="for the header"),
    *(Flag((f"-{a}beam",), values=REAL, sets=(f"{a}beam_mm",), subject="geometry", unit="mm", default="the middle",
           text="for the header") for a in "XY"),
    Flag(whole=("-phi",), values=REAL, sets=("phi_deg",), subject="geometry", unit="deg", default="0",
         text="for the header"),
    Flag(("-osc",), values=REAL, sets=("osc_deg",), subject="geometry", unit="deg", default="1", text="for the header"),
    Flag(("-intfile",), values=FILE, sets=("intfile",), subject="outputs", default="intimage.img",
         text="image without noise"),
    Flag(("-noisefile",), values=FILE, sets=("noisefile",), subject="outputs", default="noiseimage.img",
         text="image with noise"),
    Flag(("-pgmfile",), values=FILE, sets=("pgmfile",), subject="outputs", default="image.pgm", text="grey picture"),
    Flag(("-nonoise",), puts=_OFF, subject="outputs", text="no image with noise; the point spread acts on the other"),
    Flag(("-nopgm",), puts=(("write_pgm", False),), subject="outputs", text="no grey picture"),
)  # fmt: skip
SUBJECTS = ("input", "detector", "geometry", "outputs", "random numbers", "run")


def parse(words: Sequence[str]) -> NoisifyRequest:
    """What the words ask for. Raises InputError for values that nothing can be made of."""
    request = NoisifyRequest()
    as_c_reads = last_value(words, "-compat") == "c"
    apply_words(request, words, compat_of(words), as_c_reads=as_c_reads, table=FLAGS)  # type: ignore[arg-type]
    bare = [word for word in words if not word.startswith("-") and INPUT_NAME in word]
    if request.floatfile is None and bare:
        request.floatfile = bare[-1]
        request.warnings = [line for line in request.warnings if repr(bare[-1]) not in line]
    _check(request)
    return request


def _check(request: NoisifyRequest) -> None:
    if request.floatfile is None:
        raise InputError("-floatfile", "nothing", "an image in photons per pixel")
    for item in fields(request):
        value = getattr(request, item.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(flag_of(item.name), value, "a finite number")
    for name in ("readout", "flicker", "calibration"):
        if getattr(request, name) < 0:
            raise InputError(flag_of(name), getattr(request, name), "a number from 0 up")
    for name in ("pixel_mm", "psf_fwhm_um", "gain"):
        if not getattr(request, name) > 0:
            raise InputError(flag_of(name), getattr(request, name), "a number above 0")
    for name in ("detpixels_x", "detpixels_y", "psf_radius"):
        if getattr(request, name) < 0:
            raise InputError(flag_of(name), getattr(request, name), "a whole number from 0 up")
    if request.bits not in (16, 32):
        raise InputError("-bits", request.bits, "16, 32")
    if request.psf not in (None, *SPREADS):
        raise InputError("-psf", request.psf, ", ".join(SPREADS))


def flag_of(name: str) -> str:
    """The flag that sets a field."""
    return next(flag.names[0] for flag in FLAGS if name in flag.sets)
