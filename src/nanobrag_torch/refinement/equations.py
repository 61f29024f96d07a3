"""The normal equations of a shot: parameters, planes and intensities together, the linear ones eliminated exactly.

One quadratic model of the loss in the parameters x [T] and the linear columns l [blocks, C]:

    A dx + B^T dl = g,   B dx + D dl = h,   c_k . (l + dl) = e_k

D is block diagonal. The constraints c keep the mean intensity of each crystal where it is, so that scale and
intensities cannot drift against each other. All three are solved together; nothing here knows what the columns are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nanobrag_torch.refinement.columns import Eliminated, Layout, eliminate


class Step(NamedTuple):
    """A change of the parameters [T] and of the columns [blocks, C]."""

    parameters: Tensor
    linear: Tensor


@dataclass(frozen=True, eq=False)
class Equations:
    """A, B, D, g and h of a shot with the priors in them, float64; `objective` is the loss that they are a model of."""

    A: Tensor  # [T, T]
    B: Tensor  # [blocks, C, T]
    D: Tensor  # [blocks, C, C]
    g: Tensor  # [T] downhill
    h: Tensor  # [blocks, C]
    constraint: Tensor  # [k, blocks, C]
    gap: Tensor  # [k] what the columns still lack of the constraint
    objective: float

    def projected(self) -> Projected:
        """With the columns solved for."""
        blocks, size = self.h.shape
        gram = self.D.new_zeros((blocks, size + len(self.g), size + len(self.g)))
        gram[:, :size, :size], gram[:, :size, size:] = self.D, self.B
        right = torch.cat((self.h, self.h.new_zeros((blocks, len(self.g)))), 1)
        inner = eliminate(gram, right, size)
        matrix, vector = self.A + inner.matrix, self.g + inner.right
        if len(self.constraint) == 0:
            return Projected(matrix, vector, self, inner, self.h.new_zeros((blocks, size, 0)), self.A[:0, :0], vector)
        solved = inner.solve(self.constraint.permute(1, 2, 0))  # [blocks, C, k]
        border = torch.einsum("bct,bck->tk", self.B, solved)
        middle = torch.einsum("kbc,bcm->km", self.constraint, solved)
        lacking = torch.einsum("kbc,bc->k", self.constraint, inner.free) - self.gap
        inverse = torch.linalg.inv(middle)
        matrix = matrix + border @ inverse @ border.T
        vector = vector + border @ inverse @ lacking
        return Projected((matrix + matrix.T) / 2, vector, self, inner, solved, inverse, lacking)


class Projected(NamedTuple):
    """The parameters' own equations S x = r, and the way back to the columns."""

    matrix: Tensor  # [T, T] S
    right: Tensor  # [T] r
    equations: Equations
    inner: Eliminated
    solved: Tensor  # [blocks, C, k]
    middle: Tensor  # [k, k]
    lacking: Tensor  # [k]

    def step(self, damping: float = 0.0) -> Step:
        """The damped step (Levenberg and Marquardt), with the columns' best answer to it."""
        damped = self.matrix + damping * torch.diag(self.matrix.diagonal())
        return self.follow(solve_symmetric(damped, self.right))

    def follow(self, parameters: Tensor) -> Step:
        """A step of the parameters, and the columns' best answer to it."""
        linear = self.inner.solution(parameters)
        if self.solved.shape[2]:
            border = torch.einsum("bct,bck->kt", self.equations.B, self.solved)
            linear = linear - self.solved @ (self.middle @ (self.lacking - border @ parameters))
        return Step(parameters, linear)

    def covariance(self) -> Tensor:
        """Of the parameters [T, T], with the columns free."""
        return solve_symmetric(self.matrix, torch.eye(len(self.right), dtype=torch.float64))

    def follow_rows(self) -> Tensor:
        """How the columns follow the parameters [blocks, C, T]: they change by minus this times the step."""
        follow = self.inner.follow
        if not self.solved.shape[2]:
            return follow
        border = torch.einsum("bct,bck->kt", self.equations.B, self.solved)
        return follow - self.solved @ (self.middle @ border)

    def own_covariance(self) -> Tensor:
        """Of the columns of each block [blocks, C, C] if the parameters were known."""
        blocks, size = self.equations.h.shape
        own = self.inner.solve(torch.eye(size, dtype=torch.float64).expand(blocks, size, size))
        return own - self.solved @ self.middle @ self.solved.transpose(1, 2) if self.solved.shape[2] else own

    def linear_covariance(self, covariance: Tensor) -> Tensor:
        """Of the columns of each block [blocks, C, C], with the parameters of this covariance [T, T] free too."""
        follow = self.follow_rows()
        return self.own_covariance() + follow @ covariance @ follow.transpose(1, 2)


def solve_symmetric(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve a positive definite system [T, T] after scaling to a unit diagonal; rows of zeros give zero.

    right: [T], or several side by side [T, k].
    """
    if right.dim() == 1:
        return solve_symmetric(matrix, right[:, None])[:, 0]
    if not len(matrix):
        return right
    diagonal = matrix.diagonal()
    lit = diagonal > 0
    scale = torch.where(lit, diagonal.clamp(min=torch.finfo(matrix.dtype).tiny) ** -0.5, torch.zeros_like(diagonal))
    scaled = matrix * scale[:, None] * scale + torch.diag((~lit).to(matrix.dtype))
    values, vectors = torch.linalg.eigh(scaled)
    kept = torch.where(values > 1e-13 * values[-1:], 1 / values, torch.zeros_like(values))
    found: Tensor = (vectors @ (kept[:, None] * (vectors.T @ (right * scale[:, None])))) * scale[:, None]
    return found


def assemble(
    layout: Layout,
    jacobian: Tensor,
    columns: Tensor,
    slope: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A [T, T], B [blocks, C, T], D [blocks, C, C], g [T] and h [blocks, C] of pixels, without priors.

    jacobian [T, n] of the model by the parameters, columns [n, C] by the linear ones; slope and weight [n] of the loss.
    """
    size = columns.shape[1]
    gram, right = layout.gram(torch.cat((columns, jacobian.T), 1), weight, -slope)
    return (
        gram[:, size:, size:].sum(0),
        gram[:, :size, size:],
        gram[:, :size, :size],
        right[:, size:].sum(0),
        right[:, :size],
    )
