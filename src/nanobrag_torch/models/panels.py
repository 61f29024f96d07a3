"""Several panels: their vectors after every group that they belong to has moved, and their pixels and sensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanobrag_torch.config import GroupConfig, PanelConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.tensors import as_tensor
from nanobrag_torch.physics.rotations import unit, vector_rotation
from nanobrag_torch.units import DEGREES_PER_RADIAN, MICRON, MM

DEFAULT_LAYERS = 2


def panel_vectors(panels: Sequence[PanelConfig], groups: Sequence[GroupConfig], device: torch.device) -> Tensor:
    """[P, 4, 3] origin (m), fast, slow and normal; the normal points away from the sample."""
    moves = {group.name: group for group in groups}
    return torch.stack([_one_panel(panel, moves, device) for panel in panels])


def panel_pixel_sizes(panels: Sequence[PanelConfig], device: torch.device) -> Tensor:
    """[P, 2] fast and slow size of a pixel (m)."""
    return torch.stack([as_tensor(panel.pixel_size_mm, device).expand(2) * MM for panel in panels])


def panel_sensors(panels: Sequence[PanelConfig], steps: int | None, device: torch.device) -> tuple[int, Tensor]:
    """Number of layers and [P, 2]: thickness of a layer (m), attenuation (1/m). All panels absorb, or none.

    Raises InputError where some panels have a thickness and others none.
    """
    thick = [isinstance(p.detector_thick_um, Tensor) or p.detector_thick_um > 0 for p in panels]
    if not any(thick):
        return 1, torch.zeros((len(panels), 2), dtype=torch.float64, device=device)
    if not all(thick):
        raise InputError(
            "detector_thick_um", [p.detector_thick_um for p in panels], "a thickness for every panel, or none"
        )
    layers = DEFAULT_LAYERS if steps is None else steps
    thickness = torch.stack([as_tensor(p.detector_thick_um, device) for p in panels]) * MICRON
    depths = [p.detector_thick_um if p.detector_abs_um is None else p.detector_abs_um for p in panels]
    attenuation = 1 / (torch.stack([as_tensor(depth, device) for depth in depths]) * MICRON)
    return layers, torch.stack((thickness / layers, attenuation), -1)


def _one_panel(panel: PanelConfig, groups: dict[str, GroupConfig], device: torch.device) -> Tensor:
    origin = as_tensor(panel.origin_mm, device)
    axes = unit(torch.stack((as_tensor(panel.fast_axis, device), as_tensor(panel.slow_axis, device))))
    name = panel.group
    while name is not None:
        group = groups[name]
        turn = vector_rotation(as_tensor(group.rotation_deg, device) / DEGREES_PER_RADIAN)
        centre = as_tensor(group.centre_mm, device)
        origin = turn @ (origin - centre) + centre + as_tensor(group.shift_mm, device)
        axes, name = axes @ turn.T, group.parent
    normal = unit(torch.linalg.cross(axes[0], axes[1], dim=-1))
    normal = normal * torch.where(origin @ normal < 0, -1.0, 1.0)
    return torch.cat((origin[None] * MM, axes, normal[None]))
