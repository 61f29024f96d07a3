"""The detector that all shots share: where its groups of panels stand, by the centroids of all spots, then by pixels.

One quadratic model in the moves of the groups and the parameters of every shot. Planes and intensities are eliminated
box by box, a shot's parameters shot by shot, each exactly; what is left, as many rows as groups have moves, is summed
over all shots and solved at once, within the gauge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.experiment import Experiment
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.refinement.build import IntensityPrior
from nanobrag_torch.refinement.centroids import predicted, residuals_of_positions
from nanobrag_torch.refinement.columns import eliminate
from nanobrag_torch.refinement.ensemble import median_of
from nanobrag_torch.refinement.equations import solve_symmetric
from nanobrag_torch.refinement.group_moves import ALIKE, GroupMoves
from nanobrag_torch.refinement.groups import MOVES
from nanobrag_torch.refinement.kept import KeptShot
from nanobrag_torch.refinement.parameters import Parameter, ParameterSet
from nanobrag_torch.refinement.problem import Problem, State
from nanobrag_torch.refinement.reducers import Local, Reducer
from nanobrag_torch.refinement.setup import FAMILIES
from nanobrag_torch.refinement.stages import first_columns, scan, with_model_error, with_scale
from nanobrag_torch.refinement.verdict import CONVERGED

ALONE_ROUNDS, CENTROID_ROUNDS, PIXEL_ROUNDS = 4, 12, 10
KAPPAS = (0.3, 0.05, 0.0)
"""How wrong the spots of the model are taken to be, from the first steps to the last."""
SMALL = 0.05
"""Standard deviations of the moves: a step below is the last."""
LEAST_PIXELS, LEAST_RADIANS = 0.05, 1e-4
FAR = 4.0
MAD = 1.4826
WIDE = {"rot_x": 5.0, "rot_y": 5.0, "rot_z": 5.0}
"""Degrees: priors of the orientation for centroids."""
WORST = 1.5
"""Times the median sigma-Z: a shot above it has no say."""
OUTSIDE = 10.0
"""Pixels: spots further off belong to another reflection, and to no average."""
SEEN = ("rot_x", "rot_y", "rot_z", "a", "b", "c", "alpha", "beta", "gamma")
HELD = ("distance", *FAMILIES["shift"], *FAMILIES["tilt"])


class GroupSums(NamedTuple):
    """Of one shot: its own A [T, T] and g [T], the border [T, K], and H [K, K] and h [K] of the moves; downhill."""

    A: Tensor
    border: Tensor
    g: Tensor
    H: Tensor
    h: Tensor

    def damped(self, damping: float) -> GroupSums:
        """With larger diagonals: a shorter step of all (Levenberg and Marquardt)."""
        if not damping:
            return self
        return self._replace(
            A=self.A + damping * torch.diag(self.A.diagonal()), H=self.H + damping * torch.diag(self.H.diagonal())
        )

    def follow(self, change: Tensor) -> Tensor:
        """The step [T] of the shot for a change [K] of the moves."""
        return solve_symmetric(self.A, self.g - self.border @ change)

    def reduced(self) -> tuple[Tensor, Tensor]:
        """H and h with the shot's parameters solved for."""
        both = torch.cat((self.border, self.g[:, None]), 1)
        solved = torch.stack([solve_symmetric(self.A, column) for column in both.T], 1) if len(self.A) else both
        return self.H - self.border.T @ solved[:, :-1], self.h - self.border.T @ solved[:, -1]


