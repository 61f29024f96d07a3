"""A scene as the Triton kernels take it: a few small tables on its device, made without a look at their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nanobrag_torch.kernels.cuda.columns import LATTICE, MOVING, PANEL, SOURCE, WIDTH
from nanobrag_torch.kernels.problem import Options, Scene


@dataclass(frozen=True)
class Tables:
    """What a kernel reads, beside the pixels: the tensors of a scene, and what is made of them; all contiguous.

    Few operations make it, each of which costs a call as much as a small image does.
    """

    panels: Tensor
    pixel_size: Tensor
    sensor: Tensor
    curvature: Tensor
    incident: Tensor
    wavelengths: Tensor
    source_weights: Tensor
    polarization: Tensor
    lattice: Tensor
    narrow: Tensor  # the same in the type of the image
    lattice_weights: Tensor  # in the type of the image
    shape: Tensor
    structure_factors: Tensor  # in the type of the image
    default_F: Tensor
    offset: Tensor
    longest: Tensor  # [3, 3] largest elements of all lattices
    dmin: Tensor

    def arguments(self) -> tuple[Tensor, ...]:
        """In the order of the kernel."""
        return tuple(vars(self).values())


def tables(scene: Scene, options: Options) -> Tables:
    """The tables of a scene."""
    with torch.no_grad():
        whole = {name: tensor.contiguous() for name, tensor in scene.named().items()}
        lattice = whole["lattice"]
        made = {
            "lattice_weights": whole["lattice_weights"].to(options.dtype),
            "structure_factors": whole["structure_factors"].to(options.dtype),
            "narrow": lattice.to(options.dtype),
            "longest": lattice.abs().amax(0) if lattice.shape[0] else lattice.new_zeros((3, 3)),
            "dmin": lattice.new_full((1,), options.dmin) if options.dmin > 0 else lattice,
        }
        return Tables(**{**whole, **made})


@dataclass(frozen=True)
class Rows:
    """Rows of 16 numbers: gradients that programs have summed up, or directions; what has no gradient is left out."""

    panels: Tensor  # [programs or directions, P, 16]
    sources: Tensor  # [programs or directions, S, 16]
    lattice: Tensor  # [programs a chunk of lattices, or directions, K, 16]
    scene: Tensor  # [programs or directions, 1, 16]

    def arguments(self) -> tuple[Tensor, ...]:
        """In the order of the kernel."""
        return tuple(vars(self).values())

    def summed(self) -> Rows:
        """The second pass: one row for all programs, added in a fixed order."""
        return Rows(*(rows.sum(0) for rows in self.arguments()))


OF_ROWS = (PANEL, SOURCE, LATTICE, MOVING)
"""What the rows of Rows hold, in order."""


def empty_rows(programs: int, of_lattices: int, panels: int, sources: int, lattices: int, device: torch.device) -> Rows:
    """Rows of zeros for so many programs in all, and programs that share a chunk of lattices."""
    sizes = (programs, panels), (programs, sources), (of_lattices, lattices), (programs, 1)
    return Rows(*(torch.zeros((*size, WIDTH), dtype=torch.float64, device=device) for size in sizes))


def by_name(rows: Rows, scene: Scene) -> dict[str, Tensor]:
    """Gradients by the fields of a scene, from rows that are summed up; the table of structure factors has its own."""
    found = {}
    for of, columns in zip(rows.arguments(), OF_ROWS, strict=True):
        whole = of if of.shape[0] else of.new_zeros((scene.lattice.shape[0], WIDTH))
        found.update({name: whole[:, columns.of(name)] for name in columns.widths})
    return found


def direction_rows(directions: Mapping[str, Tensor], scene: Scene, count: int, dtype: torch.dtype) -> Rows:
    """Rows of directions [count, n, 16], zero where a tensor stands still and beyond the end; `dtype`: of lattices."""
    lengths = scene.panels.shape[0], scene.incident.shape[0], scene.lattice.shape[0], 1
    found = []
    for length, columns in zip(lengths, OF_ROWS, strict=True):
        rows = scene.panels.new_zeros((count, length, WIDTH))
        for name in set(columns.widths) & set(directions):
            stack = directions[name]
            rows[: stack.shape[0], :, columns.of(name)] = stack.reshape(stack.shape[0], length, -1)
        found.append(rows.to(dtype) if columns is LATTICE else rows)
    return Rows(*found)
