"""`nb fcalc` and `nb wilson` from the command line to files that other readers open."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.io.dump import read_dump_file
from nanobrag_torch.io.hkl import read_hkl_file

CIF = """data_halite
_cell_length_a 5.6402
_cell_length_b 5.6402
_cell_length_c 5.6402
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
Na1 Na1+ 0 0 0 0.0218
Cl1 Cl1- 0.5 0.5 0.5 0.0179
"""
PDB = """CRYST1   20.000   25.000   30.000  90.00  90.00  90.00 P 21 21 21
ATOM      1  CA  GLY A   1       1.000   2.000   3.000  1.00 15.00           C
ATOM      2  O   GLY A   1       4.000   6.000   2.000  1.00 12.00           O
ATOM      3 SE   MSE A   2       9.000   3.000   8.000  1.00 10.00          SE
END
"""
CELL = ["--cell", "40", "50", "60", "90", "90", "90"]


@pytest.fixture
def halite(tmp_path):
    path = tmp_path / "halite.cif"
    path.write_text(CIF)
    return path


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_fcalc_writes_an_mtz_file(tmp_path, halite, capsys):
    output = tmp_path / "halite.mtz"
    assert main(["fcalc", str(halite), "-o", str(output), "--dmin", "0.9"]) == 0
    mtz = gemmi.read_mtz_file(str(output))
    assert [c.label for c in mtz.columns] == ["H", "K", "L", "FC", "PHIFC"]
    value = {tuple(map(int, row[:3])): row[3] for row in mtz.array}
    small = gemmi.read_small_structure(str(halite))
    small.change_occupancies_to_crystallographic()
    f200 = gemmi.StructureFactorCalculatorX(small.cell).calculate_sf_from_small_structure(small, [2, 0, 0])
    by_index = {tuple(sorted(map(abs, hkl))): f for hkl, f in value.items()}
    assert by_index[0, 0, 2] == pytest.approx(abs(f200), rel=0.03)  # gemmi takes neutral atoms
    text = lines(capsys)
    assert text[0].startswith(f"{output}: {mtz.nreflections} unique reflections of F m -3 m")
    assert "100.0% complete" in text[1] and "to 0.94 Angstrom" in text[1]


def test_fcalc_writes_all_of_p1_as_text_and_dump(tmp_path, halite):
    for name in ("p1.hkl", "p1.bin"):
        assert main(["fcalc", str(halite), "-o", str(tmp_path / name), "--dmin", "1.2", "--quiet"]) == 0
    grid, metadata = read_hkl_file(tmp_path / "p1.hkl")
    dump, same = read_dump_file(tmp_path / "p1.bin")
    assert metadata == same
    np.testing.assert_allclose(grid.numpy(), dump, rtol=1e-8)
    assert (dump == dump[::-1, ::-1, ::-1]).all() and (dump == dump.transpose(1, 2, 0)).all()


def test_fcalc_options(tmp_path, capsys):
    model, output = tmp_path / "m.pdb", tmp_path / "m.mtz"
    model.write_text(PDB)
    base = ["fcalc", str(model), "-o", str(output), "--dmin", "2.5"]
    amplitudes = {}
    for name, options in {
        "plain": [],
        "fft": ["--method", "fft"],
        "solvent": ["--bulk-solvent", "--k-sol", "0.4"],
        "cold": ["--b-iso", "2"],
        "hot": ["--b-add", "20"],
        "mean": ["--wavelength", "0.97", "--no-anomalous"],
    }.items():
        assert main([*base, *options]) == 0
        amplitudes[name] = gemmi.read_mtz_file(str(output)).column_with_label("FC").array.mean()
    assert amplitudes["fft"] == pytest.approx(amplitudes["plain"], rel=1e-4)
    assert amplitudes["solvent"] != pytest.approx(amplitudes["plain"], rel=1e-2)
    assert amplitudes["hot"] < amplitudes["plain"] < amplitudes["cold"]
    assert amplitudes["mean"] != pytest.approx(amplitudes["plain"], rel=1e-3)
    assert main([*base, "--wavelength", "0.97"]) == 0
    mtz = gemmi.read_mtz_file(str(output))
    plus, minus = mtz.column_with_label("FC(+)").array, mtz.column_with_label("FC(-)").array
    assert np.nanmax(np.abs(plus - minus)) > 1
    assert "F(h) and F(-h) apart" in lines(capsys)[-2]


def test_wilson_writes_what_was_asked_for(tmp_path, capsys):
    output = tmp_path / "w.mtz"
    command = ["wilson", *CELL, "--spacegroup", "P212121", "--dmin", "3.01", "--b-iso", "30", "-o", str(output)]
    assert main(command) == 0
    mtz = gemmi.read_mtz_file(str(output))
    assert mtz.spacegroup.xhm() == "P 21 21 21" and mtz.cell.parameters == (40, 50, 60, 90, 90, 90)
    assert mtz.nreflections == gemmi.count_reflections(mtz.cell, mtz.spacegroup, 3.01)
    first = mtz.array.copy()
    assert main([*command, "--seed", "0"]) == 0
    assert (gemmi.read_mtz_file(str(output)).array == first).all()
    assert main([*command, "--seed", "1"]) == 0
    assert (gemmi.read_mtz_file(str(output)).array != first).any()
    assert "100.0% complete" in lines(capsys)[1]


def test_wilson_fills_a_box(tmp_path):
    output = tmp_path / "demo.hkl"
    assert main(["wilson", *CELL, "--limits", "4", "5", "6", "-o", str(output)]) == 0
    grid, metadata = read_hkl_file(output)
    assert grid.shape == (9, 11, 13) and metadata["l_min"] == -6
    assert (grid > 0).sum() == grid.numel() - 1 and grid[4, 5, 6] == 0
    assert (grid == grid.flip(0, 1, 2)).all()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["fcalc", "nothing.cif", "-o", "x.mtz", "--dmin", "2"], "nothing.cif"),
        (["fcalc", "MODEL", "-o", "x.mtz"], "dmin"),
        (["fcalc", "MODEL", "-o", "x.img", "--dmin", "2"], "x.img"),
        (["fcalc", "MODEL", "-o", "x.mtz", "--dmin", "0"], "dmin"),
        (["fcalc", "MODEL", "-o", "x.mtz", "--dmin", "9"], "dmin"),
        (["fcalc", "MODEL", "-o", "x.mtz", "--dmin", "2", "--wavelength", "0"], "wavelength"),
        (["fcalc", "MODEL", "-o", "x.mtz", "--dmin", "2", "--anomalous"], "wavelength"),
        (["fcalc", "MODEL", "-o", "x.mtz", "--dmin", "2", "--bulk-solvent"], "solvent"),
        (["fcalc", "MODEL", "-o", "x.mtz", "--dmin", "2", "--b-iso", "nan"], "b_iso"),
        (["fcalc", "MODEL", "-o", "no/x.mtz", "--dmin", "2"], "no/x.mtz"),
        (["wilson", *CELL, "-o", "x.mtz"], "--dmin, --limits"),
        (["wilson", *CELL, "-o", "x.mtz", "--dmin", "3", "--limits", "1", "2", "3"], "--dmin, --limits"),
        (["wilson", *CELL, "-o", "x.mtz", "--spacegroup", "P 5", "--dmin", "3"], "P 5"),
        (["wilson", *CELL, "-o", "x.mtz", "--spacegroup", "P 4", "--dmin", "3"], "symmetry of P 4"),
        (["wilson", *CELL, "-o", "x.hkl", "--spacegroup", "P2", "--limits", "1", "2", "3"], "--limits"),
        (["wilson", *CELL, "-o", "x.mtz", "--dmin", "0.0001"], "dmin"),
        (["wilson", "--cell", "1", "1", "1", "90", "90", "180", "-o", "x.mtz", "--dmin", "1"], "cell"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, halite, arguments, reason):
    monkeypatch.chdir(tmp_path)
    assert main([str(halite) if word == "MODEL" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["halite.cif"]