class GeometryShot:
    """A shot among those that share the detector: its kept pixels, and where its own parameters are."""

    def __init__(self, kept: KeptShot) -> None:
        self.kept, self.name = kept, kept.name
        spots, near = kept.boxes.spots, kept.neighbours
        hkl = np.concatenate([spots.hkl, near.hkl]).astype(np.int32)
        if not len(kept.amplitude):
            raise InputError(f"{kept.name}: amplitudes", 0, "a kept shot whose fit had columns")
        unique, first = np.unique(hkl, axis=0, return_index=True)
        crystal = kept.experiments[0].crystal
        assert crystal is not None
        c = crystal.cell
        self.factors = Reflections(
            hkl=unique, amplitude=kept.amplitude.numpy()[first], cell=(c[0], c[1], c[2], c[3], c[4], c[5])
        )
        own = [p for p in kept.parameters if p.name not in HELD and ":" not in p.name]
        if kept.status != CONVERGED:  # where a fit on misplaced panels ended says nothing: back to what was known
            own = [replace(p, value=p.prior[0]) if p.prior else p for p in own]
        self.own = ParameterSet([_own(p) for p in own])
        self.model = kept.model(self.factors)
        self.problem: Problem | None = None
        self.state: State | None = None
        self.weight, self.reason = 1.0, ""

    def parameters(self, moves: GroupMoves) -> ParameterSet:
        """The shot's own, then the moves that all groups make alike."""
        alike = [Parameter(name=f"{ALIKE}:{MOVES[place]}", value=0.0, scale=0.1) for place in moves.which]
        return ParameterSet([*self.own, *alike])

    def centroid_sums(self, moves: GroupMoves) -> tuple[GroupSums, Tensor]:
        """Robust sums over positions and excitation errors, and how far off [b] (pixels) every spot is."""
        kept, parameters = self.kept, self.parameters(moves)
        spots = kept.boxes.spots
        model = replace(self.model, groups=(moves.as_group(),))
        names = [parameters.names.index(n) for n in parameters.names if n in SEEN or n.startswith(ALIKE)]
        value, slopes = residuals_of_positions(model, parameters, spots, parameters.pack())
        slopes = slopes[names]
        off = torch.linalg.vector_norm(value[:, :2], dim=1)
        width = (MAD * off.median()).clamp(min=LEAST_PIXELS)
        turn = (MAD * value[:, 2].abs().median()).clamp(min=LEAST_RADIANS)
        trust = 1 / (1 + (off / width / FAR) ** 2) ** 2
        weights = trust[:, None] / torch.stack((width, width, turn)) ** 2
        above, precision = self.own.prior_terms(self.own.pack())
        shot, group = len(names) - len(moves.which), moves.of_panel[torch.from_numpy(spots.panel)]
        gram = torch.einsum("sbi,bi,tbi->bst", slopes, weights, slopes)
        right = -torch.einsum("tbi,bi,bi->bt", slopes, weights, value)
        seen = names[:shot]
        sums = _by_group(gram, right, group, shot, moves)
        A, g = sums.A + torch.diag(precision[seen]), sums.g - (precision * above)[seen]
        return sums._replace(A=A, g=g), off

    def follow_centroids(self, sums: GroupSums, change: Tensor) -> None:
        """Let the shot's orientation and cell follow."""
        seen = [place for place, name in enumerate(self.own.names) if name in SEEN]
        raw = self.own.pack()
        raw[seen] += sums.follow(change)
        self.own = self.own.at(raw)

    def look(self, moves: GroupMoves, panels: Tensor) -> None:
        """Bring the shot to its pixels on panels [P, 4, 3]: its scale, and its size and spread if it failed alone.

        It is not fitted alone: with panels that are still a little off it would bend its size and spread to them.
        """
        kept = self.kept
        tied = [replace(p, prior=(p.value, 0.1)) if p.name.startswith("rot_") and p.free else p for p in self.own]
        problem, _ = replace(kept, parameters=ParameterSet(tied)).bare_problem(self.factors, IntensityPrior())
        model = replace(problem.model, base=replace(problem.model.base, panels=panels), groups=())
        problem = replace(problem, model=model, constraint=problem.constraint[:0])  # priors alone hold the scale
        linear = first_columns(problem)
        if kept.status != CONVERGED:
            problem = replace(problem, parameters=scan(problem, linear))
        parameters, state = with_scale(problem, linear)
        self.problem, self.state = replace(problem, parameters=parameters), state
        self.own = parameters.at(state.raw)

    def sigma_z(self) -> float:
        """Of all pixels; infinite where there is no fit."""
        if self.problem is None or self.state is None:
            return math.inf
        found = float(self.problem.sigma_z(self.state).std())
        return found if math.isfinite(found) else math.inf

    def trust(self, kappa: float) -> None:
        """Weigh the pixels as if the model were wrong by kappa of its spots: bright spots rule no step then."""
        assert self.problem is not None and self.state is not None
        plain = replace(self.problem, shares=None)
        self.problem = with_model_error(plain, self.state, kappa) if kappa else plain
        self.state = self.problem.settle(self.state, steps=6)

    def pixel_sums(self, moves: GroupMoves) -> GroupSums:
        """Sums over the pixels, planes and intensities eliminated box by box."""
        assert self.problem is not None and self.state is not None
        problem, state = self.problem, self.state
        base = replace(problem.model.base, panels=self.start_panels)
        wide = replace(
            problem,
            model=replace(problem.model, base=base, groups=(moves.as_group(),)),
            parameters=self.parameters(moves),
        )
        raw = torch.cat((state.raw, torch.zeros(len(moves.which), dtype=torch.float64)))
        jacobian = wide.jacobian(replace(state, raw=raw))
        columns, fixed = problem.columns(state.raw, state.rendered)
        terms = problem.target.terms(problem.boxes.data, problem.expected(state), problem.boxes.readout)
        shares = 1.0 if problem.shares is None else problem.shares
        every = torch.cat((columns, jacobian.T), 1)
        gram, right = problem.layout.gram(every, terms.weight * shares, -terms.slope * shares)
        size, shot = columns.shape[1], len(state.raw)
        gram[:, :size, :size] += torch.diag_embed(problem.prior_precision)
        right[:, :size] -= problem.prior_precision * (state.linear - problem.prior_mean)
        panel = torch.zeros(problem.layout.count, dtype=torch.int64)
        panel[problem.boxes.block] = torch.from_numpy(problem.boxes.spots.panel)
        inner, border = eliminate(gram, right, size), gram[:, :size, size:]
        matrices = gram[:, size:, size:] - border.transpose(1, 2) @ inner.follow
        vectors = right[:, size:] - (border * inner.free[..., None]).sum(1)
        sums = _by_group(matrices, vectors, moves.of_panel[panel], shot, moves)
        above, precision = problem.parameters.prior_terms(state.raw)
        return sums._replace(A=sums.A + torch.diag(precision), g=sums.g - precision * above)

    @property
    def start_panels(self) -> Tensor:
        """Panels [P, 4, 3] before any move."""
        return self.model.base.panels

    def moved(self, sums: GroupSums, change: Tensor, panels: Tensor) -> tuple[Problem, State]:
        """The problem and its state after a change [K] of the moves to these panels, the shot following."""
        assert self.problem is not None and self.state is not None
        model = self.problem.model
        problem = replace(self.problem, model=replace(model, base=replace(model.base, panels=panels)))
        raw = self.state.raw + sums.follow(change)
        return problem, problem.settle(State(raw, self.state.linear, problem.render(raw)), steps=6)

    def obstacle(self, moves: GroupMoves) -> str:
        """Why the pixels of this shot say nothing of where panels stand; empty where they may."""
        data = self.kept.boxes.data
        if not bool(data.isfinite().all()):
            return "its data are not finite"
        if bool((data == data[0]).all()):
            return "all its pixels are alike"
        near = int((torch.linalg.vector_norm(self.residuals(moves), dim=1) < OUTSIDE).sum())
        if 2 * near < len(self.kept.boxes):
            return (
                f"{near} of its {len(self.kept.boxes)} spots are within {OUTSIDE:g} pixels of where their indices say"
            )
        return ""

    def residuals(self, moves: GroupMoves) -> Tensor:
        """Observed less predicted centres [b, 2] (pixels) with the shot's parameters as they are."""
        model = replace(self.model, groups=(moves.as_group(),))
        parameters = self.parameters(moves)
        found = predicted(model, parameters.unpack(parameters.pack()), self.kept.boxes.spots)
        return torch.from_numpy(self.kept.boxes.spots.centre) - found.centre


