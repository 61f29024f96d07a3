"""Words of `nb` in their short forms, how much it says, and what it says before it renders."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
import torch

from nanobrag_torch.cli.nb import simulate_plan, warm
from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.cli.nb.words import in_full, loudness
from nanobrag_torch.config import CrystalConfig, DetectorConfig
from nanobrag_torch.io.geometry import write_geometry
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator
from test_experiment import experiment_data, straight

FULL = {
    "--cell 79,79,38,90,90,90 -N 3": "--cell 79 79 38 90 90 90 -N 3 3 3",
    "--cell 79 79 38 90 90 90 -N 3 4 5": "--cell 79 79 38 90 90 90 -N 3 4 5",
    "--cell=79,79,38,90,90,90 --cells=3,4,5": "--cell 79 79 38 90 90 90 --cells 3 4 5",
    "a.expt -N 30 --oversample 1": "a.expt -N 30 30 30 --oversample 1",
    "-N 30 a.expt": "-N 30 30 30 a.expt",
    "--misset -1,2,3.5": "--misset -1 2 3.5",
    "--cell 79 79": "--cell 79 79",
    "trace -- -N 5 -cell 1,2": "trace -- -N 5 -cell 1,2",
}


@pytest.mark.parametrize("words", FULL)
def test_short_forms_of_values(words):
    assert in_full(words.split()) == FULL[words].split()


def test_how_much_is_said_may_stand_anywhere():
    assert loudness(["simulate", "--quiet", "a.expt"]) == (["simulate", "a.expt"], "quiet")
    assert loudness(["--verbose", "show", "a", "--", "--quiet"]) == (["show", "a", "--", "--quiet"], "verbose")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_geometry(tmp_path / "a.expt", straight(experiment_data()))
    return tmp_path


def simulate(*words: str) -> int:
    return main(["simulate", "a.expt", "--frames", "1", "--phi-steps", "2", "-o", "a.npy", "--allow-loss", *words])


def test_what_it_will_do_is_said_first(folder, capsys):
    assert simulate("-N", "5", "--oversample", "2", "--mosaic-spread", "0.1", "--mosaic-domains", "3") == 0
    tolerance, finely, *lines = capsys.readouterr().out.splitlines()
    assert tolerance.startswith("tolerance: a pixel may lose ")
    assert finely == "sub-pixels: 2 x 2 where a spot may be, one sample elsewhere"
    pixels = np.load("a.npy").size
    assert lines[0] == f"to render: 1 image of {pixels} pixels; sub-pixels 2 x 2 (as asked for)"
    assert lines[1].startswith("24 steps a pixel: 2 x 2 sub-pixels x 2 phi steps x 3 mosaic domains x 1 sources")
    assert re.fullmatch(r"expected: (less than 1|about \d+) s an image", lines[2])
    assert lines[3] == "wrote a.npy"


def test_automatic_sub_pixels_say_why(folder, capsys):
    assert simulate("-N", "5") == 0
    assert "(automatic: three along the narrowest spot)" in capsys.readouterr().out


def test_quiet_says_nothing_and_does_the_same(folder, capsys):
    assert simulate("-N", "5", "5", "5", "--oversample", "1") == 0
    loud = np.load("a.npy")
    capsys.readouterr()
    assert simulate("--quiet", "-N", "5", "--oversample", "1") == 0
    assert capsys.readouterr() == ("", "")
    assert np.array_equal(np.load("a.npy"), loud)
    assert simulate("--quiet", "-N", "5", "--shape", "cube") == 2
    assert capsys.readouterr().err.startswith("nb: error: shape")


@pytest.mark.parametrize("asked", [-1, 4])
def test_a_long_image_is_told_how_to_be_shorter(monkeypatch, asked):
    monkeypatch.setattr(simulate_plan, "seconds_an_image", lambda simulator: 3200.0)
    crystal = Crystal(CrystalConfig(cell_a=100.0, N_cells=(40, 40, 40), default_F=1.0))
    simulator = Simulator(crystal, Detector(DetectorConfig(spixels=16, fpixels=16, oversample=asked)))
    lines = list(simulate_plan.time_lines(simulator, 3))
    assert lines[0] == "expected: about 53 min an image, about 2.7 h in all"
    side = simulator.oversample
    assert len(lines) == (2 if asked < 0 else 1) and side > 1
    assert asked > 0 or f"--oversample 1 takes about {3200 / side**2:.0f} s" in lines[1]


def test_expected_times_are_those_of_the_whole_image():
    crystal = Crystal(
        CrystalConfig(cell_a=50.0, N_cells=(5, 5, 5), default_F=1.0, mosaic_spread_deg=0.5, mosaic_domains=50)
    )
    simulator = Simulator(crystal, Detector(DetectorConfig(spixels=300, fpixels=300, oversample=2)))
    expected = simulate_plan.seconds_an_image(simulator)
    begun = time.perf_counter()
    with torch.no_grad():
        simulator.run()
    assert 0.1 < expected / (time.perf_counter() - begun) < 10


def test_version_and_completion_are_offered(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nb (nanobrag-torch ")
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for option in ("--install-completion", "--quiet", "--verbose", "--version"):
        assert option in said


def test_warm_compiles_every_kernel_in_processes(monkeypatch, capsys):
    begun = []

    class Done:
        returncode = 0

        def poll(self):
            return 0

        def communicate(self):
            return "", ""

    def start(task):
        begun.append(task)
        return Done()

    monkeypatch.setattr(warm, "_start", start)
    assert main(["warm", "--processes", "3"]) == 0
    assert len(begun) == len(set(begun)) == 18 and {"counts-float64-every", "losses-float32-common"} < set(begun)
    assert capsys.readouterr().out.startswith("compiling 18 kernels in 3 processes, into ")
    assert main(["warm", "--processes", "0"]) == 2


@pytest.mark.parametrize("task", ["images-float64-every", "gradients-float64-common", "losses-float64-common"])
def test_what_a_process_of_warm_does_uses_its_kernel(task):
    warm.compile_task(task)
