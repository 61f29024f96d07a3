"""Intensities that many shots share, refined together with every shot's own parameters.

Each step solves one linear system in the intensities (see `shared.py`) and lets every shot follow, with its own damping
and its own acceptance. A shot that does not reach the noise of the others counts for less, or is left out by name. The
end is where a step without any damping would move nothing: a step that is small because a shot refuses it is no end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.merged import Merged, SharedStep, merged
from nanobrag_torch.refinement.reducers import Local, Reducer
from nanobrag_torch.refinement.shared import Shared, ShotEquations
from nanobrag_torch.refinement.shared_prior import SharedPrior
from nanobrag_torch.refinement.shared_shot import SharedShot

CONVERGED, STALLED, STEPS, FAILED, MERGED = "converged", "stalled", "steps", "failed", "merged"
SMALL_STEP = 0.05
"""Standard deviations: no intensity would move further at the end."""
SETTLED = 0.3
"""Standard deviations that a parameter of a shot may be from its best: rounding decides below."""
STUCK = 5
"""Steps in a row that a shot refuses before it is left out."""
SHARES = (1.0, 0.5, 0.25)
WORSE, MUCH_WORSE = 1.2, 3.0
"""Times the median sigma-Z: from the first on a shot counts for less, from the second on it is left out."""
APART, FAR_APART, SPREADS = 1.1, 3.0, 5.0
"""Times the median of sigma-Z together over sigma-Z alone from which on a shot disagrees with the others, at least; the
same before the first steps; and the same in standard deviations of that ratio."""
DISAGREE, MOST_LEFT_OUT = 1.25, 0.5
"""Median of that ratio, and the share of shots left out, from which on no result is to be believed."""
BINS, SPAN = 4000, 6.0
MAD = 1.4826
MOST_REFUSED = 3
"""Steps in a row that may be refused, each tried again with more damping."""
ROUNDING = 1e-9


class Keeper(Protocol):
    """Keeps the state of an ensemble after every step."""

    def restored(self, ensemble: Ensemble) -> list[SharedStep]:
        """Put the ensemble where the last step that all processes kept had left it; the steps until then, or none."""

    def keep(self, ensemble: Ensemble, history: Sequence[SharedStep]) -> None:
        """Keep this state."""


class Outlook(NamedTuple):
    """Where an ensemble stands: the equations of its shots, and how far an undamped step would go from here.

    largest: of the intensities, in standard deviations; unsettled: how many shots are not at their own best.
    """

    equations: list[ShotEquations]
    largest: float
    unsettled: int


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
        """free False: shots are held as they are (a merge). Raises InputError where no process has a shot."""
        self.shots = sorted(shots, key=lambda shot: shot.name)
        self.shared, self.reducer, self.prior, self.free = shared, reducer, prior, free
        self.x = torch.ones(len(shared), dtype=torch.float64)
        self.count = round(self.sum_of([float(len(shots))])[0])
        if self.count == 0:
            raise InputError("shots", 0, "at least one")

    def total(self, part: Tensor) -> Tensor:
        """Over all processes."""
        return self.reducer.total(part.double())

    def sum_of(self, values: Sequence[float]) -> list[float]:
        """Of numbers over all processes."""
        found: list[float] = self.total(torch.tensor(values, dtype=torch.float64)).tolist()
        return found

    def median(self, values: Sequence[float]) -> float:
        """Of positive numbers of all processes."""
        return median_of(values, self.reducer)

    def begin(self) -> None:
        """Hold all shots at intensities that a linear solve gives with shots as they are, twice, with weights."""
        free, self.free = self.free, False
        for shot in self.shots:
            shot.start(self.x)
        for _ in range(2):
            self.weigh(FAR_APART)
            equations = self.equations()
            self.x = self.x + self.system(equations).solve().change
            if free:
                self.x = self.x / (self._gauge(equations) @ self.x)
            for shot in self.shots:
                shot.start(self.x)
        self.weigh(FAR_APART)
        self.free = free

    def weigh(self, apart: float) -> float:
        """Weights of all shots, and the median of how much worse they fit together than alone.

        apart: at least so many times that median from which on a shot is left out.
        """
        own = [(shot, shot.sigma_z()) for shot in self.shots]
        median = self.median([z for _, z in own])
        ratios = [z / s.alone for s, z in own if s.alone > 0]
        ratio = self.median(ratios)
        spread = self.median([max(r / ratio, ratio / r) for r in ratios if 0 < r < math.inf])
        for shot, z in own:
            shot.judge(z, MUCH_WORSE * median, ratio * max(apart, spread ** (MAD * SPREADS)))
            if shot.weight > 0:
                shot.weight = min(1.0, (WORSE * median / max(z, 1e-300)) ** 2)
        return ratio

    def multiplicity(self) -> Tensor:
        """How many observations of shots that count each shared reflection has [N]."""
        return self.total(_observations([shot.reflections for shot in self.shots if shot.weight > 0], len(self.shared)))

    def system(
        self, equations: Sequence[ShotEquations], *, prior: SharedPrior | None = None, damped: bool = True
    ) -> Shared:
        """The linear system about where all shots are; the sum of the intensities that were seen is the start's.

        With another prior than the ensemble's own it stays where it is.
        """
        chosen = list(equations) if damped else [e.undamped() for e in equations]
        about = (self.prior if prior is None else prior).at(self.x, self.shared)
        if not self.free:
            return Shared(chosen, about, self.reducer)
        gauge = self._gauge(chosen)[None]
        gap = gauge @ (1 - self.x) if prior is None else None
        return Shared(chosen, about, self.reducer, constraint=gauge, gap=gap)

    def _gauge(self, equations: Sequence[ShotEquations]) -> Tensor:
        """Weights [N] of the mean of what these shots see, by the intensities of the start."""
        lit = self.shared.intensity * (self.observations(equations) > 0)
        return lit / lit.sum().clamp(min=1e-300)

    def observations(self, equations: Sequence[ShotEquations]) -> Tensor:
        """How many of each shared reflection [N] these shots of all processes have."""
        return self.total(_observations([e.reflections for e in equations if e.weight > 0], len(self.shared)))

    def equations(self) -> list[ShotEquations]:
        """Of the shots that count."""
        found = [shot.equations() for shot in self.shots if shot.weight > 0]
        return found if self.free else [e.held() for e in found]

    def objective(self) -> float:
        """Of all shots that count, and the prior."""
        own = sum(shot.weight * shot.state.objective for shot in self.shots if shot.weight > 0)
        return self.sum_of([own])[0] + self.prior.loss(self.x, self.shared)

    def outlook(self) -> Outlook:
        """The equations here, and how far from the end this is."""
        equations = self.equations()
        system = self.system(equations, damped=False)
        change = system.solve().change
        moving = self._moving()
        for e in equations:
            moving[e.name].look_ahead(e, change)
        seen = self.observations(equations) > 0
        largest = float((change * system.diagonal.clamp(min=0).sqrt() * seen).abs().max())
        unsettled = sum(shot.ahead > SETTLED for shot in moving.values())
        return Outlook(equations, largest, round(self.sum_of([float(unsettled)])[0]))

    def leave_out_stuck(self) -> None:
        """Shots that refuse every step though they are not at their best, by name and for good."""
        for shot in self._moving().values():
            if shot.ahead > SETTLED and shot.refused >= STUCK:
                shot.leave_out(f"stuck {shot.ahead:.1f} standard deviations from its best", final=True)

    def step(self, outlook: Outlook) -> SharedStep | None:
        """One step of everything; None where none makes the loss smaller."""
        moving = self._moving()
        equations = [e for e in outlook.equations if e.name in moving]
        answer = self.system(equations).solve()
        before, x = self.objective(), self.x
        for share in SHARES:
            change = share * answer.change
            self.x = x + change
            for e in equations:
                moving[e.name].move(e, change, self.x)
            after = self.objective()
            if after <= before + ROUNDING * abs(before):
                for shot in self.shots:
                    if shot.name not in moving and not shot.final:
                        shot.hold(self.x)
                return SharedStep(after, outlook.largest, outlook.unsettled, answer.products, share)
            self.x = x
            for e in equations:
                moving[e.name].back()
        return None

    def _moving(self) -> dict[str, SharedShot]:
        return {shot.name: shot for shot in self.shots if shot.weight > 0}


def median_of(values: Sequence[float], reducer: Reducer) -> float:
    """Of positive numbers of all processes, from counts in fixed bins; one where there are none."""
    place = [min(max(int((math.log(z) / SPAN + 0.5) * BINS), 0), BINS - 1) for z in values if 0 < z < math.inf]
    counts = reducer.total(torch.bincount(torch.tensor(place, dtype=torch.int64), minlength=BINS).double())
    if not float(counts.sum()):
        return 1.0
    half = int(torch.searchsorted(torch.cumsum(counts, 0), counts.sum() / 2))
    return math.exp(((half + 0.5) / BINS - 0.5) * SPAN)


def _observations(reflections: Sequence[Tensor], count: int) -> Tensor:
    """How many times [N] each reflection is listed."""
    whole = torch.cat([*reflections, torch.zeros(0, dtype=torch.int64)])
    return torch.bincount(whole, minlength=count).double()


def refine_intensities(
    shots: Sequence[SharedShot],
    shared: Asymmetric,
    *,
    reducer: Reducer | None = None,
    prior: SharedPrior = SharedPrior(),  # noqa: B008  (frozen)
    most_steps: int = 12,
    keeper: Keeper | None = None,
) -> Merged:
    """Refine the intensities that shots share, and every shot's own parameters with them.

    shots: those of this process, none too. Every process gets the same intensities. keeper: keeps the state of every
    step, and where there is one starts from it. A result that is not to be believed has a status and a reason.
    """
    ensemble = Ensemble(shots, shared, reducer or Local(), prior)
    history = [] if keeper is None else keeper.restored(ensemble)
    if not history:
        ensemble.begin()
    refused = 0
    while True:
        ratio = ensemble.weigh(APART if history else FAR_APART)
        outlook = ensemble.outlook()
        if outlook.largest < SMALL_STEP and not outlook.unsettled:
            return merged(ensemble, history, *_believed(ensemble, ratio, CONVERGED, ""))
        if len(history) >= most_steps:
            reason = f"{most_steps} steps were not enough: {outlook.largest:.2f} sigma and {outlook.unsettled} shots"
            return merged(ensemble, history, *_believed(ensemble, ratio, STEPS, f"{reason} are still to go"))
        ensemble.leave_out_stuck()
        step = ensemble.step(outlook)
        refused = 0 if step is not None else refused + 1
        if step is None and refused < MOST_REFUSED:
            continue
        if step is None:
            reason = f"no step makes the fit better, {outlook.largest:.2f} sigma from where it should be"
            return merged(ensemble, history, *_believed(ensemble, ratio, STALLED, reason))
        history.append(step)
        if keeper is not None:
            keeper.keep(ensemble, history)


def merge_intensities(
    shots: Sequence[SharedShot],
    shared: Asymmetric,
    *,
    reducer: Reducer | None = None,
    prior: SharedPrior = SharedPrior(),  # noqa: B008  (frozen)
) -> Merged:
    """The quick look: one linear solve for the intensities with every shot held as it is."""
    ensemble = Ensemble(shots, shared, reducer or Local(), prior, free=False)
    ensemble.begin()
    return merged(ensemble, [], *_believed(ensemble, 1.0, MERGED, ""))


def _believed(ensemble: Ensemble, ratio: float, status: str, reason: str) -> tuple[str, str]:
    """The status and why it is not converged; failed where shots disagree, or most of them were left out."""
    left_out = round(ensemble.sum_of([float(sum(shot.weight == 0 for shot in ensemble.shots))])[0])
    if left_out >= MOST_LEFT_OUT * ensemble.count:
        return FAILED, f"{left_out} of {ensemble.count} shots had to be left out"
    if ratio > DISAGREE:
        why = "another indexing, another space group, or mates that are not equal?"
        return FAILED, f"shots do not agree: sigma-Z is {ratio:.2f} times as large together as alone ({why})"
    return status, reason