def _own(p: Parameter) -> Parameter:
    return replace(p, prior=(p.value, WIDE[p.name])) if p.name in WIDE else p


def _by_group(gram: Tensor, right: Tensor, group: Tensor, shot: int, moves: GroupMoves) -> GroupSums:
    """Sums of entries [b, T + M, T + M] and [b, T + M], the last M in the place of the group [b] of each."""
    count, each = len(moves.names), len(moves.which)
    inside = group >= 0
    own = group.clamp(min=0)
    border = gram.new_zeros((count, shot, each)).index_add_(0, own[inside], gram[inside, :shot, shot:])
    H = gram.new_zeros((count, each, each)).index_add_(0, own[inside], gram[inside, shot:, shot:])
    h = gram.new_zeros((count, each)).index_add_(0, own[inside], right[inside, shot:])
    return GroupSums(
        A=gram[:, :shot, :shot].sum(0),
        border=border.permute(1, 0, 2).reshape(shot, -1),
        g=right[:, :shot].sum(0),
        H=torch.einsum("gmn,gk->gmkn", H, torch.eye(count, dtype=H.dtype)).reshape(count * each, count * each),
        h=h.reshape(-1),
    )


class Solved(NamedTuple):
    """A change [K] of the moves and their covariance [K, K]."""

    change: Tensor
    covariance: Tensor


