"""Normal equations of many shots that share intensities, each shot's own parameters eliminated.

One quadratic model of the loss, in the parameters t_s of every shot s and the intensities x that all of them share:

    A_s dt_s + B_s^T P_s dx = g_s,   sum_s P_s^T (B_s dt_s + D_s P_s dx) + K dx = sum_s P_s^T h_s + k

P_s picks the reflections that are on shot s, K and k are the prior. What is left for dx after the elimination,

    S = K + sum_s P_s^T (D_s - B_s A_s^-1 B_s^T) P_s,

is never formed: conjugate gradients need its products alone, one sum over the processes each. Constraints C dx = e
(the gauge) are kept by projecting every step, so that no scale can drift against the intensities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nanobrag_torch.refinement.equations import solve_symmetric
from nanobrag_torch.refinement.reducers import Reducer

BLOCK = 32
"""Shots of a block: sums are formed in blocks of this many, in the order of the shots' names."""
TOLERANCE = 1e-12
MOST_ITERATIONS = 1000
AT_ONCE = 64
Solved = tuple[Tensor, int]


@dataclass(frozen=True, eq=False)
class ShotEquations:
    """The equations of one shot, its planes eliminated, float64.

    A [T, T], B [R, T], g [T] downhill, h [R]; D [R] is the diagonal of its reflections' own matrix, and cross [m] the
    rest of it at the rows and columns of pairs [2, m]. reflections [R]: places in the shared list. weight multiplies
    all that the shot says; damping (Levenberg and Marquardt's) is its own.
    """

    name: str
    A: Tensor
    B: Tensor
    D: Tensor
    pairs: Tensor
    cross: Tensor
    g: Tensor
    h: Tensor
    reflections: Tensor
    weight: float = 1.0
    damping: float = 0.0

    def damped(self) -> Tensor:
        """A [T, T] with the shot's damping."""
        return self.A + self.damping * torch.diag(self.A.diagonal())

    def follow(self, change: Tensor) -> Tensor:
        """The step [T] of the shot's parameters for a change [N] of the shared intensities."""
        return solve_symmetric(self.damped(), self.g - self.B.T @ change[self.reflections])

    def undamped(self) -> ShotEquations:
        """The same without damping."""
        return replace(self, damping=0.0)

    def held(self) -> ShotEquations:
        """The same with the shot's parameters known."""
        return replace(self, A=self.A[:0, :0], B=self.B[:, :0], g=self.g[:0])


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known of the shared intensities: precision [N] and pull [N] downhill; Friedel pairs [2, m] are bound.

    pair_precision [m] is that of the difference of the two; row_precision [k] that of the weighted sums rows [k, N].
    """

    precision: Tensor
    pull: Tensor
    pairs: Tensor
    pair_precision: Tensor
    rows: Tensor
    row_precision: Tensor

    @classmethod
    def of(cls, precision: Tensor, pull: Tensor) -> Prior:
        """A prior without pairs."""
        none = torch.zeros((2, 0), dtype=torch.int64)
        return cls(precision, pull, none, precision[:0], precision.new_zeros((0, len(precision))), precision[:0])

    def product(self, v: Tensor) -> Tensor:
        """K v for v [N] or [N, k]."""
        if v.dim() == 1:
            return self.product(v[:, None])[:, 0]
        found = self.precision[:, None] * v + self.rows.T @ (self.row_precision[:, None] * (self.rows @ v))
        first, second = self.pairs
        pull = self.pair_precision[:, None] * (v[first] - v[second])
        return found.index_add(0, first, pull).index_add(0, second, -pull)

    def diagonal(self) -> Tensor:
        """Of K [N]."""
        found = self.precision + self.row_precision @ self.rows**2
        for side in self.pairs:
            found = found.index_add(0, side, self.pair_precision)
        return found


class _Block:
    """Some shots of a process as one list of rows, so that a product is a few operations."""

    def __init__(self, shots: Sequence[ShotEquations], count: int) -> None:
        self.count, self.shots = count, len(shots)
        most = max((len(s.A) for s in shots), default=0)
        rows, right = [], []
        for s in shots:
            values, vectors = _inverse_root(s.damped())
            root = (s.B @ vectors) * values
            side = s.h - root @ (values * (vectors.T @ s.g))
            rows.append(torch.nn.functional.pad(root, (0, most - root.shape[1])) * s.weight**0.5)
            right.append(side * s.weight)
        starts = [0]
        for s in shots:
            starts.append(starts[-1] + len(s.D))
        self.rows, self.right = torch.cat(rows), torch.cat(right)
        self.shot = torch.cat([torch.full((len(s.D),), i) for i, s in enumerate(shots)])
        self.reflections = torch.cat([s.reflections for s in shots])
        self.D = torch.cat([s.D * s.weight for s in shots])
        self.pairs = torch.cat([s.pairs + start for s, start in zip(shots, starts, strict=False)], 1)
        self.cross = torch.cat([s.cross * s.weight for s in shots])

    def product(self, v: Tensor) -> Tensor:
        u = v[self.reflections]
        found = self.D[:, None] * u
        found = found.index_add(0, self.pairs[0], self.cross[:, None] * u[self.pairs[1]])
        of_shots = u.new_zeros((self.shots, self.rows.shape[1], u.shape[1]))
        of_shots = of_shots.index_add(0, self.shot, self.rows[:, :, None] * u[:, None, :])
        found = found - torch.einsum("rt,rtk->rk", self.rows, of_shots[self.shot])
        return self._scattered(found)

    def diagonal(self) -> Tensor:
        """Without what two rows of a shot that are the same shared reflection say together: it only preconditions."""
        return self._scattered((self.D - (self.rows**2).sum(1))[:, None])[:, 0]

    def right_side(self) -> Tensor:
        return self._scattered(self.right[:, None])[:, 0]

    def _scattered(self, rows: Tensor) -> Tensor:
        return rows.new_zeros((self.count, rows.shape[1])).index_add(0, self.reflections, rows)


def _inverse_root(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Values [T] and vectors [T, T] with vectors diag(values^2) vectors^T = matrix^-1; dark rows give zero."""
    diagonal = matrix.diagonal()
    lit = diagonal > 0
    scale = torch.where(lit, diagonal.clamp(min=1e-300) ** -0.5, torch.zeros_like(diagonal))
    values, vectors = torch.linalg.eigh(matrix * scale[:, None] * scale + torch.diag((~lit).to(matrix.dtype)))
    kept = torch.where(values > 1e-13 * values[-1:], values.clamp(min=1e-300) ** -0.5, torch.zeros_like(values))
    return kept, scale[:, None] * vectors


