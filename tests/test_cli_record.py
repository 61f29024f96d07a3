"""`nb simulate` and `nb record` with a whole detector in a few words; presets by name; panels whose fields act."""

from __future__ import annotations

from dataclasses import replace

import fabio
import numpy as np
import pytest
import torch

from nanobrag_torch import Experiment
from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.geometry import read_geometry, write_geometry
from nanobrag_torch.io.images import read_image
from nanobrag_torch.records.experiment import BeamData, DetectorData
from nanobrag_torch.response.chain import Response
from nanobrag_torch.response.config import ResponseConfig
from nanobrag_torch.response.panels import panel_response
from nanobrag_torch.response.presets import PRESETS, detector_preset
from test_experiment import SHAPE, experiment_data, straight

QUICK = ("--cells", "5", "5", "5", "--oversample", "1", "--phi-steps", "1", "--frames", "1", "--fluence", "1e17")
OPTIONS = {"N_cells": (5, 5, 5), "oversample": 1, "phi_steps": 1, "fluence": 1e17}


def simulate(*words: str) -> int:
    return main(["simulate", *QUICK, *words])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_geometry(tmp_path / "straight.expt", straight(experiment_data()))
    return tmp_path


def with_panels(**fields):
    data = straight(experiment_data())
    panels = tuple(replace(panel, **fields) for panel in data.detector.panels)
    return replace(data, detector=DetectorData(panels=panels))


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_have_their_makers_numbers(name):
    shape = {"eiger2_16m": (4362, 4148), "eiger_4m": (2167, 2070), "pilatus3_6m": (2527, 2463),
             "jungfrau_4m": (2164, 2068)}[name]  # fmt: skip
    preset = detector_preset(name)
    assert preset.shape == shape
    active = preset.modules[0] * preset.modules[1] * preset.module_pixels[0] * preset.module_pixels[1]
    assert preset.mask().sum() == active
    data = preset.detector(BeamData(wavelength_A=1.0), 200.0)
    panel = data.panels[0]
    assert np.array_equal(panel.good_pixels(), preset.mask())
    middle = panel.positions_mm(shape[1] / 2, shape[0] / 2)
    assert np.allclose(middle, [0, 0, -200], atol=1e-9) and np.allclose(panel.normal, [0, 0, -1])


def test_silicon_absorbs_what_is_tabulated():
    """NIST: 33.9 cm^2/g at 10 keV, of which 32.9 is photoelectric; density 2.33."""
    found = detector_preset("eiger16m").attenuation_per_mm(1.23984)
    assert abs(found / (32.9 * 2.33 / 10) - 1) < 0.02


def test_a_counting_detector_marks_gaps_and_overloads():
    preset = detector_preset("PILATUS6M")
    config = preset.response(1.0, frame_time_s=1e-3)
    image = torch.full(preset.shape, 3.0)
    image[0, 0], image[1, 1] = 5e4, 9e3
    drawn = Response(config).record(image, 1)
    assert drawn[0, 0] == 10_001 and 8_000 < drawn[1, 1] < 10_000
    assert (drawn[~torch.from_numpy(preset.mask())] == -1).all() and drawn[0, 487] == -1 and drawn[195, 0] == -1


def test_an_integrating_detector_gives_photons_or_raw_words():
    preset = detector_preset("jungfrau4m")
    image = torch.full(preset.shape, 2.0)
    image[:100] = 400.0
    image[100:110] = 5000.0
    drawn = Response(preset.response(1.0)).record(image, 1)
    good = torch.from_numpy(preset.mask())
    assert abs(float(drawn[200:500][good[200:500]].double().mean()) - 2) < 0.01
    assert abs(float(drawn[:100][good[:100]].double().mean()) / 400 - 1) < 1e-3
    assert (drawn[~good] == -32768).all()
    raw = Response(preset.response(1.0, packed=True, dtype="uint16")).record(image, 1).int()
    assert set((raw[good] >> 14).unique().tolist()) == {0, 1, 3}
    with pytest.raises(InputError, match="^detector: got 'eiger'"):
        detector_preset("eiger")


def test_gain_pedestal_and_trusted_range_of_a_panel_act_and_are_written(folder):
    bright = {**OPTIONS, "fluence": 1e29}
    plain = Experiment(data=with_panels(), options=bright)
    told = Experiment(data=with_panels(gain=2.5, pedestal=30.0, trusted_range=(0.0, 600.0)), options=bright)
    photons = plain.simulate()
    assert torch.allclose(told.simulate(), 2.5 * photons + 30)
    drawn = told.record(seed=3)
    assert drawn.max() == 601 and drawn.min() >= 30
    inside = photons < 60
    expected = 2.5 * plain.counts(seed=3)[inside] + 30
    assert torch.equal(drawn[inside], torch.floor(expected + 0.5).int())
    write_geometry(folder / "told.expt", told.data)
    assert simulate("told.expt", "--noise", "--seed", "3", "--fluence", "1e29", "-o", "told.nxs") == 0
    read = read_image("told.nxs")
    assert np.array_equal(read.pixels, drawn.numpy())
    panel = read.experiment.detector.panels[0]
    assert (panel.gain, panel.pedestal, panel.trusted_range) == (2.5, 30.0, (0.0, 600.0))
    again = read_geometry(folder / "told.expt").detector.panels[0]
    assert (again.gain, again.pedestal, again.trusted_range) == (2.5, 30.0, (0.0, 600.0))


