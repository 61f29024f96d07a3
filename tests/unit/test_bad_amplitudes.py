"""Amplitudes and indices that cannot be are refused by every reader, with place and value, and none are written."""

from __future__ import annotations

from collections.abc import Callable

import gemmi
import numpy as np
import pytest

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.amplitudes import read_reflections
from nanobrag_torch.io.dump import write_dump_file
from small_cif import LOOP

CIF = (
    "data_x\n"
    + LOOP
    + """\
_refln.F_meas_au
_refln.F_meas_sigma_au
1 2 3 10.5 0.5
2 2 4 {} 0.25
"""
)
PDB = """CRYST1   40.000   50.000   60.000  90.00  90.00  90.00 P 1           1
ATOM      1  CA  ALA A   1      10.000  10.000  10.000  1.00{:6.0f}           C
END
"""


def as_mtz(path, value, index="4", types="F"):
    """Two reflections of an MTZ file, the second with the value; F(-) of the first where there are pairs."""
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 21 21 21")
    mtz.add_dataset("x")
    mtz.set_cell_for_all(gemmi.UnitCell(40, 50, 60, 90, 90, 90))
    for label in {"F": ["F"], "G": ["F(+)", "F(-)"]}[types]:
        mtz.add_column(label, types)
    rows = [[1, 2, 3, *[10.5] * len(mtz.columns[3:])], [2, 2, float(index), *[float(value)] * len(mtz.columns[3:])]]
    mtz.set_data(np.array(rows, np.float32))
    mtz.write_to_file(str(path))


def as_pairs(path, value, index="4"):
    """The same of F(+) and F(-)."""
    as_mtz(path, value, index, "G")


def as_cif(path, value, index="4"):
    """The same of a CIF file."""
    path.write_text(CIF.format(value).replace("2 2 4", f"2 2 {index}"))


def as_hkl(path, value, index="4"):
    """The same of text."""
    path.write_text(f"1 2 3 10.5\n2 2 {index} {value}\n")


def as_dump(path, value):
    """The same of a dump file."""
    grid = np.full((2, 1, 2), 10.5)
    grid[1, 0, 1] = float(value)
    write_dump_file(path, grid, {"h_min": 1, "h_max": 2, "k_min": 2, "k_max": 2, "l_min": 3, "l_max": 4})


WRITERS: dict[str, Callable[..., None]] = {
    "mtz": as_mtz,
    "pairs": as_pairs,
    "cif": as_cif,
    "hkl": as_hkl,
    "dump": as_dump,
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("value", ["inf", "-inf", "1e30"])
def test_what_is_no_amplitude_is_refused_with_its_place(kind, value, tmp_path):
    path = tmp_path / f"x.{kind}"
    WRITERS[kind](path, "20.5")
    assert sorted(read_reflections(path).amplitude)[-1] == 20.5
    WRITERS[kind](path, value)
    with pytest.raises(InputError, match=r"x\.[a-z]+") as caught:
        read_reflections(path)
    words = {"hkl": "line 2", "cif": "reflection 2"} if "inf" in value else {}
    assert words.get(kind, "2 2 4") in str(caught.value) and (
        value[:3] in str(caught.value) or "e+30" in str(caught.value)
    )


@pytest.mark.parametrize("kind", WRITERS)
def test_nan_is_missing_only_where_a_format_says_so(kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    WRITERS[kind](path, "nan")
    if kind in ("mtz", "pairs"):
        assert (read_reflections(path).amplitude == 10.5).all()
    else:
        with pytest.raises(InputError, match="nan"):
            read_reflections(path)


@pytest.mark.parametrize("word", ["?", ".", "none", "10,5"])
def test_an_unknown_amplitude_of_cif_is_a_mark_and_no_word(word, tmp_path):
    as_cif(tmp_path / "x.cif", word)
    if word in "?.":
        assert len(read_reflections(tmp_path / "x.cif")) == 1
    else:
        with pytest.raises(InputError, match=f"reflection 2 = {word}"):
            read_reflections(tmp_path / "x.cif")


@pytest.mark.parametrize("kind", WRITERS)
def test_amplitudes_below_zero_are_refused_but_in_lists_of_the_c_program(kind, tmp_path, caplog):
    """There what counts is their square, and a line says so."""
    path = tmp_path / f"x.{kind}"
    WRITERS[kind](path, "-5")
    if kind in ("hkl", "dump"):
        assert -5 in read_reflections(path).amplitude
        assert "below 0" in caplog.text and "2 2 4" in caplog.text
    else:
        with pytest.raises(InputError, match=r"F of -?2 -?2 -?4: got -5.0; accepted: 0 to"):
            read_reflections(path)


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "dump"])
@pytest.mark.parametrize("index", ["4.5", "1e9", "nan"])
def test_indices_that_are_not_whole_are_refused(kind, index, tmp_path):
    path = tmp_path / f"x.{kind}"
    WRITERS[kind](path, "5", index)
    with pytest.raises(InputError, match=r"x\.[a-z]+"):
        read_reflections(path)


@pytest.mark.parametrize("b_factor", [-90000, -999])
def test_what_is_calculated_is_written_when_it_is_finite(b_factor, tmp_path, capfd):
    (tmp_path / "x.pdb").write_text(PDB.format(b_factor))
    made = tmp_path / "x.mtz"
    assert main(["fcalc", str(tmp_path / "x.pdb"), "--dmin", "1", "-o", str(made)]) == 2
    assert "F of" in capfd.readouterr().err and not made.exists()
