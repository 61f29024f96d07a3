"""The lattices of images as the kernel takes them: many in one call, whatever images they are of.

What a pixel is does not depend on what else is in the call: an image has the same bytes alone and in company.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.datasets.materials import Material
from nanobrag_torch.datasets.plan import ImagePlan, LatticePlan, standard_rows
from nanobrag_torch.datasets.turning import turns_of
from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.physics.lattice_factor import amplitude, shape_matrix
from nanobrag_torch.physics.mosaicity import quadrature_nodes
from nanobrag_torch.records.reflections import Cell
from nanobrag_torch.units import ANGSTROM

Reals = NDArray[np.float64]
Image = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Stack:
    """One lattice of an image: every step and mosaic domain of it, and what it means on average."""

    plan: LatticePlan
    stack: Reals  # [K, 3, 3] rows a, b, c (m), phi outermost and mosaic domain innermost
    weights: Reals  # [K] of sum one
    shape: Reals  # [3, 3] shape matrix of the lattice factor
    middle: Reals  # [3, 3] rows (m) half way through the rotation, without mosaicity


@dataclass(frozen=True, eq=False)
class Prepared(Stack):
    """One lattice of an image, and what else the kernel is given of it."""

    scene: Scene  # of its image: detector and beam
    scale: float  # of its photons
    material: Material
    options: Options


def mean_rows(plan: ImagePlan, lattice: LatticePlan, axis: Reals) -> Reals:
    """Rows a, b, c [3, 3] (m) half way through the rotation of an image."""
    return np.asarray((phi_turns(plan, axis, middle=True)[0] @ lattice.rows.T * ANGSTROM).T)


def stack_of(plan: ImagePlan, lattice: LatticePlan, axis: Reals, domains: int) -> tuple[Reals, Reals]:
    """Rows a, b, c [K, 3, 3] (m) of every step and mosaic domain, and their weights [K]."""
    turns = phi_turns(plan, axis)
    tilts, weights = domain_turns(lattice.spread_deg, domains)
    columns = tilts[None] @ (turns @ (lattice.rows.T * ANGSTROM))[:, None]
    stack = np.ascontiguousarray(columns.transpose(0, 1, 3, 2).reshape(-1, 3, 3))
    return stack, np.tile(weights, len(turns)) / len(turns)


def shape_of(shape: CrystalShape, lattice: LatticePlan) -> tuple[Reals, float]:
    """The shape matrix [3, 3] of a lattice's spots, and the square of their amplitude."""
    cells = torch.from_numpy(lattice.cells)
    matrix = shape_matrix(shape, cells, _ONE, *_stars_and_volume(lattice.cell))
    return matrix.numpy(), float(amplitude(shape, cells)) ** 2


def photons_of(lattices: Sequence[Prepared]) -> list[Image]:
    """The photons of each lattice, flat over [panel, slow, fast]; those that allow it in one call of the kernel."""
    found: dict[int, Image] = {}
    for places in _alike(lattices):
        values = _rendered([lattices[place] for place in places])
        found |= dict(zip(places, values, strict=True))
    return [found[place] for place in range(len(lattices))]


def _alike(lattices: Sequence[Prepared]) -> list[list[int]]:
    """Places of lattices that differ in numbers alone."""
    groups: dict[object, list[int]] = {}
    for place, one in enumerate(lattices):
        key = id(one.material), one.options, len(one.stack), len(one.scene.wavelengths)
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def _rendered(lattices: Sequence[Prepared]) -> list[Image]:
    first = lattices[0]
    scenes = [one.scene for one in lattices]
    moving = ("panels", "incident", "wavelengths", "polarization")
    whole = replace(
        first.scene,
        **{name: torch.stack([getattr(scene, name) for scene in scenes]) for name in moving},
        source_weights=torch.stack([one.scene.source_weights * one.scale for one in lattices]),
        lattice=torch.from_numpy(np.stack([one.stack for one in lattices])),
        lattice_weights=torch.from_numpy(np.stack([one.weights for one in lattices])),
        shape=torch.from_numpy(np.stack([one.shape for one in lattices])),
        structure_factors=first.material.table,
        default_F=torch.tensor(first.material.default_F, dtype=torch.float64),
    )
    return list(operation.intensity(None, whole, first.options).to(torch.float32).numpy())


def phi_turns(plan: ImagePlan, axis: Reals, *, middle: bool = False) -> Reals:
    """Rotations [T, 3, 3] of the steps of an image, or the one half way."""
    if len(plan.phi_deg) == 1 and plan.phi_deg[0] == 0:
        return np.eye(3)[None]
    angles = plan.phi_deg.mean(keepdims=True) if middle else plan.phi_deg
    return turns_of(np.radians(angles)[:, None] * (axis / math.sqrt(axis @ axis)))


def domain_turns(spread_deg: float, count: int) -> tuple[Reals, Reals]:
    """Rotations [M, 3, 3] of the mosaic domains and weights [M]; one without a spread."""
    if spread_deg == 0 or count == 1:
        return np.eye(3)[None], np.ones(1)
    vectors, weights = _nodes(count)
    return turns_of(vectors * math.radians(spread_deg)), weights


_ONE = torch.ones((), dtype=torch.float64)


@lru_cache(maxsize=256)
def _stars_and_volume(cell: Cell) -> tuple[Tensor, Tensor]:
    """Rows a*, b*, c* (1/Angstrom) and volume of a cell that nothing has turned."""
    straight = torch.from_numpy(standard_rows(cell))
    return torch.linalg.inv(straight).T.contiguous(), torch.linalg.det(straight)


@cache
def _nodes(count: int) -> tuple[Reals, Reals]:
    vectors, weights = quadrature_nodes(count)
    return vectors.numpy(), weights.numpy()