@dataclass(frozen=True, eq=False)
class Geometry:
    """Refined moves [G, 6] (mm, degrees) with standard deviations, and residuals of each panel before and after.

    status is converged, or steps and failed with a reason; rows: a row a panel; shots: a row a shot of this process.
    """

    groups: GroupMoves
    sigma: Tensor
    panels: Tensor
    status: str
    reason: str
    rows: tuple[dict[str, Any], ...]
    history: tuple[dict[str, float], ...]
    shots: tuple[dict[str, Any], ...] = field(default=())


def _difference(panels: Tensor, start: Tensor) -> str:
    """How panels [P, 4, 3] (m) differ from those that all shots should begin with; empty where they do not."""
    if panels.shape != start.shape:
        return f"{len(panels)} panels, not {len(start)}"
    off = (panels - start).norm(dim=-1)
    apart, turned = float(off[:, 0].max()), float(off[:, 1:].max())
    return "" if max(apart, turned) <= 1e-9 else f"panels {1000 * apart:.3g} mm and {turned:.2g} rad off"


class GeometryRefinement:
    """The shots of one process, the moves of all, and the sums over processes."""

    def __init__(self, shots: Sequence[KeptShot], groups: GroupMoves, start: Tensor, reducer: Reducer) -> None:
        """start [P, 4, 3]: the panels that every shot began with."""
        self.shots = [GeometryShot(kept) for kept in sorted(shots, key=lambda kept: kept.name)]
        self.moves, self.start, self.reducer = groups, start, reducer
        self.history: list[dict[str, float]] = []
        for shot in self.shots:
            if found := _difference(shot.start_panels, start):
                accepted = "the detector that the first shot began with: one detector is shared by all"
                raise InputError(f"{shot.name}: detector", found, accepted)
        if not self._total([float(len(shots))])[0]:
            raise InputError("shots", 0, "at least one")

    def _total(self, values: Sequence[float]) -> list[float]:
        found: list[float] = self.reducer.total(torch.tensor(values, dtype=torch.float64)).tolist()
        return found

    def panels(self, moves: Tensor | None = None) -> Tensor:
        """Where the panels stand."""
        return self.moves.moved(self.start, self.moves.moves if moves is None else moves)

    def solve(self, sums: Sequence[GroupSums]) -> Solved:
        """The step of the moves that all shots want together, within the gauge."""
        count = self.moves.count
        total = torch.zeros((count, count + 1), dtype=torch.float64)
        for part in sums:
            H, h = part.reduced()
            total += torch.cat((H, h[:, None]), 1)
        total = self.reducer.total(total)
        prior = self.moves.prior()
        matrix = total[:, :-1] + torch.diag(prior)
        right = total[:, -1] - prior * self.moves.free_moves(self.moves.moves)
        basis = _free_space(self.moves.gauge(), count)
        inner = basis.T @ matrix @ basis
        covariance = basis @ torch.linalg.inv((inner + inner.T) / 2) @ basis.T
        return Solved(covariance @ right, covariance)

    def by_centroids(self) -> None:
        """Gauss-Newton on centroids, which bears misplacements of many pixels."""
        for _ in range(CENTROID_ROUNDS):
            sums = [shot.centroid_sums(self.moves)[0] for shot in self.shots]
            change, covariance = self.solve(sums)
            for shot, own in zip(self.shots, sums, strict=True):
                shot.follow_centroids(own, change)
            self.moves = replace(self.moves, moves=self.moves.moves + self.moves.with_free(change))
            if float((change.abs() / covariance.diagonal().clamp(min=1e-300).sqrt()).max()) < SMALL:
                break

    def by_pixels(self) -> tuple[str, str, Tensor]:
        """Steps on all pixels, each taken only where the whole fits better; status, reason, and sigmas [K]."""
        for shot in self.shots:
            shot.reason = shot.obstacle(self.moves)
            if shot.reason:
                shot.weight = 0.0
            else:
                shot.look(self.moves, self.panels())
        for kappa in KAPPAS:
            for shot in self.shots:
                if shot.weight:
                    shot.trust(kappa)
            far, sigma = self._steps()
            if kappa:
                self._judge()
        if far < 10 * SMALL:
            return "converged", "", sigma
        return "steps", f"{PIXEL_ROUNDS} steps were not enough: {far:.1f} sigma are still to go", sigma

    def _steps(self) -> tuple[float, Tensor]:
        """Steps with these weights; how far the next would go without damping, in sigmas, and the sigmas [K]."""
        damping, chosen = 0.0, [shot for shot in self.shots if shot.weight]
        for _ in range(PIXEL_ROUNDS):
            sums = [shot.pixel_sums(self.moves) for shot in chosen]
            whole = self.solve(sums)
            sigma = whole.covariance.diagonal().clamp(min=1e-300).sqrt()
            far = float((whole.change.abs() / sigma).max())
            if far < SMALL:
                break
            tried = [part.damped(damping) for part in sums]
            before, after = self._try(chosen, tried, self.solve(tried).change if damping else whole.change)
            self.history.append({"objective": min(after, before), "largest_move": far, "damping": damping})
            damping = max(10 * damping, 1e-2) if after > before else damping / 10 if damping > 1e-3 else 0.0
        return far, sigma

    def _try(self, shots: Sequence[GeometryShot], sums: Sequence[GroupSums], change: Tensor) -> tuple[float, float]:
        """The loss before and after a change, which is taken where it is no worse."""
        moves = self.moves.moves + self.moves.with_free(change)
        panels = self.panels(moves)
        tried = [shot.moved(own, change, panels) for shot, own in zip(shots, sums, strict=True)]
        both = zip(shots, tried, strict=True)
        pairs = [(shot.state.objective, state.objective) for shot, (_, state) in both if shot.state is not None]
        prior = self.moves.prior()
        known = [float((prior * self.moves.free_moves(m) ** 2).sum()) / 2 for m in (self.moves.moves, moves)]
        whole = self._total([sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)])
        before, after = whole[0] + known[0], whole[1] + known[1]
        if after <= before:
            self.moves = replace(self.moves, moves=moves)
            for shot, (problem, state) in zip(shots, tried, strict=True):
                shot.problem, shot.state = problem, state
                shot.own = problem.parameters.at(state.raw)
        return before, after

    def _judge(self) -> None:
        """Shots whose pixels fit much worse than those of most others have no say."""
        median = median_of([shot.sigma_z() for shot in self.shots], self.reducer)
        for shot in self.shots:
            z = shot.sigma_z()
            if shot.weight and not z < WORST * median:
                shot.weight, shot.reason = 0.0, f"sigma-Z {z:.2f}, {WORST} times the median of {median:.2f} and more"

    def by_panel(self, rows: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Number, sums and sums of squares [P, 5] of residuals [b, 2] by panel [b], of all processes."""
        found = torch.zeros((len(self.start), 5), dtype=torch.float64)
        for panel, off in rows:
            close = torch.linalg.vector_norm(off, dim=1) < OUTSIDE
            entry = torch.cat((torch.ones((len(off), 1), dtype=torch.float64), off, off**2), 1)
            found.index_add_(0, panel[close], entry[close])
        return self.reducer.total(found)

    def residuals(self) -> list[tuple[Tensor, Tensor]]:
        """Panel [b] and residual [b, 2] of the spots of every shot that counts."""
        return [
            (torch.from_numpy(shot.kept.boxes.spots.panel), shot.residuals(self.moves))
            for shot in self.shots if shot.weight
        ]  # fmt: skip


def _free_space(rows: Tensor, count: int) -> Tensor:
    """Orthonormal columns [count, k] that rows [r, count] leave free."""
    if not len(rows):
        return torch.eye(count, dtype=torch.float64)
    _, values, vectors = torch.linalg.svd(rows, full_matrices=True)
    rank = int((values > 1e-9 * values[0]).sum())
    free: Tensor = vectors[rank:].T
    return free


def start_panels(data: ExperimentData) -> Tensor:
    """Panels [P, 4, 3] (m) of an experiment as its file has them."""
    return Detector(Experiment(data=data).detector_config()).geometry().panels


def refine_geometry(
    shots: Sequence[KeptShot],
    groups: GroupMoves,
    start: Tensor,
    *,
    reducer: Reducer | None = None,
    pixels: bool = True,
) -> Geometry:
    """Refine where groups of panels stand, from the shots of this process and of all others.

    start [P, 4, 3] (m): the panels that every shot began with. pixels False: by the centroids alone.
    """
    run = GeometryRefinement(shots, groups, start, reducer or Local())
    for _ in range(ALONE_ROUNDS):  # what the shots alone make of the detector as it was
        for shot in run.shots:
            shot.follow_centroids(shot.centroid_sums(run.moves)[0], torch.zeros(groups.count, dtype=torch.float64))
    before = run.by_panel(run.residuals())
    run.by_centroids()
    if pixels:
        status, reason, deviations = run.by_pixels()
    else:
        solved = run.solve([shot.centroid_sums(run.moves)[0] for shot in run.shots])
        status, reason, deviations = "converged", "", solved.covariance.diagonal().clamp(min=0).sqrt()
    after = run.by_panel(run.residuals())
    return Geometry(
        groups=run.moves,
        sigma=groups.with_free(deviations),
        panels=run.panels(),
        status=status,
        reason=reason,
        rows=tuple(_panel_row(number, before[number], after[number], run.moves) for number in range(len(start))),
        history=tuple(run.history),
        shots=tuple(
            {"name": s.name, "sigma_z": s.sigma_z() if pixels else None, "weight": s.weight, "reason": s.reason}
            for s in run.shots
        ),
    )


def _panel_row(number: int, before: Tensor, after: Tensor, moves: GroupMoves) -> dict[str, Any]:
    """Of one panel: its group, its spots, and mean and root mean square residuals (pixels) before and after."""
    group = int(moves.of_panel[number])
    row: dict[str, Any] = {"panel": number, "group": moves.names[group] if group >= 0 else ""}
    for word, sums in (("before", before), ("after", after)):
        count = float(sums[0])
        mean = (sums[1:3] / count).tolist() if count else [math.nan, math.nan]
        square = math.sqrt(float(sums[3:].sum()) / count) if count else math.nan
        row |= {f"spots_{word}": int(count), f"fast_{word}": mean[0], f"slow_{word}": mean[1], f"rms_{word}": square}
    return row
