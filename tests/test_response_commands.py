"""noisify and nonBragg against the C programs' images, and what the default does differently."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.cli.noisify import main as noisify
from nanobrag_torch.cli.nonbragg import main as nonbragg
from nanobrag_torch.io.smv import read_smv_image

NOISE = Path(__file__).parent / "data" / "noise"
CASES = sorted(path.stem for path in NOISE.glob("*.npz"))
WATER = "0 2.4\n0.08 3\n0.15 7.3\n0.165 7.9\n0.2 6.9\n0.28 4.6\n0.46 2.9\n0.8 1.5\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reference(name):
    with np.load(NOISE / f"{name}.npz") as file:
        return {key: file[key] if file[key].shape else file[key].item() for key in file.files}


def lines(text):
    return [line for line in text.splitlines() if not line.startswith("HEADER_BYTES")]


def test_every_case_is_here():
    assert len(CASES) == 35


@pytest.mark.parametrize("name", CASES)
def test_images_are_the_c_programs(name):
    ref = reference(name)
    program, *words = shlex.split(ref["command"])
    for key, path in (("input", "in.bin"), ("stol", "a.stol"), ("sources", "src.txt")):
        if key == "input" and key in ref:
            ref[key].astype("<f4").tofile(path)
        elif key in ref:
            Path(path).write_text(str(ref[key]))
    main = noisify if program == "noisify" else nonbragg
    assert main([*words, "-compat", "c"]) == 0
    if "float" in ref:
        found = np.fromfile("floatimage.bin", "<f4")
        assert np.abs(found - ref["float"]).max() <= 1e-6 * np.abs(ref["float"]).max()
    header, integers = read_smv_image("intimage.img")
    assert lines(header.text.split("\f")[0]) == lines(ref["int_header"].split("\f")[0])
    apart = np.abs(integers.astype(float).ravel() - ref["int"].ravel())
    assert apart.max() <= 1 and (apart > 0).mean() <= (0.01 if "float" in ref else 0)
    if "noise" in ref and ("float" not in ref or np.array_equal(found, ref["float"])):
        assert np.array_equal(read_smv_image("noiseimage.img")[1].ravel(), ref["noise"].ravel())


def image(values, name="floatimage.bin"):
    np.asarray(values, np.float32).tofile(name)


def recorded(*words, seed=1, name="noiseimage.img"):
    assert noisify([*words, "-seed", str(seed)]) == 0
    return read_smv_image(name)[1].astype(float)


FLAT = ("floatimage.bin", "-detpixels", "100", "-adc", "0")


def test_flicker_is_the_sources(capsys):
    image(np.full((100, 100), 1e6))
    sums = [recorded(*FLAT, "-flicker", "0.1", "-calibration", "0", "-bits", "32", seed=s).mean() for s in range(1, 31)]
    pixels = recorded(*FLAT, "-flicker", "0.1", "-calibration", "0", "-bits", "32")
    assert pixels.std() / pixels.mean() < 2e-3
    assert 0.06 < np.std(sums) / 1e6 < 0.15
    assert "correction R1" in capsys.readouterr().out


def test_calibration_is_the_detectors(capsys):
    image(np.full((100, 100), 1e4))
    one, other = (recorded(*FLAT, "-calibration", "0.3", seed=seed).ravel() for seed in (1, 2))
    expected = 0.3**2 / (0.3**2 + 1e-4)
    assert abs(np.corrcoef(one, other)[0, 1] - expected) < 0.01
    third = recorded(*FLAT, "-calibration", "0.3", "-calib_seed", "5").ravel()
    assert abs(np.corrcoef(one, third)[0, 1]) < 0.04
    assert "correction R2" in capsys.readouterr().out


def test_the_default_calibration_error_is_announced(capsys):
    image(np.full((100, 100), 1e4))
    recorded(*FLAT)
    assert "differ by 3 %, the default; -calibration 0 turns it off" in capsys.readouterr().out
    recorded(*FLAT, "-calibration", "0")
    assert "differ by" not in capsys.readouterr().out


def test_the_spread_comes_before_the_counts_and_does_not_wrap(capsys):
    image(np.full((100, 100), 100.0))
    words = (*FLAT, "-psf", "gauss", "-psf_fwhm", "200", "-calibration", "0")
    found = recorded(*words)[10:-10, 10:-10]
    assert abs(found.var() / found.mean() - 1) < 0.08  # counted pixels, not smeared ones
    dark = np.zeros((20, 24))
    dark[10, 23] = 1000
    image(dark)
    assert noisify(["floatimage.bin", "-detpixels_x", "24", "-detpixels_y", "20", *words[5:], "-nonoise"]) == 0
    spread = read_smv_image("intimage.img")[1].astype(float) - 40
    assert spread[:, :10].max() <= 0 and spread.sum() < 750
    assert "correction R4" in capsys.readouterr().out


def test_the_integer_image_holds_32_bits_and_none_is_below_zero(capsys):
    image(np.full((100, 100), 1e5))
    assert noisify([*FLAT, "-bits", "32", "-nonoise"]) == 0
    assert (read_smv_image("intimage.img")[1] == 100_000).all()
    image(np.zeros((100, 100)))
    found = recorded(*FLAT, "-readout_noise", "3", "-calibration", "0")
    assert found.min() == 0 and found.max() < 20
    out = capsys.readouterr().out
    assert "correction R5" in out and "correction R6" in out


def test_negative_photons_are_none(capsys):
    values = np.full((100, 100), 5.0)
    values[0, :3] = -4
    image(values)
    assert recorded(*FLAT)[0, :3].tolist() == [0, 0, 0]
    assert "correction R9" in capsys.readouterr().out


def test_a_header_is_kept(capsys):
    image(np.full((100, 100), 5.0))
    assert noisify([*FLAT, "-lambda", "0.9795", "-distance", "222", "-nonoise", "-intfile", "with.img"]) == 0
    assert noisify(["floatimage.bin", "-header", "with.img", "-seed", "1"]) == 0
    assert "WAVELENGTH=0.9795;" in read_smv_image("noiseimage.img")[0].text
    assert "DISTANCE=222;" in read_smv_image("noiseimage.img")[0].text
    assert noisify(["floatimage.bin", "-header", "with.img", "-seed", "1", "-compat", "c"]) == 0
    assert "WAVELENGTH=9.795e-11;" in read_smv_image("noiseimage.img")[0].text


def test_a_shape_that_nobody_states_is_as_square_as_can_be():
    image(np.zeros(6 * 35))
    assert noisify(["floatimage.bin"]) == 0
    assert read_smv_image("intimage.img")[1].shape == (15, 14)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ([], "-floatfile"), (["-bin", "none.bin"], "-floatfile"), (["in.bin", "-bits", "16"], "-floatfile"),
        (["floatimage.bin", "-bits", "8"], "-bits"), (["floatimage.bin", "-psf"], "-psf"),
        (["floatimage.bin", "-psf", "disc"], "-psf"), (["floatimage.bin", "-gain", "0"], "-gain"),
        (["floatimage.bin", "-readout", "-1"], "-readout"), (["floatimage.bin", "-flicker", "x"], "-flicker"),
        (["floatimage.bin", "-detpixels", "7"], "-floatfile"), (["floatimage.bin", "-adc", "nan"], "-adc"),
        (["floatimage.bin", "-header", "none.img"], "-header"), (["floatimage.bin", "-psf", "gauss", "-psf_fwhm", "0"],
                                                                 "-psf_fwhm"),
        (["floatimage.bin", "-intfile", "no/where.img"], "-intfile"), (["floatimage.bin", "-compat", "d"], "-compat"),
    ],
)  # fmt: skip
def test_bad_words_leave_one_line_and_no_file(words, flag, capsys, folder):
    image(np.ones(48))
    before = set(folder.iterdir())
    assert noisify(words) == 2
    assert capsys.readouterr().err.startswith(f"noisify: error: {flag}: got")
    assert set(folder.iterdir()) == before


def test_a_profile_out_of_order_is_sorted(capsys):
    Path("a.stol").write_text(WATER)
    rows = WATER.splitlines()
    Path("b.stol").write_text("\n".join([rows[0], rows[2], rows[1], *rows[3:]]) + "\n")
    words = ["-detpixels", "24", "-pixel", "4", "-distance", "60", "-seed", "1", "-fluence", "1e16"]
    images = []
    for name, extra in (("a.stol", []), ("b.stol", []), ("b.stol", ["-compat", "c"])):
        assert nonbragg(["-stol", name, *words, *extra]) == 0
        images.append(np.fromfile("floatimage.bin", np.float32))
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[1], images[2])
    assert "correction R8" in capsys.readouterr().out


def test_negative_amplitudes_scatter_nothing(capsys):
    Path("a.stol").write_text("0 -2\n0.2 -2\n0.6 3\n0.7 3\n")
    assert nonbragg(["-stol", "a.stol", "-detpixels", "20", "-pixel", "4", "-distance", "40"]) == 0
    assert np.fromfile("floatimage.bin", np.float32).min() == 0
    assert "correction R9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ([], "-stol"), (["-stol", "none.stol"], "-stol"), (["-stol", "a.stol", "-density", "0"], "-density"),
        (["-stol", "words.stol"], "-stol"), (["-stol", "twice.stol"], "-stol"),
        (["-stol", "a.stol", "-MW", "-3"], "-MW"),
        (["-stol", "a.stol", "-lambda", "0"], "-lambda"), (["-stol", "a.stol", "-pixel", "x"], "-pixel"),
    ],
)  # fmt: skip
def test_bad_words_of_nonbragg(words, flag, capsys, folder):
    Path("a.stol").write_text(WATER)
    Path("words.stol").write_text("0 water\n")
    Path("twice.stol").write_text("0 1\n0.1 2\n0.1 3\n0.2 4\n")
    before = set(folder.iterdir())
    assert nonbragg([*words, "-detpixels", "10"]) == 2
    assert capsys.readouterr().err.startswith(f"nonBragg: error: {flag}: got")
    assert set(folder.iterdir()) == before


def test_the_profile_of_an_image_is_that_which_made_it():
    Path("a.stol").write_text(WATER)
    words = [
        "-stol",
        "a.stol",
        "-detpixels",
        "300",
        "-pixel",
        "0.3",
        "-distance",
        "60",
        "-fluence",
        "1e19",
        "-seed",
        "3",
    ]
    assert nonbragg([*words, "-scale", "0.1"]) == 0
    assert np.fromfile("floatimage.bin", np.float32).max() * 0.1 + 40 < 65535
    assert nonbragg([*words[2:], "-img", "intimage.img", "-gain", "0.1"]) == 0
    stol, found, _, count = np.loadtxt("output.stol").T
    assert len(stol) > 100 and (count > 100).all()
    at = [np.abs(stol - s).argmin() for s in (0.15, 0.165, 0.2, 0.28)]
    assert np.allclose(found[at], [7.3, 7.9, 6.9, 4.6], rtol=0.02)


def test_both_commands_explain_themselves(capsys):
    for main, name in ((noisify, "noisify"), (nonbragg, "nonBragg")):
        assert main(["-h"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: {name}") and "-compat corrected|c" in text
        assert main(["--version"]) == 0
        assert capsys.readouterr().out.startswith(f"{name} (nanobrag-torch")
