"""Structure factors given where a crystal is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanobrag_torch import CrystalConfig
from nanobrag_torch.crystallography.structure_factors import read_structure_factors
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.hkl import read_hkl_file
from nanobrag_torch.models.crystal import Crystal

CONFIG = CrystalConfig(cell_a=60.0, default_F=7.0)


def crystal(given) -> Crystal:
    return Crystal(CONFIG, structure_factors=given)


def test_a_file_reflections_a_table_and_an_array_are_one_crystal(data):
    path = data / "inputs" / "p1_small.hkl"
    grid, limits = read_hkl_file(path, default_F=7.0)
    rows = np.loadtxt(path)
    first = [limits[f"{axis}_min"] for axis in "hkl"]
    for given in (
        path,
        str(path),
        read_structure_factors(path),
        rows,
        torch.from_numpy(rows[::-1].copy()),
        (grid, first),
    ):
        made = crystal(given)
        assert {k: made.hkl_metadata[k] for k in limits} == limits
        assert torch.equal(made.hkl_data.double(), torch.as_tensor(grid).double())
        assert made.structure_factors(torch.float64)[1] == tuple(first)
        assert "a table of" in repr(made)


def test_missing_reflections_have_the_default():
    made = crystal(np.array([[0, 0, 0, 5.0], [0, 0, 2, 6.0]]))
    assert made.hkl_data.flatten().tolist() == [5, 7, 6]


def test_amplitudes_that_require_gradients_keep_them():
    amplitudes = torch.tensor([5.0, 6.0], dtype=torch.float64, requires_grad=True)
    rows = torch.cat((torch.tensor([[0.0, 0, 0], [0, 1, 0]], dtype=torch.float64), amplitudes[:, None]), 1)
    crystal(rows).hkl_data.sum().backward()
    assert amplitudes.grad.tolist() == [1, 1]


@pytest.mark.parametrize(
    "wrong", [5.0, np.ones((3, 3)), (np.ones((2, 2)), (0, 0, 0)), np.ones((0, 4)), np.array([[0.5, 0, 0, 1.0]])]
)
def test_anything_else_is_refused_in_one_line(wrong):
    with pytest.raises(InputError, match="structure_factors: got .*h k l F"):
        crystal(wrong)


def test_one_of_the_two_ways():
    with pytest.raises(InputError, match="one of the two"):
        Crystal(CONFIG, hkl_data=torch.ones(1, 1, 1), structure_factors=np.ones((1, 4)))
