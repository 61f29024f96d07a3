"""Share of the photons that each layer of the sensor absorbs (section 8)."""

from __future__ import annotations

import torch
from torch import Tensor


def layer_capture(cos_incidence: Tensor, layer_step: Tensor, attenuation: Tensor, layers: int) -> Tensor:
    """Captured share [n, L, J] for cosines to the sensor normal [n, L, J], layer_step [n] (m), attenuation [n] (1/m).

    exp(-t step mu / q) - exp(-(t + 1) step mu / q) in layer t; one where the sensor has no thickness.
    """
    depth = (layer_step * attenuation)[:, None, None] / cos_incidence
    layer = torch.arange(layers, dtype=depth.dtype, device=depth.device)[None, :, None]
    captured = torch.exp(-layer * depth) - torch.exp(-(layer + 1) * depth)
    return torch.where((layer_step > 0)[:, None, None], captured, torch.ones_like(captured))
