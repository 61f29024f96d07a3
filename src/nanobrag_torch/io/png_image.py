"""Pictures (.png) of images, to look at; their greys are no pixel values, so they are not read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.io.fileformat import FileFormat, ImageOptions
from nanobrag_torch.io.picture import ResolutionMap, write_picture
from nanobrag_torch.records.experiment import BeamData, ExperimentData, PanelData
from nanobrag_torch.records.frames import beam_on_panel, incident

RING_NODES = 40  # of the grid on which resolution is worked out


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
        rings = panel_resolution(detector.panels[0], experiment.beam)
    write_picture(path, flat, title=title, beam_pixel=centre, resolution=rings, units="pixel value", flag="output file")


def panel_resolution(panel: PanelData, beam: BeamData) -> ResolutionMap:
    """Where on a panel which resolution is."""
    fast, slow = (np.linspace(0, size, RING_NODES) for size in panel.image_size)
    positions = panel.positions_mm(fast[None, :], slow[:, None])
    return ResolutionMap.from_positions(fast, slow, positions, incident(beam), beam.wavelength_A)


def _write(path: Path, pixels: NDArray[Any], data: ExperimentData | None, options: ImageOptions) -> None:
    write_png(path, pixels, data, title=options.title)


FORMAT = FileFormat(
    name="png",
    title="PNG picture",
    recognises=lambda file: file.start.startswith(b"\x89PNG\r\n"),
    suffixes=(".png",),
    write_image=_write,
    pixel_types=("f4", "f8"),
)
