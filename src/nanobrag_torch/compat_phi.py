"""Defect D2: phi = 0 keeps the orientation of the phi step before it, but for the first step executed at all (8.5).

The stack of lattices that a kernel is given has the kept orientations (models.crystal.stale_steps). What is left is one
step of one pixel, which still has the true one: it is rendered anew here.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nanobrag_torch.compat import Compat
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.kernels.reference import first_visible, recorded
from nanobrag_torch.models.crystal import Crystal


def first_step(
    crystal: Crystal, spindle: Tensor, compat: Compat, pixels: Tensor, scene: Scene, options: Options
) -> tuple[int, Tensor] | None:
    """Place in `pixels` [n] of the one that begins with the true orientation, and the true lattices [K, 3, 3].

    None where nothing is stale.
    """
    phi = crystal.phi_radians()
    if not compat.stale_phi or pixels.numel() == 0 or not bool((phi[0] == 0) & (phi != 0).any()):
        return None
    place = first_visible(pixels, scene, options)
    if place == pixels.numel():
        return None
    fresh, _ = crystal.lattice(spindle, replace(compat, stale_phi=False))
    return place, fresh.to(pixels.device)


def with_first_step(
    values: Tensor, first: tuple[int, Tensor] | None, pixels: Tensor, scene: Scene, options: Options
) -> Tensor:
    """The values [n] of the pixels [n] with that of the first step's pixel rendered anew."""
    if first is None:
        return values
    place, fresh = first
    true, _ = recorded(pixels[place : place + 1], scene, options, fresh)
    return torch.cat((values[:place], true, values[place + 1 :]))
