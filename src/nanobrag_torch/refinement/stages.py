"""The stages of a fit between the files and the answer: scale, size and spread, sampling, outliers, shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.parameters import ParameterSet
from nanobrag_torch.refinement.problem import Pass, Problem, State
from nanobrag_torch.refinement.solver import Progress, Solution, levenberg_marquardt

ROUNDS_OF_SCAN = 5
FACTOR = 2.0
FAR_BOX, LEAST_BAD_BOX, FAR_PIXEL = 5.0, 1.5, 6.0
MOST_OUTLIERS = 0.1
MAD = 1.4826
MOST_STEPS = 10**8
"""Of all pixels: domains times samples times phi steps times wavelengths; half a second for their slopes."""
ROUNDS_OF_SAMPLING = 5
ALLOWED_MOVE = 0.3
"""Standard deviations."""
NO_EFFECT = 1e-6
BOXES_FOR_SHAPE, STEPS_FOR_SHAPE = 60, 5


def first_columns(problem: Problem) -> Tensor:
    """Planes [blocks, C] at the median of the rim of their boxes, intensities of one."""
    boxes = problem.boxes
    linear = problem.prior_mean.clone()
    rim = boxes.basis[:, 1:].abs().amax(1) > 0.7
    for box in range(len(boxes)):
        mine = boxes.data[(boxes.box == box) & rim]
        size = problem.background.shape[1] and _columns_of_a_box(problem)
        if size and len(mine):
            linear[boxes.block[box], boxes.place[box] * size] = mine.median().clamp(min=0.01)
    return linear


def _columns_of_a_box(problem: Problem) -> int:
    lit = (problem.background != 0).any(0).nonzero()
    boxes = int(torch.bincount(problem.boxes.block).max())
    return 0 if not len(lit) else -(-int(lit.max() + 1) // boxes)


def with_scale(problem: Problem, linear: Tensor) -> tuple[ParameterSet, State]:
    """Parameters whose scales give as many photons as the boxes hold, and the state of that start."""
    parameters = problem.parameters
    raw = parameters.pack()
    rendered = problem.render(raw)
    background = (problem.background * linear[problem.layout.block]).sum(1) + problem.fixed_background
    net = problem.boxes.data - background
    for number, lattice in enumerate(problem.model.lattices):
        total, seen = 0.0, 0.0
        for p, kernel in zip(problem.passes, rendered, strict=True):
            if p.crystal == number:
                total += float(kernel.sum())
                seen += _net_of(problem, p, kernel, net)
        value = max(seen, 1.0) / max(total, 1e-300) / len(problem.model.lattices)
        parameters = parameters.change(f"scale{lattice.suffix}", value=value)
    problem = replace(problem, parameters=parameters)
    raw = parameters.pack()
    return parameters, problem.settle(State(raw, linear, rendered), steps=8)


def _net_of(problem: Problem, p: Pass, kernel: Tensor, net: Tensor) -> float:
    """Photons above the background in the pixels of a pass."""
    if problem.spreading is not None:
        return float(net.sum())
    where = torch.arange(len(net)) if p.where is None else p.where
    return float(net[where][kernel > 0].sum())


def scan(problem: Problem, linear: Tensor) -> ParameterSet:
    """Numbers of cells and spread by a search over factors of two, with scale, planes and intensities at their best.

    All crystals of a shot change together. Priors are centred on what is found.
    """
    tried: dict[tuple[int, int], tuple[float, ParameterSet]] = {}
    has_spread = any(name.startswith("spread") for name in problem.parameters.names)

    def at(size: int, spread: int) -> float:
        if (size, spread) not in tried:
            parameters = _scaled(problem.parameters, FACTOR**size, FACTOR**spread)
            found, state = with_scale(replace(problem, parameters=parameters), linear)
            tried[size, spread] = _data_loss(replace(problem, parameters=found), state), found
        return tried[size, spread][0]

    best = (0, 0)
    for _ in range(ROUNDS_OF_SCAN):
        spreads = (-1, 0, 1) if has_spread else (0,)
        around = [(best[0] + i, best[1] + j) for i in (-1, 0, 1) for j in spreads]
        lowest = min(around, key=lambda place: at(*place))
        if lowest == best:
            break
        best = lowest
    return tried[best][1]


def _data_loss(problem: Problem, state: State) -> float:
    above, precision = problem.parameters.prior_terms(state.raw)
    return state.objective - float((precision * above**2).sum()) / 2


def _scaled(parameters: ParameterSet, size: float, spread: float) -> ParameterSet:
    """Other numbers of cells and spreads where they are free, and priors about those."""
    changed = []
    for p in parameters:
        factor = size if p.name.startswith("N_") else spread if p.name.startswith("spread") else 1.0
        if factor != 1.0 and p.free:
            value = max(p.value * factor, 1.0) if p.name.startswith("N_") else p.value * factor
            p = replace(p, value=value, prior=None if p.prior is None else (value, p.prior[1]))
        changed.append(p)
    return ParameterSet(changed)


def resampled(problem: Problem, state: State, sampling: Sampling) -> tuple[Problem, State]:
    """The same point summed more or less finely."""
    finer = replace(problem, model=problem.model.with_sampling(sampling))
    return finer, finer.settle(State(state.raw, state.linear, finer.render(state.raw)))


def with_parameters(problem: Problem, state: State, parameters: ParameterSet) -> tuple[Problem, State]:
    """The same point with other parameters free."""
    changed = replace(problem, parameters=parameters)
    raw = parameters.pack()
    return changed, changed.settle(State(raw, state.linear, changed.render(raw)))


def without_effect(problem: Problem, solution: Solution) -> list[str]:
    """Free parameters that change nothing that was measured, by the diagonal of the equations without the priors."""
    _, precision = problem.parameters.prior_terms(solution.state.raw)
    information = solution.projected.equations.A.diagonal() - precision
    scales = problem.parameters.scales()
    pairs = zip(problem.parameters.names, information, scales, strict=True)
    return [name for name, seen, scale in pairs if float(seen) * float(scale) ** 2 < NO_EFFECT]


def outliers(problem: Problem, state: State) -> tuple[Tensor, list[int]]:
    """Pixels [n] to keep, and boxes that are left out: sigma-Z beyond the median by 5 MAD, pixels beyond 6 sigma.

    At most a tenth of either is left out: more would be the model's fault.
    """
    z = problem.sigma_z(state)
    of_boxes = box_sigma_z(problem, z)
    middle = of_boxes.median()
    spread = MAD * (of_boxes - middle).abs().median()
    bad = of_boxes > torch.maximum(middle + FAR_BOX * spread, torch.tensor(LEAST_BAD_BOX).double())
    if int(bad.sum()) > MOST_OUTLIERS * len(of_boxes):
        bad = torch.zeros_like(bad)
    far = z.abs() > FAR_PIXEL * middle.clamp(min=1.0)
    if int(far.sum()) > 0.01 * len(z):
        far = torch.zeros_like(far)
    return ~(far | bad[problem.boxes.box]), bad.nonzero()[:, 0].tolist()


def box_sigma_z(problem: Problem, z: Tensor) -> Tensor:
    """Root mean square of (data - model) / sigma of every box [b]."""
    count = torch.bincount(problem.boxes.box, minlength=len(problem.boxes))
    total = torch.zeros(len(problem.boxes), dtype=torch.float64).index_add_(0, problem.boxes.box, z * z)
    return torch.sqrt(total / count.clamp(min=1))


def keep_pixels(problem: Problem, state: State, wanted: Tensor) -> tuple[Problem, State]:
    """The problem without some of its pixels."""
    from nanobrag_torch.refinement.columns import Layout

    boxes = problem.boxes.keep(wanted)
    place = torch.cumsum(wanted.long(), 0) - 1
    passes, rendered = [], []
    for p, kernel in zip(problem.passes, state.rendered, strict=True):
        if problem.spreading is not None:  # what is rendered stays: it spills into the pixels that are kept
            passes.append(p)
            rendered.append(kernel)
            continue
        where = torch.arange(len(wanted)) if p.where is None else p.where
        kept = wanted[where]
        passes.append(replace(p, where=None if p.where is None else place[where[kept]], column=p.column[kept]))
        rendered.append(kernel[kept])
    smaller = replace(
        problem,
        boxes=boxes,
        layout=Layout(boxes.pixel_block, problem.layout.count),
        passes=tuple(passes),
        background=problem.background[wanted],
        resolution=problem.resolution if problem.spreading is not None else problem.resolution[wanted],
        spreading=None if problem.spreading is None else problem.spreading.keep(wanted),
        fixed_background=problem.fixed_background[wanted],
        shares=None if problem.shares is None else problem.shares[wanted],
    )
    return smaller, smaller.settle(replace(state, rendered=tuple(rendered)))


def with_model_error(problem: Problem, state: State, kappa: float) -> Problem:
    """Pixels weighted by M / (M + (kappa M)^2), where the model may be wrong by kappa of the spot's photons."""
    model = (problem.expected(state) + problem.boxes.readout).clamp(min=0.05)
    spot = problem.spots(state).clamp(min=0.0)
    return replace(problem, shares=model / (model + (kappa * spot) ** 2))


