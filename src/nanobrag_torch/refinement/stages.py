"""The stages of a fit between the files and the answer: scale, size and spread, sampling, outliers, shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.refinement.build import predicted_resolution
from nanobrag_torch.refinement.columns import Layout
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.parameters import ParameterSet
from nanobrag_torch.refinement.problem import Pass, Problem, State
from nanobrag_torch.refinement.solver import Linearised, Solution, Walk, downhill

ROUNDS_OF_SCAN = 5
FACTOR = 2.0
FAR_BOX, LEAST_BAD_BOX, FAR_PIXEL = 5.0, 1.5, 6.0
MOST_OUTLIERS = 0.1
MAD = 1.4826
NO_EFFECT = 1e-6
NO_SPREAD, LEAST_SHARE = 0.1, 1e-6
"""Width that a spread adds to spots over that of the crystal's size: less is no spread; of one that has run away."""
ROUGH_STEP = 0.5
"""Standard deviations of a step that ends the comparison of shapes."""
BOXES_FOR_SCAN, BOXES_FOR_SHAPE = 60, 60
FIRST_STEPS, MORE_STEPS = 2, 4
HOPELESS = 100.0
"""Loss above the best after the first steps at which a shape, or a model with fewer parameters, is given up."""
FARTHEST = 3.0
"""How far down the first steps may lead, over what the slopes promise: a shape that needs more is given up at once."""
DARK = 1e-3
"""Photons; a pixel with less is not summed finely, unless it is beside one with more."""
WORTH_A_PARAMETER = 5.0
"""By how much a parameter must lower the loss to be worth it."""


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
    net = net_photons(problem, linear)
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

    All crystals of a shot change together. Priors are centred on what is found. Only the brighter boxes are looked at.
    """
    problem = only_pixels(problem, brightest(problem, net_photons(problem, linear), BOXES_FOR_SCAN))
    tried: dict[tuple[int, int], tuple[float, ParameterSet]] = {}
    has_spread = any(name.startswith("spread") for name in problem.parameters.names)

    def at(size: int, spread: int) -> float:
        nonlocal linear
        if (size, spread) not in tried:
            parameters = _scaled(problem.parameters, FACTOR**size, FACTOR**spread)
            found, state = with_scale(replace(problem, parameters=parameters), linear)
            linear = state.linear if not tried else linear
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


def net_photons(problem: Problem, linear: Tensor) -> Tensor:
    """Photons [n] above the background that the columns give."""
    return problem.boxes.data - (problem.background * linear[problem.layout.block]).sum(1) - problem.fixed_background


def brightest(problem: Problem, photons: Tensor, count: int) -> Tensor:
    """The pixels [n] of so many boxes, those with the most photons [n]."""
    total = torch.zeros(len(problem.boxes), dtype=torch.float64).index_add_(0, problem.boxes.box, photons)
    best = torch.zeros(len(total), dtype=torch.bool)
    best[total.argsort(descending=True)[:count]] = True
    return best[problem.boxes.box]


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


def only_lit(problem: Problem, state: State) -> Problem:
    """The problem with passes that sum only pixels that a crystal lights by the state, pixels beside them included.

    The others keep what the state has for them. A block in which nothing shows yet is summed as a whole, and what was
    lit before stays so.
    """
    fast, passes = problem.model.options.image_shape[1], []
    for p, photons, kernel in zip(problem.passes, problem.amounts(state), state.rendered, strict=True):
        pixels, bright = problem.pixels_of(p), photons.abs() > DARK
        block = problem.rendered_block if p.where is None else problem.rendered_block[p.where]
        shows = torch.zeros(problem.layout.count, dtype=torch.bool)
        shows[block[bright]] = True
        lit = ~shows[block] if p.lit is None else ~shows[block] | p.lit
        for step in (slow * fast + beside for slow in (-1, 0, 1) for beside in (-1, 0, 1)):
            lit |= torch.isin(pixels, pixels[bright] + step)
        passes.append(replace(p, lit=lit, dim=kernel))
    return replace(problem, passes=tuple(passes))


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
    middle = of_boxes.nanmedian()
    spread = MAD * (of_boxes - middle).abs().nanmedian()
    bad = of_boxes > torch.maximum(middle + FAR_BOX * spread, torch.tensor(LEAST_BAD_BOX).double())
    if int(bad.sum()) > MOST_OUTLIERS * len(of_boxes):
        bad = torch.zeros_like(bad)
    far = z.abs() > FAR_PIXEL * middle.clamp(min=1.0)
    if int(far.sum()) > 0.01 * len(z):
        far = torch.zeros_like(far)
    return ~(far | bad[problem.boxes.box]), bad.nonzero()[:, 0].tolist()


def box_sigma_z(problem: Problem, z: Tensor) -> Tensor:
    """Root mean square of (data - model) / sigma of every box [b]; NaN where no pixel is left."""
    count = torch.bincount(problem.boxes.box, minlength=len(problem.boxes))
    total = torch.zeros(len(problem.boxes), dtype=torch.float64).index_add_(0, problem.boxes.box, z * z)
    return torch.sqrt(total / count)


def keep_pixels(problem: Problem, state: State, wanted: Tensor) -> tuple[Problem, State]:
    """The problem and its state without some of its pixels."""
    smaller = only_pixels(problem, wanted)
    rendered = state.rendered  # what spreads stays: it spills into the pixels that are kept
    if problem.spreading is None:
        pairs = zip(problem.passes, rendered, strict=True)
        rendered = tuple(kernel[wanted if p.where is None else wanted[p.where]] for p, kernel in pairs)
    return smaller, smaller.settle(replace(state, rendered=rendered))


def only_pixels(problem: Problem, wanted: Tensor) -> Problem:
    """The problem of some of its pixels."""
    boxes = problem.boxes.keep(wanted)
    passes = problem.passes if problem.spreading is not None else tuple(_kept(p, wanted) for p in problem.passes)
    return replace(
        problem,
        boxes=boxes,
        layout=Layout(boxes.pixel_block, problem.layout.count),
        passes=passes,
        background=problem.background[wanted],
        resolution=problem.resolution if problem.spreading is not None else problem.resolution[wanted],
        spreading=None if problem.spreading is None else problem.spreading.keep(wanted),
        fixed_background=problem.fixed_background[wanted],
        shares=None if problem.shares is None else problem.shares[wanted],
    )


def _kept(p: Pass, wanted: Tensor) -> Pass:
    """A pass over the pixels that are kept."""
    kept = wanted if p.where is None else wanted[p.where]
    lit, dim = (None if of is None else of[kept] for of in (p.lit, p.dim))
    if p.where is None:
        return replace(p, column=p.column[kept], lit=lit, dim=dim)
    place = torch.cumsum(wanted.long(), 0) - 1
    return replace(p, where=place[p.where[kept]], column=p.column[kept], lit=lit, dim=dim)


def with_model_error(problem: Problem, state: State, kappa: float) -> Problem:
    """Pixels weighted by M / (M + (kappa M)^2), where the model may be wrong by kappa of the spot's photons."""
    model = (problem.expected(state) + problem.boxes.readout).clamp(min=0.05)
    spot = problem.spots(state).clamp(min=0.0)
    return replace(problem, shares=model / (model + (kappa * spot) ** 2))


