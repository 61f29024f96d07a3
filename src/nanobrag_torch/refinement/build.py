"""From a model and its boxes to a problem: which column each reflection has, and which kernel call gives it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.refinement.background import background_columns
from nanobrag_torch.refinement.columns import Layout
from nanobrag_torch.refinement.model import ShotModel
from nanobrag_torch.refinement.parameters import ParameterSet
from nanobrag_torch.refinement.prediction import resolution
from nanobrag_torch.refinement.problem import Pass, Problem
from nanobrag_torch.refinement.shoeboxes import Shoeboxes, Spots
from nanobrag_torch.refinement.spreading import PointSpread
from nanobrag_torch.refinement.targets import Poisson, Target
from nanobrag_torch.units import ANGSTROM

SHELLS = 10


@dataclass(frozen=True, kw_only=True)
class IntensityPrior:
    """What is known of intensities before the fit: F of the table, wrong by `sigma_F` of itself or by its own sigma.

    free False holds every intensity at its table value. sigma_F infinite: no prior.
    """

    free: bool = True
    sigma_F: float = 0.2


@dataclass(frozen=True, eq=False)
class Slots:
    """Where every reflection of a problem has its column."""

    hkl: NDArray[np.int64]  # [r, 3]
    crystal: NDArray[np.int64]  # [r]
    block: Tensor  # [r]
    column: Tensor  # [r]
    spot: Tensor  # [r] the box of the reflection, -1 for one that only shares pixels
    amplitude: Tensor  # [r] F of the table
    relative: Tensor  # [r] standard deviation of the prior of I, in units of F^2


def build_problem(
    model: ShotModel,
    parameters: ParameterSet,
    boxes: Shoeboxes,
    factors: Sequence[Reflections],
    *,
    prior: IntensityPrior = IntensityPrior(),  # noqa: B008  (frozen)
    target: Target = Poisson(),  # noqa: B008  (frozen)
    background: str | Tensor = "planes",
    neighbours: Spots | None = None,
    spread_shape: str = "gauss",
) -> tuple[Problem, Slots]:
    """The problem of a shot and the place of each reflection in it.

    neighbours: reflections without a box of their own that light pixels of others' boxes; their centre tells which box.
    """
    model, amplitude, relative = with_amplitudes(model, boxes.spots, factors, prior)
    base, fixed, per_box = background_columns(boxes, background)
    block_of_spot, boxes_in_block = boxes.block, torch.bincount(boxes.block)
    column = per_box * boxes_in_block[block_of_spot] + boxes.place
    slots = Slots(
        hkl=boxes.spots.hkl,
        crystal=boxes.spots.crystal,
        block=block_of_spot,
        column=column,
        spot=torch.arange(len(boxes)),
        amplitude=amplitude,
        relative=relative,
    )
    if neighbours is not None and len(neighbours):
        model, slots = _with_neighbours(model, slots, neighbours, boxes, factors, prior)
    count, width = int(boxes.block.max()) + 1, int(slots.column.max()) + 1
    columns = torch.zeros((len(boxes.data), max(width, base.shape[1])), dtype=torch.float64)
    columns[:, : base.shape[1]] = base
    precision = torch.zeros((count, columns.shape[1]), dtype=torch.float64)
    mean = torch.zeros_like(precision)
    mean[slots.block, slots.column] = 1.0
    precision[slots.block, slots.column] = torch.where(torch.isfinite(slots.relative), slots.relative**-2, 0.0)
    spreading = None
    if "psf_width" in parameters:
        fwhm = parameters["psf_width"].value
        spreading = PointSpread.about(boxes, model.options.image_shape, fwhm, spread_shape)
    rendered = boxes.pixels if spreading is None else spreading.rendered
    block = boxes.pixel_block if spreading is None else spreading.block
    problem = Problem(
        model=model,
        parameters=parameters,
        boxes=boxes,
        layout=Layout(boxes.pixel_block, count),
        passes=tuple(_passes(model, block, slots, free=prior.free)),
        background=columns,
        prior_precision=precision,
        prior_mean=mean,
        constraint=_gauge(parameters, model, slots, mean) if prior.free else torch.zeros((0, *mean.shape)).double(),
        resolution=pixel_resolution(model, rendered),
        spreading=spreading,
        fixed_background=fixed,
        target=target,
    )
    return problem, slots


def with_amplitudes(
    model: ShotModel, spots: Spots, factors: Sequence[Reflections], prior: IntensityPrior
) -> tuple[ShotModel, Tensor, Tensor]:
    """Amplitude [b] and relative prior width [b] of spots; where the table has no amplitude it gets that of its shell.

    Such a one has the width of Wilson's distribution. Raises InputError for an index outside of the table.
    """
    lattices = []
    amplitude, relative = torch.zeros(len(spots), dtype=torch.float64), torch.zeros(len(spots), dtype=torch.float64)
    for number, (lattice, listed) in enumerate(zip(model.lattices, factors, strict=True)):
        mine = torch.from_numpy(np.flatnonzero(spots.crystal == number))
        place = torch.from_numpy(spots.hkl)[mine] - torch.tensor(lattice.hkl_first)
        if not bool(in_table(spots, model)[mine].all()):
            raise InputError("reflections", "indices beyond the structure factors", "indices inside of their table")
        found = lattice.structure_factors[tuple(place.T)].double()
        missing = found <= 0
        table = lattice.structure_factors
        if bool(missing.any()):
            table = table.clone()
            found = torch.where(missing, _shell_amplitude(lattice.structure_factors, lattice.hkl_first, place), found)
            table[tuple(place[missing].T)] = found[missing].float()
        width = torch.full_like(found, 2 * prior.sigma_F)
        if listed.sigma is not None and np.isfinite(prior.sigma_F):
            width = torch.maximum(width, 2 * _sigma_of(listed, spots.hkl[mine.numpy()]) / found)
        amplitude[mine] = found
        relative[mine] = torch.where(missing & torch.isfinite(width), torch.ones_like(width), width)
        lattices.append(replace(lattice, structure_factors=table))
    return replace(model, lattices=tuple(lattices)), amplitude, relative


def in_table(spots: Spots, model: ShotModel) -> Tensor:
    """Which spots [b] have indices that the table of their crystal holds."""
    inside = torch.zeros(len(spots), dtype=torch.bool)
    for number, lattice in enumerate(model.lattices):
        place = torch.from_numpy(spots.hkl) - torch.tensor(lattice.hkl_first)
        held = ((place >= 0) & (place < torch.tensor(lattice.structure_factors.shape))).all(1)
        inside |= held & (torch.from_numpy(spots.crystal) == number)
    return inside


def _sigma_of(listed: Reflections, hkl: NDArray[np.int64]) -> Tensor:
    """Sigma of F [b], zero where the list has none."""
    from nanobrag_torch.crystallography.symmetry import equivalence_keys

    assert listed.sigma is not None
    both = np.concatenate([listed.hkl, hkl]).astype(np.int32)
    keys = equivalence_keys(both, listed.space_group, friedel=not listed.anomalous)
    known = dict(zip(keys[: len(listed)].tolist(), listed.sigma.tolist(), strict=True))
    sigma = np.array([known.get(key, 0.0) for key in keys[len(listed) :].tolist()])
    return torch.from_numpy(np.where(np.isfinite(sigma), sigma, 0.0))


def _shell_amplitude(table: Tensor, first: tuple[int, int, int], place: Tensor) -> Tensor:
    """Root mean square amplitude [b] of the table at about the same distance from its origin, in index space."""
    lit = table.nonzero()
    size = torch.tensor(table.shape, dtype=torch.float64)
    far = torch.linalg.vector_norm((lit + torch.tensor(first)) / size, dim=1)
    squared = table[tuple(lit.T)].double() ** 2
    edges = torch.quantile(far[:: max(1, len(far) // 100_000)], torch.linspace(0, 1, SHELLS + 1, dtype=torch.float64))
    shell = torch.bucketize(far, edges[1:-1])
    total = torch.zeros(SHELLS, dtype=torch.float64).index_add_(0, shell, squared)
    mean = total / torch.bincount(shell, minlength=SHELLS).clamp(min=1)
    own = torch.bucketize(torch.linalg.vector_norm((place + torch.tensor(first)) / size, dim=1), edges[1:-1])
    return torch.sqrt(mean[own])


def _gauge(parameters: ParameterSet, model: ShotModel, slots: Slots, mean: Tensor) -> Tensor:
    """For every crystal with a free scale the weights [k, blocks, C] of the mean intensity, which stays one."""
    found = []
    for number, lattice in enumerate(model.lattices):
        if f"scale{lattice.suffix}" not in parameters.names:
            continue
        weights = torch.zeros_like(mean)
        mine = torch.from_numpy(slots.crystal == number) & (slots.spot >= 0)
        width = torch.where(torch.isfinite(slots.relative), slots.relative, torch.ones_like(slots.relative))
        share = torch.where(mine, width**-2, torch.zeros_like(width))
        if float(share.sum()) == 0:
            continue
        weights[slots.block, slots.column] = share / share.sum()
        found.append(weights)
    return torch.stack(found) if found else torch.zeros((0, *mean.shape), dtype=torch.float64)


def _passes(model: ShotModel, block: Tensor, slots: Slots, *, free: bool) -> list[Pass]:
    """One pass a crystal for the blocks where it has at most one reflection, and one a colour for the others."""
    found = []
    count = int(slots.block.max()) + 1
    for number in range(len(model.lattices)):
        mine = torch.from_numpy(np.flatnonzero(slots.crystal == number))
        if not free:
            found.append(Pass(number, None, torch.full_like(block, -1)))
            continue
        in_block = torch.bincount(slots.block[mine], minlength=count)
        column = torch.full((count,), -1, dtype=torch.int64)
        alone = mine[in_block[slots.block[mine]] == 1]
        column[slots.block[alone]] = slots.column[alone]
        single = in_block <= 1
        where = None if bool(single.all()) else single[block].nonzero()[:, 0]
        if where is None or len(where):
            of_pixels = column[block]
            found.append(Pass(number, where, of_pixels if where is None else of_pixels[where]))
        found += _colours(model, number, block, mine[in_block[slots.block[mine]] > 1], slots)
    return found


def _colours(model: ShotModel, number: int, block: Tensor, shared: Tensor, slots: Slots) -> list[Pass]:
    """Passes in each of which a block has one reflection, with structure factors for these alone."""
    members: dict[int, list[int]] = defaultdict(list)
    for row in shared.tolist():
        members[int(slots.block[row])].append(row)
    lattice, found = model.lattices[number], []
    for colour in range(max(map(len, members.values()), default=0)):
        rows = torch.tensor([group[colour] for group in members.values() if len(group) > colour])
        place = torch.from_numpy(slots.hkl)[rows] - torch.tensor(lattice.hkl_first)
        table = torch.zeros_like(lattice.structure_factors)
        table[tuple(place.T)] = lattice.structure_factors[tuple(place.T)]
        column = torch.full((int(slots.block.max()) + 1,), -1, dtype=torch.int64)
        column[slots.block[rows]] = slots.column[rows]
        where = (column[block] >= 0).nonzero()[:, 0]
        found.append(Pass(number, where, column[block[where]], table))
    return found


def _with_neighbours(
    model: ShotModel,
    slots: Slots,
    neighbours: Spots,
    boxes: Shoeboxes,
    factors: Sequence[Reflections],
    prior: IntensityPrior,
) -> tuple[ShotModel, Slots]:
    """Columns for reflections that have no box: `row` of each is the box that it lies in."""
    known = {(int(c), *map(int, h)) for c, h in zip(slots.crystal, slots.hkl, strict=True)}
    fresh = [
        i
        for i, (c, h) in enumerate(zip(neighbours.crystal, neighbours.hkl, strict=True))
        if (int(c), *map(int, h)) not in known
    ]
    spots = neighbours.rows(np.array(fresh, np.int64))
    if not len(spots):
        return model, slots
    model, amplitude, relative = with_amplitudes(model, spots, factors, prior)
    block = boxes.block[torch.from_numpy(spots.row)]
    next_column: dict[int, int] = {}
    for b, c in zip(slots.block.tolist(), slots.column.tolist(), strict=True):
        next_column[b] = max(next_column.get(b, 0), c + 1)
    columns = []
    for b in block.tolist():
        columns.append(next_column[b])
        next_column[b] += 1
    return model, Slots(
        hkl=np.concatenate([slots.hkl, spots.hkl]),
        crystal=np.concatenate([slots.crystal, spots.crystal]),
        block=torch.cat((slots.block, block)),
        column=torch.cat((slots.column, torch.tensor(columns))),
        spot=torch.cat((slots.spot, torch.full((len(spots),), -1))),
        amplitude=torch.cat((slots.amplitude, amplitude)),
        relative=torch.cat((slots.relative, relative)),
    )


def pixel_resolution(model: ShotModel, pixels: Tensor) -> Tensor:
    """(sin theta / lambda)^2 [n] (1/Angstrom^2) at the centres of pixels."""
    slow_size, fast_size = model.options.image_shape
    panel = pixels // (slow_size * fast_size)
    slow, fast = (pixels // fast_size) % slow_size, pixels % fast_size
    origin, along_fast, along_slow, _ = model.base.panels[panel].unbind(1)
    size = model.base.pixel_size[panel]
    position = (
        origin + (fast + 0.5)[:, None] * size[:, :1] * along_fast + (slow + 0.5)[:, None] * size[:, 1:] * along_slow
    )
    ray = position / torch.linalg.vector_norm(position, dim=1, keepdim=True)
    sine_squared = (1 - ray @ model.base.incident[0]) / 2
    found: Tensor = sine_squared / (model.mean_wavelength / ANGSTROM) ** 2
    return found


def predicted_resolution(model: ShotModel, parameters: ParameterSet, spots: Spots) -> Tensor:
    """d [b] (Angstrom) of spots."""
    values = parameters.unpack(parameters.pack())
    found = torch.zeros(len(spots), dtype=torch.float64)
    for number in range(len(model.lattices)):
        mine = torch.from_numpy(spots.crystal) == number
        found[mine] = resolution(torch.from_numpy(spots.hkl)[mine], model.rows(values, number))
    return found
