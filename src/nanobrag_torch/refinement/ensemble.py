"""Intensities that many shots share, refined together with every shot's own parameters.

Each step solves one linear system in the intensities (see `shared.py`) and lets every shot follow, with its own damping
and its own acceptance. A shot that does not reach the noise of the others counts for less, or is left out by name.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.reducers import Local, Reducer
from nanobrag_torch.refinement.shared import Prior, Shared, ShotEquations
from nanobrag_torch.refinement.shared_shot import SharedShot

SMALL_STEP = 0.02
"""In standard deviations: a step that moves no intensity further is the last."""
SHARES = (1.0, 0.5, 0.25)
WORSE, MUCH_WORSE = 1.2, 3.0
"""Times the median sigma-Z: from the first on a shot counts for less, from the second on it is left out."""
BINS, SPAN = 400, 6.0
EXACT, PROBES, AT_ONCE = 1500, 64, 64


@dataclass(frozen=True, kw_only=True)
class SharedPrior:
    """What is known of intensities before: sigma_F, how wrong the start's F are (relative; inf: nothing).

    friedel: how much F of Friedel mates differ (relative); None: they are independent.
    """

    sigma_F: float = 0.2
    friedel: float | None = None

    def __post_init__(self) -> None:
        if not self.sigma_F > 0 or (self.friedel is not None and not self.friedel > 0):
            raise InputError("sigma_F, friedel", (self.sigma_F, self.friedel), "standard deviations above 0")

    def at(self, x: Tensor, shared: Asymmetric) -> Prior:
        """Its equations about x [N]."""
        precision = torch.full_like(x, (2 * self.sigma_F) ** -2)
        plain = Prior.of(precision, precision * (1 - x))
        if self.friedel is None or not shared.pairs.shape[1]:
            return plain
        relative = shared.intensity[shared.pairs]
        if not bool(torch.isclose(relative[0], relative[1]).all()):
            raise InputError("--friedel", self.friedel, "start values with equal F of Friedel mates")
        strength = torch.full((shared.pairs.shape[1],), (2 * self.friedel) ** -2, dtype=torch.float64)
        bound = Prior(precision, plain.pull, shared.pairs, strength)
        return Prior(precision, plain.pull - (bound.product(x[:, None])[:, 0] - precision * x), shared.pairs, strength)

    def loss(self, x: Tensor, shared: Asymmetric) -> float:
        """Minus its logarithm, without constants."""
        found = ((x - 1) ** 2).sum() * (2 * self.sigma_F) ** -2
        if self.friedel is not None:
            found = found + ((x[shared.pairs[0]] - x[shared.pairs[1]]) ** 2).sum() * (2 * self.friedel) ** -2
        return float(found) / 2


@dataclass(frozen=True)
class SharedStep:
    """One step: the loss after it, the largest move in standard deviations, products, and the share that was taken."""

    objective: float
    largest_move: float
    products: int
    share: float


@dataclass(frozen=True, eq=False)
class Merged:
    """Shared intensities on the scale of the start's F^2, their sigmas [N], and how often each was seen [N].

    halves [2, N]: of the shots of either half alone, nan where a half has none.
    """

    shared: Asymmetric
    intensity: NDArray[np.float64]
    sigma: NDArray[np.float64]
    multiplicity: NDArray[np.int64]
    halves: NDArray[np.float64]
    history: tuple[SharedStep, ...] = ()
    status: str = "merged"
    shots: tuple[dict[str, object], ...] = field(default=())  # of this process: name, sigma_z, weight

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which were on a shot that counts."""
        return np.asarray(self.multiplicity > 0, np.bool_)


