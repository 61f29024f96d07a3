"""The C program's random numbers by seed, as c_random has them by state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.c_random import Streams, angles_about_xyz, misset_angles, random_rotations
from nanobrag_torch.records.images import as_array
from nanobrag_torch.units import DEGREES_PER_RADIAN

MOSAIC_SEED = 12345678


class CLCG:
    """One stream of uniform deviates; a seed starts it at its negative, as `-seed` does."""

    def __init__(self, seed: int) -> None:
        self.state = -abs(seed)
        self.streams = Streams()

    def ran1(self) -> float:
        """The next deviate in (0, 1)."""
        deviate, self.state = self.streams.draw(self.state)
        return deviate


def mosaic_rotation_umat(mosaicity_rad: float, seed: int | None = None) -> Tensor:
    """The first random rotation [3, 3], float64, within a spread; seed: 12345678 unless given."""
    rotations, _ = random_rotations(Streams(), -(MOSAIC_SEED if seed is None else abs(seed)), mosaicity_rad, 1)
    return torch.from_numpy(rotations[0])


def umat2misset(umat: Any) -> tuple[float, float, float]:
    """Angles (radians) about x, y and z whose rotations Rz Ry Rx make a matrix [3, 3]."""
    return angles_about_xyz(as_array(umat))


def random_misset_deg(seed: int) -> tuple[float, float, float]:
    """The orientation of `-misset random -misset_seed seed`, for CrystalConfig.misset_deg."""
    x, y, z = misset_angles(Streams(), -abs(seed))
    return x * DEGREES_PER_RADIAN, y * DEGREES_PER_RADIAN, z * DEGREES_PER_RADIAN
