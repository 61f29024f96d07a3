"""Background under the spots: linear columns of every box, or something known."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.shoeboxes import Shoeboxes

KINDS = {"planes": 3, "constant": 1, "none": 0}
"""Columns of each box by the name of the background."""


def background_columns(boxes: Shoeboxes, kind: str | Tensor) -> tuple[Tensor, Tensor, int]:
    """Columns [n, most boxes of a block times columns of a box], a known background [n], and the columns of a box.

    kind: planes, constant, none, or a known image (flat, over [panel, slow, fast], photons) that no column scales.
    Raises InputError for another name.
    """
    known = torch.zeros(len(boxes.data), dtype=torch.float64)
    if isinstance(kind, Tensor):
        known, kind = kind.reshape(-1)[boxes.pixels].double(), "none"
    if kind not in KINDS:
        raise InputError("background", kind, ", ".join(KINDS))
    size = KINDS[kind]
    most = int(torch.bincount(boxes.block).max())
    columns = torch.zeros((len(boxes.data), most * size), dtype=torch.float64)
    place = boxes.place[boxes.box]
    for i in range(size):
        columns[torch.arange(len(place)), place * size + i] = boxes.basis[:, i]
    return columns, known, size
