"""Files as other programs and people leave them: what `nb` makes of each, against the right answer as derived."""

import json
from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.io.amplitudes import read_reflections
from nanobrag_torch.io.geometry import read_geometry
from nanobrag_torch.io.images import read_image

FIELD = Path(__file__).parent / "data" / "field"
CELL = ["--cell", "79", "79", "38", "90", "90", "90", "-N", "3", "3", "3", "--oversample", "1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(capsys, *words):
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    assert said.err.count("\n") == len(said.err.splitlines()) and "Traceback" not in said.err
    return code, said.out, said.err


def origins(path, **more):
    return [panel.origin_mm.tolist() for panel in read_geometry(path, **more).detector.panels]


@pytest.mark.parametrize("name", ["b.cbf.gz", "b.cbf.bz2"])
def test_packed_images_are_opened_by_every_verb(capsys, name):
    packed, plain = FIELD / "cbf-compressed" / name, FIELD / "cbf-compressed" / "b.cbf"
    assert run(capsys, "show", packed)[1].replace(str(packed), "") == run(capsys, "show", plain)[1].replace(
        str(plain), ""
    )
    for source, out in ((packed, "a.npy"), (plain, "b.npy")):
        assert run(capsys, "simulate", source, *CELL, "-o", out)[0] == 0
    np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))
    assert run(capsys, "convert", packed, "c.cbf", "--allow-loss")[0] == 0
    np.testing.assert_array_equal(read_image("c.cbf").pixels, read_image(plain).pixels)
    assert run(capsys, "view", packed, "-o", "a.png")[0] == 0
    code, out, _ = run(capsys, "compare", packed, plain)
    assert code == 0 and "correlation" in out


def test_an_atom_of_unknown_position_is_left_out_and_named(capsys):
    path = FIELD / "cif-unknown-position" / "unknownpos.cif"
    code, _, err = run(capsys, "fcalc", path, "--dmin", "3", "-o", "out.hkl")
    assert code == 0 and "unknown position" in err and "H1" in err
    carbon = path.read_text().replace("H1 H ?    ?    ?    0.05\n", "")
    Path("carbon.cif").write_text(carbon)
    assert run(capsys, "fcalc", "carbon.cif", "--dmin", "3", "-o", "carbon.hkl")[0] == 0
    found = np.loadtxt("out.hkl")
    assert np.isfinite(found).all() and found[:, 3].max() > 0
    np.testing.assert_array_equal(found, np.loadtxt("carbon.hkl"))


def test_a_probe_that_is_no_x_ray_is_kept_and_not_rendered(capsys):
    path = FIELD / "expt-electron-probe" / "e_electron.expt"
    assert run(capsys, "convert", path, "out.expt")[0] == 0
    assert json.loads(Path("out.expt").read_text())["beam"][0]["probe"] == "electron"
    code, _, err = run(capsys, "simulate", path, "-o", "out.nxs")
    assert code == 2 and "probe: got 'electron'" in err and not Path("out.nxs").exists()
    code, _, err = run(capsys, "convert", path, "XPARM.XDS")
    assert code == 2 and "probe electron" in err


def test_a_time_of_flight_scan_is_kept_and_not_rendered(capsys):
    path = FIELD / "expt-electron-probe" / "e_tof.expt"
    assert run(capsys, "convert", path, "out.expt")[0] == 0
    scan = json.loads(Path("out.expt").read_text())["scan"][0]
    assert scan["properties"]["time_of_flight"] == [1.0, 2.0, 3.0] and "oscillation" not in json.dumps(scan)
    code, _, err = run(capsys, "simulate", path, "-o", "out.nxs")
    assert code == 2 and "time_of_flight" in err and not Path("out.nxs").exists()


def test_a_shift_of_the_detector_moves_it(capsys):
    code, out, _ = run(capsys, "show", FIELD / "geom-detector-shift" / "shift.geom")
    assert code == 0 and "1.2000  -4.2000  -100.0000" in out
    np.testing.assert_allclose(origins(FIELD / "geom-detector-shift" / "shift.geom"), [[1.2, -4.2, -100]], atol=1e-12)


def test_a_shift_that_stands_in_the_data_is_refused_without_the_data(capsys):
    import h5py

    path = FIELD / "geom-detector-shift" / "shiftpath.geom"
    code, out, err = run(capsys, "show", path)
    assert code == 2 and "detector_shift_x" in err and "/entry/shots/dx" in err and not out
    with h5py.File("data.h5", "w") as file:
        file["/entry/shots/dx"], file["/entry/shots/dy"] = [2.0, 2.0], -1.0
    assert "1.2000  -4.2000" in run(capsys, "show", path, "--data-file", "data.h5")[1]
    with h5py.File("data.h5", "a") as file:
        file["/entry/shots/dx"][1] = 3.0
    assert "one value for all images" in run(capsys, "show", path, "--data-file", "data.h5")[2]