class Answer(NamedTuple):
    """A change [N] of the shared intensities, and the products that it took."""

    change: Tensor
    products: int


class Shared:
    """The equations of all shots of all processes: this process's shots, the prior, and the sums over the others."""

    def __init__(
        self,
        shots: Sequence[ShotEquations],
        prior: Prior,
        reducer: Reducer,
        *,
        constraint: Tensor | None = None,
        gap: Tensor | None = None,
    ) -> None:
        """constraint [k, N] and gap [k]: C dx = e. The prior is the same in every process."""
        count = len(prior.precision)
        ordered = sorted((s for s in shots if s.weight > 0), key=lambda s: s.name)
        self.blocks = [_Block(ordered[i : i + BLOCK], count) for i in range(0, len(ordered), BLOCK)]
        self.prior, self.reducer = prior, reducer
        self.constraint = prior.precision.new_zeros((0, count)) if constraint is None else constraint
        self.gap = self.constraint[:, 0] * 0 if gap is None else gap
        zero = torch.zeros((count, 2), dtype=torch.float64)
        parts = [torch.stack((b.diagonal(), b.right_side()), 1) for b in self.blocks]
        both = reducer.total(sum(parts, zero))
        self.diagonal = both[:, 0] + prior.diagonal()
        self.right = both[:, 1] + prior.pull
        self.lit = self.diagonal > 0
        self._norm = torch.linalg.pinv(self.constraint @ self.constraint.T) if len(self.constraint) else None

    def product(self, v: Tensor) -> Tensor:
        """S v for v [N, k]."""
        of_shots = sum((b.product(v) for b in self.blocks), torch.zeros_like(v))
        found: Tensor = self.reducer.total(of_shots) + self.prior.product(v)
        return found

    def solve(self) -> Answer:
        """The change of the shared intensities. Reflections that no shot and no prior know stay where they are."""
        start = self._to_gap()
        right = self.right[:, None] - (self.product(start) if len(self.constraint) else 0)
        change, products = self._conjugate_gradients(right)
        return Answer((start + change)[:, 0], products)

    def inverse_rows(self, columns: Tensor, tolerance: float = TOLERANCE) -> Tensor:
        """S^-1 c for columns c [N, k], within the constraint."""
        return self._conjugate_gradients(columns, tolerance)[0]

    def variances(self, places: Tensor) -> Tensor:
        """The diagonal [k] of S^-1 at places [k], within the constraint, all others held: by its whole matrix."""
        columns = []
        for start in range(0, len(places), AT_ONCE):
            part = places[start : start + AT_ONCE]
            unit = torch.zeros((len(self.right), len(part)), dtype=torch.float64)
            unit[part, torch.arange(len(part))] = 1
            columns.append(self.product(unit)[places])
        scale = self.diagonal[places].clamp(min=1e-300) ** -0.5
        matrix = torch.cat([*columns, torch.zeros((len(places), 0), dtype=torch.float64)], 1)
        inverse = torch.linalg.pinv(matrix * scale[:, None] * scale, hermitian=True) * scale[:, None] * scale
        border = inverse @ self.constraint[:, places].T
        held = ((border @ torch.linalg.pinv(self.constraint[:, places] @ border)) * border).sum(1)
        found: Tensor = inverse.diagonal() - held
        return found

    def _to_gap(self) -> Tensor:
        if self._norm is None:
            return torch.zeros((len(self.right), 1), dtype=torch.float64)
        found: Tensor = (self.constraint.T @ (self._norm @ self.gap))[:, None]
        return found

    def _projected(self, v: Tensor) -> Tensor:
        if self._norm is None:
            return v
        found: Tensor = v - self.constraint.T @ (self._norm @ (self.constraint @ v))
        return found

    def _preconditioned(self, residual: Tensor) -> Tensor:
        inverse = torch.where(self.lit, 1 / torch.where(self.lit, self.diagonal, 1.0), 0.0)
        return self._projected(inverse[:, None] * residual)

    def _conjugate_gradients(self, right: Tensor, tolerance: float = TOLERANCE) -> Solved:
        """Of every column at once; the products are summed over processes, all else is the same in each."""
        residual = self._projected(right * self.lit[:, None])
        found = torch.zeros_like(residual)
        z = self._preconditioned(residual)
        direction, level = z, (residual * z).sum(0)
        first, products = level.clone(), 0
        while products < MOST_ITERATIONS and bool((level > tolerance**2 * first).any()):
            moved = self._projected(self.product(direction) * self.lit[:, None])
            products += 1
            curvature = (direction * moved).sum(0)
            share = torch.where(curvature > 0, level / curvature.clamp(min=1e-300), 0.0)
            found, residual = found + share * direction, residual - share * moved
            z = self._preconditioned(residual)
            fresh = (residual * z).sum(0)
            direction = z + torch.where(level > 0, fresh / level.clamp(min=1e-300), 0.0) * direction
            level = fresh
        return found, products
