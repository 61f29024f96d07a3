"""The images that noisify writes: by the response of response.chain, or as the C program draws them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nanobrag_torch.io.atomic import OutputSet
from nanobrag_torch.response.formulas import LARGEST_COUNT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanobrag_torch.cli.noisify.scene import Scene

LARGEST_16 = 65535
LARGEST_GREY = 255
MICRON_PER_M = 1e6
MM_PER_M = 1000.0
SIGMAS = 6.0
"""Standard deviations of the readout noise that could take a pixel below 0."""


@dataclass
class Images:
    """What a run writes, [slow, fast], and what it says of it."""

    integers: NDArray[Any]
    noise: NDArray[Any] | None = None
    corrections: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def images_of(scene: Scene) -> Images:
    """Both images of a run."""
    return _as_c(scene) if scene.as_c else _corrected(scene)


def write_images(images: Images, scene: Scene) -> None:
    """Write all of them, or none."""
    from nanobrag_torch.io.pgm import write_pgm_bytes
    from nanobrag_torch.io.smv import write_smv_image

    request = scene.request
    with OutputSet() as outputs:
        write_smv_image(outputs.open(request.intfile, "-intfile"), images.integers, scene.header, flag="-intfile")
        if request.write_pgm:
            grey = np.minimum(images.integers, LARGEST_GREY).astype(np.uint8)
            write_pgm_bytes(outputs.open(request.pgmfile, "-pgmfile"), grey, 1.0, flag="-pgmfile")
        if images.noise is not None:
            write_smv_image(
                outputs.open(request.noisefile, "-noisefile"), images.noise, scene.header, flag="-noisefile"
            )


def _integers(photons: NDArray[np.float32], scene: Scene, largest: int) -> NDArray[Any]:
    """Photons times gain plus offset, cut off and truncated."""
    request = scene.request
    adu = photons.astype(np.float64)
    adu *= request.gain
    adu += request.adc
    return np.clip(adu, 0, largest, out=adu).astype(_word(scene))


def _word(scene: Scene) -> str:
    return "u2" if scene.request.bits == 16 else "i4"


def _largest(scene: Scene) -> int:
    return LARGEST_16 if scene.request.bits == 16 else LARGEST_COUNT


def _corrected(scene: Scene) -> Images:
    import torch

    from nanobrag_torch.response.chain import Response

    request, largest = scene.request, _largest(scene)
    negative = scene.photons < 0
    photons = np.where(negative, np.float32(0), scene.photons) if negative.any() else scene.photons
    response = Response(_response_config(scene))
    shown = photons if request.write_noise else response.photons(torch.from_numpy(photons)).numpy()
    images = Images(_integers(shown, scene, largest), corrections=_felt(scene, bool(negative.any())))
    if request.write_noise:
        recorded = response.record(torch.from_numpy(photons), scene.seed % 2**64)
        images.noise = recorded.numpy()
        images.lines.append(f"{int((images.noise >= largest).sum())} pixels at or above the limit of {largest}")
    return images


def _response_config(scene: Scene) -> Any:
    from nanobrag_torch.response.config import ResponseConfig, SpreadConfig

    request = scene.request
    spread = None
    if request.psf is not None:
        radius = request.psf_radius or None
        spread = SpreadConfig(shape=request.psf, fwhm_um=request.psf_fwhm_um, radius_pixels=radius)
    return ResponseConfig(
        flicker=request.flicker,
        spread=spread,
        calibration=request.calibration,
        calibration_seed=scene.calibration_seed % 2**64,
        gain=request.gain,
        readout_noise=request.readout,
        pedestal=request.adc,
        rounding="down",
        dtype="uint16" if request.bits == 16 else "int32",
        lowest=0,
        pixel_size_um=request.pixel_mm * MM_PER_M,
    )


def _felt(scene: Scene, negative: bool) -> list[str]:
    """Rows of the table of corrections that changed an image of this run."""
    request, noise = scene.request, scene.request.write_noise
    lowest = max(float(scene.photons.min(initial=0.0)), 0.0) * request.gain + request.adc
    brightest = float(scene.photons.max(initial=0.0)) * request.gain + request.adc
    tests = {
        "R1": noise and request.flicker > 0,
        "R2": noise and request.calibration > 0,
        "R3": noise and request.psf is not None,
        "R4": request.psf is not None,
        "R5": request.bits == 32 and brightest > LARGEST_16,
        "R6": lowest - SIGMAS * request.readout < 0,
        "R7": request.header is not None,
        "R9": negative,
    }
    return [name for name, felt in tests.items() if felt]


def _as_c(scene: Scene) -> Images:
    from nanobrag_torch.response.serial_spread import spread_as_noisify

    request, photons = scene.request, scene.photons
    images = Images(np.empty(0))
    negative = int((photons < 0).sum())
    if negative:
        images.warnings.append(f"{negative} pixels expect negative photons, and are used as they are")
    width = float(np.float64(np.float32(request.psf_fwhm_um / MICRON_PER_M)) / (request.pixel_mm / MM_PER_M))
    blur: dict[str, Any] = {"fibre": request.psf == "fiber", "width": width, "radius": request.psf_radius}
    if request.psf is not None and not request.write_noise:
        spread = spread_as_noisify(photons, **blur)
        photons = spread.image
        images.lines.append(f"{spread.lost:g} photons beyond the radius of {spread.radius} pixels are added back")
    images.integers = _integers(photons, scene, LARGEST_16)
    if request.write_noise:
        images.noise = _serial_noise(scene, images, blur)
    return images


def _serial_noise(scene: Scene, images: Images, blur: dict[str, Any]) -> NDArray[Any]:
    from nanobrag_torch.c_random import Streams
    from nanobrag_torch.response.serial_detector import SerialNoise
    from nanobrag_torch.response.serial_spread import spread_as_noisify

    request, largest = scene.request, _largest(scene)
    # without -calib_seed the C program starts that stream with the wrong sign
    calibration = scene.calibration_seed if request.calib_seed is None else -request.calib_seed
    noise = SerialNoise(-scene.seed, calibration, Streams())
    counts = noise.count(scene.photons, flicker=request.flicker, calibration=request.calibration)
    if request.psf is not None:
        counts = spread_as_noisify(counts, **blur).image
    adu = noise.in_adu(counts, gain=request.gain, adc=request.adc, readout=request.readout)
    overloads = int((adu > largest).sum())
    images.lines.append(f"{counts.sum(dtype=np.float64):.0f} photons on noise image ({overloads} overloads)")
    below = int((adu < 0).sum())
    if below:
        images.warnings.append(f"{below} pixels below 0 are 0; what the C program makes of them is undefined")
    return np.clip(adu, 0, largest).astype(_word(scene))