def test_a_partial_collection_of_rigid_groups_is_no_error(capsys):
    code, out, _ = run(capsys, "show", FIELD / "geom-rigid-partial" / "rigid.geom")
    assert code == 0 and "detector, 2 panels" in out


def test_index_columns_are_those_of_type_h_wherever_they_stand(capsys):
    for name in ("order_FHKL.mtz", "order_norm.mtz"):
        found = read_reflections(FIELD / "mtz-column-order" / name)
        table = {tuple(hkl): f for hkl, f in zip(found.hkl.tolist(), found.amplitude.tolist(), strict=True)}
        assert table == {(1, 2, 3): 100.0, (2, 3, 4): 50.0, (0, 0, 4): 70.0}
        out = f"{name}.npy"
        geometry = FIELD / "mtz-column-order" / "small.geom"
        words = ["--cell", 50, 60, 70, 90, 90, 90, "--structure-factors", FIELD / "mtz-column-order" / name]
        code, said, err = run(capsys, "simulate", "--geometry", geometry, *words, *CELL[7:], "-o", out)
        assert code == 0 and "FOBS" in err and "3 reflections" in said
    np.testing.assert_array_equal(np.load("order_FHKL.mtz.npy"), np.load("order_norm.mtz.npy"))


def test_a_merged_file_with_a_column_of_type_y_is_merged(capsys):
    found = read_reflections(FIELD / "mtz-isym" / "isym.mtz")
    table = {tuple(hkl): f for hkl, f in zip(found.hkl.tolist(), found.amplitude.tolist(), strict=True)}
    assert table[1, 2, 3] == 101 and table[-1, -2, -3] == 99 and table[2, 3, 4] == 52 and table[-2, -3, -4] == 48


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nxmx-beam-centre/beamcentre.nxs", [[-1.45, 2.125, -100]]),
        ("nxmx-leaf-offset/leaf.nxs", [[1.5, 2.0, -100], [1.5, -0.5, -100]]),
        ("nxmx-units/units2.nxs", [[0.5, 0.25, -100]]),
        ("nxmx-units/unitsmm.nxs", [[0.5, 0.25, -100]]),
    ],
)
def test_nxmx_of_other_writers(capsys, name, expected):
    found = read_geometry(FIELD / name)
    np.testing.assert_allclose([panel.origin_mm for panel in found.detector.panels], expected, atol=1e-12)
    assert found.beam.wavelength_A == 1.0
    assert all(panel.pixel_size_mm == pytest.approx((0.1, 0.1)) for panel in found.detector.panels)
    code, out, err = run(capsys, "show", FIELD / name)
    assert code == 0 and all(f"{x:.4f}  {y:.4f}  {z:.4f}" in out for x, y, z in expected)
    assert ("beam_center_x" in err) == ("beam-centre" in name)


def test_leaves_at_different_places_see_different_images(capsys):
    path = FIELD / "nxmx-leaf-offset" / "leaf.nxs"
    assert run(capsys, "simulate", path, *CELL, "--frames", "1", "-o", "out.npy")[0] == 0
    first, second = np.load("out.npy")
    assert not np.allclose(first, second)


def test_old_pdb_files_have_no_charges_in_their_line_numbers(capsys):
    code, out, err = run(capsys, "fcalc", FIELD / "pdb-old-columns" / "old.pdb", "--dmin", "3", "-o", "out.hkl")
    assert code == 0 and "columns 73 to 80" in err and "nan" not in out
    code, out, _ = run(capsys, "show", FIELD / "pdb-old-columns" / "old.pdb")
    assert code == 0 and "2: C1 N1" in out and "30.0000  40.0000  50.0000" in out and "P 21 21 21" in out


def test_an_smv_header_with_windows_line_ends(capsys):
    path = FIELD / "smv-crlf" / "s_crlf.img"
    content = path.read_bytes()
    size = 512
    header = content[:size].replace(b"\r\n", b"\n")
    Path("s.img").write_bytes(header.ljust(size, b" ") + content[size:])
    for name in (path, "s.img"):
        assert run(capsys, "show", name)[0] == 0
    np.testing.assert_array_equal(read_image(path).pixels, read_image("s.img").pixels)
    half = 0.1026 / 2  # BEAM_CENTER_X runs along slow, from the middle of the first pixel
    np.testing.assert_allclose(origins(path), [[-1.540 - half, 2.050 + half, -200]], atol=1e-12)
    np.testing.assert_allclose(origins("s.img"), origins(path), atol=0)
