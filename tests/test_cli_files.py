"""nb show, nb convert and nb view, as a user calls them."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from geometry_scenes import assert_same_detector
from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.geometry import read_geometry
from nanobrag_torch.io.images import read_image, write_image
from nanobrag_torch.io.nxmx_write import write_nxmx
from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    PanelData,
    ScanData,
)

FRAMES = 3
DATA = ExperimentData(
    beam=BeamData(wavelength_A=1.0),
    detector=DetectorData(panels=(PanelData(
        origin_mm=[-10, 8, -100.0], fast=[1, 0, 0], slow=[0, -1, 0], pixel_size_mm=(0.1, 0.1), image_size=(200, 150),
        trusted_range=(0, 65535),
    ),)),
    goniometer=GoniometerData(rotation_axis=[1, 0, 0]),
    scan=ScanData(image_range=(1, FRAMES), oscillation_start_deg=0, oscillation_width_deg=0.5),
    crystal=CrystalData(real_space=np.diag([40.0, 50.0, 60.0]), space_group_hall="P 2ac 2ab"),
)  # fmt: skip
PIXELS = np.random.default_rng(0).integers(0, 500, (FRAMES, 150, 200), dtype=np.uint16)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_expt("a.expt", DATA)
    write_nxmx("a.nxs", PIXELS, DATA)
    write_image("one.img", PIXELS[0], DATA)
    return tmp_path


def run(capsys, *words):
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def values(text, name):
    """The numbers of the line that begins with a name."""
    line = next(line for line in text.splitlines() if line.strip().startswith(name))
    return [float(word) for word in line.strip()[len(name) :].split("(")[0].split()]


def test_show_prints_what_people_check(folder, capsys):
    for name in ("a.expt", "a.nxs", "one.img"):
        code, out, _ = run(capsys, "show", name)
        assert code == 0
        assert values(out, "distance along the beam (mm)") == [100]
        assert values(out, "XDS ORGX, ORGY (pixels)") == [100.5, 80.5]
        assert values(out, "MOSFLM X, Y (mm)") == pytest.approx([7.95, 9.95])
        assert values(out, "cell (A, deg)") == [40, 50, 60, 90, 90, 90]
        assert values(out, "orientation U, row by row") == [1, 0, 0, 0, 1, 0, 0, 0, 1]
        far, near = np.arctan([np.hypot(10, 8) / 100, 7 / 100])  # the last whole ring ends at the lower edge
        assert values(out, "corner, the finest") == pytest.approx([1 / (2 * np.sin(far / 2))], abs=1e-3)
        assert values(out, "edge, the last whole ring") == pytest.approx([1 / (2 * np.sin(near / 2))], abs=1e-3)
    assert values(out, "lowest, highest, mean") == pytest.approx([0, 499, PIXELS[0].mean()], rel=1e-5)
    assert "P 21 21 21" in out and "0 to 0.5, 0.5 an image" in out


def test_show_says_why_a_header_gives_no_geometry(data, capsys):
    code, out, _ = run(capsys, "show", str(data / "inputs" / "nb_xds_64.img"))
    assert code == 0 and "64 x 64" in out and "TWOTHETA=12" in out


def test_convert_geometry_both_ways(folder, capsys):
    assert run(capsys, "convert", "a.expt", "XPARM.XDS")[0] == 2
    code, out, _ = run(capsys, "convert", "a.expt", "XPARM.XDS", "--allow-loss")
    assert code == 0 and out == "XPARM.XDS: xparm; left out: trusted range, several images\n"
    code, out, _ = run(capsys, "convert", "XPARM.XDS", "back.expt")
    assert (code, out) == (0, "back.expt: expt\n")
    assert_same_detector(read_geometry("back.expt").detector, DATA.detector, 1e-9)
    assert run(capsys, "convert", "a.nxs", "from_image.expt")[0] == 0
    assert_same_detector(read_geometry("from_image.expt").detector, DATA.detector, 1e-9)


def test_convert_a_series_there_and_back(folder, capsys):
    assert run(capsys, "convert", "a.nxs", "f_####.cbf")[0] == 0
    assert sorted(path.name for path in folder.glob("*.cbf")) == [f"f_000{i}.cbf" for i in (1, 2, 3)]
    assert run(capsys, "convert", "f_####.cbf", "again.nxs")[0] == 0
    for index in range(FRAMES):
        np.testing.assert_array_equal(read_image("again.nxs", index).pixels, PIXELS[index])
    scan = read_geometry("again.nxs").scan
    assert scan.image_range == (1, 3) and scan.oscillation_width_deg == pytest.approx(0.5)
    (folder / "f_0002.cbf").unlink()
    code, _, err = run(capsys, "convert", "f_####.cbf", "gap.nxs")
    assert code == 2 and "f_0003.cbf: start angle: got 1.0; accepted: 0.5 deg" in err


def test_convert_one_frame_and_to_other_pixels(folder, capsys):
    assert run(capsys, "convert", "a.nxs", "f.img", "--frame", "2")[0] == 0
    found = read_image("f.img")
    np.testing.assert_array_equal(found.pixels, PIXELS[2])
    assert found.experiment.scan.oscillation_start_deg == 1.0 and found.experiment.scan.image_range == (3, 3)
    np.save("half.npy", PIXELS[0] + 0.5)
    assert run(capsys, "convert", "half.npy", "half.cbf", "--geometry", "one.img")[0] == 2
    assert not (folder / "half.cbf").exists()
    assert run(capsys, "convert", "half.npy", "half.cbf", "--geometry", "one.img", "--allow-loss")[0] == 0
    np.testing.assert_array_equal(read_image("half.cbf").pixels, np.rint(PIXELS[0] + 0.5))


def test_view_draws_a_picture(folder, capsys):
    assert run(capsys, "view", "a.nxs", "--frame", "1", "-o", "a.png")[0] == 0
    with Image.open("a.png") as picture:
        assert min(picture.size) > 100
    assert run(capsys, "view", "one.img", "-o", "one.png")[0] == 0
    tall = replace(DATA.detector.panels[0], image_size=(200, 90))
    write_expt("tall.expt", replace(DATA, detector=DetectorData(panels=(tall,))))
    code, _, err = run(capsys, "view", "one.img", "-o", "b.png", "--geometry", "tall.expt")
    assert code == 2 and "--geometry" in err and not (folder / "b.png").exists()


WRONG = {
    "no such file": (["show", "none.expt"], "none.expt"),
    "a folder": (["show", "."], "."),
    "another kind": (["show", "noise.bin"], "noise.bin"),
    "cut short": (["show", "cut.img"], "cut.img"),
    "matrix without wavelength": (["convert", "m.mat", "out.expt"], "wavelength"),
    "would lose": (["convert", "a.expt", "out.geom"], "goniometer, scan, several images, crystal"),
    "no such format": (["convert", "one.img", "out.jpg"], "out.jpg"),
    "many to one": (["convert", "a.nxs", "out.cbf"], "####"),
    "no frame": (["convert", "a.nxs", "out.cbf", "--frame", "9"], "9"),
    "no geometry": (["convert", "bare.npy", "out.cbf"], "--geometry"),
    "no files": (["convert", "z_##.cbf", "out.nxs"], "z_##.cbf"),
    "no picture": (["view", "one.img", "-o", "out.jpg"], "--output"),
    "unwritable": (["convert", "a.expt", "no/out.expt"], "no/out.expt"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_one_line_and_code_2_and_nothing_written(folder, capsys, name):
    (folder / "noise.bin").write_bytes(bytes(range(256)) * 4)
    (folder / "cut.img").write_bytes((folder / "one.img").read_bytes()[:-100])
    (folder / "m.mat").write_text("0.1 0 0\n0 0.1 0\n0 0 0.1\n")
    np.save("bare.npy", PIXELS[0])
    before = sorted(folder.iterdir())
    words, mention = WRONG[name]
    code, out, err = run(capsys, *words)
    assert code == 2 and mention in err and err.count("\n") == 1 and err.startswith("nb: error: ")
    assert sorted(folder.iterdir()) == before
