"""What a shot's refinement makes small, as a function of the raw parameters and the linear columns.

The model of a pixel is the sum over reflections of intensity times what the kernel gives for the table's amplitude,
plus the background. Reflections that share a block are rendered apart, in as few passes as their colours need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobrag_torch.refinement.columns import Layout
from nanobrag_torch.refinement.equations import Equations, Step, assemble
from nanobrag_torch.refinement.model import ShotModel
from nanobrag_torch.refinement.parameters import ParameterSet
from nanobrag_torch.refinement.shoeboxes import Shoeboxes
from nanobrag_torch.refinement.spreading import PointSpread
from nanobrag_torch.refinement.targets import Poisson, Target, Terms, sigma_z

INNER_STEPS = 3
INNER_GAIN = 0.01
"""Of the loss, below which the columns are settled; a parameter a tenth of its sigma off costs half as much."""


@dataclass(frozen=True, eq=False)
class Pass:
    """Pixels that one kernel call renders, and the column of its block that each of them adds to."""

    crystal: int
    where: Tensor | None  # [m] places in the list of pixels; None: all
    column: Tensor  # [m] place in the block, -1 for what is not scaled
    table: Tensor | None = None  # structure factors of this pass alone
    lit: Tensor | None = None  # [m] pixels that are rendered; None: all
    dim: Tensor | None = None  # [m] what the others keep, without scale

    @property
    def rendered(self) -> slice | Tensor:
        """The pixels of the pass that are rendered."""
        return slice(None) if self.lit is None else self.lit

    def filled(self, values: Tensor) -> Tensor:
        """Values [m] of the pass from those of the pixels that are rendered."""
        if self.lit is None or self.dim is None:
            return values
        found = self.dim.clone()
        found[self.lit] = values
        return found


@dataclass(frozen=True, eq=False)
class State:
    """A point of the fit: raw parameters [T], linear columns [blocks, C], and what the kernels gave for them."""

    raw: Tensor
    linear: Tensor
    rendered: tuple[Tensor, ...]  # of each pass
    objective: float = float("nan")


@dataclass(frozen=True, eq=False)
class Problem:
    """A shot, its pixels and its columns.

    background [n, C] holds the columns that do not depend on parameters; prior_precision and prior_mean [blocks, C]
    are of the columns; constraint [k, blocks, C]. resolution [n] is (sin theta / lambda)^2 of every pixel (1/A^2).
    """

    model: ShotModel
    parameters: ParameterSet
    boxes: Shoeboxes
    layout: Layout
    passes: tuple[Pass, ...]
    background: Tensor
    prior_precision: Tensor
    prior_mean: Tensor
    constraint: Tensor
    resolution: Tensor
    fixed_background: Tensor
    target: Target = Poisson()
    shares: Tensor | None = None  # [n] weights of the pixels; None: one
    spreading: PointSpread | None = None  # passes are of its rendered pixels then, and so is `resolution`

    def start(self, raw: Tensor, linear: Tensor) -> State:
        """A state with its columns solved for."""
        return self.settle(State(raw, linear, self.render(raw)), steps=2 * INNER_STEPS + 2)

    def render(self, raw: Tensor) -> tuple[Tensor, ...]:
        """What the kernels give for every pass, without scale."""
        values = self.parameters.unpack(raw)
        scenes = [self.model.scene(values, p.crystal, p.table) for p in self.passes]
        return tuple(
            p.filled(self.model.intensities(self.pixels_of(p)[p.rendered], scene, p.crystal))
            for p, scene in zip(self.passes, scenes, strict=True)
        )

    def amounts(self, state: State) -> tuple[Tensor, ...]:
        """Photons [m] of every pass, what no column scales included."""
        values = self.parameters.unpack(state.raw)
        found = []
        for p, kernel in zip(self.passes, state.rendered, strict=True):
            where = torch.arange(len(kernel)) if p.where is None else p.where
            found.append(kernel * self._strength(values, p) * self._amount(state.linear, p, where))
        return tuple(found)

    def columns(self, raw: Tensor, rendered: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """All columns [n, C], and what no column scales [n]."""
        values = self.parameters.unpack(raw)
        columns, fixed = self._empty_columns()
        for p, kernel in zip(self.passes, rendered, strict=True):
            scaled = kernel * self._strength(values, p)
            where = torch.arange(len(fixed)) if p.where is None else p.where
            own = p.column >= 0
            columns.index_put_((where[own], p.column[own]), scaled[own], accumulate=True)
            fixed.index_add_(0, where[~own], scaled[~own])
        if self.spreading is None:
            return columns, fixed
        both = self.spreading.spread(torch.cat((columns, fixed[:, None]), 1), values["psf_width"])
        return both[:, :-1] + self.background, both[:, -1] + self.fixed_background

    def _empty_columns(self) -> tuple[Tensor, Tensor]:
        """Columns and what none scales before any pass: the background, or nothing at the rendered pixels."""
        if self.spreading is None:
            return self.background.clone(), self.fixed_background.clone()
        count = len(self.spreading.rendered)
        return self.background.new_zeros((count, self.background.shape[1])), self.background.new_zeros(count)

    @property
    def rendered_block(self) -> Tensor:
        """The block of every pixel that is rendered."""
        return self.layout.block if self.spreading is None else self.spreading.block

    def expected(self, state: State) -> Tensor:
        """The model [n] in photons."""
        columns, fixed = self.columns(state.raw, state.rendered)
        return _sum(columns, state.linear, self.layout.block) + fixed

    def spots(self, state: State) -> Tensor:
        """What the crystals alone give [n], photons."""
        return self.expected(state) - _sum(self.background, state.linear, self.layout.block) - self.fixed_background

    def sigma_z(self, state: State) -> Tensor:
        """(data - model) / sigma of every pixel [n]."""
        return sigma_z(self.boxes.data, self.expected(state), self.boxes.readout)

    def settle(self, state: State, steps: int = INNER_STEPS) -> State:
        """The same parameters with the columns at their best, by Fisher scoring with step halving."""
        columns, fixed = self.columns(state.raw, state.rendered)
        none = columns.new_zeros((0, len(fixed)))
        linear, terms = state.linear, self._terms(state.linear, columns, fixed)
        value = self._value(state.raw, linear, terms.loss)
        for _ in range(steps):
            change = self._equations(state.raw, linear, columns, terms, none).projected().step().linear
            share, trial, lower = 1.0, value, False
            while share > 0.05 and not lower:
                moved = linear + share * change
                tried = self._terms(moved, columns, fixed)
                trial = self._value(state.raw, moved, tried.loss)
                lower = trial < value or share * float(change.abs().max()) < 1e-12
                share /= 2
            if not lower:
                break
            gain, linear, value, terms = value - trial, moved, trial, tried
            if gain < INNER_GAIN:
                break
        return replace(state, linear=linear, objective=value)

    def equations(self, state: State, jacobian: Tensor | None = None) -> Equations:
        """The normal equations about a state; jacobian [T, n]: that of a state nearby, or of a coarser model."""
        columns, fixed = self.columns(state.raw, state.rendered)
        jacobian = self.jacobian(state) if jacobian is None else jacobian
        return self._equations(state.raw, state.linear, columns, self._terms(state.linear, columns, fixed), jacobian)

    def trial(self, state: State, step: Step) -> State:
        """The state after a step, with its columns settled."""
        raw = state.raw + step.parameters
        return self.settle(State(raw, state.linear + step.linear, self.render(raw)))

    def jacobian(self, state: State) -> Tensor:
        """Slopes [T, n] of the model by the raw parameters with the columns held."""
        values = self.parameters.unpack(state.raw)
        found = torch.zeros((len(self.parameters), len(self.rendered_block)), dtype=torch.float64)
        spots = torch.zeros(found.shape[1], dtype=torch.float64)
        directions: dict[int, tuple[list[int], dict[str, Tensor]]] = {}
        for p, kernel in zip(self.passes, state.rendered, strict=True):
            where = torch.arange(found.shape[1]) if p.where is None else p.where
            factor = self._strength(values, p) * self._amount(state.linear, p, where)
            self._add_outside(found, p, where, kernel * factor)
            spots[where] += kernel * factor
            if p.crystal not in directions:
                which = self.model.kernel_parameters(self.parameters, p.crystal)
                stacks = self.model.directions(self.parameters, state.raw, p.crystal, which) if which else {}
                directions[p.crystal] = which, stacks
            which, stacks = directions[p.crystal]
            if which:
                scene = self.model.scene(values, p.crystal, p.table)
                lit = p.rendered
                slopes = self.model.slopes(self.pixels_of(p)[lit], scene, p.crystal, stacks) * factor[lit]
                for row, place in enumerate(which):
                    found[place, where[lit]] += slopes[row]
        return found if self.spreading is None else self._spread_slopes(found, spots, values["psf_width"])

    def slopes_along(self, state: State, directions: Mapping[str, Tensor]) -> Tensor:
        """Slopes [T, n] of the spots along directions of the scene's tensors [T, *shape], with the columns held."""
        values = self.parameters.unpack(state.raw)
        found = torch.zeros((len(next(iter(directions.values()))), len(self.rendered_block)), dtype=torch.float64)
        for p in self.passes:
            where = torch.arange(found.shape[1]) if p.where is None else p.where
            factor = self._strength(values, p) * self._amount(state.linear, p, where)
            scene = self.model.scene(values, p.crystal, p.table)
            lit = p.rendered
            slopes = self.model.slopes(self.pixels_of(p)[lit], scene, p.crystal, directions)
            found[:, where[lit]] += slopes * factor[lit]
        return found if self.spreading is None else self.spreading.spread(found.T, values["psf_width"]).T

    def _spread_slopes(self, slopes: Tensor, spots: Tensor, width: Tensor) -> Tensor:
        """Slopes [T, n] in the boxes of slopes [T, m] and photons [m] of the rendered pixels."""
        assert self.spreading is not None
        found = self.spreading.spread(slopes.T, width).T.contiguous()
        if "psf_width" in self.parameters.names:
            place = self.parameters.names.index("psf_width")
            found[place] += self.spreading.slope(spots[:, None], width)[:, 0] * width  # raw: its logarithm
        return found

    def _add_outside(self, found: Tensor, p: Pass, where: Tensor, spot: Tensor) -> None:
        """Slopes by scale and B factor, which multiply the spots."""
        suffix = self.model.lattices[p.crystal].suffix
        for place, name in enumerate(self.parameters.names):
            if name == f"scale{suffix}":
                found[place, where] += spot
            elif name == f"B{suffix}":
                found[place, where] += spot * -2 * self.resolution[where]

    def _amount(self, linear: Tensor, p: Pass, where: Tensor) -> Tensor:
        """Intensity [m] of the reflection that each pixel of a pass belongs to."""
        own = p.column >= 0
        found = linear[self.rendered_block[where], p.column.clamp(min=0)]
        return torch.where(own, found, torch.ones_like(found))

    def _strength(self, values: dict[str, Tensor], p: Pass) -> Tensor:
        suffix = self.model.lattices[p.crystal].suffix
        strength = values[f"scale{suffix}"]
        if f"B{suffix}" not in values:
            return strength
        resolution = self.resolution if p.where is None else self.resolution[p.where]
        return strength * torch.exp(-2 * values[f"B{suffix}"] * resolution)

    def pixels_of(self, p: Pass) -> Tensor:
        """The pixels [m] of a pass, flat."""
        pixels = self.boxes.pixels if self.spreading is None else self.spreading.rendered
        return pixels if p.where is None else pixels[p.where]

    def _terms(self, linear: Tensor, columns: Tensor, fixed: Tensor) -> Terms:
        """Loss, slope and weight of every pixel, by its share."""
        model = _sum(columns, linear, self.layout.block) + fixed
        terms = self.target.terms(self.boxes.data, model, self.boxes.readout)
        return terms if self.shares is None else Terms(*(values * self.shares for values in terms))

    def _equations(self, raw: Tensor, linear: Tensor, columns: Tensor, terms: Terms, jacobian: Tensor) -> Equations:
        A, B, D, g, h = assemble(self.layout, jacobian, columns, terms.slope, terms.weight)
        above, precision = self.parameters.prior_terms(raw)
        if len(jacobian):
            A, g = A + torch.diag(precision), g - precision * above
        D = D + torch.diag_embed(self.prior_precision)
        h = h - self.prior_precision * (linear - self.prior_mean)
        gap = (self.constraint * (self.prior_mean - linear)).sum((1, 2))
        return Equations(A, B, D, g, h, self.constraint, gap, self._value(raw, linear, terms.loss))

    def _value(self, raw: Tensor, linear: Tensor, loss: Tensor) -> float:
        above, precision = self.parameters.prior_terms(raw)
        of_columns = (self.prior_precision * (linear - self.prior_mean) ** 2).sum()
        return float(loss.sum() + ((precision * above**2).sum() + of_columns) / 2)


def _sum(columns: Tensor, linear: Tensor, block: Tensor) -> Tensor:
    return (columns * linear[block]).sum(1)
