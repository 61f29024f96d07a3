"""The shadow of a beam stop: the share of the photons that reaches each pixel past a disc with a soft edge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanobrag_torch.models.detector import DetectorGeometry
from nanobrag_torch.models.tensors import as_tensor
from nanobrag_torch.physics.geometry import flat_positions
from nanobrag_torch.response.config import BeamStopConfig
from nanobrag_torch.units import MM

TENTH_TO_NINE_TENTHS = 2.5631031310892007
"""Standard deviations of a Gaussian edge from a tenth to nine tenths."""
_AT_ONCE = 2**21


def beamstop_shadow(
    config: BeamStopConfig, geometry: DetectorGeometry, image_shape: tuple[int, int], pixels: Tensor | None = None
) -> Tensor:
    """Transmission [panel, slow, fast], or [n] of flat pixel indices, float64; image_shape: slow and fast of a panel.

    A pixel is shadowed where the line from the sample to its centre crosses the plane of the stop within the disc.
    Differentiable by the sizes and the geometry.
    """
    if pixels is not None:
        return _transmission(config, geometry, image_shape, pixels)
    count = geometry.panels.shape[0] * math.prod(image_shape)
    starts = range(0, count, _AT_ONCE)
    parts = [torch.arange(s, min(s + _AT_ONCE, count), device=geometry.panels.device) for s in starts]
    whole = torch.cat([_transmission(config, geometry, image_shape, part) for part in parts])
    return whole.reshape(-1, *image_shape)


def _transmission(
    config: BeamStopConfig, geometry: DetectorGeometry, image_shape: tuple[int, int], pixels: Tensor
) -> Tensor:
    device = geometry.panels.device
    no_layer = torch.zeros_like(geometry.sensor[:, 0])
    position = flat_positions(pixels, geometry.panels, geometry.pixel_size, no_layer, image_shape, 1, 1)[:, 0, 0]
    along = position @ geometry.beam
    distance = as_tensor(config.distance_mm, device) * MM
    forward = along > 0
    crossing = position * (distance / torch.where(forward, along, torch.ones_like(along)))[:, None]
    shift = as_tensor(config.shift_mm, device) * MM
    centre = distance * geometry.beam + shift[0] * geometry.panels[0, 1] + shift[1] * geometry.panels[0, 2]
    radius = torch.linalg.vector_norm(crossing - centre, dim=-1)
    edge = radius - as_tensor(config.diameter_mm, device) * MM / 2
    sigma = as_tensor(config.penumbra_mm, device) * MM / TENTH_TO_NINE_TENTHS
    sharp = (edge > 0).to(torch.float64)
    soft = sharp if float(sigma.detach()) == 0 else torch.special.ndtr(edge / sigma)
    open_ = torch.where(forward, soft, torch.ones_like(soft))
    return config.transmission + (1 - config.transmission) * open_
