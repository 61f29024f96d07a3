"""Geometry where no shape fits: from where each spot lies, and no longer from how it looks.

A spot that is symmetric about its reflection lies where any other symmetric shape would put it if the reflection is
in the middle of the Ewald sphere, and is off by as much more as its excitation error is larger. So every box says by
how much its spot is shifted against the model. Of these shifts, what another size or spread of the crystal would make,
one for each range of the excitation error, is eliminated: it belongs to the shape. What is left beside the noise of
counting grows with a power of the excitation error that is found from the shifts. The parameters that move spots
follow robustly, all others from the pixels as before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobrag_torch.refinement.centroids import predicted
from nanobrag_torch.refinement.columns import Layout
from nanobrag_torch.refinement.equations import solve_symmetric
from nanobrag_torch.refinement.parameters import ParameterSet
from nanobrag_torch.refinement.problem import Problem, State
from nanobrag_torch.refinement.setup import FAMILIES
from nanobrag_torch.refinement.solver import Solution, levenberg_marquardt
from nanobrag_torch.refinement.stages import with_parameters

MOVING = ("rotation", "cell", "distance", "shift", "tilt", "beam", "wavelength", "spindle", "phi")
SHAPING = ("N", "spread")
OWN = 6
"""Columns of a box by itself: two shifts, its intensity and its plane."""
ROUNDS, TURNS = 8, 50
LEAST_EXCITATION, LEAST_RADIANS = 0.05, 1e-5
"""Of the median; a spot without any has no more than this share's uncertainty."""
FAR = 30.0
"""Chi-squared of a spot beyond which it loses its pull."""
POWERS, FREEDOM = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0), 4.0
RANGES, SHAPE_PRECISION = 3, 1.0
"""Of what sizes and spreads move, whose raw parameters are logarithms; products of sizes are held by their priors."""
RIDGE = 1e-10
LEAST_PIXELS, LEAST_SPOTS = 20, 20
SETTLED = 0.02
MISPLACED, KNOWN = 0.5, 0.2
"""Pixels: a spot this far from the model is elsewhere; standard deviation of one whose place is known."""


@dataclass(frozen=True, eq=False)
class Shifts:
    """Where spots are against the model: shift and variance [b, 2] (pixels), slopes [b, 2, T] by parameters."""

    shift: Tensor
    variance: Tensor
    slopes: Tensor
    excitation: Tensor  # [b] radians, at least a share of the median


def moving(parameters: ParameterSet) -> list[int]:
    """Places in the raw vector of the parameters that move spots."""
    return _of_families(parameters, MOVING)


def _of_families(parameters: ParameterSet, families: tuple[str, ...]) -> list[int]:
    stems = {stem for name in families for stem in FAMILIES[name]}
    names = enumerate(parameters.names)
    return [place for place, name in names if name.partition("@")[0].rpartition(":")[2] in stems]


def fit_positions(problem: Problem, solution: Solution, most_steps: int) -> tuple[Problem, Solution, Tensor] | None:
    """The fit with geometry from positions and all else from pixels, and the geometry's covariance (`moving`).

    Both are repeated until neither moves the other. status is `stalled` where they do not settle. None where too few
    boxes have the pixels to say where their spot lies.
    """
    if int(_has_pixels(problem).sum()) < LEAST_SPOTS:
        return None
    which, parameters = moving(problem.parameters), problem.parameters
    shaping = _of_families(parameters, SHAPING)
    history, jacobian, state = list(solution.history), solution.jacobian, solution.state
    status = "stalled"
    covariance = torch.zeros((len(which), len(which)), dtype=torch.float64)
    for _ in range(ROUNDS if which else 0):
        step, covariance = robust(problem, state, shifts(problem, state, jacobian[which + shaping]), which)
        raw = state.raw.clone()
        raw[which] += step
        others = _held(parameters.at(raw), which)
        rest, start = with_parameters(problem, state, others)
        found = levenberg_marquardt(rest, start, most_steps=most_steps)
        history += found.history
        problem, state = with_parameters(problem, found.state, _freed(others.at(found.state.raw), parameters))
        jacobian = problem.jacobian(state)
        sigma = covariance.diagonal().clamp(min=1e-300).sqrt()
        if bool((step.abs() < SETTLED * sigma).all()):
            status = found.status
            break
    projected = problem.equations(state, jacobian).projected()
    return problem, Solution(state, projected, jacobian, status, history), covariance


def misplaced(problem: Problem, solution: Solution) -> float:
    """The part of the spots whose place is known that lie more than half a pixel from the model's; one if none is."""
    found = shifts(problem, solution.state, solution.jacobian[:0])
    known = found.variance.amax(1).sqrt() < KNOWN
    if int(known.sum()) < LEAST_SPOTS:
        return 1.0
    return float((found.shift[known].abs().amax(1) > MISPLACED).double().mean())


