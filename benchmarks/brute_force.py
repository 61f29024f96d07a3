"""The equations of shots that share intensities as one dense matrix of everything, straight from the pixels.

Nothing is eliminated: parameters of every shot, three planes a box and the shared intensities stand side by side, so
that the elimination and the conjugate gradients of the library have something independent to be compared with.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from nanobrag_torch.refinement.ensemble import Ensemble
from nanobrag_torch.refinement.shared_shot import SharedShot

Floats = NDArray[np.float64]


class Dense(NamedTuple):
    """Gauss-Newton's step of the whole: of every shot's parameters, one after the other, and of the intensities [N].

    Intensities that no shot has are left at zero.
    """

    parameters: Floats
    intensities: Floats
    unknowns: int


def dense_step(ensemble: Ensemble) -> Dense:
    """One undamped step about where the shots stand, with the ensemble's prior and gauge."""
    shots = [shot for shot in ensemble.shots if shot.weight > 0]
    seen = np.unique(np.concatenate([shot.reflections.numpy() for shot in shots]))
    designs = [_design(shot, seen) for shot in shots]
    parameters = [len(shot.state.raw) for shot in shots]
    planes = [design.shape[1] - count - len(seen) for (design, _, _), count in zip(designs, parameters, strict=True)]
    own = sum(parameters) + sum(planes)
    matrix, right = np.zeros((own + len(seen), own + len(seen))), np.zeros(own + len(seen))
    first, plane = 0, sum(parameters)
    for shot, (design, weight, slope), count, more in zip(shots, designs, parameters, planes, strict=True):
        places = np.r_[first : first + count, plane : plane + more, own : own + len(seen)]
        gram = design.T @ (design * weight[:, None])
        downhill = -design.T @ slope
        above, precision = (part.numpy() for part in shot.problem.parameters.prior_terms(shot.state.raw))
        gram[np.arange(count), np.arange(count)] += precision
        downhill[:count] -= precision * above
        matrix[np.ix_(places, places)] += shot.weight * gram
        right[places] += shot.weight * downhill
        first, plane = first + count, plane + more
    prior = ensemble.prior.at(ensemble.x, ensemble.shared)
    unit = torch.zeros((len(ensemble.x), len(seen)), dtype=torch.float64)
    unit[seen, torch.arange(len(seen))] = 1
    matrix[own:, own:] += prior.product(unit)[seen].numpy()
    right[own:] += prior.pull[seen].numpy()
    mean = ensemble.shared.intensity.numpy()[seen]
    gauge = np.zeros(len(right))
    gauge[own:] = mean / mean.sum()
    gap = float(gauge[own:] @ (1 - ensemble.x.numpy()[seen]))
    step = _bordered(matrix, right, gauge, gap)
    intensities = np.zeros(len(ensemble.x))
    intensities[seen] = step[own:]
    return Dense(step[: sum(parameters)], intensities, len(right))


def _design(shot: SharedShot, seen: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Slopes [n, T + planes + N] of every pixel, and weight and slope [n] of its loss."""
    problem, state = shot.problem, shot.state
    columns, _ = problem.columns(state.raw, state.rendered)
    terms = problem.target.terms(problem.boxes.data, problem.expected(state), problem.boxes.readout)
    block, values = problem.layout.block.numpy(), columns.numpy()
    pixels = np.arange(len(block))
    planes = np.zeros((len(block), problem.layout.count, values.shape[1]))
    for column in range(values.shape[1]):
        planes[pixels, block, column] = values[:, column]
    intensities = np.zeros((len(block), len(seen)))
    for number, (b, c) in enumerate(zip(shot.slots.block.tolist(), shot.slots.column.tolist(), strict=True)):
        place = np.searchsorted(seen, int(shot.reflections[number]))
        intensities[:, place] += planes[:, b, c] * float(shot.ratio[number])
        planes[:, b, c] = 0
    flat = planes.reshape(len(block), -1)
    flat = flat[:, (flat != 0).any(0)]
    whole = np.concatenate([problem.jacobian(state).numpy().T, flat, intensities], 1)
    return whole, terms.weight.numpy(), terms.slope.numpy()


def _bordered(matrix: Floats, right: Floats, gauge: Floats, gap: float) -> Floats:
    """The solution with gauge @ step = gap, after scaling to a unit diagonal, with one refinement."""
    scale = matrix.diagonal() ** -0.5
    whole = np.block([[matrix * scale[:, None] * scale, (gauge * scale)[:, None]], [gauge * scale, np.zeros(1)]])
    target = np.append(right * scale, gap)
    factors = scipy.linalg.lu_factor(whole)
    step = scipy.linalg.lu_solve(factors, target)
    step += scipy.linalg.lu_solve(factors, target - whole @ step)
    return np.asarray(step[:-1] * scale)
