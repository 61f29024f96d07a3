"""What a refinement found: parameters and intensities with standard deviations, and how well the model fits."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import operation
from nanobrag_torch.records.experiment import CrystalData, DetectorData, ExperimentData, GroupData
from nanobrag_torch.refinement.build import Slots
from nanobrag_torch.refinement.equations import Projected
from nanobrag_torch.refinement.frames import Frame
from nanobrag_torch.refinement.inputs import Shot
from nanobrag_torch.refinement.parameters import ParameterSet
from nanobrag_torch.refinement.problem import Problem, State
from nanobrag_torch.refinement.setup import fluence_of, held
from nanobrag_torch.refinement.solver import Progress
from nanobrag_torch.refinement.verdict import CONVERGED, FAILED, STALLED
from nanobrag_torch.response.config import SpreadConfig
from nanobrag_torch.response.spread import Spread
from nanobrag_torch.units import ANGSTROM, MM

EXIT_CODES = {CONVERGED: 0, STALLED: 3, FAILED: 4}
HIGH_CORRELATION = 0.95
OUTSIDE_OVERSAMPLE = 2


@dataclass(frozen=True, eq=False)
class Intensities:
    """Integrated reflections, a row each.

    intensity is F^2 on the scale of the structure factors that were given; photons is what the spot has in its box by
    the model, with its standard deviation; partiality is the recorded part of what the brightest possible setting of
    the reflection would give.
    """

    hkl: NDArray[np.int64]
    crystal: NDArray[np.int64]
    intensity: NDArray[np.float64]
    sigma: NDArray[np.float64]
    photons: NDArray[np.float64]
    photons_sigma: NDArray[np.float64]
    background: NDArray[np.float64]  # mean photons a pixel
    partiality: NDArray[np.float64]
    start: NDArray[np.float64]  # F^2 that was given
    box: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.hkl)


@dataclass(frozen=True, eq=False)
class Fit:
    """The mathematics behind a result: enough to go on from, or to put together with other shots.

    projected holds A, B, D, g and h of the shot; slots the column of every reflection.
    """

    problem: Problem
    state: State
    slots: Slots
    projected: Projected
    jacobian: Tensor  # [T, n] of the model by the raw parameters
    frame: Frame


@dataclass(frozen=True, eq=False)
class StillResult:
    """A refined exposure. `status` is converged, stalled or failed; `reason` says why it is not the first."""

    status: str
    reason: str
    parameters: ParameterSet
    start: ParameterSet
    experiments: tuple[ExperimentData, ...]
    intensities: Intensities | None
    sigma_z: float
    box_sigma_z: NDArray[np.float64]
    history: tuple[Progress, ...]
    shape: CrystalShape
    shapes: Mapping[str, float] = field(default_factory=dict)  # loss above the best's; of one given up, as it began
    notes: tuple[str, ...] = ()
    correlations: tuple[tuple[str, str, float], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    fit: Fit | None = None
    shot: Shot | None = None

    @property
    def experiment(self) -> ExperimentData:
        """The refined experiment of the first crystal."""
        return self.experiments[0]

    @property
    def steps(self) -> int:
        """Accepted steps of all fits, the rough one and those with finer sums."""
        return len(self.history)

    @property
    def exit_code(self) -> int:
        """0 converged, 3 stalled, 4 failed."""
        return EXIT_CODES[self.status]

    @property
    def fluence(self) -> float:
        """Photons per square metre that the scale of the first crystal means."""
        values = {p.name: torch.tensor(p.value, dtype=torch.float64) for p in self.parameters}
        if self.fit is None:
            return float("nan")
        return fluence_of(float(values["scale"]), self.fit.problem.model.cells(values, 0))

    def bragg_image(self) -> Tensor:
        """The crystals' photons alone, shaped like the image: (slow, fast), or (panel, slow, fast) of several panels.

        Reflections that were integrated have their refined intensities, all others those of the structure factors that
        were given. Pixels outside of the boxes are summed over two by two samples at most. Raises InputError where the
        refinement failed before there was a model.
        """
        if self.fit is None:
            raise InputError("result", self.status, f"a refinement that has a model; this one has none: {self.reason}")
        problem, state = self.fit.problem, self.fit.state
        model, values = problem.model, problem.parameters.unpack(state.raw)
        slow, fast = model.options.image_shape
        total = torch.zeros(len(model.base.panels) * slow * fast, dtype=torch.float64)
        for number, lattice in enumerate(model.lattices):
            table = self._refined_table(number)
            scene, options = model.scene(values, number, table), model.options_of(number)
            options = replace(options, oversample=min(options.oversample, OUTSIDE_OVERSAMPLE))
            total += operation.intensity(None, scene, options).double() * values[f"scale{lattice.suffix}"]
        if problem.spreading is not None:
            total = self._spread_image(total)
        total[problem.boxes.pixels] = problem.spots(state)
        shape = (slow, fast) if len(model.base.panels) == 1 else (len(model.base.panels), slow, fast)
        return total.reshape(shape)

    def _spread_image(self, total: Tensor) -> Tensor:
        """A flat image after the detector's spread."""
        assert self.fit is not None and self.fit.problem.spreading is not None
        slow, fast = self.fit.problem.model.options.image_shape
        width = torch.tensor(self.parameters["psf_width"].value, dtype=torch.float64)
        spread = Spread(SpreadConfig(shape=self.fit.problem.spreading.shape, fwhm_um=width), (1e-6, 1e-6))
        return spread(total.reshape(-1, slow, fast)).reshape(-1)

    def _refined_table(self, number: int) -> Tensor:
        assert self.fit is not None
        lattice, slots, linear = self.fit.problem.model.lattices[number], self.fit.slots, self.fit.state.linear
        table = lattice.structure_factors.clone()
        mine = torch.from_numpy(np.flatnonzero(slots.crystal == number))
        place = torch.from_numpy(slots.hkl)[mine] - torch.tensor(lattice.hkl_first)
        factor = linear[slots.block[mine], slots.column[mine]].clamp(min=0).sqrt()
        table[tuple(place.T)] = (slots.amplitude[mine] * factor).to(table.dtype)
        return table

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write refined.expt, refined.refl, parameters, unmerged.mtz and figures into a folder, all or none."""
        from nanobrag_torch.refinement.outputs import write_result

        write_result(self, folder)

    def show(self, target: str | os.PathLike[str] | None = None) -> Path:
        """The page of this fit, written to a target or a passing file and opened where there is a desktop; its path."""
        from nanobrag_torch.refinement.outputs import write_result
        from nanobrag_torch.report.opening import shown
        from nanobrag_torch.report.shot import write_shot_page

        with TemporaryDirectory() as folder:
            write_result(self, folder, figures=False)
            return shown(lambda page: write_shot_page(folder, page), target)

    def _repr_png_(self) -> bytes | None:
        """Its boxes, for notebooks."""
        from nanobrag_torch.refinement.figures import draw_boxes

        if self.fit is None:
            return None
        picture = io.BytesIO()
        draw_boxes(self, picture)
        return picture.getvalue()

    def summary(self) -> str:
        """One line: status, sigma-Z, steps and the number of reflections."""
        count = 0 if self.intensities is None else len(self.intensities)
        state = self.status if not self.reason else f"{self.status} ({self.reason})"
        return (
            f"{state}: sigma-Z {self.sigma_z:.3f}, {self.steps} steps, {count} reflections, {self.shape.value} crystal"
        )

    def __str__(self) -> str:
        """The summary, every parameter with its standard deviation, and what was noted."""
        lines = [self.summary(), self.parameters.table()]
        lines += [f"correlated: {a} with {b}, {c:+.3f}" for a, b, c in self.correlations]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def intensities_of(
    fit: Fit, partiality: NDArray[np.float64], of_parameters: Tensor, of_sums: Tensor | None = None
) -> Intensities:
    """Integrated reflections of the boxes of a fit, with standard deviations that know the parameters' own.

    of_parameters: their covariance [T, T]; of_sums: variances [blocks, C] that sums too coarse add to the columns.
    """
    problem, state, slots = fit.problem, fit.state, fit.slots
    boxed = slots.spot >= 0
    covariance = fit.projected.linear_covariance(of_parameters)
    if of_sums is not None:
        covariance = covariance + torch.diag_embed(of_sums)
    block, column = slots.block[boxed], slots.column[boxed]
    amount = state.linear[block, column]
    sigma = covariance[block, column, column].clamp(min=0).sqrt()
    columns, _ = problem.columns(state.raw, state.rendered)
    own = torch.zeros(problem.layout.count, columns.shape[1], dtype=torch.float64)
    own.index_add_(0, problem.layout.block, columns)
    profile = own[block, column]
    squared = slots.amplitude[boxed] ** 2
    level = (problem.background * state.linear[problem.layout.block]).sum(1) + problem.fixed_background
    count = torch.bincount(problem.boxes.box, minlength=len(problem.boxes)).clamp(min=1)
    mean = torch.zeros(len(problem.boxes), dtype=torch.float64).index_add_(0, problem.boxes.box, level) / count
    return Intensities(
        hkl=slots.hkl[boxed.numpy()],
        crystal=slots.crystal[boxed.numpy()],
        intensity=(amount * squared).numpy(),
        sigma=(sigma * squared).numpy(),
        photons=(amount * profile).numpy(),
        photons_sigma=_photons_sigma(fit, profile, boxed).numpy(),
        background=mean[slots.spot[boxed]].numpy(),
        partiality=partiality,
        start=squared.numpy(),
        box=slots.spot[boxed].numpy(),
    )


def _photons_sigma(fit: Fit, profile: Tensor, boxed: Tensor) -> Tensor:
    """Of the photons of each spot: the variances of its intensity and of its profile, taken together."""
    problem, state, slots = fit.problem, fit.state, fit.slots
    jacobian = fit.jacobian
    block, column = slots.block[boxed], slots.column[boxed]
    amount = state.linear[block, column]
    of_block = torch.zeros((problem.layout.count, len(jacobian)), dtype=torch.float64)
    of_block.index_add_(0, problem.layout.block, jacobian.T)
    shared = torch.bincount(slots.block, minlength=problem.layout.count)
    alone = (shared[block] == 1)[:, None]
    slope = torch.where(alone, of_block[block], torch.zeros_like(of_block[block]))  # [r, T] of the photons
    covariance = fit.projected.covariance()
    follow = fit.projected.follow_rows()[block, column]  # d amount = free - follow . d parameters
    own = fit.projected.own_covariance()[block, column, column]
    total = slope - profile[:, None] * follow
    variance = profile**2 * own + torch.einsum("rt,tu,ru->r", total, covariance, total)
    return torch.where(amount.isfinite(), variance.clamp(min=0).sqrt(), torch.zeros_like(variance))


def correlations_of(parameters: ParameterSet, covariance: Tensor) -> tuple[tuple[str, str, float], ...]:
    """Pairs of free parameters whose correlation is above 0.95 in size, but for one move of different groups.

    These have no mean in common, so that of two groups one is the other.
    """
    sigma = covariance.diagonal().clamp(min=1e-300).sqrt()
    matrix = covariance / sigma[:, None] / sigma
    names, found = parameters.names, []
    for i in range(len(names)):
        for j in range(i):
            alike = ":" in names[i] and names[i].partition(":")[2] == names[j].partition(":")[2]
            if abs(float(matrix[i, j])) > HIGH_CORRELATION and not alike:
                found.append((names[j], names[i], float(matrix[i, j])))
    return tuple(found)


def degeneracies(parameters: ParameterSet, covariance: Tensor) -> list[str]:
    """What one shot cannot tell apart: lengths that scale together, and what is known from its prior more than from it.

    Distance, cell and wavelength scale the pattern together; with two of them free, their priors hold what is common.
    """
    names, found = parameters.names, []
    sigma = covariance.diagonal().clamp(min=1e-300).sqrt()
    alike = [n for n in names if n.partition("@")[0] in SCALING]
    kinds = {"cell" if n.partition("@")[0] in "abc" else n for n in alike}
    places = [names.index(n) for n in alike]
    matrix = (covariance / sigma[:, None] / sigma)[places][:, places].abs()
    closest = float((matrix - torch.eye(len(places))).max()) if len(places) > 1 else 0.0
    if len(kinds) > 1 and closest > HIGH_CORRELATION:
        every = " and ".join(sorted(kinds))
        found.append(f"{every} scale the pattern together (correlation {closest:.3f}): priors hold it")
    known = [n for n, s in zip(names, sigma.tolist(), strict=True) if (p := parameters[n].prior) and s > p[1] / 2]
    if known:
        found.append(f"{', '.join(known)}: known from the prior more than from this shot")
    return found


SCALING = ("a", "b", "c", "distance", "wavelength")


def refined_experiments(shot: Shot, problem: Problem, raw: Tensor, angle_deg: float) -> tuple[ExperimentData, ...]:
    """The experiments with refined crystals, detector and beam, in the frames of their files."""
    model, values = problem.model, problem.parameters.unpack(raw)
    detector = moved_detector(shot.experiments[0].detector, model.panels(values).numpy())
    found = []
    for number, (lattice, data) in enumerate(zip(model.lattices, shot.experiments, strict=True)):
        rows = model.rows(values, number).numpy() @ held(data, shot.frame, angle_deg)
        crystal = _crystal(data.crystal, rows, values, lattice.suffix)
        assert data.beam is not None
        beam = data.beam
        if "beam_x" in values:
            along = model.incident(values)[0].numpy()
            beam = replace(beam, direction=-along / np.linalg.norm(along))
        if "wavelength" in values and problem.parameters["wavelength"].free:
            ratio = float(values["wavelength"] * ANGSTROM / model.mean_wavelength)
            energies = None if beam.spectrum_energies_eV is None else beam.spectrum_energies_eV / ratio
            beam = replace(beam, wavelength_A=beam.wavelength_A * ratio, spectrum_energies_eV=energies)
        found.append(replace(data, crystal=crystal, detector=detector, beam=beam))
    shared = found[0].beam
    return tuple(replace(data, beam=shared) for data in found)


def _crystal(
    old: CrystalData | None, rows: NDArray[np.float64], values: Mapping[str, Tensor], suffix: str
) -> CrystalData:
    assert old is not None
    spread = values.get(f"spread{suffix}")
    size = float(torch.stack([values[f"N_{axis}{suffix}"] for axis in "abc"]) @ torch.tensor(_lengths(rows)) / 3)
    return replace(
        old,
        real_space=rows,
        A_at_scan_points=None,
        half_mosaicity_deg=float(spread) if spread is not None else old.half_mosaicity_deg or 0.0,
        domain_size_A=size,
    )


def _lengths(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(rows, axis=1), np.float64)


def moved_detector(old: DetectorData | None, panels: NDArray[np.float64]) -> DetectorData:
    """The panels where they have moved to; the frames of groups go with their first panel."""
    assert old is not None
    moved = tuple(
        replace(panel, origin_mm=vectors[0] / MM, fast=vectors[1], slow=vectors[2])
        for panel, vectors in zip(old.panels, panels, strict=True)
    )
    same = all(np.allclose(a.origin_mm, b.origin_mm, atol=1e-12) for a, b in zip(old.panels, moved, strict=True))
    if same:
        return old
    root = None if old.root is None else _moved_group(old.root, old, moved)
    return replace(old, panels=moved, root=root)


def _moved_group(group: GroupData, old: DetectorData, moved: tuple[Any, ...]) -> GroupData:
    """A group's frame moved as its first panel was."""
    first = group.panel_indices()[0]
    before, after = old.panels[first], moved[first]
    axes = [np.stack((p.fast, p.slow, p.normal)) for p in (before, after)]
    turn = axes[1].T @ axes[0]
    children = tuple(c if isinstance(c, int) else _moved_group(c, old, moved) for c in group.children)
    origin = turn @ (group.origin_mm - before.origin_mm) + after.origin_mm
    return replace(group, origin_mm=origin, fast=turn @ group.fast, slow=turn @ group.slow, children=children)
