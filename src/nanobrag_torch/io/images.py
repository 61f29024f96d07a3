"""Image files of every kind: reading what SMV, mini-CBF, NXmx, npy and fabio hold, writing them and PNG pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import open_output, read_input
from nanobrag_torch.io.cbf import experiment_of_cbf, read_cbf, write_cbf
from nanobrag_torch.io.geometry import image_format, refuse_losses
from nanobrag_torch.io.nxmx_read import read_nxmx
from nanobrag_torch.io.nxmx_write import write_nxmx
from nanobrag_torch.io.picture import ResolutionMap, write_picture
from nanobrag_torch.io.smv import read_smv, write_smv
from nanobrag_torch.io.smv_geometry import experiment_of_smv, smv_header_text
from nanobrag_torch.records.experiment import DetectorData, ExperimentData
from nanobrag_torch.records.frames import beam_on_panel, incident

ACCEPTED = "an image: SMV, mini-CBF, NXmx, npy, or a format that fabio reads"
SUFFIXES = {
    ".img": "smv",
    ".smv": "smv",
    ".cbf": "cbf",
    ".nxs": "nxmx",
    ".h5": "nxmx",
    ".hdf5": "nxmx",
    ".npy": "npy",
    ".png": "png",
}
"""Name of an output -> format."""
LIMITS = {"u2": (0, 2**16 - 1), "u4": (0, 2**32 - 1), "i4": (-(2**31), 2**31 - 1)}
RING_NODES = 40  # of the grid on which resolution is worked out


@dataclass(frozen=True, eq=False)
class ImageData:
    """An image, what its file says about the experiment (None: nothing that we can read), and the kind of file."""

    pixels: NDArray[Any]  # (slow, fast), or (panel, slow, fast)
    experiment: ExperimentData | None
    format: str
    frames: int = 1
    no_geometry: str = ""  # why the header gives none


def read_image(path: str | os.PathLike[str], frame: int = 0) -> ImageData:
    """Frame `frame` (from 0) of an image file, whichever kind it is.

    Raises InputError naming the file and the reason if it cannot be read, is cut short, or has no such frame.
    """
    kind = image_format(path)
    if kind == "nxmx":
        pixels, experiment, frames = read_nxmx(path, frame)
        return ImageData(pixels, experiment, kind, frames)
    if kind is None:
        return _read_by_fabio(path, frame)
    if frame != 0:
        raise InputError(f"{path}: frame", frame, "0, for a file of one image")
    if kind == "smv":
        header, pixels = read_smv(path, flag="SMV image")
        return _with_geometry(pixels, kind, lambda: experiment_of_smv(header, str(path)))
    if kind == "cbf":
        file, pixels = read_cbf(path)
        return _with_geometry(pixels, kind, lambda: experiment_of_cbf(file))
    return ImageData(_read_npy(path), None, kind)


def _with_geometry(pixels: NDArray[Any], kind: str, read: Callable[[], ExperimentData]) -> ImageData:
    """Pixels with the geometry of their header; without it where it has none, for the pixels are good all the same."""
    try:
        return ImageData(pixels, read(), kind)
    except InputError as error:
        return ImageData(pixels, None, kind, no_geometry=str(error))


def _read_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    try:
        pixels = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy also raises what its parser of the header does
        raise InputError(str(path), " ".join(str(error).split())[:100], "an array of numbers (npy)") from error
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3) or pixels.dtype.kind not in "iufb":
        found = f"{pixels.dtype} of shape {pixels.shape}"
        raise InputError(str(path), found, "numbers (slow, fast) or (panel, slow, fast)")
    return pixels


def _read_by_fabio(path: str | os.PathLike[str], frame: int) -> ImageData:
    import logging

    import fabio

    read_input(path, "image", ACCEPTED)
    level = logging.getLogger("fabio").level
    logging.getLogger("fabio").setLevel(logging.CRITICAL)  # it logs what it also raises
    try:
        with fabio.open(os.fspath(path)) as file:
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


def output_format(path: str | os.PathLike[str]) -> str:
    """The image format that a name asks for. Raises InputError if it asks for none."""
    kind = SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise InputError("output", str(path), f"a name that ends in {', '.join(SUFFIXES)}")
    return kind


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
    kind = output_format(path)
    if kind == "npy":
        with open_output(path) as file:
            np.save(file, np.ascontiguousarray(pixels), allow_pickle=False)
    elif kind == "png":
        write_png(path, pixels, experiment, title=title)
    else:
        if experiment is None:
            raise InputError("experiment", None, f"a geometry, which the header of {path} states")
        one = frame_experiment(experiment, index) if kind == "nxmx" else experiment
        refuse_losses(frame_experiment(experiment, index), kind, allow_loss)
        _write_pixels(path, pixels, one, kind, index, pixel_type, allow_loss)


def _write_pixels(
    path: str | os.PathLike[str],
    pixels: NDArray[Any],
    experiment: ExperimentData,
    kind: str,
    index: int,
    pixel_type: str | None,
    allow_loss: bool,
) -> None:
    if kind == "nxmx":
        write_nxmx(path, pixels[None], experiment)
    elif kind == "cbf":
        write_cbf(path, as_counts(pixels, "i4", allow_loss), experiment, index=index)
    else:
        chosen = pixel_type or ("u2" if pixels.size == 0 or pixels.max() <= LIMITS["u2"][1] else "u4")
        header = smv_header_text(experiment, chosen, index)
        write_smv(path, as_counts(pixels, chosen, allow_loss), header, flag="output file")


def as_counts(pixels: NDArray[Any], pixel_type: str, allow_loss: bool = False) -> NDArray[Any]:
    """Pixels as whole numbers of a type of LIMITS.

    Raises InputError for pixels that are not finite, and without `allow_loss` for any that would change.
    """
    low, high = LIMITS[pixel_type]
    if pixels.dtype.kind in "iu" and low <= np.iinfo(pixels.dtype).min and np.iinfo(pixels.dtype).max <= high:
        return pixels.astype(pixel_type, copy=False)
    if not np.isfinite(pixels).all():
        raise InputError("pixels", "some that are not finite", "finite pixels")
    if pixels.dtype.kind == "f" and not allow_loss and not np.array_equal(pixels, np.rint(pixels)):
        raise InputError("pixels", "fractions", f"whole numbers for {pixel_type}, or --allow-loss to round")
    if not allow_loss and pixels.size and (pixels.min() < low or pixels.max() > high):
        span = f"from {pixels.min()} to {pixels.max()}"
        raise InputError("pixels", span, f"numbers from {low} to {high}, or --allow-loss to clip")
    whole = np.rint(pixels) if pixels.dtype.kind == "f" else pixels
    return np.asarray(np.clip(whole, low, high)).astype(pixel_type)


def frame_experiment(experiment: ExperimentData, index: int) -> ExperimentData:
    """The experiment of one image of a scan."""
    scan = experiment.scan
    if scan is None:
        return experiment
    if not 0 <= index < scan.frames:
        raise InputError("index", index, f"an image from 0 to {scan.frames - 1} of the scan")
    number = scan.image_range[0] + index
    one = replace(
        scan,
        image_range=(number, number),
        oscillation_start_deg=scan.start_deg(index),
        exposure_times_s=None if scan.exposure_times_s is None else scan.exposure_times_s[index : index + 1],
        epochs=None if scan.epochs is None else scan.epochs[index : index + 1],
    )
    return replace(experiment, scan=one)


def write_png(
    path: str | os.PathLike[str], pixels: NDArray[Any], experiment: ExperimentData | None = None, *, title: str = ""
) -> None:
    """A picture to look at: spots dark, the beam marked and rings of resolution where one panel's geometry is known.

    Several panels are shown one below the other.
    """
    detector = None if experiment is None else experiment.detector
    flat = pixels
    if pixels.ndim == 3:
        flat = pixels.reshape(-1, pixels.shape[-1]) if detector is None else detector.stack(pixels)
    centre, rings = None, None
    if detector is not None and experiment is not None and experiment.beam is not None and len(detector.panels) == 1:
        spot = beam_on_panel(detector.panels[0], experiment.beam)
        if spot is not None:
            centre = (spot.fast_mm / spot.pixel_mm[0], spot.slow_mm / spot.pixel_mm[1])
        rings = _resolution(detector, experiment)
    write_picture(path, flat, title=title, beam_pixel=centre, resolution=rings, units="pixel value", flag="output file")


def _resolution(detector: DetectorData, experiment: ExperimentData) -> ResolutionMap | None:
    if experiment.beam is None:
        return None
    panel = detector.panels[0]
    fast, slow = (np.linspace(0, size, RING_NODES) for size in panel.image_size)
    positions = panel.positions_mm(fast[None, :], slow[:, None])
    return ResolutionMap.from_positions(fast, slow, positions, incident(experiment.beam), experiment.beam.wavelength_A)
