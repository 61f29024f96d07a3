"""A simulator to look at: its geometry as plain data, its image as a page, and a thumbnail in a notebook."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from nanobrag_torch.io.png_image import write_png
from nanobrag_torch.records.experiment import BeamData, DetectorData, ExperimentData, PanelData
from nanobrag_torch.records.images import as_array
from nanobrag_torch.report.image import write_image_page
from nanobrag_torch.report.opening import shown
from nanobrag_torch.tracing.pixel import Rendering
from nanobrag_torch.units import MM

THUMBNAIL = 400  # screen pixels
MOST_STEPS = 10**9
"""Pixels times steps beyond which a notebook shows no thumbnail: it would have to wait for it."""


class Running(Rendering, Protocol):
    """A Simulator that renders its image."""

    def run(self) -> Tensor:
        """The image."""


def geometry_data(simulator: Rendering) -> ExperimentData:
    """Detector and beam of a simulator as plain data, as files have them."""
    geometry, slow_fast = simulator.geometry, simulator.detector.image_shape
    panels = [
        PanelData(
            origin_mm=vectors[0] / MM,
            fast=vectors[1],
            slow=vectors[2],
            pixel_size_mm=(float(size[0]) / MM, float(size[1]) / MM),
            image_size=(slow_fast[-1], slow_fast[-2]),
        )
        for vectors, size in zip(as_array(geometry.panels), as_array(geometry.pixel_size), strict=True)
    ]
    wavelength = float(torch.as_tensor(simulator.beam.config.wavelength_A))
    beam = BeamData(wavelength_A=wavelength, direction=-as_array(geometry.beam))
    return ExperimentData(beam=beam, detector=DetectorData(panels=tuple(panels)))


class SimulatorShown:
    """What a simulator is to a person."""

    def show(self: Running, target: str | os.PathLike[str] | None = None) -> Path:
        """The page of the image, written to a target or a passing file, opened where there is a desktop; its path."""
        with torch.no_grad():
            image = as_array(self.run())
        return shown(lambda page: write_image_page(page, image, geometry_data(self), title="simulated image"), target)

    def _repr_png_(self: Running) -> bytes | None:
        """A thumbnail of the image for notebooks; none where it would take long."""
        if self.steps * self.wanted_pixels().numel() > MOST_STEPS:
            return None
        with torch.no_grad():
            image = as_array(self.run())
        picture = io.BytesIO()
        write_png(picture, image, geometry_data(self), title="photons / pixel", longest_side=THUMBNAIL)
        return picture.getvalue()
