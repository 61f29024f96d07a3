"""Reflections that light the boxes of others: they share pixels with them, and need intensities of their own."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from nanobrag_torch.refinement.centroids import predicted
from nanobrag_torch.refinement.model import ShotModel
from nanobrag_torch.refinement.parameters import ParameterSet
from nanobrag_torch.refinement.partiality import partiality_of
from nanobrag_torch.refinement.predicting import reach_of, together
from nanobrag_torch.refinement.shoeboxes import Shoeboxes, Spots

WORTH = 0.01
"""Of the photons of the box's own reflection."""
MOST_IN_A_BOX = 3
MARGIN = 2  # pixels that a spot may be outside of a box and still light it


def neighbours(model: ShotModel, parameters: ParameterSet, boxes: Shoeboxes) -> Spots:
    """Reflections without a box that light one by at least a hundredth of what its own does; `row` is that box.

    By the model as it stands and the structure factors as they were given.
    """
    values = parameters.unpack(parameters.pack())
    found = [_of_crystal(model, values, number, boxes) for number in range(len(model.lattices))]
    return together(found)


def _of_crystal(model: ShotModel, values: dict[str, torch.Tensor], number: int, boxes: Shoeboxes) -> Spots:
    lattice = model.lattices[number]
    lit = lattice.structure_factors.nonzero()
    hkl = (lit + torch.tensor(lattice.hkl_first)).numpy().astype(np.int64)
    hkl = hkl[(hkl != 0).any(1)]
    rows = model.rows(values, number).numpy()
    cells = model.cells(values, number).diagonal().numpy()
    spread = max((float(v) for name, v in values.items() if name.startswith("spread")), default=0.0)
    weights = model.base.source_weights / model.base.source_weights.sum()
    mean = (model.base.wavelengths * weights).sum()
    bandwidth = float(torch.sqrt((weights * (model.base.wavelengths / mean - 1) ** 2).sum())) * 2
    reach = reach_of(rows, hkl, cells, spread, bandwidth) + abs(model.rotation) / 2
    parts = []
    for panel in range(len(model.base.panels)):
        count = np.ones(len(hkl), np.int64)
        every = Spots(hkl, count * number, count * panel, np.zeros((len(hkl), 2)), -count)
        where = predicted(model, values, every)
        near = where.forward.numpy() & (np.abs(where.excitation.numpy()) < reach)
        parts.append(
            _in_boxes(Spots(hkl, count * number, count * panel, where.centre.numpy(), -count).rows(near), boxes)
        )
    spots = together(parts)
    return spots.rows(_worth(model, values, spots, boxes, number)) if len(spots) else spots


def _in_boxes(spots: Spots, boxes: Shoeboxes) -> Spots:
    """The spots that lie in a box that is not theirs, with that box: the one whose centre is nearest."""
    from scipy.spatial import cKDTree

    mine = np.flatnonzero(boxes.spots.panel == (spots.panel[0] if len(spots) else -1))
    if not len(mine) or not len(spots):
        return spots.rows(np.zeros(len(spots), bool))
    tree = cKDTree(boxes.spots.centre[mine])
    far, nearest = tree.query(spots.centre, p=np.inf)
    row = mine[nearest]
    inside = far <= max(boxes.half) + MARGIN
    known = (boxes.spots.hkl[row] == spots.hkl).all(1) & (boxes.spots.crystal[row] == spots.crystal)
    return Spots(spots.hkl, spots.crystal, spots.panel, spots.centre, row).rows(inside & ~known)


def _worth(
    model: ShotModel, values: dict[str, torch.Tensor], spots: Spots, boxes: Shoeboxes, number: int
) -> NDArray[np.bool_]:
    """Which spots are bright enough to count, at most a few in a box."""
    own = _brightness(model, values, boxes.spots)
    share = _brightness(model, values, spots) / np.maximum(own[spots.row], 1e-12)
    kept = share > WORTH
    order = np.lexsort((-share, spots.row))
    row = spots.row[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    few = np.zeros(len(row), bool)
    few[order] = rank < MOST_IN_A_BOX
    return kept & few


def _brightness(model: ShotModel, values: dict[str, torch.Tensor], spots: Spots) -> NDArray[np.float64]:
    """F^2 times partiality."""
    found = partiality_of(model, values, spots)
    for number, lattice in enumerate(model.lattices):
        mine = np.flatnonzero(spots.crystal == number)
        place = torch.from_numpy(spots.hkl[mine]) - torch.tensor(lattice.hkl_first)
        amplitude = lattice.structure_factors[tuple(place.T)].double().numpy()
        found[mine] *= amplitude**2 * float(values[f"scale{lattice.suffix}"])
    return found
