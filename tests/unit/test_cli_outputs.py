"""What the command prints and writes beyond the reference cases: help, progress, pictures, noise, printed values."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.cli.nanobragg import main
from nanobrag_torch.cli.nanobragg.flags import FLAGS, SUBJECTS
from nanobrag_torch.cli.nanobragg.help import help_text
from nanobrag_torch.cli.nanobragg.outputs import beam_spot
from nanobrag_torch.cli.progress import LineMeter, progress_meter

GOOD = "-cell 60 75 90 90 90 90 -default_F 50 -N 3 -detpixels 16 -pixel 1 -oversample 1 -seed 7 -noprogress"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def printed(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(line.split()) == 0
    return capsys.readouterr().out


def number_after(text: str, out: str) -> float:
    return float(re.search(re.escape(text) + r"\s*([-+0-9.e]+)", out)[1])


class TestHelp:
    """-h and --version."""

    def test_it_names_every_flag_under_its_subject(self):
        text = help_text()
        for flag in FLAGS:
            assert re.search(rf"^  .*{re.escape(flag.names[0])}\b", text, re.MULTILINE), flag.names
        places = [text.index(f"\n{subject}:\n") for subject in SUBJECTS]
        assert places == sorted(places)
        assert all(len(line) <= 116 for line in text.splitlines())

    @pytest.mark.parametrize("word", ["-h", "-help", "--help", "--version"])
    def test_it_ends_well_and_writes_nothing(self, word, capsys, tmp_path):
        assert main(["-N", "3", word]) == 0
        assert capsys.readouterr().out.startswith(("usage: nanoBragg", "nanoBragg (nanobrag-torch"))
        assert list(tmp_path.iterdir()) == []

    def test_it_needs_neither_torch_nor_half_a_second(self):
        code = (
            "import sys; from nanobrag_torch.cli.nanobragg import main; main(['-h']);"
            "assert not {'torch', 'numba', 'matplotlib', 'numpy', 'rich'} & set(sys.modules)"
        )
        seconds = []
        for _ in range(3):  # the quickest: other work on the machine is not ours
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begun)
        assert min(seconds) < 0.5


class TestProgress:
    """The meter."""

    def test_lines_now_and_then_with_the_time_left(self):
        clock, stream = iter([0.0, 1.0, 3.0, 4.0, 10.0, 20.0]), io.StringIO()
        meter = LineMeter(stream, clock=lambda: next(clock))
        for fraction in (0.1, 0.25, 0.3, 0.5, 1.0):
            meter(fraction)
        assert stream.getvalue() == "25% done, about 9 s left\n50% done, about 10 s left\n"

    def test_a_file_gets_lines_and_nobody_gets_nothing(self):
        stream = io.StringIO()
        with progress_meter(True, stream=stream) as report:
            assert report is not None
            report(0.5)
        assert stream.getvalue() == "100% done\n"
        with progress_meter(False, stream=stream) as report:
            assert report is None

    def test_a_terminal_gets_a_bar(self):
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        stream = Terminal()
        with progress_meter(True, stream=stream) as report:
            assert report is not None
            report(0.5)
            report(1.0)
        assert "rendering" in stream.getvalue()
        stream = Terminal()
        with progress_meter(True, stream=stream, what="structure factors") as report:
            assert report is not None
            report(1.0)
        assert "structure factors" in stream.getvalue() and "rendering" not in stream.getvalue()

    def test_the_command_reports_unless_told_not_to(self, capsys):
        assert "100% done" in printed(GOOD.replace(" -noprogress", ""), capsys)
        assert "done" not in printed(GOOD, capsys)


class TestPrinting:
    """Lines that the reference data does not hold."""

    def test_solid_angle_is_that_of_the_detector(self, capsys):
        """A square of edge a at distance d: 4 asin(a^2 / (a^2 + 4 d^2))."""
        line = f"{GOOD} -denzo -detpixels 200 -pixel 0.5 -Xbeam 50 -Ybeam 50 -distance 80 -phisteps 2 -osc 1"
        expected = 4 * math.asin(100**2 / (100**2 + 4 * 80**2))
        here = number_after("solid angle subtended by detector =", printed(line, capsys))
        in_c = number_after("solid angle subtended by detector =", printed(f"{line} -compat c", capsys))
        assert here == pytest.approx(expected, rel=1e-4)
        assert in_c == pytest.approx(expected / 2, rel=1e-4)

    def test_solid_angle_in_c_counts_layers_and_sub_pixels(self, capsys):
        line = f"{GOOD} -compat c -detector_thick 100 -detector_abs 100 -oversample 3 -distance 1000"
        one = number_after("solid angle subtended by detector =", printed(f"{GOOD} -distance 1000", capsys))
        in_c = number_after("solid angle subtended by detector =", printed(line, capsys))
        assert in_c == pytest.approx(2 * one, rel=1e-3)  # two layers, nine sub-pixels over nine steps

    def test_the_last_line_is_time_and_speed(self, capsys):
        last = printed(f"{GOOD} -phisteps 3 -osc 1 -roi 0 3 0 4", capsys).splitlines()[-1]
        assert re.fullmatch(r"rendered 20 pixels x 3 steps in \S+ s: \S+ pixel-steps/s", last)

    def test_corrections_are_named_in_corrected_mode_alone(self, capsys):
        line = f"{GOOD} -phi 0 -osc 1 -phisteps 3"
        assert "correction D2 changed the image: every phi step is rotated afresh" in printed(line, capsys)
        assert "correction" not in printed(f"{line} -phi_mode c-parity", capsys)
        assert "correction" not in printed(f"{line} -compat c", capsys)
        assert "correction" not in printed(GOOD, capsys)

    def test_a_two_theta_axis_of_another_length(self, capsys):
        assert "correction D52" in printed(f"{GOOD} -twotheta_axis 0 0 2 -twotheta 5", capsys)
        assert "correction D20 changed the header" in printed(f"{GOOD} -twotheta 5", capsys)

    def test_printed_values_of_a_pixel_multiply_to_the_pixel(self, capsys):
        out = printed(f"{GOOD} -printout_pixel 3 4 -dtype float64", capsys)
        image = np.fromfile("floatimage.bin", np.float32).reshape(16, 16)
        values = {key: number_after(f"\n{key} ", out) for key in ("I/steps", "polar", "omega", "capfrac", "pixel")}
        assert values["pixel"] == pytest.approx(image[4, 3], rel=1e-6)
        product = values["I/steps"] * values["polar"] * values["omega"] * values["capfrac"]
        assert product == pytest.approx(values["pixel"], rel=1e-6)
        f_cell, f_latt = number_after("F_cell=", out), number_after("F_latt=", out)
        assert (f_cell * f_latt) ** 2 == pytest.approx(values["I/steps"], rel=1e-4)
        stol = number_after("   3    4 : stol =", out)
        x, y, z = (float(t) for t in re.search(r"^at (\S+) (\S+) (\S+)$", out, re.MULTILINE).groups())
        assert stol == pytest.approx(math.sin(math.acos(x / math.hypot(x, y, z)) / 2) / 1e-10, rel=1e-5)

    def test_printout_covers_every_rendered_pixel(self, capsys):
        out = printed(f"{GOOD} -printout -roi 2 4 5 6", capsys)
        assert re.findall(r"^ *(\d+) +(\d+) : stol", out, re.MULTILINE) == [
            (str(f), str(s)) for s in (5, 6) for f in (2, 3, 4)
        ]


class TestFiles:
    """What is written."""

    def test_only_what_is_wanted(self, tmp_path):
        assert main(f"{GOOD} -nonoise -nopgm -floatfile a -intfile b".split()) == 0
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]

    def test_picture(self, tmp_path):
        assert main(f"{GOOD} -pngfile a.png".split()) == 0
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    def test_the_dump_of_one_run_serves_the_next(self, data, capsys):
        files = f"{GOOD} -hkl {data}/inputs/p1_small.hkl".replace("-default_F 50", "")
        assert main(files.split()) == 0
        first = np.fromfile("floatimage.bin", np.float32)
        assert main(GOOD.replace("-default_F 50", "").split()) == 0
        assert np.array_equal(first, np.fromfile("floatimage.bin", np.float32)) and first.max() > 0
        assert "an earlier run left" in capsys.readouterr().err

    def test_the_seed_decides_the_noise(self):
        images = []
        for flags in ("-seed 7", "-seed 7", "-seed 8"):
            assert main(f"{GOOD} {flags}".split()) == 0
            images.append(Path("noiseimage.img").read_bytes())
        assert images[0] == images[1] != images[2]

    def test_a_seed_that_is_not_positive_goes_on_after_the_mosaic_stream(self):
        """D50: such a stream inherits the shuffle table, so another mosaic seed gives another noise."""
        images = []
        for flags in ("-seed -5", "-seed -5 -mosaic_seed 9", "-seed 5", "-seed 5 -mosaic_seed 9"):
            assert main(f"{GOOD} {flags}".split()) == 0
            images.append(Path("noiseimage.img").read_bytes())
        assert images[0] != images[1] and images[2] == images[3]

    def test_masked_and_outer_pixels_are_zero_photons(self, data):
        line = f"-cell 60 75 90 90 90 90 -default_F 50 -N 3 -oversample 1 -mask {data}/inputs/mask64.img -roi 0 40 0 63"
        assert main(line.split()) == 0
        image = np.fromfile("floatimage.bin", np.float32).reshape(64, 64)
        raw = (data / "inputs/mask64.img").read_bytes()
        skipped = np.frombuffer(raw[512:], "<u2").reshape(64, 64) == 0
        assert image[skipped].max() == 0 and image[:, 41:].max() == 0 and image[~skipped].max() > 0


def test_beam_spot_on_and_off_a_panel():
    panel = np.array([[0.1, 0.02, -0.01], [0, 0, 1], [0, -1, 0], [1, 0, 0]], np.float64)
    size, beam = np.array([1e-3, 1e-3]), np.array([1.0, 0.0, 0.0])
    assert beam_spot(panel, size, beam) == pytest.approx((10, 20))
    assert beam_spot(panel, size, -beam) is None
    assert beam_spot(panel, size, np.array([0.0, 1.0, 0.0])) is None
