"""Tricubic interpolation of F, with its slopes and its adjoint: scalar stages of the compiled CPU kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import stage
from nanobrag_torch.kernels.cpu.layout import Array

Weights = tuple[float, float, float, float]
NODE = -2
"""Index of lanes whose F is interpolated: neither a table index nor -1."""


@stage(inline="always")
def _place(a: Array, axis: int, x: float, y: float, z: float, grid: Array) -> Any:
    """An index counted from the first of the table."""
    return a[3 * axis] * x + a[3 * axis + 1] * y + a[3 * axis + 2] * z - grid[axis]


@stage()
def _lagrange(t: float) -> Weights:
    """Weights of the nodes -1, 0, 1, 2 for the cubic through four points."""
    before, after, far = t + 1, t - 1, t - 2
    return -t * after * far / 6, before * after * far / 2, -before * t * far / 2, before * t * after / 6


@stage()
def _lagrange_slopes(t: float) -> Weights:
    return (
        -(3 * t * t - 6 * t + 2) / 6,
        (3 * t * t - 4 * t - 1) / 2,
        -(3 * t * t - 2 * t - 2) / 2,
        (3 * t * t - 1) / 6,
    )


@stage()
def _contract(table: Array, first: int, step_h: int, step_k: int, wh: Weights, wk: Weights, wl: Weights) -> float:
    total = 0.0
    for i in range(4):
        for j in range(4):
            row = first + i * step_h + j * step_k
            for k in range(4):
                total += wh[i] * wk[j] * wl[k] * table[row + k]
    return total


@stage(forceinline=True)
def _in_range(place: float, size: float) -> bool:
    """All four nodes are in the table."""
    return not (place + 3 > size or place - 2 < 0)


@stage()
def interpolate(
    v: Array, w: Array, index: Array, lanes: int, a: Array, grid: Array, table: Array, slopes: bool
) -> None:
    """AMPLITUDE where the table has all nodes, marked in index; the slopes by hkl where asked for, else zero."""
    step_k, step_h = int(grid[5]), int(grid[4]) * int(grid[5])
    for j in range(lanes):
        x, y, z = v[at.X + j], v[at.Y + j], v[at.Z + j]
        h, k, l = _place(a, 0, x, y, z, grid), _place(a, 1, x, y, z, grid), _place(a, 2, x, y, z, grid)
        if slopes:
            w[at.FH + j] = w[at.FK + j] = w[at.FL + j] = 0
        if not (_in_range(h, grid[3]) and _in_range(k, grid[4]) and _in_range(l, grid[5])):
            continue
        index[j] = NODE
        base_h, base_k, base_l = np.floor(h), np.floor(k), np.floor(l)
        first = (int(base_h) - 1) * step_h + (int(base_k) - 1) * step_k + int(base_l) - 1
        wh, wk, wl = _lagrange(h - base_h), _lagrange(k - base_k), _lagrange(l - base_l)
        w[at.AMPLITUDE + j] = _contract(table, first, step_h, step_k, wh, wk, wl)
        if slopes:
            w[at.FH + j] = _contract(table, first, step_h, step_k, _lagrange_slopes(h - base_h), wk, wl)
            w[at.FK + j] = _contract(table, first, step_h, step_k, wh, _lagrange_slopes(k - base_k), wl)
            w[at.FL + j] = _contract(table, first, step_h, step_k, wh, wk, _lagrange_slopes(l - base_l))


@stage()
def scatter_nodes(
    v: Array, w: Array, index: Array, lanes: int, a: Array, grid: Array, weight: float, sums: Array
) -> None:
    """Add the gradient by the table of the lanes that `interpolate` marked."""
    step_k, step_h = int(grid[5]), int(grid[4]) * int(grid[5])
    for j in range(lanes):
        if index[j] != NODE:
            continue
        x, y, z = v[at.X + j], v[at.Y + j], v[at.Z + j]
        h, k, l = _place(a, 0, x, y, z, grid), _place(a, 1, x, y, z, grid), _place(a, 2, x, y, z, grid)
        base_h, base_k, base_l = np.floor(h), np.floor(k), np.floor(l)
        first = (int(base_h) - 1) * step_h + (int(base_k) - 1) * step_k + int(base_l) - 1
        wh, wk, wl = _lagrange(h - base_h), _lagrange(k - base_k), _lagrange(l - base_l)
        flow = 2.0 * weight * w[at.FLOW + j] * w[at.AMPLITUDE + j] * w[at.SQUARE + j]
        for i in range(4):
            for m in range(4):
                for n in range(4):
                    sums[first + i * step_h + m * step_k + n] += flow * wh[i] * wk[m] * wl[n]
