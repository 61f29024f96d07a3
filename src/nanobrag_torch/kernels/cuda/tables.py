"""A scene as the Triton kernels take it: a few small tables on its device, made without a look at their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from nanobrag_torch.kernels.cuda.columns import LATTICE, MOVING, PANEL, SOURCE, WIDTH, Columns
from nanobrag_torch.kernels.problem import Options, Scene, effective_cells

NARROW_BOUND = 48.0
"""Largest number of cells times reach of a group in hkl for which float32 differences are taken (kernels.cpu too)."""


@dataclass(frozen=True)
class Tables:
    """What a kernel reads, beside the pixels; columns as in kernels.cuda.columns."""

    panels: Tensor  # [P, 16]
    sources: Tensor  # [S, 16]
    lattice: Tensor  # [K, 10]
    narrow: Tensor  # the same in the type of the image
    scene: Tensor  # [25]: lattices' reach over the bound [3, 3] and dmin come last
    factors: Tensor  # [H, K, L] in the type of the image

    def arguments(self) -> tuple[Tensor, ...]:
        """In the order of the kernel."""
        return tuple(vars(self).values())


def tables(scene: Scene, options: Options) -> Tables:
    """The tables of a scene, detached, contiguous."""
    parts = {name: tensor.detach() for name, tensor in scene.named().items()}
    lattice = _packed(parts, LATTICE, scene.lattice.shape[0])
    once = _packed({name: parts[name][None] for name in MOVING.widths}, MOVING, 1)[0]
    dmin = once.new_full((1,), options.dmin)
    return Tables(
        panels=_packed(parts, PANEL, scene.panels.shape[0]),
        sources=pad(_packed(parts, SOURCE, scene.incident.shape[0]), (0, WIDTH - SOURCE.width)),
        lattice=lattice.contiguous(),
        narrow=lattice.to(options.dtype),
        scene=torch.cat((once, _reach(scene, options).flatten(), dmin)).detach(),
        factors=scene.structure_factors.detach().to(options.dtype).contiguous(),
    )


def _packed(parts: dict[str, Tensor], columns: Columns, count: int) -> Tensor:
    """Rows [count, columns] of named tensors, each [count, ...]."""
    return torch.cat([parts[name].reshape(count, width) for name, width in columns.widths.items()], 1)


def _reach(scene: Scene, options: Options) -> Tensor:
    """Number of cells times the longest lattice vectors, over the bound [3, 3]."""
    cells = effective_cells(scene.shape, options.profile)
    longest = scene.lattice.abs().amax(0) if scene.lattice.shape[0] else scene.lattice.new_zeros((3, 3))
    reach: Tensor = cells[:, None] * longest / NARROW_BOUND
    return reach


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
