"""`nb simulate`, run as a user runs it: refined experiment and structure factors in, images of other programs out."""

from __future__ import annotations

import gzip
import re

import fabio
import numpy as np
import pytest
import torch

from nanobrag_torch import Experiment
from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.io.geometry import write_geometry
from nanobrag_torch.io.images import read_image
from test_experiment import SHAPE, experiment_data, straight


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an experiment of one panel, one of two, and structure factors."""
    monkeypatch.chdir(tmp_path)
    write_geometry(tmp_path / "one.expt", experiment_data())
    write_geometry(tmp_path / "two.expt", experiment_data(panels=2))
    write_geometry(tmp_path / "straight.expt", straight(experiment_data()))
    cell = "58.11 66.13 81.28 92.0 94.0 91.0"
    assert main(["wilson", "--cell", *cell.split(), "--spacegroup", "P1", "--dmin", "3", "-o", "model.mtz"]) == 0
    return tmp_path


def run(*words: str) -> int:
    return main(["simulate", *words, "-N", "5", "5", "5", "--oversample", "1", "--phi-steps", "2"])


def test_a_series_of_cbf_holds_what_the_experiment_renders(folder, capsys):
    assert (
        run("straight.expt", "--structure-factors", "model.mtz", "--frames", "3-4", "-o", "s_####.cbf", "--allow-loss")
        == 0
    )
    printed = capsys.readouterr().out
    assert "reflections from model.mtz" in printed and re.search(r"2 image\(s\), \d+ pixels in", printed)
    options = {"N_cells": (5, 5, 5), "oversample": 1, "phi_steps": 2}
    experiment = Experiment.from_file("straight.expt", structure_factors="model.mtz", **options)
    for frame, name in ((2, "s_0003.cbf"), (3, "s_0004.cbf")):
        assert np.array_equal(fabio.open(name).data, np.rint(experiment.simulate(frame).numpy()).astype(int))
    assert not (folder / "s_0001.cbf").exists()


def test_two_panels_to_nxmx_and_back(folder):
    assert run("two.expt", "--frames", "1-2", "-o", "two.nxs") == 0
    read = read_image("two.nxs", 1)
    expected = Experiment.from_file("two.expt", N_cells=(5, 5, 5), oversample=1, phi_steps=2).simulate(1)
    assert read.pixels.shape == (2, *SHAPE)
    assert np.array_equal(read.pixels, np.rint(expected.numpy()))


def test_noise_is_poisson_and_another_for_each_image(folder):
    dark = ("--default-f", "0", "--water", "0.2", "--noise", "--seed", "5")
    assert run("straight.expt", "--frames", "1-2", "-o", "n_##.npy", *dark) == 0
    assert run("straight.expt", "--frames", "1", "-o", "again_##.npy", *dark) == 0
    first, second, again = (np.load(name) for name in ("n_01.npy", "n_02.npy", "again_01.npy"))
    expected = Experiment.from_file(
        "straight.expt", N_cells=(5, 5, 5), oversample=1, phi_steps=2, default_F=0.0, water_size_um=0.2
    ).simulate(0, dtype=torch.float64)
    assert np.array_equal(first, again) and not np.array_equal(first, second)
    assert np.array_equal(first, np.rint(first))
    other = Experiment.from_file("straight.expt", N_cells=(5, 5, 5), oversample=1, phi_steps=2, default_F=0.0)
    drawn = other.with_options(water_size_um=0.2).counts(0, seed=5)
    assert np.array_equal(first, drawn.numpy())
    pull = (first - expected.numpy()) / np.sqrt(expected.numpy())
    assert abs(pull.mean()) < 5 / np.sqrt(pull.size) and abs(pull.var() - 1) < 0.03


def test_a_crystal_from_the_command_line_for_a_geometry_without_one(folder):
    write_geometry(folder / "a.geom", experiment_data(), allow_loss=True)
    cell = ("--cell", "58", "66", "81", "90", "90", "90", "--misset", "10", "20", "30")
    assert run("--geometry", "a.geom", *cell, "-o", "still.npy", "--png", "still.png") == 0
    assert np.load("still.npy").max() > 0 and (folder / "still.png").read_bytes()[:4] == b"\x89PNG"


def test_a_series_goes_on_where_it_was_cut_off(folder):
    words = ("straight.expt", "--frames", "1-3", "-o", "r_###.img", "--allow-loss")
    assert run(*words) == 0
    before = {n: (folder / f"r_{n:03d}.img").stat().st_mtime_ns for n in (1, 2, 3)}
    (folder / "r_002.img").unlink()
    assert run(*words, "--resume") == 0
    after = {n: (folder / f"r_{n:03d}.img").stat().st_mtime_ns for n in (1, 2, 3)}
    assert before[1] == after[1] and before[3] == after[3] and before[2] != after[2]


def test_a_tolerance_is_said_and_kept(folder, capsys):
    words = ["simulate", "straight.expt", "--structure-factors", "model.mtz", "--frames", "1", "-N", "20", "20", "20"]
    words += ["--phi-steps", "12", "--oversample", "1"]
    assert main([*words, "--tolerance", "0", "-o", "full.npy"]) == 0
    assert "every step is summed" in capsys.readouterr().out
    assert main([*words, "--tolerance", "1e-2", "-o", "quick.npy"]) == 0
    photons = float(re.search(r"may lose (\S+) photons, 0.01 of", capsys.readouterr().out)[1])
    full, quick = np.load("full.npy"), np.load("quick.npy")
    lost = (full - quick).max()
    assert 0 < lost <= photons * 1.01 + 1e-6 * full.max()
    assert photons <= 0.01 * full.max() * 1.01


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "--geometry"),
        (("one.expt", "--geometry", "one.expt"), "--geometry"),
        (("absent.expt",), "absent.expt"),
        (("one.expt", "--frames", "0-3"), "--frames"),
        (("one.expt", "--frames", "x"), "--frames"),
        (("one.expt", "--frames", "1", "-o", "a.tif"), "a.tif"),
        (("two.expt", "--frames", "1", "-o", "a.cbf"), "--allow-loss"),
        (("one.expt", "--frames", "1-2", "-o", "a.npy"), "####"),
        (("one.expt", "--structure-factors", "one.expt"), "one.expt"),
        (("one.expt", "--structure-factors", "model.mtz", "--column", "FOO"), "FOO"),
        (("one.expt", "--frames", "1", "--dtype", "half"), "float32"),
        (("one.expt", "--frames", "1", "--device", "abacus"), "abacus"),
        (("one.expt", "--frames", "1", "--shape", "cube"), "square"),
        (("one.expt", "--misset", "1", "2", "3"), "--misset"),
        (("broken.expt", "--frames", "1"), "broken.expt"),
        (("one.expt", "--frames", "1", "--column", "FP"), "--column"),
        (("one.expt", "--frames", "1", "--seed", "3"), "--seed"),
        (("one.expt", "--frames", "1", "--noise", "--seed", "-3"), "seed"),
        (("one.expt", "--frames", "1", "--mosaic-spread", "0.1", "--mosaic-domains", "0"), "mosaic_domains"),
    ],
)
def test_bad_input_is_one_line_and_no_file(folder, capfd, words, named):
    (folder / "broken.expt").write_bytes((folder / "one.expt").read_bytes()[:300])
    before = set(folder.iterdir())
    capfd.readouterr()
    assert run(*words) == 2
    error = [line for line in capfd.readouterr().err.splitlines() if "compiling" not in line]
    assert len(error) == 1 and named in error[0]
    assert set(folder.iterdir()) == before


def test_a_compressed_model_file_is_no_geometry(folder, capfd):
    (folder / "x.expt").write_bytes(gzip.compress(b"{}"))
    assert run("x.expt") == 2
    assert "x.expt" in capfd.readouterr().err


def test_help_suffices(capsys):
    assert main(["simulate", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--structure-factors", "--frames", "--noise", "--resume", "--mosaic-spread", "--device"):
        assert option in shown
