"""The C program's dump file: the reference file against the text that it was made from, and the white-space trap."""

from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.dump import read_dump_file, write_dump_file
from nanobrag_torch.io.hkl import read_hkl_arrays

INPUTS = Path(__file__).parents[1] / "data" / "inputs"


def test_the_reference_dump_holds_the_text_file_that_it_was_made_from():
    grid, metadata = read_dump_file(INPUTS / "gaps_dump.bin")
    table = read_hkl_arrays(INPUTS / "p1_gaps.hkl")
    rows = np.loadtxt(INPUTS / "p1_gaps.hkl")
    assert metadata == table.metadata and grid.shape == table.grid.shape
    cells = (rows[:, :3] - [metadata["h_min"], metadata["k_min"], metadata["l_min"]]).astype(int)
    assert (grid[tuple(cells.T)] == rows[:, 3]).all()


def test_writing_gives_the_c_programs_bytes(tmp_path):
    grid, metadata = read_dump_file(INPUTS / "gaps_dump.bin")
    write_dump_file(tmp_path / "out.bin", grid, metadata)
    assert (tmp_path / "out.bin").read_bytes() == (INPUTS / "gaps_dump.bin").read_bytes()


@pytest.mark.parametrize("byte", [9, 10, 11, 12, 13, 32])
def test_data_that_begin_like_white_space_are_read_whole(tmp_path, byte):
    first = np.frombuffer(bytes([byte] * 2) + np.float64(20.5).tobytes()[2:], np.float64)[0]
    grid = np.full((1, 2, 1), first)
    metadata = {"h_min": 0, "h_max": 0, "k_min": -1, "k_max": 0, "l_min": 3, "l_max": 3}
    write_dump_file(tmp_path / "Fdump.bin", grid, metadata)
    assert (read_dump_file(tmp_path / "Fdump.bin")[0] == grid).all()


def test_malformed_dumps_are_refused(tmp_path):
    good = (INPUTS / "gaps_dump.bin").read_bytes()
    wrong = {
        "cut": good[:-8],
        "long": good + b"\0",
        "text": b"0 0 0 100\n",
        "spaces": good.replace(b"\n\f", b"\n \f", 1),
        "reversed": b"1 0 0 0 0 0\n\f",
        "nan": b"0 0 0 0 0 0\n\f" + np.full(8, np.nan).tobytes(),
    }
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"-dump: got .*{name}"):
            read_dump_file(tmp_path / name)


def test_a_grid_that_does_not_fit_its_limits_is_refused(tmp_path):
    metadata = {"h_min": 0, "h_max": 1, "k_min": 0, "k_max": 0, "l_min": 0, "l_max": 0}
    with pytest.raises(InputError, match="shape"):
        write_dump_file(tmp_path / "x", np.zeros((1, 1, 1)), metadata)
    assert not (tmp_path / "x").exists()