def try_shapes(
    problem: Problem, state: State, shapes: Sequence[CrystalShape], sampling: Sampling
) -> dict[CrystalShape, tuple[float, Tensor]]:
    """The loss of every shape after a few steps from the same point, and the raw parameters there.

    Only some of the brighter boxes are looked at, where the tails of a spot tell one shape from another.
    """
    spots = torch.zeros(len(problem.boxes), dtype=torch.float64)
    spots.index_add_(0, problem.boxes.box, problem.spots(state).clamp(min=0))
    best = torch.zeros(len(spots), dtype=torch.bool)
    best[spots.argsort(descending=True)[:BOXES_FOR_SHAPE]] = True
    fewer, state = keep_pixels(problem, state, best[problem.boxes.box])
    found = {}
    for shape in shapes:
        tried = replace(fewer, model=fewer.model.with_shape(shape).with_sampling(sampling))
        start = tried.settle(State(state.raw, state.linear, tried.render(state.raw)), steps=6)
        solution = levenberg_marquardt(tried, start, most_steps=STEPS_FOR_SHAPE, small_step=0.5)
        found[shape] = (solution.state.objective, solution.state.raw)
    return found


def moved_sigmas(problem: Problem, solution: Solution, sampling: Sampling) -> dict[str, float]:
    """By how many of its standard deviations every parameter would move if the shot were summed as finely as this.

    Slopes are those of the coarser sum: they say where to, not from where.
    """
    finer, state = resampled(problem, solution.state, sampling)
    step = finer.equations(state, solution.jacobian).projected().step().parameters
    before = solution.projected.step().parameters
    sigma = solution.projected.covariance().diagonal().clamp(min=1e-300).sqrt()
    return dict(zip(problem.parameters.names, ((step - before).abs() / sigma).tolist(), strict=True))


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
    )


