"""Levenberg and Marquardt's method on a problem whose linear columns are eliminated, with reasons for every end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from nanobrag_torch.refinement.equations import Projected
from nanobrag_torch.refinement.problem import Problem, State

START_DAMPING = 1e-3
LEAST_DAMPING, MOST_DAMPING = 1e-9, 1e6
LONGEST_STEP = 1.5
"""In the raw sizes of the parameters, the standard deviations of their priors."""
SMALL_STEP = 0.02
"""In standard deviations of the result."""
SMALL_GAIN = 1e-3
ALLOWED_RISE = 0.01
"""Of the loss with slopes that are not its own: their minimum is up to a tenth of a sigma beside it."""
MOST_REJECTED = 10
MOST_LIMITED = 10


@dataclass(frozen=True)
class Progress:
    """One accepted step."""

    objective: float
    sigma_z: float
    damping: float
    largest_move: float  # in standard deviations
    limited: bool


@dataclass(eq=False)
class Solution:
    """Where the solver ended, and why: converged, stalled (no step helps), steps (too many) or limit (steps too long).

    projected: the equations at the end.
    """

    state: State
    projected: Projected
    jacobian: Tensor  # [T, n]
    status: str
    history: list[Progress] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Steps that were accepted."""
        return len(self.history)


@dataclass(frozen=True, eq=False)
class Linearised:
    """A problem about a state; slopes and equations are made when somebody asks, for they cost most of a step.

    slopes [T, n]: those of a state nearby or of a coarser sum; None: its own.
    """

    problem: Problem
    state: State
    slopes: Tensor | None = None

    @cached_property
    def jacobian(self) -> Tensor:
        """Slopes [T, n] of the model by the raw parameters."""
        return self.problem.jacobian(self.state) if self.slopes is None else self.slopes

    @cached_property
    def projected(self) -> Projected:
        """The parameters' own equations."""
        return self.problem.equations(self.state, self.jacobian).projected()

    @property
    def gain(self) -> float:
        """By how much a step would lower the loss, if it were as its slopes say."""
        return float(self.projected.step().parameters @ self.projected.right) / 2


@dataclass(eq=False)
class Walk:
    """Where steps downhill have led; its equations are not made before they are needed."""

    here: Linearised
    status: str
    small_step: float
    history: list[Progress]

    @property
    def state(self) -> State:
        """Where it ended."""
        return self.here.state

    @property
    def is_over(self) -> bool:
        """Whether more steps would lead nowhere."""
        return self.status != "steps" or _is_there(self.here, self.small_step)

    def solution(self) -> Solution:
        """The end with its equations."""
        status = "converged" if self.status == "steps" and self.is_over else self.status
        return Solution(self.state, self.here.projected, self.here.jacobian, status, self.history)


def levenberg_marquardt(
    problem: Problem,
    start: State,
    *,
    most_steps: int = 30,
    damping: float = START_DAMPING,
    small_step: float = SMALL_STEP,
    slopes: Tensor | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Solution:
    """Make the problem's loss small from a state whose columns are settled.

    Ends when no parameter moves by more than `small_step` standard deviations and the loss falls by less than 1e-3.
    slopes [T, n]: those of a state nearby or of a coarser sum, to be used all along.
    """
    here = Linearised(problem, start, slopes)
    return downhill(here, most_steps=most_steps, damping=damping, small_step=small_step, report=report).solution()


def downhill(
    here: Linearised,
    *,
    most_steps: int,
    damping: float = START_DAMPING,
    small_step: float = SMALL_STEP,
    report: Callable[[Progress], None] | None = None,
) -> Walk:
    """The steps of `levenberg_marquardt`, without the equations of the last state."""
    problem, slopes, limited_in_a_row = here.problem, here.slopes, 0
    history: list[Progress] = []
    scales, status = problem.parameters.scales(), "steps"
    while status == "steps" and len(history) < most_steps:
        if _is_there(here, small_step):
            status = "converged"
            break
        found = _better(problem, here.state, here.projected, damping, scales, 0.0 if slopes is None else ALLOWED_RISE)
        if found is None:
            status = _stalled(problem, here.state, here.projected, small_step)
            break
        after, step, damping, limited = found
        moved = _largest_move(step, here.projected)
        gain, here = here.state.objective - after.objective, Linearised(problem, after, slopes)
        damping = max(damping / 10, LEAST_DAMPING)
        history.append(Progress(after.objective, float(problem.sigma_z(after).std()), damping, moved, limited))
        if report is not None:
            report(history[-1])
        limited_in_a_row = limited_in_a_row + 1 if limited else 0
        if limited_in_a_row >= MOST_LIMITED:
            status = "limit"
        elif moved < small_step and gain < SMALL_GAIN:
            status = "converged"
    return Walk(here, status, small_step, history)


def _ahead(projected: Projected) -> float:
    """How far the next step would go, in standard deviations of the result."""
    return _largest_move(projected.step().parameters, projected)


def _is_there(here: Linearised, small_step: float) -> bool:
    """Whether the next step would be small, or lower the loss by less than slopes that are not its own can tell."""
    return _ahead(here.projected) < small_step or (here.slopes is not None and here.gain < ALLOWED_RISE)


def _better(
    problem: Problem, state: State, projected: Projected, damping: float, scales: Tensor, rise: float
) -> tuple[State, Tensor, float, bool] | None:
    """The first state that is no worse, or by less than `rise`; more damping from try to try, None after too many."""
    for _ in range(MOST_REJECTED):
        step = projected.step(damping).parameters
        longest = float((step / scales).abs().max()) if len(step) else 0.0
        limited = longest > LONGEST_STEP
        step = step * (LONGEST_STEP / longest) if limited else step
        trial = problem.trial(state, projected.follow(step))
        if trial.objective <= state.objective + rise:
            return trial, step, damping, limited
        damping = min(damping * 10, MOST_DAMPING)
    return None


def _largest_move(step: Tensor, projected: Projected) -> float:
    """In standard deviations of the result."""
    if not len(step):
        return 0.0
    sigma = projected.covariance().diagonal().clamp(min=0).sqrt()
    return float((step.abs() / sigma.clamp(min=torch.finfo(sigma.dtype).tiny)).max())


def _stalled(problem: Problem, state: State, projected: Projected, small_step: float) -> str:
    """A fit at the bottom of its valley has no better state either: rounding decides there.

    It does so the sooner the worse the model fits and the larger the loss is, as do the result's standard deviations.
    """
    misfit = max(1.0, float((problem.sigma_z(state) ** 2).mean()) ** 0.5)
    return "converged" if _ahead(projected) < 10 * small_step * misfit else "stalled"
