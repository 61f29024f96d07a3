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


@stage()
def _corner(v: Array, j: int, a: Array, grid: Array) -> Any:
    """Table index of the first of 64 nodes about a lane's hkl, and hkl less those of the second on each axis.

    The index is negative unless all nodes are in the table; the rest means nothing then.
    """
    x, y, z = v[at.X + j], v[at.Y + j], v[at.Z + j]
    h = a[0] * x + a[1] * y + a[2] * z - grid[0]
    k = a[3] * x + a[4] * y + a[5] * z - grid[1]
    l = a[6] * x + a[7] * y + a[8] * z - grid[2]
    if not (_in_range(h, grid[3]) and _in_range(k, grid[4]) and _in_range(l, grid[5])):
        return at.FIRST - 1, h, k, l
    base_h, base_k, base_l = np.floor(h), np.floor(k), np.floor(l)
    row = (int(base_h) - 1) * int(grid[4]) + int(base_k) - 1
    return row * int(grid[5]) + int(base_l) - 1, h - base_h, k - base_k, l - base_l


@stage(forceinline=True)
def _in_range(place: float, size: float) -> bool:
    """All four nodes are in the table."""
    return not (place + 3 > size or place - 2 < 0)


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
def _contract(table: Array, grid: Array, first: int, wh: Weights, wk: Weights, wl: Weights) -> float:
    """The weighted sum of 64 nodes."""
    step_k, step_h, total = int(grid[5]), int(grid[4]) * int(grid[5]), 0.0
    for i in range(4):
        for j in range(4):
            row = first + i * step_h + j * step_k
            for k in range(4):
                total += wh[i] * wk[j] * wl[k] * table[row + k]
    return total


@stage()
def interpolate(
    v: Array, w: Array, index: Array, lanes: int, a: Array, grid: Array, table: Array, slopes: bool
) -> None:
    """AMPLITUDE where the table has all nodes, marked in index; the slopes by hkl where asked for, else zero."""
    for j in range(lanes):
        first, h, k, l = _corner(v, j, a, grid)
        if slopes:
            w[at.FH + j] = w[at.FK + j] = w[at.FL + j] = 0
        if first < 0:
            continue
        index[j] = NODE
        wh, wk, wl = _lagrange(h), _lagrange(k), _lagrange(l)
        w[at.AMPLITUDE + j] = _contract(table, grid, first, wh, wk, wl)
        if slopes:
            w[at.FH + j] = _contract(table, grid, first, _lagrange_slopes(h), wk, wl)
            w[at.FK + j] = _contract(table, grid, first, wh, _lagrange_slopes(k), wl)
            w[at.FL + j] = _contract(table, grid, first, wh, wk, _lagrange_slopes(l))


@stage()
def scatter_nodes(
    v: Array, w: Array, index: Array, lanes: int, a: Array, grid: Array, weight: float, sums: Array
) -> None:
    """Add the gradient by the table of the lanes that `interpolate` marked."""
    for j in range(lanes):
        if index[j] != NODE:
            continue
        first, h, k, l = _corner(v, j, a, grid)
        wh, wk, wl = _lagrange(h), _lagrange(k), _lagrange(l)
        flow = 2.0 * weight * w[at.FLOW + j] * w[at.AMPLITUDE + j] * w[at.SQUARE + j]
        _spread(sums, grid, first, flow, wh, wk, wl)


@stage()
def _spread(sums: Array, grid: Array, first: int, flow: float, wh: Weights, wk: Weights, wl: Weights) -> None:
    """Add the gradient by an interpolated F to those by its 64 nodes."""
    step_k, step_h = int(grid[5]), int(grid[4]) * int(grid[5])
    for i in range(4):
        for j in range(4):
            for k in range(4):
                sums[first + i * step_h + j * step_k + k] += flow * wh[i] * wk[j] * wl[k]
