"""How much of a reflection a shot recorded: its share of what the same crystal would give in its best setting."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.physics.lattice_factor import GAUSS_WIDTH
from nanobrag_torch.physics.unit_cell import dual
from nanobrag_torch.refinement.model import ShotModel
from nanobrag_torch.refinement.shoeboxes import Spots
from nanobrag_torch.units import ANGSTROM

NODES = 41  # of the search for the best setting
AT_ONCE = 2**22


def partiality_of(model: ShotModel, values: Mapping[str, Tensor], spots: Spots) -> NDArray[np.float64]:
    """Partiality [b], 0 to 1.

    What a spot holds is the sum over domains, steps of the rotation and wavelengths of exp(-2 e^2 / w), e the distance
    of the lattice point from the Ewald sphere and w the crystal's width along its normal; the best setting is the shift
    of all e together that makes this largest. Crystals that are no Gaussians are taken for the Gaussian of their size.
    """
    found = np.ones(len(spots))
    for number in range(len(model.lattices)):
        mine = np.flatnonzero(spots.crystal == number)
        if len(mine):
            found[mine] = _of_crystal(model, values, number, torch.from_numpy(spots.hkl[mine]).double())
    return found


def _of_crystal(model: ShotModel, values: Mapping[str, Tensor], number: int, hkl: Tensor) -> NDArray[np.float64]:
    scene = model.scene(values, number)
    lattices = scene.lattice / ANGSTROM  # rows a, b, c
    k = ANGSTROM / scene.wavelengths
    stars, _ = dual(model.rows(values, number))
    width = _width(model, values, number)
    weights = (scene.lattice_weights[:, None] * scene.source_weights / scene.source_weights.sum()).reshape(-1)
    inverse = torch.linalg.inv(lattices)  # columns a*, b*, c*
    found = torch.ones(len(hkl), dtype=torch.float64)
    chunk = max(1, AT_ONCE // (len(weights) * NODES))
    for start in range(0, len(hkl), chunk):
        h = hkl[start : start + chunk]
        q = torch.einsum("kij,nj->nki", inverse, h)  # [n, K, 3]
        s = q[:, :, None] + k[:, None] * scene.incident  # [n, K, S, 3]
        e = (torch.linalg.vector_norm(s, dim=-1) - k).reshape(len(h), -1)
        central = h @ stars + (k[:, None] * scene.incident).mean(0)
        normal = central / torch.linalg.vector_norm(central, dim=-1, keepdim=True)
        w = torch.einsum("ni,ij,nj->n", normal, width, normal).clamp(min=1e-30)
        low, high = e.amin(1)[:, None], e.amax(1)[:, None]
        shifts = torch.linspace(0, 1, NODES, dtype=torch.float64) * (high - low) + low
        every = torch.cat((torch.zeros_like(shifts[:, :1]), shifts), 1)
        total = (torch.exp(-2 * (e[:, None] - every[..., None]) ** 2 / w[:, None, None]) * weights).sum(-1)
        found[start : start + chunk] = total[:, 0] / total.amax(1).clamp(min=1e-300)
    return found.numpy()


def _width(model: ShotModel, values: Mapping[str, Tensor], number: int) -> Tensor:
    """Inverse [3, 3] (1/A^2) of the quadratic form that a Gaussian crystal's lattice factor has in reciprocal space."""
    rows, cells = model.rows(values, number), model.cells(values, number)
    found: Tensor = torch.linalg.inv(rows.T @ (cells @ cells / GAUSS_WIDTH) @ rows)
    return found
