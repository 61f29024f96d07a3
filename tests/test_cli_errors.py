"""Bad input of every kind: exit code 2, one line on stderr that names the flag, and no file left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.cli.nanobragg import main

CELL = "-cell 60 75 90 90 90 90"
SMALL = "-N 3 -detpixels 8 -pixel 1 -oversample 1 -noprogress"
GOOD = f"{CELL} -N 1 -default_F 50 {SMALL}"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def listing() -> list[str]:
    return sorted(str(p) for p in Path().rglob("*"))


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that must be refused and leave the folder as it is."""
    before = listing()
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("nanoBragg: error: "), captured.err
    assert listing() == before
    return captured.err


def test_good_input_is_accepted(capsys):
    assert main(GOOD.split()) == 0
    assert listing() == ["floatimage.bin", "image.pgm", "intimage.img", "noiseimage.img"]
    said = [line for line in capsys.readouterr().err.splitlines() if "compiling" not in line]  # once for a version
    assert said == []


COMMANDS = [
    # nothing to render
    ("-N 3", "-hkl, -default_F"),
    ("", "-hkl, -default_F"),
    ("-default_F 5", "-cell, -mat"),
    (f"{CELL} -N 3", "-hkl, -default_F"),
    ("-cell 0 -default_F 5", "-cell"),
    # missing and malformed values
    (f"{GOOD} -distance", "-distance: got 'nothing'"),
    (f"{GOOD} -misset 1 2", "-misset: got '1 2'; accepted: 3 values"),
    (f"{GOOD} -roi 1 2 3", "-roi"),
    (f"{GOOD} -detector_thick", "-detector_thick"),
    (f"{GOOD} -img", "-img"),
    (f"{GOOD} -distance 90mm", "-distance: got '90mm'; accepted: a number"),
    (f"{GOOD} -N 2.5", "-N: got '2.5'; accepted: a whole number"),
    (f"{GOOD} -pivot nose", "-pivot"),
    # numbers that make no scene
    (f"{GOOD} -distance nan", "-distance"),
    (f"{GOOD} -lambda inf", "-lambda"),
    (f"{GOOD} -lambda 0", "-lambda"),
    (f"{GOOD} -energy 0", "-energy"),
    (f"{GOOD} -pixel 0", "-pixel"),
    (f"{GOOD} -pixel -0.1", "-pixel"),
    (f"{GOOD} -distance 0", "-distance"),
    (f"{GOOD} -close_distance 0", "-close_distance"),
    (f"{GOOD} -detpixels -5", "-detpixels_f"),
    (f"{GOOD} -detpixels 2000000", "-detpixels"),
    (f"{GOOD} -flux 1e12 -beamsize 0", "-beamsize"),
    (f"{GOOD} -fluence -1", "-fluence"),
    (f"{GOOD} -water -1", "-water"),
    (f"{GOOD} -detector_thick 100 -detector_abs -3", "-detector_abs"),
    (f"{GOOD} -adc nan", "-adc"),
    (f"{GOOD} -threads 0", "-threads"),
    # zero sources, zero steps
    (f"{GOOD} -divsteps 1", "-hdivsteps, -vdivsteps"),
    (f"{GOOD} -osc 0 -phistep 0.1", "-osc, -phistep"),
    # contradictory geometry
    (f"{GOOD} -roi 6 3 0 7", "-roi"),
    (f"{GOOD} -roi 90 99 0 7", "-roi"),
    (f"{GOOD} -fdet_vector 0 1 0 -sdet_vector 0 -2 0", "-fdet_vector, -sdet_vector"),
    (f"{GOOD} -beam_vector 0 0 0", "-beam_vector"),
    (f"{GOOD} -cell 60 60 60 10 20 170", "-cell"),
    (f"{GOOD} -printout_pixel 8 0", "-printout_pixel"),
    # names that are unknown
    (f"{GOOD} -compat d", "-compat: got 'd'; accepted: corrected, c"),
    (f"{GOOD} -phi_mode x", "-phi_mode"),
    (f"{GOOD} -dtype float16", "-dtype: got 'float16'; accepted: float32, float64"),
    (f"{GOOD} -kernel fast", "-kernel"),
    (f"{GOOD} -device gpu", "-device: got 'gpu'; accepted: cpu"),
    (f"{GOOD} -device cuda:99", "-device"),
    (f"{GOOD} -device meta", "-device"),
    # files that are not there
    *((f"{GOOD} -{flag} missing", f"-{flag}") for flag in ("hkl", "mat", "img", "mask", "sourcefile", "stol", "Q")),
    # outputs that cannot be written
    *((f"{GOOD} -{flag}file no/such/folder", f"-{flag}file") for flag in ("float", "int", "pgm", "noise", "png")),
    (f"{GOOD} -floatfile .", "-floatfile"),
    (f"{GOOD} -floatfile same -intfile same", "-intfile"),
    # an image that is not finite
    (f"{GOOD} -fluence 1e300", "image: got 'not finite'"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "says"), COMMANDS, ids=[line.removeprefix(GOOD) or "empty" for line, _ in COMMANDS])
def test_bad_input_is_refused(line, says, capsys):
    assert says in refused(line, capsys)


