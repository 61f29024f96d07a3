"""One exposure against its pixels: from files to a refined crystal and detector, intensities, and a verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.images import read_image
from nanobrag_torch.records.tables import ReflectionData
from nanobrag_torch.refinement.build import IntensityPrior, Slots, build_problem, in_table, predicted_resolution
from nanobrag_torch.refinement.centroids import Centroids, predicted, refine_centroids
from nanobrag_torch.refinement.fineness import (
    UNSETTLED,
    coarse_oversample,
    error_of_sampling,
    narrow,
    nearby,
    unsettled,
)
from nanobrag_torch.refinement.frames import Frame, frame_of, noise_of_background, with_offset
from nanobrag_torch.refinement.gain import Gain, frame_with_gain, of_gain, settled, with_parameter
from nanobrag_torch.refinement.groups import without_means
from nanobrag_torch.refinement.image_sampling import finely_summed
from nanobrag_torch.refinement.inputs import Amplitudes, Geometry, PathLike, Shot, read_shot
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.neighbours import neighbours
from nanobrag_torch.refinement.options import SHAPES, Options, options_of
from nanobrag_torch.refinement.parameters import ParameterSet
from nanobrag_torch.refinement.partiality import partiality_of
from nanobrag_torch.refinement.positions import covariance_of, fit_positions, misplaced, moving
from nanobrag_torch.refinement.problem import Problem, State
from nanobrag_torch.refinement.result import (
    Fit,
    StillResult,
    correlations_of,
    degeneracies,
    intensities_of,
    refined_experiments,
)
from nanobrag_torch.refinement.setup import (
    array_index,
    exposure,
    shot_model,
    spectrum_length,
    start_parameters,
)
from nanobrag_torch.refinement.shoeboxes import Shoeboxes, Spots
from nanobrag_torch.refinement.solver import Progress, Solution, levenberg_marquardt
from nanobrag_torch.refinement.spots import Listed, half_size, listed_spots
from nanobrag_torch.refinement.stages import (
    box_sigma_z,
    first_columns,
    keep_pixels,
    outliers,
    resampled,
    scan,
    share_of_spread,
    try_shapes,
    with_parameters,
    with_scale,
    with_visible_spread,
    without_effect,
    without_spread,
)
from nanobrag_torch.refinement.targets import TARGETS
from nanobrag_torch.refinement.verdict import FAILED, verdict

COARSE = Sampling(domains=25, oversample=1, phi_steps=5)
SHAPE_SAMPLING = Sampling(domains=25, oversample=2, phi_steps=5, extrapolated=True)
PINK = Sampling(domains=25, oversample=2, phi_steps=10)
MANY_CHANNELS = 30
FINE = Sampling(domains=25, oversample=2, phi_steps=10, extrapolated=True)
UNCHECKED = Sampling(domains=25, oversample=3, phi_steps=10, extrapolated=True)
VISIBLE_SPREAD = 0.3  # width that a spread gives to spots over that which the crystal's size gives: less may yet grow
CERTAIN_SPREAD = 1.0  # the same: no size of a crystal can stand for more
NO_SHAPE = 2.0  # sigma-Z above which the model is taken to be wrong in the shape of its spots
ROUGH = 1.0  # standard deviations of a step that ends the rough fit


def refine_still(
    experiment: Geometry,
    reflections: PathLike | ReflectionData,
    image: PathLike | NDArray[Any] | None = None,
    structure_factors: Amplitudes | Sequence[Amplitudes] = None,
    **options: Any,
) -> StillResult:
    """Refine one exposure, a still or a frame of a rotation, against its pixels.

    experiment: a `.expt` file or what another geometry reader gives; reflections: a `.refl` file or table; image: a
    file or an array in counts, (slow, fast) or (panel, slow, fast), None: by the experiment's template;
    structure_factors: a file or Reflections. options: fields of Options. Raises InputError for inputs that make no
    refinement; one that does not succeed comes back with status failed and a reason.
    """
    chosen = options_of(options)
    clock = Clock()
    shot = read_shot(
        experiment,
        reflections,
        image,
        structure_factors,
        frame=chosen.frame,
        shot=chosen.shot,
        column=chosen.column,
        spectrum=chosen.spectrum,
    )
    clock.lap("read")
    return Refinement(shot, chosen, clock).run()


class Clock:
    """Seconds of every stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What has passed since the last call belongs to `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class Refinement:
    """One run from a shot to its result; every stage hands the problem and its state on."""

    def __init__(self, shot: Shot, options: Options, clock: Clock) -> None:
        self.shot, self.options, self.clock = shot, options, clock
        self.notes = list(shot.notes)
        self.model = shot_model(shot.experiments, shot.factors, shot.frame, options)
        if (given := spectrum_length(shot.experiments[0])) > (used := len(self.model.base.wavelengths)):
            self.notes.append(f"the spectrum's {given} channels were rebinned to {used} (spectrum_channels)")
        self.start = start_parameters(self.model, shot.experiments, options)
        self.listed = self._listed()
        self.rough: list[Progress] = []
        self.of_positions: Tensor | None = None
        self.gain: Gain | None = None

    def run(self) -> StillResult:
        """All stages; a result in any case."""
        found = self._centroids()
        self.clock.lap("centroids")
        if found.reason:
            return self._failed(found.reason, found.parameters)
        frame, boxes = self._boxes(found)
        self.clock.lap("boxes")
        problem, slots = self._problem(found.parameters, boxes)
        problem, state = self._coarse(problem)
        self.clock.lap("scan")
        problem, state = self._rough(problem, state)
        self.clock.lap("rough fit")
        problem, state = self._gain_of_noise(problem, state)
        problem, state, slots = self._with_neighbours(problem, state, slots)
        self.clock.lap("neighbours")
        problem, state, shapes = self._shapes(problem, state)
        self.clock.lap("shapes")
        problem, solution = self._fine(problem, state)
        self.clock.lap("fine fit")
        problem, solution = self._without_outliers(problem, solution)
        self.clock.lap("outliers")
        problem, solution = self._with_gain(problem, solution)
        problem, solution = self._by_positions(problem, solution)
        self.clock.lap("positions")
        return self._finished(problem, solution, slots, frame, shapes)

    def _listed(self) -> Listed:
        scan = self.shot.experiments[0].scan
        several = scan is not None and scan.frames > 1
        frame = array_index(self.shot.experiments[0], self.shot.frame) if several else None
        return listed_spots(self.shot.table, self.shot.numbers, frame, self.options.flag)

    def _centroids(self) -> Centroids:
        """Parameters after the centroids, with the priors of the rotations about what they gave."""
        listed = self.listed
        seen = listed.spots.rows(listed.observed & in_table(listed.spots, self.model).numpy())
        if not self.options.centroids or len(seen) < 6:
            self.notes.append(
                "centroids were not refined: too few of them" if self.options.centroids else "no centroids"
            )
            none = torch.zeros(0, dtype=torch.float64)
            return Centroids(self.start, none, none, none.bool(), 0.0, "")
        found = refine_centroids(self.model, self.start, seen)
        moved = [
            replace(p, prior=(p.value, p.prior[1])) if p.name.startswith("rot_") and p.prior else p
            for p in found.parameters
        ]
        return replace(found, parameters=ParameterSet(moved))

    def _boxes(self, found: Centroids) -> tuple[Frame, Shoeboxes]:
        shot, options = self.shot, self.options
        detector = shot.experiments[0].detector
        assert detector is not None
        mask = read_image(options.mask).pixels if isinstance(options.mask, str | Path) else options.mask
        frame = frame_of(
            shot.counts, detector, gain=options.gain, pedestal=options.pedestal, readout_noise=options.readout_noise,
            mask=None if mask is None else np.asarray(mask) != 0, trusted_range=options.trusted_range,
        )  # fmt: skip
        spots, listed = self._chosen_spots(found.parameters)
        half = (options.half_box,) * 2 if options.half_box else half_size(listed, frame)
        told = options.pedestal is not None or options.readout_noise is not None
        frame = frame if told or self.gain_is_free else with_offset(frame, noise_of_background(frame))
        self.notes += frame.notes
        return frame, Shoeboxes.about(spots, frame, (half[0], half[1]))

    def _chosen_spots(self, parameters: ParameterSet) -> tuple[Spots, Listed]:
        """The strongest spots inside the limits, those that fell far from their prediction left out."""
        listed, options = self.listed, self.options
        spots = listed.spots
        where = predicted(self.model, parameters.unpack(parameters.pack()), spots)
        calculated = where.centre.numpy()
        centre = np.where(listed.observed[:, None], spots.centre, calculated)
        off = np.linalg.norm(centre - calculated, axis=1)
        d = predicted_resolution(self.model, parameters, spots).numpy()
        kept = (off < 5) & in_table(spots, self.model).numpy() & where.forward.numpy()
        kept &= (d >= (options.d_min or 0)) & (d <= (options.d_max or np.inf))
        if not kept.any():
            raise InputError(
                "reflections", f"{len(spots)} indexed", "some within the limits and near their predictions"
            )
        if (lost := int((~kept).sum())) > 0.02 * len(spots):
            self.notes.append(f"{lost} of {len(spots)} reflections were left out: far from prediction, or without F")
        order = np.argsort(-listed.strength[kept], kind="stable")[: options.boxes]
        rows = np.sort(np.flatnonzero(kept)[order])
        spots = replace(spots, centre=centre).rows(rows)
        extent = None if listed.extent is None else listed.extent[rows]
        return spots, Listed(spots, listed.observed[rows], listed.strength[rows], extent)

    def _with_neighbours(self, problem: Problem, state: State, slots: Slots) -> tuple[Problem, State, Slots]:
        """With intensities for reflections that light the boxes of others, as the model now predicts them."""
        if self.options.intensities == "held" or not self.options.neighbours:
            return problem, state, slots
        parameters = problem.parameters.at(state.raw)
        found = neighbours(problem.model, parameters, problem.boxes)
        if not len(found):
            return problem, state, slots
        self.notes.append(f"{len(found)} more reflections share the pixels of {len(set(found.row.tolist()))} boxes")
        problem, slots = self._problem(parameters, problem.boxes, found)
        linear = torch.zeros_like(problem.prior_mean)
        linear[:, : state.linear.shape[1]] = state.linear
        fresh = slots.spot < 0
        linear[slots.block[fresh], slots.column[fresh]] = 1.0
        raw = parameters.pack()
        return problem, problem.settle(State(raw, linear, problem.render(raw)), steps=8), slots

    def _problem(self, parameters: ParameterSet, boxes: Shoeboxes, more: Spots | None = None) -> tuple[Problem, Slots]:
        prior = IntensityPrior(free=self.options.intensities == "free", sigma_F=self.options.sigma_F)
        shape = SHAPES[0] if self.options.shape == "auto" else CrystalShape(self.options.shape)
        coarse = COARSE if self.options.sampling is None else self.options.sampling
        return build_problem(
            self.model.with_shape(shape).with_sampling(coarse),
            parameters,
            boxes,
            self.shot.factors,
            prior=prior,
            target=TARGETS[self.options.target],
            background=self.options.background,
            neighbours=more,
            spread_shape=self.options.psf_shape,
        )

    def _coarse(self, problem: Problem) -> tuple[Problem, State]:
        linear = first_columns(problem)
        problem = self._coarsely_summed(problem)
        problem = self._coarsely_summed(replace(problem, parameters=scan(problem, linear)))
        parameters, state = with_scale(problem, linear)
        return replace(problem, parameters=parameters), state

    def _coarsely_summed(self, problem: Problem) -> Problem:
        """Summed so finely that spots narrower than a pixel are seen."""
        if self.options.sampling is not None:
            return problem
        sampling = replace(problem.model.sampling, oversample=coarse_oversample(problem))
        return replace(problem, model=problem.model.with_sampling(sampling))

    def _rough(self, problem: Problem, state: State) -> tuple[Problem, State]:
        """A few steps with coarse sums; what turns out to change nothing is held from here on."""
        solution = levenberg_marquardt(problem, state, most_steps=self.options.most_steps, small_step=ROUGH)
        self.rough = solution.history
        parameters = problem.parameters.at(solution.state.raw)
        for name in without_effect(problem, solution):
            parameters = parameters.change(name, free=False)
            self.notes.append(f"{name} has no effect on this shot and was held")
        if len(parameters) < len(problem.parameters):
            return with_parameters(problem, solution.state, parameters)
        return problem, solution.state

    def _shapes(self, problem: Problem, state: State) -> tuple[Problem, State, dict[str, float]]:
        """The shape that fits best, by how much the others fit worse."""
        if self.options.shape != "auto":
            return problem, state, {}
        coarse = problem.model.sampling
        sampling = coarse if self.options.sampling is not None else narrow(SHAPE_SAMPLING, coarse)
        found = try_shapes(problem, state, SHAPES, sampling)
        best = min(found, key=lambda shape: found[shape][0])
        above = {shape.value: loss - found[best][0] for shape, (loss, _) in found.items()}
        problem = replace(problem, model=problem.model.with_shape(best))
        raw = found[best][1]
        return problem, problem.settle(State(raw, state.linear, problem.render(raw)), steps=6), above

    def _fine(self, problem: Problem, state: State) -> tuple[Problem, Solution]:
        """The fit with sums that are fine enough, with and without a spread where there may be none."""
        most = self.options.most_steps
        if self.options.sampling is not None:
            problem, state = resampled(problem, state, self.options.sampling)
            solution = levenberg_marquardt(problem, state, most_steps=most)
            self.notes += [left] if self.options.check_sampling and (left := unsettled(problem, solution)) else []
            return problem, solution
        problem, state = self._without_spread(problem, state)
        if not self.options.check_sampling or self._is_pink(problem):
            problem, state = resampled(problem, state, self._fine_sampling(problem))
            return problem, levenberg_marquardt(problem, state, most_steps=most)
        problem, solution, left = finely_summed(problem, state, FINE, most)
        self.notes += [left] if left else []
        return problem, solution

    def _is_pink(self, problem: Problem) -> bool:
        """Whether there are so many wavelengths that they are sampling enough."""
        return len(problem.model.base.wavelengths) > MANY_CHANNELS

    def _fine_sampling(self, problem: Problem) -> Sampling:
        return narrow(PINK if self._is_pink(problem) else UNCHECKED, problem.model.sampling)

    def _without_spread(self, problem: Problem, state: State) -> tuple[Problem, State]:
        """Without mosaicity where the shot fits as well without."""
        free = [name for name in problem.parameters.names if name.startswith("spread")]
        if not free or self.options.mosaic:
            return problem, state
        if share_of_spread(problem, problem.parameters.at(state.raw)) > CERTAIN_SPREAD:
            return problem, state
        problem, state = with_visible_spread(problem, state, VISIBLE_SPREAD)
        fixed = ParameterSet([p for p in problem.parameters.at(state.raw) if not p.name.startswith("spread")])
        plain, raw = without_spread(problem, state, fixed, self._fine_sampling(problem))
        if plain is None:
            return problem, problem.settle(State(raw, state.linear, problem.render(raw)))
        self.notes.append("the spots are as wide as the crystal's size makes them: no mosaic spread")
        return with_parameters(problem, state, plain)

    def _without_outliers(self, problem: Problem, solution: Solution) -> tuple[Problem, Solution]:
        """A few more steps without the boxes and pixels that fit much worse than all others."""
        wanted, boxes = outliers(problem, solution.state)
        if bool(wanted.all()):
            return problem, solution
        if boxes:
            self.notes.append(f"{len(boxes)} boxes fit much worse than the others and were left out")
        problem, state = keep_pixels(problem, solution.state, wanted)
        again = nearby(problem, state, solution.jacobian[:, wanted], self.options.most_steps)
        again.history[:0] = solution.history
        return problem, again

    @property
    def gain_is_free(self) -> bool:
        """Whether the detector's gain is asked for."""
        return "gain" in self.options.free

    def _gain_of_noise(self, problem: Problem, state: State) -> tuple[Problem, State]:
        if not self.gain_is_free:
            return problem, state
        prior = self.options.priors.get("gain", float("inf"))
        problem, state, self.gain = settled(problem, state, self.gain, prior)
        return problem, state

    def _with_gain(self, problem: Problem, solution: Solution) -> tuple[Problem, Solution]:
        """The gain once more, now that the model is right, and the fit with it."""
        if not self.gain_is_free:
            return problem, solution
        problem, state = self._gain_of_noise(problem, solution.state)
        if self.gain is None:
            self.notes.append("gain was held: too few pixels without a spot tell of their noise")
            return problem, solution
        again = levenberg_marquardt(problem, state, most_steps=self.options.most_steps)
        again.history[:0] = solution.history
        return problem, again

    def _by_positions(self, problem: Problem, solution: Solution) -> tuple[Problem, Solution]:
        """Where no shape fits the geometry is that of the spots' positions, which know less of the shape."""
        off = float(problem.sigma_z(solution.state).std())
        if off < NO_SHAPE or not moving(problem.parameters) or solution.status == "limit":
            return problem, solution
        found = fit_positions(problem, solution, self.options.most_steps)
        ruled = "boxes are too small for positions" if found is None else "geometry is that of the spots' positions"
        self.notes.append(f"the model does not fit (sigma-Z {off:.1f}): {ruled}")
        problem, solution, self.of_positions = found or (problem, solution, None)
        return problem, solution

    def _misplaced(self, problem: Problem, solution: Solution) -> float | None:
        return None if self.of_positions is None else misplaced(problem, solution)

    def _finished(
        self, problem: Problem, solution: Solution, slots: Slots, frame: Frame, shapes: dict[str, float]
    ) -> StillResult:
        state = solution.state
        z = problem.sigma_z(state)
        fit = Fit(problem, state, slots, solution.projected, solution.jacobian, frame)
        covariance, of_sums = covariance_of(problem, solution, self.of_positions), None
        if any(note.startswith(UNSETTLED) for note in self.notes):
            of_parameters, of_sums = error_of_sampling(problem, solution)
            covariance = covariance + of_parameters
        own = without_means(problem.model.groups, problem.parameters.names, covariance)
        parameters = problem.parameters.at(state.raw, own)
        status, reason = verdict(problem, solution, self._misplaced(problem, solution))
        share = partiality_of(problem.model, problem.parameters.unpack(state.raw), problem.boxes.spots)
        intensities = intensities_of(fit, share, covariance, of_sums)
        self.notes += degeneracies(problem.parameters, own)
        if self.gain is not None:
            frame = frame_with_gain(frame, self.gain.ratio)
            fit = replace(fit, frame=frame)
            parameters = with_parameter(parameters, self.gain, frame)
        _, _, angle = exposure(self.shot.experiments[0], self.shot.frame)
        experiments = refined_experiments(self.shot, problem, state.raw, angle)
        if self.gain is not None:
            experiments = of_gain(experiments, frame.gain)
        self.clock.lap("result")
        return StillResult(
            status=status,
            reason=reason,
            parameters=parameters,
            start=self.start,
            experiments=experiments,
            intensities=intensities,
            sigma_z=float(z.std()),
            box_sigma_z=box_sigma_z(problem, z).numpy(),
            history=(*self.rough, *solution.history),
            shape=problem.model.lattices[0].shape,
            shapes=shapes,
            notes=tuple(self.notes),
            correlations=correlations_of(problem.parameters, own),
            seconds=self.clock.seconds,
            fit=fit,
            shot=self.shot,
        )

    def _failed(self, reason: str, parameters: ParameterSet) -> StillResult:
        return StillResult(
            status=FAILED,
            reason=reason,
            parameters=parameters,
            start=self.start,
            experiments=self.shot.experiments,
            intensities=None,
            sigma_z=float("nan"),
            box_sigma_z=np.zeros(0),
            history=(),
            shape=self.model.lattices[0].shape,
            notes=tuple(self.notes),
            seconds=self.clock.seconds,
            shot=self.shot,
        )