class Ensemble:
    """The shots of one process, and the sums over those of the others."""

    def __init__(
        self,
        shots: Sequence[SharedShot],
        shared: Asymmetric,
        reducer: Reducer,
        prior: SharedPrior,
        *,
        free: bool = True,
    ) -> None:
        """free False: shots are held as they are (a merge)."""
        self.shots = sorted(shots, key=lambda shot: shot.name)
        self.shared, self.reducer, self.prior, self.free = shared, reducer, prior, free
        self.x = torch.ones(len(shared), dtype=torch.float64)
        for shot in self.shots:
            shot.start(self.x)
        if int(self._sum(torch.tensor([float(len(shots))]))[0]) == 0:
            raise InputError("shots", 0, "at least one")

    def _sum(self, part: Tensor) -> Tensor:
        return self.reducer.total(part.double())

    def weigh(self) -> None:
        """Weights from every shot's sigma-Z against the median of all, which comes from counts in fixed bins."""
        own = [shot.sigma_z() for shot in self.shots]
        place = [min(max(int((math.log(z) / SPAN + 0.5) * BINS), 0), BINS - 1) for z in own if 0 < z < math.inf]
        counts = self._sum(torch.bincount(torch.tensor(place, dtype=torch.int64), minlength=BINS))
        half = int(torch.searchsorted(torch.cumsum(counts, 0), counts.sum() / 2))
        median = math.exp(((half + 0.5) / BINS - 0.5) * SPAN)
        for shot, z in zip(self.shots, own, strict=True):
            shot.weight = 0.0 if not z < MUCH_WORSE * median else min(1.0, (WORSE * median / max(z, 1e-300)) ** 2)

    def multiplicity(self) -> Tensor:
        """How many observations of shots that count each shared reflection has [N]."""
        part = torch.zeros(len(self.shared), dtype=torch.float64)
        for shot in self.shots:
            if shot.weight > 0:
                part.index_add_(0, shot.reflections, torch.ones(len(shot.reflections), dtype=torch.float64))
        return self._sum(part)

    def system(self, equations: Sequence[ShotEquations], seen: Tensor) -> Shared:
        """The linear system about where all shots are; the mean of what was seen stays, as scales are free."""
        constraint = (seen / seen.sum())[None] if self.free else None
        gap = None if constraint is None else (constraint @ (1 - self.x))
        prior = self.prior.at(self.x, self.shared)
        return Shared(equations, prior, self.reducer, constraint=constraint, gap=gap)

    def equations(self) -> list[ShotEquations]:
        """Of the shots that count."""
        found = [shot.equations() for shot in self.shots if shot.weight > 0]
        return found if self.free else [e.held() for e in found]

    def objective(self) -> float:
        """Of all shots and the prior."""
        own = sum(shot.weight * shot.state.objective for shot in self.shots if shot.weight > 0)
        return float(self._sum(torch.tensor([own], dtype=torch.float64))[0]) + self.prior.loss(self.x, self.shared)

    def step(self) -> SharedStep | None:
        """One step of everything; None where none makes the loss smaller."""
        seen = (self.multiplicity() > 0).double()
        equations = self.equations()
        system = self.system(equations, seen)
        answer = system.solve()
        before, x = self.objective(), self.x
        scale = torch.sqrt(system.diagonal.clamp(min=0))
        moving = {shot.name: shot for shot in self.shots if shot.weight > 0}
        for share in SHARES:
            change = share * answer.change
            self.x = x + change
            for e in equations:
                moving[e.name].move(e, change, self.x)
            after = self.objective()
            if after <= before + 1e-9 * abs(before):
                return SharedStep(after, float((change * scale * seen).abs().max()), answer.products, share)
            self.x = x
            for e in equations:
                moving[e.name].back()
        return None

    def sigmas(self, system: Shared) -> Tensor:
        """Standard deviations [N] of x: exact to EXACT seen reflections, beyond from random signs (within 10 percent).

        The diagonal of the inverse within the gauge, every shot's parameters free.
        """
        seen = (system.diagonal > 0).nonzero()[:, 0] if len(self.shared) <= EXACT else torch.zeros(0, dtype=torch.int64)
        if len(seen):
            variance = torch.zeros(len(self.shared), dtype=torch.float64)
            for part in seen.split(AT_ONCE):
                unit = torch.zeros((len(self.shared), len(part)), dtype=torch.float64)
                unit[part, torch.arange(len(part))] = 1
                variance[part] = system.inverse_rows(unit)[part, torch.arange(len(part))]
            return variance.clamp(min=0).sqrt()
        signs = torch.randint(0, 2, (len(self.shared), PROBES), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
        root = torch.sqrt(system.diagonal.clamp(min=1e-300))[:, None]
        probes = signs.double() * root  # of the inverse scaled to a diagonal near one
        estimate = (probes * system.inverse_rows(probes)).mean(1)
        return torch.sqrt(estimate.clamp(min=1.0)) / root[:, 0]

    def halves(self, seen: Tensor) -> Tensor:
        """x [2, N] of every other shot by name, each solved for alone about the same state."""
        found = []
        equations = self.equations()
        for half in (0, 1):
            own = [e for e in equations if _half(e.name) == half]
            part = torch.zeros(len(self.shared), dtype=torch.float64)
            for e in own:
                part.index_add_(0, e.reflections, torch.ones(len(e.D), dtype=torch.float64))
            there = self._sum(part) > 0
            x = self.x + self.system(own, seen).solve().change
            found.append(torch.where(there, x, torch.nan))
        return torch.stack(found)


def _half(name: str) -> int:
    """0 or 1, the same wherever the shot is."""
    return zlib.crc32(name.encode()) & 1


def refine_intensities(
    shots: Sequence[SharedShot],
    shared: Asymmetric,
    *,
    reducer: Reducer | None = None,
    prior: SharedPrior = SharedPrior(),  # noqa: B008  (frozen)
    most_steps: int = 8,
) -> Merged:
    """Refine the intensities that shots share, and every shot's own parameters with them.

    shots: those of this process, none too. Every process gets the same intensities.
    """
    ensemble = Ensemble(shots, shared, reducer or Local(), prior)
    history: list[SharedStep] = []
    status = "steps"
    ensemble.x = _merged_x(Ensemble(shots, shared, ensemble.reducer, prior, free=False))
    while len(history) < most_steps:
        ensemble.weigh()
        step = ensemble.step()
        if step is None:
            status = "stalled"
            break
        history.append(step)
        if step.largest_move < SMALL_STEP:
            status = "converged"
            break
    return _result(ensemble, history, status)


def merge_intensities(
    shots: Sequence[SharedShot],
    shared: Asymmetric,
    *,
    reducer: Reducer | None = None,
    prior: SharedPrior = SharedPrior(),  # noqa: B008  (frozen)
) -> Merged:
    """The quick look: one linear solve for the intensities with every shot held as it is."""
    ensemble = Ensemble(shots, shared, reducer or Local(), prior, free=False)
    _merged_x(ensemble)
    return _result(ensemble, [], "merged")


def _merged_x(ensemble: Ensemble) -> Tensor:
    """A linear solve from the start, and one more with weights by how the shots fit the first; they are held at it."""
    for _ in range(2):
        ensemble.weigh()
        seen = (ensemble.multiplicity() > 0).double()
        ensemble.x = ensemble.x + ensemble.system(ensemble.equations(), seen).solve().change
        for shot in ensemble.shots:
            shot.start(ensemble.x)
    return ensemble.x


def _result(ensemble: Ensemble, history: Sequence[SharedStep], status: str) -> Merged:
    multiplicity = ensemble.multiplicity()
    seen = (multiplicity > 0).double()
    scale = ensemble.shared.intensity
    system = ensemble.system(ensemble.equations(), seen)
    rows = tuple({"name": s.name, "sigma_z": s.sigma_z(), "weight": s.weight} for s in ensemble.shots)
    return Merged(
        shared=ensemble.shared,
        intensity=(ensemble.x * scale).numpy(),
        sigma=(ensemble.sigmas(system) * scale).numpy(),
        multiplicity=multiplicity.round().long().numpy(),
        halves=(ensemble.halves(seen) * scale).numpy(),
        history=tuple(history),
        status=status,
        shots=rows,
    )