MALFORMED = {
    "hkl": [b"", b"0 0 1\n", b"0 0 1 5\n0 0 2 F\n", b"0 0 1.5 5\n", b"0 0 1 5\n0 0 2 5x 9\n", b"0 0 1 nan\n"],
    "mat": [b"", b"1 2 3 4 5 6 7 8", b"a b c d e f g h i", b"1 0 0 1 0 0 1 0 0\n"],
    "img": [b"", b"{\nHEADER_BYTES=512;\n}", b"P5\n" + b"x" * 600, b"{\nHEADER_BYTES=9999;\n".ljust(512)],
    "mask": [b"{\nHEADER_BYTES=512;\nSIZE1=8;\nSIZE2=8;\n}".ljust(512), b"{\nHEADER_BYTES=512;\n}".ljust(2000)],
    "sourcefile": [b"", b"\n\n", b"1 2 x\n", b"-10 0 0 1 0\n", b"0 0 0 1 1e-10\n", b"-10 0 0 0 1e-10\n",
                   b"-10 0 0 -1\n"],
    "dump": [b"", b"0 1 0 1\n\f", b"0 1 0 1 0 1\n\f" + b"\0" * 9, b"0 0 0 0 0 0\n\f" + np.full(8, np.nan).tobytes()],
    "stol": [b""],
}  # fmt: skip
C_TAKES_WHAT_IT_READ = [("c", "hkl", i) for i in (2, 3, 4)]  # up to the first text that is no number (D27)
FILES = [
    case
    for mode in ("corrected", "c")
    for flag, contents in MALFORMED.items()
    for case in ((mode, flag, i) for i in range(len(contents)))
    if case not in C_TAKES_WHAT_IT_READ
]


@pytest.mark.parametrize(("mode", "flag", "i"), FILES, ids=["-".join(map(str, case)) for case in FILES])
def test_malformed_files_are_refused(mode, flag, i, capsys):
    Path("bad").write_bytes(MALFORMED[flag][i])
    assert f"-{flag}" in refused(f"{GOOD} -compat {mode} -{flag} bad", capsys)


def smv(fast: int, slow: int, extra: str = "") -> bytes:
    header = "{\nHEADER_BYTES=512;\nBYTE_ORDER=little_endian;\nTYPE=unsigned_short;\n"
    return f"{header}SIZE1={fast};\nSIZE2={slow};\n{extra}}}\f".encode().ljust(512) + b"\1\0" * fast * slow


def test_a_mask_of_another_size_is_refused(capsys):
    Path("mask.img").write_bytes(smv(9, 8))
    assert "-mask: got '9 x 8 pixels'; accepted: the detector's 8 x 8" in refused(f"{GOOD} -mask mask.img", capsys)


@pytest.mark.parametrize("entry", ["PIXEL_SIZE=0", "WAVELENGTH=-1"])
def test_a_header_with_impossible_numbers_is_refused(entry, capsys):
    Path("a.img").write_bytes(smv(8, 8, f"{entry};\n"))
    assert entry in refused(f"{GOOD} -img a.img", capsys)


def test_an_output_is_not_written_over_an_input(capsys):
    Path("a.hkl").write_text("0 0 1 5\n1 2 3 5\n")
    assert "-intfile" in refused(f"{CELL} {SMALL} -hkl a.hkl -intfile ./a.hkl", capsys)
    assert Path("a.hkl").read_text() == "0 0 1 5\n1 2 3 5\n"


def test_warnings_do_not_join_an_error(capsys):
    assert "-device" in refused(f"{GOOD} -bogus 1 -coherent -device nowhere", capsys)


FULL = RuntimeError("DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, FULL])
def test_a_rendering_that_is_cut_short_leaves_no_file(error, capsys, monkeypatch):
    from nanobrag_torch.simulator import Simulator

    def run(self: Simulator, **_: object) -> None:
        raise error

    monkeypatch.setattr(Simulator, "run", run)
    assert main(GOOD.split()) == (130 if error is KeyboardInterrupt else 2)
    assert capsys.readouterr().err.count("\n") == 1
    assert listing() == []


def test_a_write_that_fails_leaves_the_old_files(capsys, monkeypatch):
    from nanobrag_torch.errors import InputError
    from nanobrag_torch.io import smv as module

    def full(*_: object, **__: object) -> None:
        raise InputError("-intfile", "intimage.img", "a file that can be written (no space left on device)")

    Path("floatimage.bin").write_bytes(b"old")
    monkeypatch.setattr(module, "write_smv_image", full)
    assert "no space left" in refused(GOOD, capsys)
    assert Path("floatimage.bin").read_bytes() == b"old"


def test_values_that_are_no_numbers_count_as_the_c_library_reads_them_in_c_mode(capsys):
    assert main(f"{GOOD} -compat c -distance 90mm -N 2.9 -adc x".split()) == 0
    assert "distance=0.09 " in capsys.readouterr().out


def test_an_unwritable_dump_file_is_a_warning(capsys):
    Path("a.hkl").write_text("0 0 1 5\n1 2 3 5\n")
    assert main(f"{CELL} {SMALL} -hkl a.hkl -dump no/such/folder".split()) == 0
    assert "warning: the dump file is not written" in capsys.readouterr().err
    assert Path("floatimage.bin").exists()
