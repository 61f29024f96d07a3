"""Images that were simulated themselves: how many samples a pixel they were summed from, by what fits best.

A detector integrates over its pixels, and so does the model. A program that sums n by n samples makes spots narrower
than that, and a model that integrates would take them for those of larger crystals.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from nanobrag_torch.refinement.fineness import (
    BOXES_FOR_SAMPLING,
    domains_are_few,
    first_sampling,
    refine_sampling,
)
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.problem import Problem, State
from nanobrag_torch.refinement.solver import Linearised, Solution, downhill, levenberg_marquardt
from nanobrag_torch.refinement.stages import ROUGH_STEP, brightest, keep_pixels, resampled

MOST_SAMPLES = 8
"""Samples along an edge: the most that are looked for. So many fit better than an integral where there are fewer."""
WORTH_A_LOOK, WORTH_A_CHANGE = 5.0, 20.0
"""By how much the loss has to be lower, with the slopes at hand and after a few steps."""
MOST_SQUARED_Z = 1.05
"""Of the brighter boxes: an image that was measured is hardly ever described as well, one that was simulated is."""
STEPS = 3
SIMULATED = "the image looks summed from {0} x {0} samples a pixel: so is the model (loss lower by {1:.0f})"


def finely_summed(problem: Problem, state: State, sampling: Sampling, most_steps: int) -> tuple[Problem, Solution, str]:
    """The fit with sums from `sampling` on that are as fine as it takes, or as coarse as those of the image.

    Where domains are too few they make up the spots, and say nothing of the samples.
    """
    problem, solution, left = refine_sampling(problem, state, first_sampling(problem, sampling), most_steps)
    if left and domains_are_few(problem, solution):
        return problem, solution, left
    problem, solution, alike = as_simulated(problem, solution, most_steps)
    return problem, solution, alike or left


def as_simulated(problem: Problem, solution: Solution, most_steps: int) -> tuple[Problem, Solution, str]:
    """The fit with as few samples a pixel as the image was summed from, and a note; as it was where it was not.

    The model is one that integrates over pixels. Only the brighter boxes tell.
    """
    wanted = brightest(problem, problem.spots(solution.state).clamp(min=0), BOXES_FOR_SAMPLING)
    fewer, integral = keep_pixels(problem, solution.state, wanted)
    slopes = solution.jacobian[:, wanted]
    before = _after_a_step(fewer, integral, slopes)
    if before - _after_a_step(*_summed(fewer, integral, MOST_SAMPLES), slopes) < WORTH_A_LOOK:
        return problem, solution, ""
    samples, state = _best(fewer, integral)
    gain = before - state.objective
    if gain < WORTH_A_CHANGE or float((_summed(fewer, state, samples)[0].sigma_z(state) ** 2).mean()) > MOST_SQUARED_Z:
        return problem, solution, ""
    summed, start = _summed(problem, replace(solution.state, raw=state.raw), samples)
    again = levenberg_marquardt(summed, start, most_steps=most_steps)
    again.history[:0] = solution.history
    return summed, again, SIMULATED.format(samples, gain)


def _summed(problem: Problem, state: State, samples: int) -> tuple[Problem, State]:
    now = problem.model.sampling
    return resampled(problem, state, Sampling(now.domains, samples, now.phi_steps))


def _after_a_step(problem: Problem, state: State, slopes: Tensor) -> float:
    """The loss that a step with these slopes should lead to."""
    projected = problem.equations(state, slopes).projected()
    return state.objective - float(projected.step().parameters @ projected.right) / 2


def _best(problem: Problem, integral: State) -> tuple[int, State]:
    """The number of samples along an edge with the lowest loss, and its fit."""
    found: list[tuple[int, State]] = []
    for samples in range(MOST_SAMPLES, 0, -1):
        summed, state = _summed(problem, found[-1][1] if found else integral, samples)
        state = downhill(Linearised(summed, state), most_steps=STEPS, small_step=ROUGH_STEP).state
        if found and state.objective > found[-1][1].objective:
            break
        found.append((samples, state))
    return found[-1]
