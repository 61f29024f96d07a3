"""MOSFLM matrices: the supervisor's published cell volume, gemmi's cell algebra, and files that must be refused."""

import math
from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.mosflm import read_mosflm_matrix, reciprocal_to_real_cell, write_mosflm_matrix

DATA = Path(__file__).parents[1] / "data"


def test_supervisor_matrix_spans_the_known_volume():
    stars = read_mosflm_matrix(DATA / "supervisor" / "A.mat", 0.9768)
    cell = gemmi.UnitCell(*reciprocal_to_real_cell(*stars))
    assert cell.volume == pytest.approx(24682.2566301113, rel=1e-10)
    assert all(star.shape == (3,) and star.dtype == np.float64 for star in stars)


def test_columns_are_the_vectors_and_the_wavelength_is_removed():
    rows = np.loadtxt(DATA / "inputs" / "ortho.mat")
    a_star, b_star, c_star = read_mosflm_matrix(DATA / "inputs" / "ortho.mat", 1.5)
    np.testing.assert_allclose(np.column_stack([a_star, b_star, c_star]) * 1.5, rows, rtol=1e-15)


@given(
    lengths=st.tuples(*[st.floats(5, 500)] * 3),
    angles=st.tuples(*[st.floats(65, 115)] * 3),
    turn=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
)
def test_any_cell_in_any_orientation_comes_back(lengths, angles, turn):
    cell = gemmi.UnitCell(*lengths, *angles)
    reciprocal = np.array(cell.frac.mat.tolist())  # rows a*, b*, c*
    w, x, y, z = np.array(turn) / np.linalg.norm(turn)
    rotation = np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                         [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                         [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])  # fmt: skip
    found = reciprocal_to_real_cell(*(reciprocal @ rotation.T))
    np.testing.assert_allclose(found, [*lengths, *angles], rtol=1e-11)


def test_a_written_matrix_reads_back_and_holds_u_and_cell(tmp_path):
    stars = read_mosflm_matrix(DATA / "inputs" / "tri.mat", 1.0)
    write_mosflm_matrix(tmp_path / "out.mat", *stars, 0.9)
    np.testing.assert_allclose(read_mosflm_matrix(tmp_path / "out.mat", 0.9), stars, atol=1e-15)
    lines = [np.array(line.split(), float) for line in (tmp_path / "out.mat").read_text().splitlines()]
    assert [len(line) for line in lines] == [3, 3, 3, 3, 3, 3, 3, 6, 3]
    u, cell = np.array(lines[4:7]), gemmi.UnitCell(*lines[7])
    np.testing.assert_allclose(u @ u.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(u) == pytest.approx(1, abs=1e-6)
    # Busing and Levy's B from the cell: A = wavelength U B
    star = cell.reciprocal()
    ca, cb, cg = (math.cos(math.radians(x)) for x in (star.alpha, star.beta, star.gamma))
    sg = math.sin(math.radians(star.gamma))
    c_y = star.c * (ca - cb * cg) / sg
    b = np.array([[star.a, star.b * cg, star.c * cb], [0, star.b * sg, c_y], [0, 0, 1 / cell.c]])
    np.testing.assert_allclose(0.9 * u @ b, np.array(lines[:3]), atol=1e-6)


BAD = ["1 2 3 4 5 6 7 8", "1 2 3 4 five 6 7 8 9", "1 2 3 4 5 6 7 8 nan", "1 0 0 0 1 0 1 1 0", "{\nHEADER_BYTES", ""]


@pytest.mark.parametrize("text", BAD)
def test_files_without_a_matrix_are_refused(tmp_path, text):
    (tmp_path / "bad.mat").write_text(text)
    with pytest.raises(InputError, match="-mat: got .*bad.mat"):
        read_mosflm_matrix(tmp_path / "bad.mat", 1.0)


def test_a_missing_file_a_wrong_wavelength_and_a_flat_basis_are_refused(tmp_path):
    with pytest.raises(InputError, match="-mat: got .*none.mat.*no such file"):
        read_mosflm_matrix(tmp_path / "none.mat", 1.0)
    for wavelength in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="wavelength_A"):
            read_mosflm_matrix(DATA / "inputs" / "ortho.mat", wavelength)
    with pytest.raises(InputError, match="volume"):
        reciprocal_to_real_cell([1, 0, 0], [0, 1, 0], [1, 1, 0])