def shifts(problem: Problem, state: State, slopes: Tensor) -> Shifts:
    """By how much each spot is off, with its intensity and plane free; slopes [T, n] of the model by parameters."""
    boxes = problem.boxes
    expected = problem.expected(state)
    weights = 1 / (expected + boxes.readout).clamp(min=0.05)
    own = torch.cat(
        (problem.slopes_along(state, _pixel_steps(problem)).T, problem.spots(state)[:, None], boxes.basis), 1
    )
    layout = Layout(boxes.box, len(boxes))
    gram, right = layout.gram(torch.cat((own, slopes.T), 1), weights, weights * (boxes.data - expected))
    square = gram[:, :OWN, :OWN]
    diagonal = square.diagonal(dim1=1, dim2=2)
    lit = (diagonal > 0).all(1) & _has_pixels(problem)
    inverse = torch.linalg.inv((square + RIDGE * torch.diag_embed(diagonal))[lit])
    found = inverse @ torch.cat((right[lit, :OWN, None], gram[lit, :OWN, OWN:]), 2)
    values = problem.parameters.unpack(state.raw)
    excitation = predicted(problem.model, values, boxes.spots).excitation.abs()[lit]
    least = max(LEAST_EXCITATION * float(excitation.median()), LEAST_RADIANS)
    variance = inverse.diagonal(dim1=1, dim2=2)[:, :2]
    return Shifts(found[:, :2, 0], variance, found[:, :2, 1:], excitation + least)


def _has_pixels(problem: Problem) -> Tensor:
    """Which boxes [b] have the pixels to tell a spot's shift from its intensity and its plane."""
    return torch.bincount(problem.boxes.box, minlength=len(problem.boxes)) >= LEAST_PIXELS


def _pixel_steps(problem: Problem) -> dict[str, Tensor]:
    """Directions [2, P, 4, 3] of the panels in which spots move by a pixel, along fast and slow."""
    panels, size = problem.model.base.panels, problem.model.base.pixel_size
    found = torch.zeros((2, *panels.shape), dtype=panels.dtype)
    for axis in range(2):
        found[axis, :, 0] = -size[:, axis, None] * panels[:, 1 + axis]
    return {"panels": found}


def robust(problem: Problem, state: State, seen: Shifts, which: list[int]) -> tuple[Tensor, Tensor]:
    """The step [T] that takes the shifts away, and its covariance; slopes are by `which` first, then by the shape."""
    above, precision = (vector[which] for vector in problem.parameters.prior_terms(state.raw))
    slopes = torch.cat((seen.slopes[..., : len(which)], _of_shape(seen, len(which))), 2)
    sizes = problem.parameters.scales()[_of_families(problem.parameters, SHAPING)].clamp(min=1.0)
    held = torch.cat((precision, (SHAPE_PRECISION / sizes**2).repeat(RANGES)))
    pull = torch.nn.functional.pad(-precision * above, (0, len(held) - len(which)))
    step = torch.zeros(len(held), dtype=torch.float64)
    for _ in range(TURNS):
        left = seen.shift - slopes @ step
        variance = seen.variance + of_excitation(seen, left)[:, None]
        trust = 1 / (1 + (left**2 / variance).sum(1) / FAR) ** 2
        weights = trust[:, None] / variance
        matrix = torch.einsum("bcs,bc,bct->st", slopes, weights, slopes) + torch.diag(held)
        right = torch.einsum("bcs,bc,bc->s", slopes, weights, seen.shift) + pull
        before, step = step, solve_symmetric(matrix, right)
        if bool(((step - before).abs() * matrix.diagonal().sqrt() < SETTLED / 10)[: len(which)].all()):
            break
    identity = torch.eye(len(held), dtype=torch.float64)[: len(which)]
    covariance = torch.stack([solve_symmetric(matrix, column) for column in identity])
    return step[: len(which)], covariance[:, : len(which)]


def _of_shape(seen: Shifts, moved: int) -> Tensor:
    """What the shape's parameters [b, 2, 3 S] do to spots of small, of medium and of all excitation errors."""
    slopes = seen.slopes[..., moved:]
    relative = (seen.excitation / seen.excitation.median())[:, None, None]
    return torch.cat((slopes, slopes / (1 + relative**2), slopes / (1 + relative**4)), 2)


def of_excitation(seen: Shifts, left: Tensor) -> Tensor:
    """Squared scale [b] of what is left of the shifts beyond counting, which rises with a power of the excitation.

    The mean over amounts and powers by how likely each is, by a Student's t of few degrees of freedom since some spots
    are far off. The likeliest alone would jump from one to another between two rounds of a fit, and never settle.
    """
    relative = seen.excitation / seen.excitation.median()
    steps = torch.logspace(-4, 1, 51, dtype=torch.float64)  # pixels at the median
    powers = torch.tensor(POWERS, dtype=torch.float64)
    extra = (steps[:, None] * relative ** powers[:, None, None]) ** 2
    variance = seen.variance + extra[..., None]
    q = (left**2 / variance).sum(-1) / FREEDOM
    unlikely = (torch.log(variance).sum(-1) + (FREEDOM + 2) * torch.log1p(q)).sum(-1)
    likely = torch.softmax(-unlikely.flatten() / 2, 0)
    return likely @ extra.flatten(0, 1)


def covariance_of(problem: Problem, solution: Solution, of_positions: Tensor | None) -> Tensor:
    """Of the raw parameters [T, T]: by the pixels, times the reduced chi-squared, or by positions where they ruled."""
    z = problem.sigma_z(solution.state)
    found = solution.projected.covariance() * max(1.0, float((z * z).mean()))
    if of_positions is not None:
        which = torch.tensor(moving(problem.parameters))
        found[which], found[:, which] = 0.0, 0.0
        found[which[:, None], which] = of_positions
    return found


def _held(parameters: ParameterSet, which: list[int]) -> ParameterSet:
    names = {parameters.names[place] for place in which}
    return ParameterSet([replace(p, free=p.free and p.name not in names) for p in parameters])


def _freed(parameters: ParameterSet, like: ParameterSet) -> ParameterSet:
    return ParameterSet([replace(p, free=like[p.name].free) for p in parameters])
