"""How finely a shot is summed: until sums that are twice as fine would change nothing, or what they would change."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from nanobrag_torch.refinement.equations import Step
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.problem import Problem, State
from nanobrag_torch.refinement.solver import Solution, levenberg_marquardt
from nanobrag_torch.refinement.stages import brightest, keep_pixels, only_lit, resampled
from nanobrag_torch.units import ANGSTROM

MOST_STEPS = 10**8
"""Of all pixels: domains times samples times phi steps times wavelengths; half a second for their slopes."""
ROUNDS_OF_SAMPLING = 5
ALLOWED_MOVE = 0.3
"""Standard deviations."""
UNSETTLED = "summed more finely still"
UNSETTLED_BY = UNSETTLED + ", {} would move by {:.1f} of its sigma: all sigmas are larger by twice such moves"
SAFE_GAIN = 8.0
"""Less than the factor by which twice as many samples along an edge lower the error of an extrapolated integral."""
SAMPLES_A_WIDTH, MOST_COARSE = 0.9, 5
BOXES_FOR_SAMPLING = 60
END_STEP = 0.05
"""Standard deviations of a step that ends a fit with the slopes of a state nearby."""


def sampling_step(problem: Problem, solution: Solution, sampling: Sampling) -> Tensor:
    """By how much every raw parameter [T] would move if the shot were summed as finely as this.

    Only the brighter boxes are looked at, for they say the most.
    """
    state = solution.state
    wanted = brightest(problem, problem.spots(state).clamp(min=0), BOXES_FOR_SAMPLING)
    fewer, coarse = keep_pixels(problem, state, wanted)
    return _move(fewer, coarse, solution.jacobian[:, wanted], sampling).parameters


def _move(problem: Problem, coarse: State, slopes: Tensor, sampling: Sampling) -> Step:
    """By how much parameters and columns would move if the shot were summed as finely as this.

    Slopes are those of the coarser sum: they say where to, not from where.
    """
    before = problem.equations(coarse, slopes).projected().step()
    finer, fine = resampled(problem, coarse, sampling)
    after = finer.equations(fine, slopes).projected().step()
    settled = fine.linear - coarse.linear
    return Step(after.parameters - before.parameters, after.linear - before.linear + settled)


def moved_sigmas(problem: Problem, solution: Solution, sampling: Sampling) -> dict[str, float]:
    """By how many of its standard deviations every parameter would move if the shot were summed as finely as this.

    A scale beside free intensities is left out: it takes up what the mean of the spots lacks.
    """
    sigma = solution.projected.covariance().diagonal().clamp(min=1e-300).sqrt()
    moves = (sampling_step(problem, solution, sampling).abs() / sigma).tolist()
    held = len(problem.constraint) > 0
    named = zip(problem.parameters.names, moves, strict=True)
    return {name: move for name, move in named if not (held and name.partition("@")[0] == "scale")}


def error_of_sampling(problem: Problem, solution: Solution) -> tuple[Tensor, Tensor]:
    """What sums that are too coarse add to the covariance of the raw parameters [T, T], and to variances of columns.

    The latter are [blocks, C]. Of both twice what each sum twice as fine would move: what further halves would move is
    as much again.
    """
    finer = finer_samplings(problem.model.sampling, mosaic=_is_mosaic(problem), rotates=bool(problem.model.rotation))
    moves = [_move(problem, solution.state, solution.jacobian, sampling) for sampling in finer]
    moved = torch.stack([2 * move.parameters for move in moves])
    return moved.T @ moved, sum(((2 * move.linear) ** 2 for move in moves), torch.zeros_like(solution.state.linear))


def finer_samplings(now: Sampling, *, mosaic: bool, rotates: bool) -> list[Sampling]:
    """Everything that there is summed twice as finely, one thing at a time."""
    found = [replace(now, oversample=now.oversample * 2)]
    if mosaic:
        found.append(replace(now, domains=now.domains * 2))
    if rotates:
        found.append(replace(now, phi_steps=now.phi_steps * 2))
    return found


def bearable(sampling: Sampling, now: Sampling, problem: Problem) -> Sampling:
    """The finer sampling, or as it is now where that would take too long."""
    steps = sampling.domains * sampling.oversample**2 * sampling.phi_steps * len(problem.model.base.wavelengths)
    return sampling if steps * len(problem.rendered_block) <= MOST_STEPS else now


def joined(first: Sampling, second: Sampling) -> Sampling:
    """As fine as either."""
    return Sampling(
        max(first.domains, second.domains),
        max(first.oversample, second.oversample),
        max(first.phi_steps, second.phi_steps),
        first.extrapolated or second.extrapolated,
    )


def refine_sampling(
    problem: Problem, state: State, sampling: Sampling, most_steps: int
) -> tuple[Problem, Solution, str]:
    """Fit with finer and finer sums until none that is twice as fine would move a parameter by 0.3 sigma.

    Also what is left to say where that takes more than is bearable.
    """
    sampling = replace(
        sampling,
        phi_steps=sampling.phi_steps if problem.model.rotation else 1,
        domains=sampling.domains if _is_mosaic(problem) else 1,
    )
    problem, state = resampled(only_lit(problem, state), state, sampling)
    solution = levenberg_marquardt(problem, state, most_steps=most_steps, small_step=ALLOWED_MOVE / 3)
    history, left, enough = solution.history, "", False
    for _ in range(ROUNDS_OF_SAMPLING):
        finer, left, enough = _wanted_sampling(problem, solution, enough)
        if finer == problem.model.sampling:
            break
        problem, state = resampled(only_lit(problem, solution.state), solution.state, finer)
        solution = nearby(problem, state, solution.jacobian, most_steps)
        history = history + solution.history
    solution.history[:] = history
    return *with_own_slopes(problem, solution, most_steps), left


def with_own_slopes(problem: Problem, solution: Solution, most_steps: int) -> tuple[Problem, Solution]:
    """The fit to its end with the slopes of its own sum: those of a coarser one stop sigmas beside the minimum."""
    problem = only_lit(problem, solution.state)
    state = problem.settle(replace(solution.state, rendered=problem.render(solution.state.raw)))
    slopes = problem.jacobian(state)
    found = levenberg_marquardt(problem, state, most_steps=most_steps, small_step=END_STEP, slopes=slopes)
    if found.status != "converged":
        found = levenberg_marquardt(problem, state, most_steps=most_steps)
    found.history[:0] = solution.history
    return problem, found


def nearby(problem: Problem, state: State, slopes: Tensor, most_steps: int) -> Solution:
    """The fit from a state that is nearly there, with the slopes of a coarser sum as long as they lead downhill."""
    solution = levenberg_marquardt(problem, state, most_steps=most_steps, small_step=ALLOWED_MOVE / 3, slopes=slopes)
    if solution.status == "converged":
        return solution
    again = levenberg_marquardt(problem, solution.state, most_steps=most_steps)
    again.history[:0] = solution.history
    return again


def coarse_oversample(problem: Problem) -> int:
    """Samples along a pixel's edge that see the narrowest spots that the crystals' sizes make, at least roughly."""
    parameters, model = problem.parameters, problem.model
    values = parameters.unpack(parameters.pack())
    away = (model.base.panels[:, 0] * model.base.panels[:, 3]).sum(1).abs().min()
    narrowest = float("inf")
    for number in range(len(model.lattices)):
        edges = torch.linalg.vector_norm(model.rows(values, number), dim=1) * ANGSTROM
        longest = (edges * model.cells(values, number).diagonal()).max()
        narrowest = min(narrowest, float(model.mean_wavelength / longest * away / model.base.pixel_size.max()))
    return min(max(math.ceil(SAMPLES_A_WIDTH / narrowest), 1), MOST_COARSE)


def narrow(sampling: Sampling, coarse: Sampling) -> Sampling:
    """A sampling for spots of which the coarse one needed several samples a pixel: twice as many, if it did."""
    return sampling if coarse.oversample == 1 else replace(sampling, oversample=2 * coarse.oversample)


def first_sampling(problem: Problem, sampling: Sampling) -> Sampling:
    """What the rounds of finer sums begin with: as coarsely as may be where there are domains, for these cost most."""
    coarse = problem.model.sampling
    if not _is_mosaic(problem):
        return narrow(sampling, coarse)
    return replace(sampling, oversample=max(sampling.oversample, coarse.oversample))


def _is_mosaic(problem: Problem) -> bool:
    return any(name.startswith("spread") for name in problem.parameters.names)


def sampling_moves(problem: Problem, solution: Solution, *, enough: bool = False) -> dict[Sampling, tuple[float, str]]:
    """The parameter that would move most, and by how many sigma, for every sum that is twice as fine in one thing."""
    now, moves = problem.model.sampling, {}
    for finer in finer_samplings(now, mosaic=_is_mosaic(problem), rotates=bool(problem.model.rotation)):
        if not (enough and finer.oversample > now.oversample):
            found = moved_sigmas(problem, solution, finer)
            moves[finer] = max(((move, name) for name, move in found.items()), default=(0.0, ""))
    return moves


def domains_are_few(problem: Problem, solution: Solution) -> bool:
    """Whether twice as many domains would move a parameter by 0.3 sigma."""
    now = problem.model.sampling
    if not _is_mosaic(problem):
        return False
    moves = moved_sigmas(problem, solution, replace(now, domains=now.domains * 2))
    return max(moves.values(), default=0.0) > ALLOWED_MOVE


def unsettled(problem: Problem, solution: Solution) -> str:
    """What to say where a sum that is twice as fine would move a parameter by 0.3 sigma; empty where none would."""
    move, name = max(sampling_moves(problem, solution).values())
    return UNSETTLED_BY.format(name, move) if move > ALLOWED_MOVE else ""


def _wanted_sampling(problem: Problem, solution: Solution, enough: bool) -> tuple[Sampling, str, bool]:
    """Finer sums of all that would move a parameter by 0.3 sigma, and what would where they would take too long.

    enough: that the pixels are known to be summed finely enough; the last value says so of the finer sums.
    """
    now, moves = problem.model.sampling, sampling_moves(problem, solution, enough=enough)
    wanted, left = now, ""
    for finer, (move, name) in sorted(moves.items(), key=lambda pair: -pair[1][0]):
        if move <= ALLOWED_MOVE:
            continue
        both = bearable(joined(wanted, finer), wanted, problem)
        if both == wanted:
            left = left or UNSETTLED_BY.format(name, move)
        wanted = both
    finer = finer_samplings(now, mosaic=False, rotates=False)[0]
    return wanted, left, enough or moves[finer][0] < ALLOWED_MOVE * SAFE_GAIN
