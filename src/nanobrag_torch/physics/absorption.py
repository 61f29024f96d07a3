"""Share of the photons that each layer of the sensor absorbs (section 8)."""

from __future__ import annotations

import torch
from torch import Tensor

THIN = 1e-9
"""Thickness (m) that does not move a layer, but has it counted as one that absorbs."""


def layer_capture(cos_incidence: Tensor, layer_step: Tensor, attenuation: Tensor, layers: int) -> Tensor:
    """Captured share [n, L, J] for cosines to the sensor normal [n, L, J], layer_step [n] (m), attenuation [n] (1/m).

    exp(-t step mu / q) - exp(-(t + 1) step mu / q) in layer t; one where the sensor has no thickness.
    """
    depth = (layer_step * attenuation)[:, None, None] / cos_incidence
    layer = torch.arange(layers, dtype=depth.dtype, device=depth.device)[None, :, None]
    captured = torch.exp(-layer * depth) - torch.exp(-(layer + 1) * depth)
    return torch.where((layer_step > 0)[:, None, None], captured, torch.ones_like(captured))


def blinded(sensor: Tensor, blind: Tensor) -> Tensor:
    """The sensors [P, 2], thickness of a layer (m) and attenuation (1/m); where `blind` [P], ones that see nothing."""
    nothing = torch.tensor((THIN, 0.0), dtype=sensor.dtype, device=sensor.device)
    return torch.where(blind[:, None], nothing, sensor)
