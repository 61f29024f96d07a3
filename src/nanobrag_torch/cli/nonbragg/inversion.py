"""The profile of a measured image: F over sin(theta)/lambda that would scatter what its pixels hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.smv import read_smv_image
from nanobrag_torch.io.stol import write_stol_file
from nanobrag_torch.physics.geometry import flat_positions, solid_angle
from nanobrag_torch.physics.polarization import polarization_factor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from nanobrag_torch.cli.nonbragg.scene import Scene

FEWEST = 100
"""A bin with no more pixels is left out."""


def measure(scene: Scene) -> str:
    """Write the profile of -img; a line about it. Raises InputError for an image of another size."""
    assert scene.request.image is not None
    request = scene.request
    _, counts = read_smv_image(scene.request.image, flag="-img")
    shape = scene.detector.image_shape
    if counts.shape != shape:
        raise InputError("-img", f"{counts.shape[1]} x {counts.shape[0]} pixels", f"{shape[1]} x {shape[0]} pixels")
    values = torch.from_numpy(counts.astype(np.float64)).reshape(-1)
    wanted = scene.detector.pixels()
    pixels = torch.arange(values.numel()) if wanted is None else wanted
    if request.ignore is not None:
        pixels = pixels[values[pixels] != request.ignore]
    stol, factor = _seen(scene, pixels)
    squares = (values[pixels] - request.adc) / request.gain / (factor * scene.photons_per_electron_squared)
    rows = _bins(stol.numpy(), squares.numpy(), _width(scene))
    if not len(rows):
        raise InputError("-img", f"{len(pixels)} pixels", f"an image with more than {FEWEST} pixels in a bin")
    write_stol_file(request.stolout, rows, title="sin(theta)/lambda (1/A), F, its rms deviation, pixels")
    return f"{len(rows)} bins of {request.image} in {request.stolout}"


def _seen(scene: Scene, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """sin(theta)/lambda [n] of pixels for the first source, and polarization times solid angle."""
    geometry, shape, source = scene.detector.geometry(scene.compat), scene.detector.image_shape, scene.source
    no_layer = torch.zeros_like(geometry.sensor[:, 0])
    position = flat_positions(pixels, geometry.panels, geometry.pixel_size, no_layer, shape, 1, 1)[:, 0, 0]
    radius = torch.linalg.vector_norm(position, dim=-1)
    direction = position / radius[:, None]
    area, plain = geometry.pixel_size[0].prod(), scene.request.point_pixel
    omega = solid_angle(radius, area, geometry.close_distance, point_pixel=plain)
    stol = torch.linalg.vector_norm(direction - source.incident[0], dim=-1) / (2e10 * source.wavelengths[0])
    return stol, omega * polarization_factor(direction, source.polarization[:1])[:, 0]


def _width(scene: Scene) -> float:
    """sin(theta)/lambda across a pixel at the beam (1/A)."""
    distance = float(scene.detector.geometry(scene.compat).distance)
    return scene.plane.pixel / (2e10 * float(scene.source.wavelengths[0]) * distance)


def _bins(stol: NDArray[np.float64], squares: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Rows of mean sin(theta)/lambda, F, rms deviation of F and number of pixels, for each bin that has enough."""
    place = (stol / width).astype(np.int64)
    count = np.bincount(place)
    many = np.maximum(count, 1)
    mean_stol, mean, mean_of_squares = (np.bincount(place, x) / many for x in (stol, squares, squares**2))
    spread = np.sqrt(np.maximum(mean_of_squares - mean**2, 0))
    amplitude = np.copysign(np.sqrt(np.abs(mean)), mean)
    deviation = spread / np.maximum(2 * np.abs(amplitude), 1e-30)
    return np.stack((mean_stol, amplitude, deviation, count), 1)[count > FEWEST]
