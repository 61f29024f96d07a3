"""Cells that obey their space group: seven systems, any unique axis, both axes of rhombohedral lattices."""

import numpy as np
import pytest
import torch

from nanobrag_torch.crystallography.symmetry import rotations
from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.symmetry import cell_parametrisation, direct_rows, metric, nearest_turn

SYSTEMS = {
    "P 1": ("a", "b", "c", "alpha", "beta", "gamma"),
    "P 1 21 1": ("a", "b", "c", "beta"),
    "P 1 1 21": ("a", "b", "c", "gamma"),
    "P 21 1 1": ("a", "b", "c", "alpha"),
    "C 1 2 1": ("a", "b", "c", "beta"),
    "I 1 2 1": ("a", "b", "c", "beta"),
    "P 21 21 21": ("a", "b", "c"),
    "P 43 21 2": ("a", "c"),
    "P 31 2 1": ("a", "c"),
    "P 63": ("a", "c"),
    "R 3:H": ("a", "c"),
    "R 3:R": ("a", "alpha"),
    "R 3 2:R": ("a", "alpha"),
    "F 4 3 2": ("a",),
    "P 21 3": ("a",),
}


@pytest.mark.parametrize(("group", "free"), SYSTEMS.items())
def test_free_numbers_of_each_system(group, free):
    assert cell_parametrisation(group).names == free


@pytest.mark.parametrize("group", SYSTEMS)
def test_every_cell_is_invariant_under_the_group(group):
    tied = cell_parametrisation(group)
    generator = np.random.default_rng(3)
    for _ in range(5):
        values = {n: generator.uniform(50, 90) if n in "abc" else generator.uniform(75, 105) for n in tied.names}
        cell = tied.cell({n: torch.tensor(v, dtype=torch.float64) for n, v in values.items()})
        tensor = metric(tuple(cell.tolist()))
        for turn in rotations(group):
            assert np.abs(turn.T @ tensor @ turn - tensor).max() < 1e-12 * np.abs(tensor).max() * 100


@pytest.mark.parametrize("group", ["P 1", "P 1 21 1", "R 3:R"])
def test_slopes_of_rows_by_the_free_numbers(group):
    tied = cell_parametrisation(group)
    start = {"a": 61.0, "b": 72.0, "c": 83.0, "alpha": 81.0, "beta": 97.0, "gamma": 104.0}

    def rows(vector):
        return direct_rows(tied.cell(dict(zip(tied.names, vector, strict=True))))

    point = torch.tensor([start[name] for name in tied.names], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rows, (point,), atol=1e-8)
    lengths = torch.linalg.vector_norm(rows(point), dim=1)
    assert torch.allclose(lengths, tied.cell(dict(zip(tied.names, point, strict=True)))[:3])


def test_a_cell_that_breaks_its_symmetry_is_refused():
    with pytest.raises(InputError, match="symmetry of its space group"):
        cell_parametrisation("P 43 21 2").start((79.0, 84.0, 38.0, 90.0, 90.0, 90.0))
    assert cell_parametrisation("P 43 21 2").start((79.0, 79.2, 38.0, 90.0, 90.0, 90.0)) == {"a": 79.1, "c": 38.0}


@pytest.mark.parametrize("hand", [1, -1])
def test_orientation_of_rows(hand):
    cell = torch.tensor([61.0, 72.0, 83.0, 81.0, 97.0, 104.0], dtype=torch.float64)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= hand * np.sign(np.linalg.det(turn))
    rows = direct_rows(cell).numpy() @ turn
    assert np.allclose(nearest_turn(rows, cell).numpy(), turn, atol=1e-12)