def try_shapes(
    problem: Problem, state: State, shapes: Sequence[CrystalShape], sampling: Sampling
) -> dict[CrystalShape, tuple[float, Tensor]]:
    """The loss of every shape after a few steps from the same point, and the raw parameters there.

    Only some of the brighter boxes are looked at, where the tails of a spot tell one shape from another. One that is
    out of reach of the best so far is not followed.
    """
    fewer, state = of_brightest(problem, state, BOXES_FOR_SHAPE)
    found: dict[CrystalShape, Walk] = {}
    least = float("inf")
    for shape in shapes:
        tried = replace(fewer, model=fewer.model.with_shape(shape).with_sampling(sampling))
        start = Linearised(tried, tried.settle(State(state.raw, state.linear, tried.render(state.raw)), steps=6))
        beyond = start.state.objective - FARTHEST * start.gain > least + HOPELESS
        found[shape] = downhill(start, most_steps=0 if beyond else FIRST_STEPS, small_step=ROUGH_STEP)
        least = min(least, found[shape].state.objective)
    ends = {shape: _unless_hopeless(walk, least).state for shape, walk in found.items()}
    return {shape: (state.objective, state.raw) for shape, state in ends.items()}


def _unless_hopeless(walk: Walk, least: float) -> Walk:
    """A few more steps where the loss may still come down to the least of all."""
    if walk.state.objective > least + HOPELESS or walk.is_over:
        return walk
    return downhill(walk.here, most_steps=MORE_STEPS, small_step=ROUGH_STEP)