def refine_sampling(
    problem: Problem, state: State, sampling: Sampling, most_steps: int
) -> tuple[Problem, Solution, str]:
    """Fit with finer and finer sums until none that is twice as fine would move a parameter by 0.3 sigma.

    Also what is left to say where that takes more than is bearable.
    """
    history: list[Progress] = []
    left = ""
    if not problem.model.rotation:
        sampling = replace(sampling, phi_steps=1)
    if not any(name.startswith("spread") for name in problem.parameters.names):
        sampling = replace(sampling, domains=1)
    for _ in range(ROUNDS_OF_SAMPLING):
        problem, state = resampled(problem, state, sampling)
        solution = levenberg_marquardt(problem, state, most_steps=most_steps, small_step=ALLOWED_MOVE)
        history += solution.history
        state, wanted, left = solution.state, sampling, ""
        mosaic = any(name.startswith("spread") for name in problem.parameters.names)
        for finer in finer_samplings(sampling, mosaic=mosaic, rotates=bool(problem.model.rotation)):
            moved = moved_sigmas(problem, solution, finer)
            worst = max(moved, key=lambda name: moved[name])
            if moved[worst] > ALLOWED_MOVE:
                wanted = joined(wanted, bearable(finer, sampling, problem))
                left = f"summed more finely still, {worst} would move by {moved[worst]:.1f} of its sigma"
        if wanted == sampling:
            break
        sampling = wanted
    solution = levenberg_marquardt(problem, state, most_steps=most_steps)
    solution.history[:0] = history
    return problem, solution, left


def log_mean(values: NDArray[np.float64]) -> float:
    """Geometric mean of the positive ones."""
    positive = values[values > 0]
    return float(np.exp(np.log(positive).mean())) if len(positive) else 1.0
