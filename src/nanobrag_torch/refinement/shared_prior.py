"""What is known of shared intensities before any shot is looked at.

All are Gaussian in x, the intensity relative to that of the start list, so that they are linear in the equations: start
values, Wilson's distribution, Friedel mates that differ little, and means of shells that stay where they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.crystallography.symmetry import space_group
from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.asymmetric import SHELLS, Asymmetric
from nanobrag_torch.refinement.shared import Prior


@dataclass(frozen=True, kw_only=True)
class SharedPrior:
    """sigma_F: how wrong F of the start are, relative (inf: nothing is known), or a number a shell from the inside out.

    wilson: every intensity about the mean of its shell, with the width of Wilson's distribution. friedel: how much F of
    Friedel mates differ, relative; None: they are independent. shell_means: how far the mean intensity of a shell may
    move, relative; None: freely.
    """

    sigma_F: float | tuple[float, ...] = 0.2
    wilson: bool = False
    friedel: float | None = None
    shell_means: float | None = None

    def __post_init__(self) -> None:
        given = (*_each(self.sigma_F), *(s for s in (self.friedel, self.shell_means) if s is not None))
        if not all(s > 0 for s in given):
            raise InputError("sigma_F, friedel, shell_means", given, "standard deviations above 0")

    def at(self, x: Tensor, shared: Asymmetric) -> Prior:
        """Its equations about x [N]."""
        precision, mean = self._own(shared)
        rows, row_strength = self._shells(shared)
        pairs, strength = self._mates(shared)
        pull = precision * (mean - x) + rows.T @ (row_strength * (rows @ (1 - x)))
        apart = strength * (x[pairs[1]] - x[pairs[0]])
        pull = pull.index_add(0, pairs[0], apart).index_add(0, pairs[1], -apart)
        return Prior(precision, pull, pairs, strength, rows, row_strength)

    def loss(self, x: Tensor, shared: Asymmetric) -> float:
        """Minus its logarithm, without constants."""
        (precision, mean), (pairs, strength) = self._own(shared), self._mates(shared)
        rows, row_strength = self._shells(shared)
        apart = x[pairs[0]] - x[pairs[1]]
        found = precision @ (x - mean) ** 2 + strength @ apart**2 + row_strength @ (rows @ (x - 1)) ** 2
        return float(found) / 2

    def _own(self, shared: Asymmetric) -> tuple[Tensor, Tensor]:
        """Precision and mean [N] of every x; the mean is the same for two mates."""
        shell = torch.from_numpy(shared.shells())
        widths = _each(self.sigma_F)
        if len(widths) not in (1, SHELLS):
            raise InputError("sigma_F", widths, f"one number, or one for each of {SHELLS} shells")
        of_shell = torch.tensor(widths * SHELLS if len(widths) == 1 else widths, dtype=torch.float64)
        precision = (2 * of_shell[shell]) ** -2
        mean = torch.ones_like(shared.intensity)
        if not self.wilson:
            return precision, mean
        expected, width = _wilson(shared, shell)
        about = (shared.intensity / width) ** 2
        total = precision + about
        return total, (precision + about * expected / shared.intensity) / total

    def _mates(self, shared: Asymmetric) -> tuple[Tensor, Tensor]:
        if self.friedel is None:
            return shared.pairs[:, :0], shared.intensity[:0]
        relative = shared.intensity[shared.pairs]
        if not bool(torch.isclose(relative[0], relative[1]).all()):
            raise InputError("--friedel", self.friedel, "start values with equal F of Friedel mates")
        return shared.pairs, torch.full((shared.pairs.shape[1],), (2 * self.friedel) ** -2, dtype=torch.float64)

    def _shells(self, shared: Asymmetric) -> tuple[Tensor, Tensor]:
        """Weights [SHELLS, N] of the means, and their precision."""
        if self.shell_means is None:
            return shared.intensity.new_zeros((0, len(shared))), shared.intensity[:0]
        lit = torch.nn.functional.one_hot(torch.from_numpy(shared.shells()), SHELLS).T.double() * shared.intensity
        total = lit.sum(1, keepdim=True)
        lit = (lit / total.clamp(min=1e-300))[total[:, 0] > 0]
        return lit, torch.full((len(lit),), self.shell_means**-2, dtype=torch.float64)


def _each(sigma_F: float | tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sigma_F) if isinstance(sigma_F, tuple | list) else (sigma_F,)


def _wilson(shared: Asymmetric, shell: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [N] of intensities by Wilson, from the means of the start list."""
    operations = space_group(shared.space_group).operations()
    hkl = np.ascontiguousarray(shared.hkl, np.int32)
    epsilon = torch.from_numpy(np.asarray(operations.epsilon_factor_without_centering_array(hkl), np.float64))
    centric = torch.from_numpy(np.asarray(operations.centric_flag_array(hkl), bool))
    total = torch.zeros(SHELLS, dtype=torch.float64).index_add_(0, shell, shared.intensity / epsilon)
    mean = (total / torch.bincount(shell, minlength=SHELLS).clamp(min=1))[shell] * epsilon
    return mean, mean * torch.where(centric, 2.0, 1.0).double().sqrt()
