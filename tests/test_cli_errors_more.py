"""Bad input by kind, in both modes: every flag without its value, every number not finite, every file unreadable.

What counts: exit code 2, one line on stderr with the flag, the value and what is accepted, and the folder as it was.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compat_scenes import DATA
from nanobrag_torch.cli.nanobragg import main
from nanobrag_torch.cli.nanobragg.flags import FLAGS, Flag

CELL = "-cell 60 75 90 90 90 90"
SMALL = "-N 3 -detpixels 8 -pixel 1 -oversample 1 -noprogress -kernel reference"
GOOD = f"{CELL} -default_F 50 {SMALL}"
IMAGES = ["floatimage.bin", "image.pgm", "intimage.img", "noiseimage.img"]
MODES = ("corrected", "c")
ONE_LINE = re.compile(r"nanoBragg: error: (?P<name>.+?): got (?P<value>.+); accepted: (?P<accepted>\S.*)\n")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def contents() -> dict[str, bytes]:
    """Every file below this folder and what is in it."""
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Name, value and accepted of a command that must be refused and leave the folder as it is."""
    before = contents()
    assert main(words) == 2
    line = ONE_LINE.fullmatch(capsys.readouterr().err)
    assert line is not None
    assert contents() == before
    return line.groupdict()


def spelling(flag: Flag) -> str:
    return (flag.names or flag.whole)[0]


TAKES_VALUES = [flag for flag in FLAGS if flag.values]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flag", TAKES_VALUES, ids=spelling)
def test_a_flag_without_its_last_value_is_refused(flag, mode, capsys):
    values = ["1"] * (0 if flag.special == "cell" else len(flag.values) - 1)  # -cell may have fewer than six
    said = refused(["-compat", mode, *GOOD.split(), spelling(flag), *values], capsys)
    assert said["name"] == spelling(flag) and said["value"] == repr(" ".join(values) or "nothing")


