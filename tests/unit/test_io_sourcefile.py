"""Source tables: the reference files, and the texts that the C program misreads."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.sourcefile import read_sourcefile

INPUTS = Path(__file__).parents[1] / "data" / "inputs"
NAN = math.nan


@pytest.fixture
def read(tmp_path):
    def read_text(text: str) -> np.ndarray:
        (tmp_path / "s.txt").write_bytes(text.encode())
        return read_sourcefile(tmp_path / "s.txt")

    return read_text


def test_reference_files():
    full = [[-10, 0, 0, 1, 1e-10], [-10, 0.02, 0.01, 2, 1.01e-10], [-10, -0.015, 0.02, 0.5, 0.99e-10],
            [-5, 0.005, -0.004, 1, 1e-10]]  # fmt: skip
    partial = [[-10, 0.01, 0, NAN, NAN], [-10, 0, 0.02, 3, NAN], [-10, 0, -0.01, 1, 1.02e-10]]
    np.testing.assert_array_equal(read_sourcefile(INPUTS / "sources_full.txt"), full)
    np.testing.assert_array_equal(read_sourcefile(INPUTS / "sources_partial.txt"), partial)


@pytest.mark.parametrize(
    "text",
    ["1 2 3\n", "1 2 3\r\n", "1 2 3", "1 2 3 # x\n", "# X\n1,2;3\n", "\n;1:2!3 ,\n\n", "1\t2\t3\t", "1 2 3 nan"],
)
def test_missing_columns_are_missing_however_the_line_ends(read, text):
    np.testing.assert_array_equal(read(text), [[1, 2, 3, NAN, NAN]])


def test_what_follows_the_fifth_column_is_not_read(read):
    np.testing.assert_array_equal(read("1 2 3 4 5 six 7\n"), [[1, 2, 3, 4, 5]])


@pytest.mark.parametrize("line", ["1 2 three", "1 2 3 1 0", "1 2 3 1 -1e-10", "1 2 inf", "1 2 3e", "1.5x 2 3"])
def test_lines_that_make_no_source_are_named(read, line):
    with pytest.raises(InputError) as caught:
        read(f"# head\n1 2 3\n{line}\n")
    assert str(caught.value).startswith("-sourcefile: got") and f"line 3: {line}" in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n"])
def test_no_source_is_an_error(read, text):
    with pytest.raises(InputError, match="-sourcefile"):
        read(text)


ROW = st.tuples(*[st.floats(-1e3, 1e3)] * 4, st.floats(1e-12, 1e-8))


@given(st.lists(ROW, min_size=1, max_size=6), st.sampled_from("\t,;:! "), st.sampled_from(["\n", "\r\n"]))
def test_any_table_comes_back(tmp_path_factory, rows, separator, end):
    path = tmp_path_factory.mktemp("sources") / "s.txt"
    path.write_bytes(end.join(separator.join(map(repr, row)) for row in rows).encode())
    assert read_sourcefile(path).tolist() == [list(row) for row in rows]
