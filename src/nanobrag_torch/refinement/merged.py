"""What shots that share intensities give: the intensities, their standard deviations, and those of half sets."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.shared import Shared, ShotEquations
from nanobrag_torch.refinement.shared_prior import SharedPrior

if TYPE_CHECKING:
    from nanobrag_torch.refinement.ensemble import Ensemble

EXACT, PROBES = 1500, 64
ROUGH = 1e-4
HALVES = SharedPrior(sigma_F=math.inf, wilson=True)
"""What half sets are solved with: not the start values, which both would have in common."""


@dataclass(frozen=True)
class SharedStep:
    """One step: the loss after it, how far the end was before it (sigmas, shots), products, and the share taken."""

    objective: float
    largest_move: float
    unsettled: int
    products: int
    share: float


@dataclass(frozen=True, eq=False)
class Merged:
    """Shared intensities on the scale of the start's F^2, their sigmas [N], and how often each was seen [N].

    halves [2, N]: of the shots of either half alone, nan where a half has none. status is converged, merged, or one of
    steps, stalled and failed with a reason.
    """

    shared: Asymmetric
    intensity: NDArray[np.float64]
    sigma: NDArray[np.float64]
    multiplicity: NDArray[np.int64]
    halves: NDArray[np.float64]
    history: tuple[SharedStep, ...] = ()
    status: str = "merged"
    reason: str = ""
    shots: tuple[dict[str, object], ...] = field(default=())  # of this process, a row each

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which were on a shot that counts."""
        return np.asarray(self.multiplicity > 0, np.bool_)


def merged(ensemble: Ensemble, history: Sequence[SharedStep], status: str, reason: str) -> Merged:
    """The result of an ensemble as it stands."""
    multiplicity, equations = ensemble.multiplicity(), ensemble.equations()
    scale = ensemble.shared.intensity
    system = ensemble.system(equations, damped=False)
    sigma = sigmas(system, multiplicity > 0) * max(1.0, _pooled(ensemble)) ** 0.5
    return Merged(
        shared=ensemble.shared,
        intensity=(ensemble.x * scale).numpy(),
        sigma=(sigma * scale).numpy(),
        multiplicity=multiplicity.round().long().numpy(),
        halves=(halves(ensemble, equations) * scale).numpy(),
        history=tuple(history),
        status=status,
        reason=reason,
        shots=tuple(shot.row() for shot in ensemble.shots),
    )


def _pooled(ensemble: Ensemble) -> float:
    """Mean squared sigma-Z of the shots that count, by weight."""
    own = [(s.weight, s.sigma_z()) for s in ensemble.shots if s.weight > 0]
    square, weight = ensemble.sum_of([sum(w * z * z for w, z in own), sum(w for w, _ in own)])
    return square / weight if weight else 1.0


def sigmas(system: Shared, seen: Tensor) -> Tensor:
    """Standard deviations [N] of x: exact to EXACT reflections, beyond from random signs (within 10 percent).

    The diagonal of the inverse within the gauge, every shot's parameters free; those not seen have nan.
    """
    prior = system.prior
    coupled = bool(prior.pairs.shape[1]) or bool(len(prior.rows))  # those not seen are bound to those that are
    places = (system.lit if coupled else seen & system.lit).nonzero()[:, 0]
    nothing = torch.full((len(seen),), torch.nan, dtype=torch.float64)
    if len(places) <= EXACT:
        found = nothing.clone()
        found[places] = system.variances(places).clamp(min=0).sqrt()
        return torch.where(seen, found, nothing)
    signs = torch.randint(0, 2, (len(seen), PROBES), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    root = torch.sqrt(system.diagonal.clamp(min=1e-300))[:, None]
    probes = signs.double() * root * seen[:, None]  # of the inverse scaled to a diagonal near one
    estimate = (probes * system.inverse_rows(probes, ROUGH)).mean(1)
    return torch.where(seen, torch.sqrt(estimate.clamp(min=1.0)) / root[:, 0], nothing)


def halves(ensemble: Ensemble, equations: Sequence[ShotEquations]) -> Tensor:
    """x [2, N] of every other shot by name, each solved for alone about the same state, without the start values."""
    found = []
    for half in (0, 1):
        own = [e for e in equations if half_of(e.name) == half]
        x = ensemble.x + ensemble.system(own, prior=HALVES, damped=False).solve().change
        found.append(torch.where(ensemble.observations(own) > 0, x, torch.nan))
    return torch.stack(found)


def half_of(name: str) -> int:
    """0 or 1, the same wherever the shot is."""
    return zlib.crc32(name.encode()) & 1