def test_panels_with_gains_of_their_own():
    data = experiment_data(panels=2)
    first, second = data.detector.panels
    detector = DetectorData(panels=(replace(first, gain=2.0), replace(second, gain=3.0, pedestal=1.0)))
    told = Experiment(data=replace(data, detector=detector), options=OPTIONS)
    plain = Experiment(data=data, options=OPTIONS).simulate()
    assert torch.allclose(
        told.simulate(), plain * torch.tensor([2.0, 3.0])[:, None, None] + torch.tensor([0.0, 1.0])[:, None, None]
    )
    assert panel_response(data.detector).gain == 1.0
    assert panel_response(detector, ResponseConfig(gain=7.0)).gain == 7.0


def test_masked_pixels_record_nothing():
    mask = np.ones(SHAPE, bool)
    mask[:, 3:6] = False
    told = Experiment(data=with_panels(mask=mask, pedestal=12.0), options=OPTIONS)
    drawn = told.record(seed=1)
    assert (drawn[:, 3:6] == 0).all() and (drawn[:, :3] >= 12).all()


def test_a_detector_in_a_few_words(folder):
    text = "--background water:2.5mm --background air:5mm --psf gauss:75um --beamstop 1mm@30mm --gain 1.5"
    words = f"{text} --readout-noise 2 --flicker 2% --calibration 3% --noise --seed 4".split()
    assert simulate("straight.expt", *words, "-o", "all.nxs") == 0
    image = read_image("all.nxs")
    assert "water:2.5mm, air:5mm, psf gauss:75um" in image.experiment.source
    assert simulate("straight.expt", *words, "-o", "again.nxs") == 0
    assert np.array_equal(image.pixels, read_image("again.nxs").pixels)
    assert simulate("straight.expt", "--background", "water:2.5mm", "-o", "water.npy") == 0
    assert simulate("straight.expt", "-o", "dark.npy") == 0
    water = np.load("water.npy") - np.load("dark.npy")
    assert (water > 0).all()
    assert abs(image.pixels.mean() / (1.5 * np.load("water.npy").mean()) - 1) < 0.2


def test_a_detector_by_name_replaces_that_of_the_file(folder):
    words = ["--detector", "jungfrau4m@120mm", "--background", "water:1mm", "--noise", "--allow-loss", "-o", "jf.cbf"]
    assert simulate("straight.expt", *words) == 0
    found = fabio.open("jf.cbf").data
    assert found.shape == (2164, 2068) and (found[:, 1030:1038] == -32768).all()
    panel = read_image("jf.cbf").experiment.detector.panels[0]
    assert abs(abs(float(panel.origin_mm @ panel.normal)) - 120) < 1e-6


def test_one_image_is_recorded_again_and_again(folder):
    assert simulate("straight.expt", "--background", "water:2.5mm", "-o", "expected.npy") == 0
    words = ("--geometry", "straight.expt", "--psf", "gauss:75um", "--gain", "2", "--pedestal", "10", "--seed", "7")
    assert main(["record", "expected.npy", *words, "--count", "3", "-o", "shot_###.cbf"]) == 0
    shots = [fabio.open(f"shot_{i:03d}.cbf").data.astype(float) for i in (1, 2, 3)]
    assert not np.array_equal(shots[0], shots[1])
    assert main(["record", "expected.npy", *words, "--first", "2", "-o", "one.cbf"]) == 0
    assert np.array_equal(fabio.open("one.cbf").data, shots[1])
    expected = np.load("expected.npy")
    assert abs(np.mean(shots) / (2 * expected.mean() + 10) - 1) < 0.1
    assert main(["record", "expected.npy", "--no-noise", "-o", "same.npy"]) == 0
    assert np.allclose(np.load("same.npy"), np.floor(expected + 0.5))


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["simulate", "straight.expt", "--psf", "gauss"], "--psf"),
        (["simulate", "straight.expt", "--psf", "disc:3um"], "--psf"),
        (["simulate", "straight.expt", "--psf", "moffat:3um:0.5"], "--psf"),
        (["simulate", "straight.expt", "--background", "honey:2mm"], "--background"),
        (["simulate", "straight.expt", "--detector", "kodak"], "--detector"),
        (["simulate", "straight.expt", "--detector", "eiger16m@3"], "--detector"),
        (["simulate", "straight.expt", "--beamstop", "big"], "--beamstop"),
        (["simulate", "straight.expt", "--gain", "0"], "--gain"),
        (["simulate", "straight.expt", "--readout-noise", "-2"], "--readout-noise"),
        (["simulate", "straight.expt", "--flicker", "some"], "--flicker"),
        (["simulate", "straight.expt", "--calibration", "-3%"], "--calibration"),
        (["record", "none.npy"], "none.npy"),
        (["record", "expected.npy", "--count", "0"], "--count"),
        (["record", "expected.npy", "--count", "2", "-o", "one.npy"], "--output"),
        (["record", "expected.npy", "--psf", "gauss:75um", "-o", "one.npy"], "pixel_size_um"),
        (["record", "expected.npy", "--detector", "eiger16m", "-o", "one.npy"], "--detector"),
    ],
)
def test_bad_words_leave_one_line_and_no_file(words, flag, folder, capsys):
    np.save("expected.npy", np.ones((5, 6), np.float32))
    before = set(folder.iterdir())
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("nb: error: ") and flag in err and len(err.splitlines()) == 1
    assert set(folder.iterdir()) == before
