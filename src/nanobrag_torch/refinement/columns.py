"""Linear columns of a fit, a few for every block of pixels: planes of background and intensities of reflections.

A pixel belongs to one block and sees the columns of that block alone, so the normal matrix of all columns is block
diagonal and can be eliminated exactly, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError

GROWTH = 1.6  # blocks whose numbers of pixels differ by less are padded to the same length
AT_ONCE = 2**18


class Bucket(NamedTuple):
    """Blocks of about the same number of pixels, side by side."""

    blocks: Tensor  # [B] which blocks
    place: Tensor  # [B, P] places of their pixels in the list
    there: Tensor  # [B, P] float64: 1, and 0 for padding


class Layout:
    """Pixels of a list by block, in a few padded arrays."""

    def __init__(self, block: Tensor, count: int) -> None:
        """block [n]: the block of each pixel, 0 to count - 1."""
        self.block, self.count = block, count
        self.buckets = list(_buckets(block, count))

    def gram(self, columns: Tensor, weights: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the pixels of each block: Z^T W Z [count, C, C] and Z^T slope [count, C], for columns Z [n, C]."""
        size = columns.shape[1]
        gram = columns.new_zeros((self.count, size, size))
        right = columns.new_zeros((self.count, size))
        both = torch.cat((columns, slope[:, None]), 1)
        for blocks, place, there in self.buckets:
            gathered = both[place] * there[..., None]
            weighted = gathered[..., :-1] * weights[place][..., None]
            sums = weighted.transpose(1, 2) @ gathered[..., :-1]
            gram.index_add_(0, blocks, sums)
            right.index_add_(0, blocks, (gathered[..., :-1] * gathered[..., -1:]).sum(1))
        return gram, right


def _buckets(block: Tensor, count: int) -> Iterator[Bucket]:
    sizes = torch.bincount(block, minlength=count)
    order = torch.argsort(block, stable=True)
    starts = torch.cumsum(sizes, 0) - sizes
    by_size = torch.argsort(sizes)
    place = int((sizes == 0).sum())
    while place < count:
        smallest = int(sizes[by_size[place]])
        end = place + int((sizes[by_size[place:]] <= max(smallest * GROWTH, smallest + 1)).sum())
        longest = int(sizes[by_size[end - 1]])
        for start in range(place, end, max(1, AT_ONCE // longest)):
            chosen = by_size[start : min(end, start + max(1, AT_ONCE // longest))]
            offsets = torch.arange(longest)
            there = offsets < sizes[chosen, None]
            index = order[(starts[chosen, None] + offsets).clamp(max=len(order) - 1)]
            yield Bucket(chosen, torch.where(there, index, order[starts[chosen, None]]), there.double())
        place = end


@dataclass(frozen=True, eq=False)
class Columns:
    """Linear columns: pixel p of block k sees values[p] @ x[k].

    block [n], 0 up; values [n, C], zeros where a block has fewer than C columns. precision [blocks, C] of Gaussian
    priors about zero of a *change* of x; None: none. A column that is nowhere lit is left where it is.
    """

    block: Tensor
    values: Tensor
    precision: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or self.block.shape != self.values.shape[:1]:
            raise InputError("columns", tuple(self.values.shape), f"values [{self.block.numel()}, C], a row a pixel")
        if self.block.is_floating_point() or bool((self.block < 0).any()):
            raise InputError("columns: block", self.block.tolist()[:3], "whole numbers from 0 up")
        shape = (self.count, self.values.shape[1])
        if self.precision is not None and self.precision.shape != shape:
            raise InputError("columns: precision", tuple(self.precision.shape), f"one [{shape[0]}, {shape[1]}]")

    @property
    def count(self) -> int:
        """Number of blocks."""
        return int(self.block.max()) + 1 if self.block.numel() else 0


class Eliminated(NamedTuple):
    """What is left of normal equations when the columns are solved for.

    matrix [T, T], right [T] give the step of the others; `solution(step)` the columns' own.
    """

    matrix: Tensor
    right: Tensor
    free: Tensor  # [blocks, C] D^-1 h: the columns' step if the others stand still
    follow: Tensor  # [blocks, C, T] D^-1 B: how they follow the others
    factor: Tensor  # [blocks, C, C] Cholesky factor of the scaled D
    scale: Tensor  # [blocks, C] that D was scaled by

    def solution(self, step: Tensor) -> Tensor:
        """Change of every column [blocks, C] for a step [T] of the others."""
        return self.free - self.follow @ step

    def solve(self, right: Tensor) -> Tensor:
        """D^-1 right for right [blocks, C, k]."""
        return _solve(self.factor, self.scale, right)


def eliminate(gram: Tensor, right: Tensor, columns: int) -> Eliminated:
    """Solve for the first `columns` of each block exactly (a Schur complement).

    gram [blocks, C + T, C + T] and right [blocks, C + T] of every block, priors included; the rest is summed up.
    """
    block, border = gram[:, :columns, :columns], gram[:, :columns, columns:]
    factor, scale = _factor(block)
    solved = _solve(factor, scale, torch.cat((border, right[:, :columns, None]), 2))
    follow, free = solved[..., :-1], solved[..., -1]
    matrix = (gram[:, columns:, columns:] - border.transpose(1, 2) @ follow).sum(0)
    reduced = (right[:, columns:] - (border * free[..., None]).sum(1)).sum(0)
    return Eliminated((matrix + matrix.T) / 2, reduced, free, follow, factor, scale)


def _factor(block: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors of symmetric blocks after scaling to a unit diagonal; a dark column has a one there."""
    diagonal = block.diagonal(dim1=1, dim2=2)
    lit = diagonal > 0
    scale = torch.where(lit, 1 / torch.sqrt(torch.where(lit, diagonal, torch.ones_like(diagonal))), diagonal * 0)
    scaled = block * scale[:, :, None] * scale[:, None, :] + torch.diag_embed((~lit).to(block.dtype))
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if bool((failed > 0).any()):  # columns that are the same in every pixel: share the change between them
        ridge = 1e-10 * torch.eye(block.shape[1], dtype=block.dtype, device=block.device)
        factor = torch.linalg.cholesky(scaled + ridge)
    return factor, scale


def _solve(factor: Tensor, scale: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right * scale[..., None], factor) * scale[..., None]
