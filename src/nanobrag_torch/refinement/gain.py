"""The gain of a detector from its noise: counts a photon, which no mean value tells from scale and background.

Counts of a gain g have the mean g M and the variance g^2 M + readout. In the units of a gain that is assumed the mean
goes into scale and planes, and what is left is the ratio of the two gains in the variance. Only pixels that the
crystal hardly lights are asked, for there the model's faults cannot pass for noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.refinement.frames import Frame
from nanobrag_torch.refinement.parameters import Parameter, ParameterSet, Transform
from nanobrag_torch.refinement.problem import Problem, State

DIM = 0.25
"""Photons of the crystal over those of the background in pixels that are asked."""
FAR = 5.0
LEAST_PIXELS = 500
ROUNDS = 20
LEAST = 0.05  # photons


@dataclass(frozen=True)
class Gain:
    """A gain over that which was assumed, its relative standard deviation, and how many pixels told it."""

    ratio: float
    sigma: float
    pixels: int


def gain_of(problem: Problem, state: State, prior: tuple[float, float] = (1.0, float("inf"))) -> Gain | None:
    """The gain by the noise of the dim pixels; None for too few of them. prior: mean and relative deviation."""
    model, spots, readout = problem.expected(state), problem.spots(state), problem.boxes.readout
    squared = (problem.boxes.data - model) ** 2 / (1 - _leverages(problem, state))
    dim = (spots < DIM * (model - spots)) & (model > LEAST)
    dim &= squared < FAR**2 * (1 + squared[dim].median() / (model + readout)[dim].median()) * (model + readout)
    if int(dim.sum()) < LEAST_PIXELS:
        return None
    model, readout, squared = model[dim], readout[dim], squared[dim]
    ratio, precision, known = 1.0, 1.0, (prior[0] * prior[1]) ** -2
    for _ in range(ROUNDS):
        variance = ratio * model + readout
        weight = 1 / (variance * (2 * variance + ratio))  # the inverse variance of a squared Poisson residual
        told = float((weight * model**2).sum())
        before = ratio
        ratio = max((float((weight * model * (squared - readout)).sum()) + known * prior[0]) / (told + known), 1e-3)
        precision = told + known
        if abs(ratio - before) < 1e-6 * ratio:
            break
    return Gain(ratio, float(precision**-0.5 / ratio), int(dim.sum()))


def settled(problem: Problem, state: State, gain: Gain | None, prior: float) -> tuple[Problem, State, Gain | None]:
    """The problem in photons of the gain that its noise tells, over that of the detector; `gain` is what was taken."""
    before = 1.0 if gain is None else gain.ratio
    found = gain_of(problem, state, (1 / before, prior))
    if found is None:
        return problem, state, gain
    problem, state = with_gain(problem, state, found.ratio)
    return problem, state, replace(found, ratio=found.ratio * before)


def _leverages(problem: Problem, state: State) -> Tensor:
    """How much of its own noise the planes and intensities take up in every pixel [n]."""
    columns, _ = problem.columns(state.raw, state.rendered)
    own = problem.equations(state, columns.new_zeros((0, len(columns)))).projected().own_covariance()
    weights = 1 / (problem.expected(state) + problem.boxes.readout).clamp(min=LEAST)
    block = problem.layout.block
    return (weights * torch.einsum("pc,pcd,pd->p", columns, own[block], columns)).clamp(0, 0.9)


def with_gain(problem: Problem, state: State, ratio: float) -> tuple[Problem, State]:
    """The same point in the photons of another gain: data, planes and scales are less by the ratio."""
    boxes, parameters = problem.boxes, problem.parameters.at(state.raw)
    for lattice in problem.model.lattices:
        name = f"scale{lattice.suffix}"
        parameters = parameters.change(name, value=parameters[name].value / ratio)
    changed = replace(
        problem,
        boxes=replace(boxes, data=boxes.data / ratio, readout=boxes.readout / ratio**2),
        parameters=parameters,
        fixed_background=problem.fixed_background / ratio,
    )
    linear = torch.where(problem.prior_mean == 0, state.linear / ratio, state.linear)
    return changed, changed.settle(State(parameters.pack(), linear, state.rendered))


def frame_with_gain(frame: Frame, ratio: float) -> Frame:
    """The image in the photons of another gain."""
    return replace(frame, readout_noise=frame.readout_noise / ratio, gain=frame.gain * ratio)


def with_parameter(parameters: ParameterSet, gain: Gain, frame: Frame) -> ParameterSet:
    """With the gain of a frame among the parameters of a result."""
    sigma = frame.gain * gain.sigma
    found = Parameter(name="gain", value=frame.gain, unit="counts/photon", transform=Transform.POSITIVE, sigma=sigma)
    return ParameterSet([*parameters, found])


def of_gain(experiments: Sequence[ExperimentData], gain: float) -> tuple[ExperimentData, ...]:
    """Experiments whose panels have a gain (counts a photon)."""
    found = []
    for data in experiments:
        assert data.detector is not None
        panels = tuple(replace(panel, gain=gain) for panel in data.detector.panels)
        found.append(replace(data, detector=replace(data.detector, panels=panels)))
    shared = found[0].detector
    return tuple(replace(data, detector=shared) for data in found)
