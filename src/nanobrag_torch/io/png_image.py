"""Pictures (.png, .svg) of images, to look at; their greys are no pixel values, so they are not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.io.fileformat import FileFormat, ImageOptions
from nanobrag_torch.io.picture import (
    LONGEST_SIDE,
    NO_PIXEL,
    blank_figure,
    draw_ring,
    grey_range,
    mark_beam,
    save_figure,
    write_picture,
)
from nanobrag_torch.io.plane import Raster, laboratory_plane, panel_resolution, ring_label, rings
from nanobrag_torch.records.experiment import BeamData, DetectorData, ExperimentData, PanelData
from nanobrag_torch.records.frames import beam_on_panel

FLAG, UNITS = "output file", "pixel value"


def write_png(
    target: Target,
    pixels: NDArray[Any],
    experiment: ExperimentData | None = None,
    *,
    title: str = "",
    longest_side: int = LONGEST_SIDE,
) -> None:
    """A picture to look at, PNG, or SVG by the name: spots dark, the beam marked, rings of resolution.

    Several panels stand as seen along the beam where their geometry is known, else one below the other.
    """
    detector, beam = (None, None) if experiment is None else (experiment.detector, experiment.beam)
    if pixels.ndim == 3 and detector is not None and beam is not None:
        _write_panels(target, pixels, detector, beam, title, longest_side)
        return
    flat = pixels.reshape(-1, pixels.shape[-1]) if pixels.ndim == 3 else pixels
    centre, resolution = None, None
    if detector is not None and beam is not None and len(detector.panels) == 1:
        spot = beam_on_panel(detector.panels[0], beam)
        if spot is not None:
            centre = (spot.fast_mm / spot.pixel_mm[0], spot.slow_mm / spot.pixel_mm[1])
        resolution = panel_resolution(detector.panels[0], beam)
    write_picture(
        target, flat, title=title, beam_pixel=centre, resolution=resolution, units=UNITS, longest_side=longest_side,
        flag=FLAG,
    )  # fmt: skip


def _write_panels(
    target: Target, pixels: NDArray[Any], detector: DetectorData, beam: BeamData, title: str, longest_side: int
) -> None:
    """Panels on the plane across the beam, x to the right and y up in mm."""
    plane = laboratory_plane(detector, beam)
    panels = [_measured(part, panel) for part, panel in zip(pixels, detector.panels, strict=True)]
    low, high = plane.bounds
    block = max(1, int(np.ceil((high - low).max() / plane.pixel / longest_side)))
    with open_output(target, FLAG) as file:
        figure, axes = _panels_figure(plane.raster(panels, block), title)
        for label, points in rings(plane, detector, beam):
            draw_ring(axes, points, ring_label(plane, points), label)
        mark_beam(axes, 0.0, 0.0)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        save_figure(figure, file, target)


def _measured(part: NDArray[Any], panel: PanelData) -> NDArray[np.float32]:
    """Pixels of a panel, NaN where they are no measurement. Raises InputError for others that are not finite."""
    slow, fast = panel.shape
    found = part[:slow, :fast].astype(np.float32)
    good = panel.good_pixels()
    if not np.isfinite(found[good]).all():
        raise InputError("image", "pixels that are not finite", "finite pixels")
    found[~good] = np.nan
    return found


def _panels_figure(raster: Raster, title: str) -> tuple[Any, Any]:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    rows, columns = raster.values.shape
    zoom = max(LONGEST_SIDE * 8 // 10 // max(rows, columns), 1)
    figure, axes, beside = blank_figure(max(columns * zoom, 120), max(rows * zoom, 120))
    white, black = grey_range(np.nan_to_num(raster.values))
    greys = colormaps["gray_r"].with_extremes(bad=NO_PIXEL)
    drawn = axes.imshow(
        np.maximum(raster.values, white * 1e-3), norm=LogNorm(white, black), cmap=greys, interpolation="nearest",
        origin="lower", aspect="auto",
        extent=(raster.low[0], raster.low[0] + raster.size[0], raster.low[1], raster.low[1] + raster.size[1]),
    )  # fmt: skip
    axes.set(xlabel="x, seen along the beam (mm)", ylabel="y (mm)")
    axes.set_title(title, fontsize=10, parse_math=False)
    figure.colorbar(drawn, cax=beside, label=UNITS)
    return figure, axes


def _write(path: Path, pixels: NDArray[Any], data: ExperimentData | None, options: ImageOptions) -> None:
    write_png(path, pixels, data, title=options.title)


FORMAT = FileFormat(
    name="png",
    title="PNG picture",
    recognises=lambda file: file.start.startswith(b"\x89PNG\r\n"),
    suffixes=(".png", ".svg"),
    write_image=_write,
    pixel_types=("f4", "f8"),
)