REAL = [flag for flag in FLAGS if "real" in flag.values or flag.special == "detector_abs"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", ["nan", "inf", "1e999"])
@pytest.mark.parametrize("flag", REAL, ids=spelling)
def test_a_number_that_is_not_finite_is_refused(flag, number, mode, capsys):
    for place in range(len(flag.values)):
        values = ["60"] * len(flag.values)
        values[place] = number
        words = ["-compat", mode, *GOOD.split(), spelling(flag), *values]
        if flag.special == "detector_abs" and number != "nan":
            assert main(words) == 0  # a sensor that absorbs nothing, as documented
            assert capsys.readouterr().err == ""
            continue
        said = refused(words, capsys)
        assert "nan" in said["value"] or "inf" in said["value"]
        same_field = [other for other in REAL if set(other.sets) & set(flag.sets)]  # -samplesize sets three
        assert said["name"] in (spelling(flag), *map(spelling, same_field))


INPUTS = ("hkl", "mat", "img", "mask", "sourcefile", "dump", "stol")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flag", INPUTS)
def test_a_folder_or_an_empty_file_is_no_input(flag, mode, capsys):
    Path("folder").mkdir()
    Path("empty").write_bytes(b"")
    for name, why in (("folder", "is a directory"), ("empty", "the file is empty")):
        said = refused(f"-compat {mode} {GOOD} -{flag} {name}".split(), capsys)
        assert said["name"] == f"-{flag}" and name in said["value"] and why in said["accepted"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flag", INPUTS[:-1])
def test_bytes_that_mean_nothing_are_no_input(flag, mode, capsys):
    Path("noise").write_bytes(bytes((37 * i) % 256 for i in range(4096)))
    assert refused(f"-compat {mode} {GOOD} -{flag} noise".split(), capsys)["name"] == f"-{flag}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flag", ["mat", "sourcefile", "mask", "dump"])
def test_a_file_that_is_cut_short_is_refused(flag, mode, capsys):
    names = {"mat": "tri.mat", "sourcefile": "sources_full.txt", "mask": "mask64.img", "dump": "gaps_dump.bin"}
    whole = (DATA / "inputs" / names[flag]).read_bytes()
    cut = {"mat": 60, "sourcefile": whole.find(b"1.00e-10") + 5}.get(flag, len(whole) - 9)
    Path("cut").write_bytes(whole[:cut])
    detector = "-oversample 1" if flag == "mask" else SMALL
    said = refused(f"-compat {mode} {CELL} -default_F 5 {detector} -{flag} cut".split(), capsys)
    assert said["name"] == f"-{flag}" and "cut" in said["value"]


CONTRADICTIONS = [
    ("-twotheta_axis 0 0 0 -twotheta 5", "-twotheta_axis"),
    ("-polar_vector 0 0 0", "-polar_vector"),
    ("-spindle_axis 0 0 0", "-spindle_axis"),
    ("-odet_vector 0 0 0", "-odet_vector"),
    ("-polar 0.9 -polar_vector 2 0 0", "-beam_vector, -polar_vector"),
    ("-fdet_vector 0 1 1e-12 -sdet_vector 0 -3 0", "-fdet_vector, -sdet_vector"),
    ("-cell 60 75 90 90 90 180", "-cell"),
    ("-cell 60 75 90 100 120 140", "-cell"),
    ("-cell 1e-300 1 1", "-cell"),
    ("-cell 1e200 1 1", "-cell"),
    ("-dispersion 200 -dispsteps 2", "-dispersion"),
    ("-dispersion 250 -dispsteps 3", "-dispersion"),
    ("-round_xtal -fudge -1", "-fudge"),
    ("-flux -1e12", "-flux"),
    ("-roi 3 1 0 7", "-roi"),
    ("-roi 0 7 8 8", "-roi"),
    ("-detsize 0.1 -detpixels 0", "-detpixels_f"),
    ("-detsize -10", "-detsize"),
    ("-printout_pixel -1 3", "-printout_pixel"),
    ("-cell -60 75 90", "-cell"),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("flags", "name"), CONTRADICTIONS, ids=[flags for flags, _ in CONTRADICTIONS])
def test_a_geometry_that_contradicts_itself_is_refused(flags, name, mode, capsys):
    assert refused(f"-compat {mode} {GOOD} {flags}".split(), capsys)["name"] == name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flags", ["-divsteps 1", "-osc 0 -phistep 0.1", "-hdivsteps 1 -vdivsteps 1 -dispsteps 3"])
def test_nothing_to_sum_over_is_refused(flags, mode, capsys):
    refused(f"-compat {mode} {GOOD} {flags}".split(), capsys)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flags", ["", "-nonoise", "-nonoise -nopgm", "-point_pixel", "-mosaic 1", "-oversample_omega"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pixels_that_are_not_finite_are_an_error(dtype, flags, mode, capsys, recwarn):
    """In float64 the image may be finite; what files hold is not."""
    said = refused(f"-compat {mode} -dtype {dtype} {GOOD} -fluence 1e306 {flags}".split(), capsys)
    assert said["name"] == "image" and not recwarn.list


@pytest.mark.parametrize(
    ("flags", "name"),
    [("-hkl a.hkl -dump a.hkl", "-dump"), ("-hkl a.hkl -mat A.mat -dump ./A.mat", "-dump"),
     ("-default_F 5 -stol a.hkl -intfile a.hkl", "-intfile"), ("-hkl a.hkl -floatfile Fdump.bin", "-floatfile"),
     ("-default_F 5 -mat A.mat -pngfile A.mat", "-pngfile")],
)  # fmt: skip
def test_no_output_goes_over_an_input(flags, name, capsys):
    Path("a.hkl").write_text("0 0 1 5\n1 2 3 5\n")
    Path("A.mat").write_text("0.01 0 0 0 0.01 0 0 0 0.01\n")
    assert refused(f"{CELL} {SMALL} {flags}".split(), capsys)["name"] == name


def test_images_of_an_earlier_run_survive_bad_input(capsys):
    assert main(GOOD.split()) == 0
    assert sorted(contents()) == IMAGES
    capsys.readouterr()
    for flags in ("-fluence 1e306", "-hkl missing", "-noisefile no/such/folder", "-device nowhere"):
        refused(f"{GOOD} {flags}".split(), capsys)


UNKNOWN = {"-detsize_x 8": "-detsize", "-hdiv 3": "-hdiv", "-dispstep 3": "-dispsteps", "-distnace 90": "-distance",
           "-oversmaple 2": "-oversample", "-lamda 1": "-lambda"}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flags", UNKNOWN)
def test_an_unknown_flag_is_a_warning_with_the_nearest_known_one(flags, mode, capsys):
    assert main(f"-compat {mode} -seed 1 {GOOD} {flags}".split()) == 0
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and warning.startswith(f"nanoBragg: warning: unknown flag {flags.split()[0]!r}")
    assert f"nearest known flag: {UNKNOWN[flags]}" in warning
    written = contents()
    assert main(f"-compat {mode} -seed 1 {GOOD}".split()) == 0
    assert contents() == written
