"""What groups of pixels may lose without a lattice of a shape that fades, against brute force; and how it is spent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.budget import _lose_balls, _lose_gratings, _threshold
from nanobrag_torch.kernels.cpu.intrinsics import entry
from nanobrag_torch.kernels.cpu.layout import Array

LATTICES = 40
PLACES = np.linspace(-1, 1, 13)


@entry()
def _gratings(loss: Array, columns: Array, p: Array, limits: Array) -> None:
    place = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11]
    _lose_gratings(loss, columns, place, limits)


@entry()
def _balls(loss: Array, columns: Array, p: Array, limits: Array) -> None:
    place = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11]
    _lose_balls(loss, columns, place, limits)


@entry()
def _threshold_of(loss: Array, budget: float) -> float:
    return _threshold(loss, budget)


def group(seed: int, size: float, rest: float) -> tuple[Array, Array]:
    """Lattices [10, K] of all directions, and a group: its middle, two vectors that it reaches, and a small third."""
    generator = np.random.default_rng(seed)
    columns = generator.normal(size=(at.LATTICE_COLUMNS, LATTICES))
    middle = 20 * generator.normal(size=3)
    one, two = size * generator.normal(size=(2, 3))
    return columns, np.concatenate((middle, one, two, rest * size * generator.normal(size=3)))


def indices(columns: Array, place: Array) -> Array:
    """hkl [points, K, 3] all over the group."""
    a, b, c = (grid.ravel() for grid in np.meshgrid(PLACES, PLACES, PLACES))
    q = place[:3] + a[:, None] * place[3:6] + b[:, None] * place[6:9] + c[:, None] * place[9:]
    return np.einsum("aik,pi->pka", columns[:9].reshape(3, 3, -1), q)


def largest_grating(columns: Array, place: Array, cells: Array) -> Array:
    """The largest envelope of L^2 anywhere in a group, by brute force: 1 / sin^2, and N^2 at most, axis by axis."""
    with np.errstate(divide="ignore"):
        axes = np.minimum(1 / np.sin(np.pi * indices(columns, place)) ** 2, cells**2)
    return axes.prod(-1).max(0)


def bound_of_gratings(columns: Array, place: Array, cells: Array) -> Array:
    limits, loss = np.zeros(at.LIMITS), np.empty(LATTICES)
    limits[at.FLOOR : at.BUDGET] = 1 / cells
    _gratings(loss, columns, place, limits)
    return loss


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    size=st.floats(-4.0, 0.5).map(lambda x: 10**x),
    rest=st.floats(0.0, 0.5),
    cells=st.tuples(*[st.floats(1.0, 300.0)] * 3),
)
def test_no_place_of_a_group_has_more_than_its_bound(seed, size, rest, cells):
    columns, place = group(seed, size, rest)
    bound = bound_of_gratings(columns, place, np.array(cells))
    assert (bound >= largest_grating(columns, place, np.array(cells)) * (1 - 1e-9)).all()


def test_the_bound_is_close():
    """Where a group is small against the space between reflections, as nearly all are, and much closer than that of
    each axis by itself."""
    cells, bounds, products = np.full(3, 60.0), [], []
    for seed in range(60):
        columns, place = group(seed, 0.02, 0.01)
        truth, hkl = largest_grating(columns, place, cells), indices(columns, place)
        nearest = np.abs(hkl - np.rint(hkl)).min(0)
        by_axis = np.minimum(1 / np.sin(np.pi * nearest) ** 2, 3600.0).prod(-1)
        bounds.append(bound_of_gratings(columns, place, cells) / truth)
        products.append(by_axis / truth)
    ours, apart = np.concatenate(bounds), np.concatenate(products)
    assert np.median(ours) < 1.05 and np.mean(np.log(apart)) > 2 * np.mean(np.log(ours))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), size=st.floats(-4.0, 0.5).map(lambda x: 10**x), cells=st.floats(1.0, 100.0))
def test_no_place_of_a_group_has_more_of_a_ball(seed, size, cells):
    columns, place = group(seed, size, 0.1)
    limits, loss = np.zeros(at.LIMITS), np.empty(LATTICES)
    limits[at.NEAREST : at.FARTHEST] = cells**2
    _balls(loss, columns, place, limits)
    hkl = indices(columns, place)
    t = np.pi * cells * np.linalg.norm(hkl - np.rint(hkl), axis=-1) + 1e-6
    ball = (3 * (np.sin(t) - t * np.cos(t)) / t**3) ** 2
    assert (loss >= ball.max(0) * (1 - 1e-6)).all()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 400),
    spread=st.floats(0.0, 12.0),
    budget=st.floats(-8.0, 8.0).map(lambda x: 10**x),
)
def test_no_more_is_spent_than_there_is(seed, count, spread, budget):
    """All losses below the threshold together; and what is left of the budget would not have gone much further."""
    loss = 10 ** (spread * np.random.default_rng(seed).normal(size=count))
    threshold = _threshold_of(loss, budget)
    spent = loss[loss < threshold].sum()
    assert spent <= budget * (1 + 1e-12)
    in_order = np.sort(loss)
    most = np.searchsorted(np.cumsum(in_order), budget)
    if 0 < most < count:
        assert threshold >= min(in_order[most - 1], budget / count) * 0.95


@pytest.mark.parametrize("lost", [np.inf, np.nan])
def test_what_cannot_be_bounded_is_kept(lost):
    for budget in (10.0, 0.5):
        loss = np.array([1.0, lost, 2.0, *np.full(50, lost)])
        threshold = _threshold_of(loss, budget)
        assert not lost < threshold and loss[loss < threshold].sum() <= budget
