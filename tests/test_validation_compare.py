"""nb compare: numbers against formulae, peaks against known places, and the C program played by small scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.validation.compare import compare_images
from nanobrag_torch.validation.images import cut, read_image, resampled
from nanobrag_torch.validation.peaks import find_peaks, match_peaks

SCRIPTS = Path(sysconfig.get_path("scripts"))
CELL = ["-cell", "50", "60", "70", "90", "90", "90"]
FLAGS = [*CELL, "-default_F", "10", "-N", "5", "-detpixels", "32", "-pixel", "0.5"]


def spots(places, shape=(40, 60), width=1.2):
    slow, fast = np.indices(shape)
    return sum(
        height * np.exp(-((slow - s) ** 2 + (fast - f) ** 2) / (2 * width**2)) for s, f, height in places
    ).astype(np.float32)


PLACES = [(8.0, 10.0, 100.0), (20.0, 30.0, 50.0), (31.0, 50.0, 10.0)]


@pytest.fixture
def images(tmp_path):
    """Two raw images, one shifted by (0.25, -0.5) pixels."""
    a, b = spots(PLACES), spots([(s + 0.25, f - 0.5, h) for s, f, h in PLACES])
    for name, image in (("a.bin", a), ("b.bin", b)):
        image.tofile(tmp_path / name)
    return a, b, [str(tmp_path / "a.bin"), str(tmp_path / "b.bin"), "--shape", "40", "60"]


def test_metrics_are_their_formulae():
    rng = np.random.default_rng(5)
    a = rng.random((7, 9))
    b = a + 0.1 * rng.standard_normal(a.shape)
    b[3, 4] = a[3, 4] - 5
    found = compare_images(a, b, tolerance=0.1)
    assert found.correlation == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], rel=1e-12)
    assert found.sum_ratio == pytest.approx(b.sum() / a.sum(), rel=1e-12)
    assert found.rmse == pytest.approx(np.linalg.norm(a - b) / np.sqrt(63), rel=1e-12)
    assert found.largest_difference == pytest.approx(-5)
    assert found.largest_difference_at == (3, 4)
    assert found.share_beyond_tolerance == (np.abs(a - b) > 0.1 * a.max()).sum() / 63


@pytest.mark.parametrize(("other", "expected"), [(2.0, 1.0), (3.0, 0.0)])
def test_constant_images_correlate_when_equal(other, expected):
    assert compare_images(np.full((3, 3), 2.0), np.full((3, 3), other)).correlation == expected


def test_peaks_are_where_they_were_put():
    found = find_peaks(spots(PLACES).astype(np.float64))
    assert np.abs(found - [place[:2] for place in PLACES]).max() < 1e-6
    assert len(find_peaks(np.zeros((5, 5)))) == 0
    assert len(find_peaks(np.ones((5, 5)))) == 1, "a plateau is one peak"


def test_peaks_match_one_to_one_within_the_gate():
    a, b = np.array([[0.0, 0], [0, 3], [50, 50]]), np.array([[0.0, 2.5], [0, 5], [9, 9]])
    match = match_peaks(a, b, 2.6)
    assert match.pairs.tolist() == [[0, 0], [1, 1]], "nearest-first would pair 1 with 0 and leave 0 alone"
    assert np.allclose(match.shifts, [[0, 2.5], [0, 2]])
    assert match_peaks(a, np.zeros((0, 2)), 2.0).plain()["matched"] == 0


def test_resampling_keeps_photons_and_centres():
    image = spots(PLACES).astype(np.float64)
    for shape in ((20, 30), (80, 120), (37, 41)):
        other = resampled(image, shape)
        assert other.shape == shape
        assert other.sum() == pytest.approx(image.sum(), rel=1e-12)
        centres = [((np.arange(n) + 0.5) / n) @ x.sum(1) / x.sum() for n, x in ((40, image), (shape[0], other))]
        assert centres[0] == pytest.approx(centres[1], abs=2e-3)
    assert np.allclose(resampled(image, (20, 60)), image[::2] + image[1::2], rtol=1e-12)


def test_region_includes_both_ends():
    image = np.arange(12.0).reshape(3, 4)
    assert cut(image, (1, 2, 0, 1)).tolist() == [[1, 2], [5, 6]]


def test_formats(tmp_path, data):
    image = np.arange(16, dtype=np.float32).reshape(4, 4)
    image.tofile(tmp_path / "raw.bin")
    np.save(tmp_path / "image.npy", image)
    assert np.array_equal(read_image(tmp_path / "raw.bin", "A"), image)
    assert np.array_equal(read_image(tmp_path / "image.npy", "A"), image)
    assert read_image(data / "inputs" / "mask64.img", "A").shape == (64, 64)


def test_two_images_as_a_user_compares_them(images, tmp_path):
    out = tmp_path / "out"
    options = ["--threshold", "0.9", "--outdir", str(out)]
    done = subprocess.run([SCRIPTS / "nb-compare", *images[2], *options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    metrics = json.loads((out / "metrics.json").read_text())
    a, b = images[0].astype(float), images[1].astype(float)
    assert metrics["correlation"] == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], rel=1e-9)
    assert metrics["peaks"]["matched"] == 3
    assert metrics["peaks"]["mean_error_px"] == pytest.approx(np.hypot(0.25, 0.5), abs=0.05)
    assert metrics["peaks"]["mean_shift_slow_fast_px"] == pytest.approx([0.25, -0.5], abs=0.05)
    assert f"{metrics['correlation']:.9f}" in done.stdout and "matched    3 3 3" in done.stdout
    for name in ("a.png", "b.png", "difference.png", "histogram.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == [
        "a.png", "b.png", "difference.png", "histogram.png", "metrics.json", "report.html",
    ]  # fmt: skip


def test_exit_code_follows_the_threshold(images, capsys):
    assert main(["compare", *images[2], "--threshold", "0.999"]) == 1
    assert "correlation BELOW 0.999" in capsys.readouterr().out
    assert main(["compare", *images[2], "--threshold", "0.5"]) == 0
    assert main(["compare", images[2][0], images[2][0], *images[2][2:]]) == 0


def test_region_and_resampling(images, tmp_path, capsys):
    resampled(images[0].astype(np.float64), (20, 30)).astype(np.float32).tofile(tmp_path / "half.bin")
    words = [images[2][0], str(tmp_path / "half.bin"), "--shape", "40", "60", "--shape-b", "20", "30"]
    assert main(["compare", *words]) == 2
    assert "images of one shape, or --resample" in capsys.readouterr().err
    assert main(["compare", *words, "--resample", "--threshold", "0.8"]) == 0
    ratio = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("sum ratio"))
    assert float(ratio.split()[-1]) == pytest.approx(1, rel=1e-6)
    assert main(["compare", *images[2], "--roi", "40", "59", "25", "39", "--threshold", "0"]) == 0
    out = capsys.readouterr().out
    assert "pixels                 300\n" in out
    difference = images[1].astype(float) - images[0]
    region = difference[25:40, 40:60]
    slow, fast = np.unravel_index(np.abs(region).argmax(), region.shape)
    assert f"at slow {slow + 25} fast {fast + 40}, " in out, "counted in the whole image"


PROGRAM = """#!{python}
import sys
from array import array
words = sys.argv[1:]
def value(flag):
    return words[len(words) - words[::-1].index(flag)]
{body}
"""
DRAW = "array('f', [{pixels}] * int(value('-detpixels')) ** 2).tofile(open(value('-floatfile'), 'wb'))"


@pytest.fixture
def program(tmp_path):
    """A stand-in for the C program with some body."""

    def make(body):
        path = tmp_path / "c" / "nanoBragg"
        path.parent.mkdir()
        path.write_text(PROGRAM.format(python=sys.executable, body=body))
        path.chmod(0o755)
        return str(path)

    return make


def test_flags_through_both_programs(program, tmp_path, monkeypatch, capsys):
    """The stand-in draws this program's own image, which lies where it finds it by an absolute name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "A.mat").write_text("0.02 0 0\n0 0.016 0\n0 0 0.0142857\n")
    flags = ["-mat", "A.mat", *FLAGS[7:], "-default_F", "10", "-compat", "c", "-floatfile", "mine.bin"]
    assert main(["compare", "--c-bin", program(DRAW.format(pixels="1.0")), "--outdir", "first", "--", *flags]) == 1
    assert not (tmp_path / "mine.bin").exists()
    own = tmp_path / "first" / "b.bin"
    script = f"""
import os, shutil
assert os.path.isabs(value('-mat')) and os.path.exists(value('-mat')), words
assert '-compat' not in words and os.getcwd() != {str(tmp_path)!r}
shutil.copy({str(own)!r}, value('-floatfile'))
"""
    Path(tmp_path / "c" / "nanoBragg").write_text(PROGRAM.format(python=sys.executable, body=script))
    monkeypatch.setenv("NB_C_BIN", str(tmp_path / "c" / "nanoBragg"))
    assert main(["compare", "--outdir", "second", "--", *flags]) == 0
    metrics = json.loads((tmp_path / "second" / "metrics.json").read_text())
    assert metrics["correlation"] == pytest.approx(1, abs=1e-12) and metrics["largest_difference"] == 0
    assert metrics["speed_ratio"] == pytest.approx(metrics["seconds_a"] / metrics["seconds_b"])
    assert "speed ratio" in capsys.readouterr().out
    assert (metrics["a"], metrics["b"]) == ("C program", "nanobrag_torch")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit('usage: give me more')", "exit code 0 (it ended with 1, saying: usage: give me more)"),
        ("pass", "it wrote none"),
        ("array('f', [1.0]).tofile(open(value('-floatfile'), 'wb'))", "4096 bytes for 32 x 32 pixels"),
        (DRAW.format(pixels="float('nan')"), "1024 pixels that are not finite"),
        ("import os; os.kill(os.getpid(), 11)", "it ended with -11"),
    ],
)
def test_a_c_program_that_fails_is_one_line(program, capsys, body, said, tmp_path):
    assert main(["compare", "--c-bin", program(body), "--outdir", str(tmp_path / "out"), "--", *FLAGS]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("nb: error: --c-bin: got ") and said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_a_c_program_it_says_how_to_give_one(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("NB_C_BIN", raising=False)
    for words in (["--", *FLAGS], ["--c-bin", str(tmp_path / "none"), "--", *FLAGS]):
        assert main(["compare", *words]) == 2
        err = capsys.readouterr().err
        assert "the path of a compiled nanoBragg" in err and "--c-bin ./nanoBragg" in err and err.count("\n") == 1
    (tmp_path / "text").write_text("no program")
    assert main(["compare", "--c-bin", str(tmp_path / "text"), "--", *FLAGS]) == 2
    assert "permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["A"], "two images"),
        (["none.bin", "A"], "A: got 'none.bin'"),
        (["A", "A", "--shape", "3", "5"], "60 bytes for 3 x 5 pixels"),
        (["A", "odd"], "a square image, or --shape SLOW FAST"),
        (["A", "nan"], "finite pixels"),
        (["A", "text.npy"], "B, text.npy: got "),
        (["A", "A", "--roi", "0", "4", "0", "3"], "--roi: got (0, 4, 0, 3)"),
        (["A", "A", "--outdir", "A/out"], "--outdir"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    image = np.ones((4, 4), np.float32)
    image.tofile("A")
    np.ones(5, np.float32).tofile("odd")
    (image * np.nan).tofile("nan")
    np.save("text.npy", np.array([["a"]]))
    assert main(["compare", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("nb: error: ") and said in err and err.count("\n") == 1


VERBS = {
    "trace": "--pixel --config --phi-mode --dtype --device --emit-rot-stars --json --out FLAGS",
    "compare-traces": "--py --c --json --summary --dump-scattering --rtol --atol",
    "diff-json": "A B --rtol --atol",
    "compare": "--c-bin --roi --threshold --resample --outdir --tolerance --gate --shape --config NB_C_BIN",
    "evidence": "--outdir --verify --baseline --pytest --pixel --phi-mode --c FLAGS",
}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trace"], "missing option '--pixel' (see nb trace --help)"),
        (["trace", "--pixel", "1", "x"], "'--pixel'"),
        (["diff-json", "A"], "missing argument 'B'"),
        (["compare", "--bogus"], "no such option: --bogus"),
        (["tarce"], "no such command 'tarce'"),
    ],
)
def test_words_that_make_no_command_are_one_line(capsys, words, said):
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("nb: error: ") and said in printed.err and printed.err.count("\n") == 1
    assert printed.out == ""


def test_without_words_nb_lists_its_verbs(capsys):
    assert main([]) == 2
    printed = capsys.readouterr().err
    assert all(verb in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_complete(verb):
    environment = {**os.environ, "COLUMNS": "200"}
    command = [SCRIPTS / "nb", verb, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    text = " ".join(done.stdout.split())
    assert all(word in text for word in VERBS[verb].split())
    assert "Exit code 0" in text or verb == "trace"