def of_brightest(problem: Problem, state: State, count: int) -> tuple[Problem, State]:
    """The same point for the boxes with the most photons in their spots."""
    return keep_pixels(problem, state, brightest(problem, problem.spots(state).clamp(min=0), count))


def share_of_spread(problem: Problem, parameters: ParameterSet) -> float:
    """How wide the largest spread makes the spot furthest out, over how wide its crystal's size makes it."""
    d = predicted_resolution(problem.model, parameters, problem.boxes.spots).min()
    values = parameters.unpack(parameters.pack())
    found = [0.0]
    for number, lattice in enumerate(problem.model.lattices):
        names = [f"{name}{lattice.suffix}" for name in ("spread", "spread_a", "spread_b", "spread_c")]
        edges = torch.linalg.vector_norm(problem.model.rows(values, number), dim=1)
        size = (edges * problem.model.cells(values, number).diagonal()).max()
        found += [float(torch.deg2rad(values[name]) * size / d) for name in names if name in values]
    return max(found)


def without_spread(
    problem: Problem, state: State, parameters: ParameterSet, sampling: Sampling
) -> tuple[ParameterSet | None, Tensor]:
    """Parameters without a spread where they describe the brighter boxes as well, after a few steps of both, or None.

    So they do where the spread adds next to nothing: what little it does then is to stand for what the model lacks.
    Also the raw parameters of the problem that the steps led to.
    """
    fewer, state = of_brightest(problem, state, BOXES_FOR_SHAPE)
    fewer, state = resampled(only_lit(fewer, state), state, sampling)
    whole = downhill(Linearised(fewer, state), most_steps=FIRST_STEPS + MORE_STEPS, small_step=ROUGH_STEP)
    found = fewer.parameters.at(whole.state.raw)
    if share_of_spread(fewer, found) < NO_SPREAD:
        return _of_names(parameters, found), whole.state.raw
    plain, start = with_parameters(fewer, state, parameters)
    without = downhill(Linearised(plain, start), most_steps=FIRST_STEPS, small_step=ROUGH_STEP)
    without = _unless_hopeless(without, whole.state.objective)
    as_well = without.state.objective < whole.state.objective + WORTH_A_PARAMETER
    return parameters.at(without.state.raw) if as_well else None, whole.state.raw


def _of_names(parameters: ParameterSet, others: ParameterSet) -> ParameterSet:
    """The parameters at the values that others of the same names have."""
    values = {p.name: p.value for p in others}
    return ParameterSet([replace(p, value=values[p.name]) for p in parameters])


def with_visible_spread(problem: Problem, state: State, least: float) -> tuple[Problem, State]:
    """The same point, but spreads that add less than a part of the width of the crystal's size add that part.

    Coarse sums can drive a spread towards zero, where nothing leads it back: its slope there is nothing.
    """
    parameters = problem.parameters.at(state.raw)
    share = share_of_spread(problem, parameters)
    if share >= least:
        return problem, state
    factor = least / max(share, LEAST_SHARE)
    raised = [replace(p, value=p.value * factor) if p.name.startswith("spread") else p for p in parameters]
    return with_parameters(problem, state, ParameterSet(raised))
