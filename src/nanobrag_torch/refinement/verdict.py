"""Whether a refinement can be believed: named failures, each with the figure that gave it away."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobrag_torch.refinement.columns import Layout
from nanobrag_torch.refinement.problem import Problem, State
from nanobrag_torch.refinement.shoeboxes import PLANE
from nanobrag_torch.refinement.solver import Solution

CONVERGED, STALLED, FAILED = "converged", "stalled", "failed"
SEEN = 8.0  # standard deviations of a box's signal above the background
UNEXPLAINED_BOX, UNEXPLAINED = 0.7, 0.4
MOST_UNEXPLAINED_BOXES, MOST_MISPLACED = 0.2, 0.2
LEAST_SIGNAL = 6.0  # standard deviations, of all spots together
LEAST_PLANE = 1e-9
FAR_FROM_PRIOR = 4.0
HELD_TO_PRIOR = ("a", "b", "c", "alpha", "beta", "gamma", "distance", "wavelength", "beam_x", "beam_y")
ENDS = {
    "stalled": "no step makes the fit better, yet it is not at a minimum",
    "steps": "the largest number of steps was not enough",
    "limit": "every step was cut short: the start is too far away",
}


def verdict(problem: Problem, solution: Solution, misplaced: float | None = None) -> tuple[str, str]:
    """The status of a fit, and why it is not `converged`.

    misplaced: the part of the spots that lie elsewhere, where positions ruled. Shapes may be wrong in any box then.
    """
    state = solution.state
    if not torch.isfinite(torch.tensor(state.objective)):
        return FAILED, "the model is not finite"
    if (signal := total_signal(problem, state)) < LEAST_SIGNAL:
        return FAILED, f"no signal where the spots should be: {signal:.1f} sigma in all boxes together"
    whole, boxes = unexplained(problem, state)
    if misplaced is not None and misplaced > MOST_MISPLACED:
        return FAILED, f"{100 * misplaced:.0f}% of the spots are not where the model has them"
    if misplaced is None and boxes > MOST_UNEXPLAINED_BOXES:
        return FAILED, f"{100 * boxes:.0f}% of the boxes with a spot are not explained by the model"
    if whole > UNEXPLAINED:
        return FAILED, f"{100 * whole:.0f}% of the spots' signal is not explained by the model"
    for name, off in far_from_prior(problem, state).items():
        return FAILED, f"{name} moved {off:.1f} standard deviations of its prior"
    if solution.status in ENDS:
        return STALLED, ENDS[solution.status]
    return CONVERGED, ""


def total_signal(problem: Problem, state: State) -> float:
    """Photons of every box's spot over their standard deviation, added up over the root of the number of boxes.

    Each is signed, and so is a normal deviate where there is nothing: free intensities fit noise of either sign. What a
    plane explains as well is no signal: a spot may be as wide as its box.
    """
    spots, boxes = problem.spots(state), problem.boxes
    level = (problem.expected(state) - spots + boxes.readout).clamp(min=0.05)
    columns = torch.cat((spots.abs()[:, None], boxes.basis), 1)
    left = (boxes.data + boxes.readout - level) / level
    gram, right = Layout(boxes.box, len(boxes)).gram(columns, 1 / level, left)
    planes = gram[:, 1:, 1:] + LEAST_PLANE * torch.eye(PLANE, dtype=torch.float64)
    as_plane = torch.linalg.solve(planes, gram[:, 1:, :1])[..., 0]
    matched = right[:, 0] - (as_plane * right[:, 1:]).sum(1)
    noise = gram[:, 0, 0] - (as_plane * gram[:, 0, 1:]).sum(1)
    lit = noise > LEAST_PLANE * gram[:, 0, 0]
    return float((matched[lit] / noise[lit].sqrt()).sum() / max(int(lit.sum()), 1) ** 0.5)


def unexplained(problem: Problem, state: State) -> tuple[float, float]:
    """The part of the squared signal that the model leaves over, of all boxes and of how many boxes by themselves."""
    boxes = problem.boxes
    model, spot = problem.expected(state), problem.spots(state)
    background = model - spot
    variance = (model + boxes.readout).clamp(min=0.05)
    left = _by_box(boxes.box, (boxes.data - model) ** 2 - variance, len(boxes))
    signal = _by_box(boxes.box, (boxes.data - background) ** 2 - variance, len(boxes))
    noise = torch.sqrt(_by_box(boxes.box, 2 * variance**2, len(boxes)))
    seen = signal > SEEN * noise
    if not bool(seen.any()):
        return 0.0, 0.0
    share = (left / signal.clamp(min=1e-30)).clamp(min=0, max=2)
    weighted = torch.sqrt(signal.clamp(min=0))
    whole = float((share * weighted)[seen].sum() / weighted[seen].sum())
    return whole, float((share[seen] > UNEXPLAINED_BOX).double().mean())


def _by_box(box: Tensor, values: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.float64).index_add_(0, box, values)


def far_from_prior(problem: Problem, state: State) -> dict[str, float]:
    """Parameters of geometry further than four standard deviations from what was known of them."""
    above, precision = problem.parameters.prior_terms(state.raw)
    off = above.abs() * precision.sqrt()
    pairs = zip(problem.parameters.names, off.tolist(), strict=True)
    return {n: o for n, o in pairs if o > FAR_FROM_PRIOR and n.partition("@")[0] in HELD_TO_PRIOR}
