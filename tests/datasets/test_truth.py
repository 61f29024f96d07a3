"""What other programs read of a data set: NXmx masters by the nxmx package, .expt and .refl by our own readers."""

from __future__ import annotations

from dataclasses import replace

import h5py
import hdf5plugin
import numpy as np
import nxmx
import pytest
from dataset_recipes import STILLS, changed

from nanobrag_torch.datasets import engine
from nanobrag_torch.datasets.reader import ShardReader
from nanobrag_torch.datasets.render import Renderer
from nanobrag_torch.datasets.store import open_folder
from nanobrag_torch.datasets.truth import gathered
from nanobrag_torch.io.expt import read_expt, read_expts
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.geometry import read_geometry
from nanobrag_torch.io.refl import read_refl
from nanobrag_torch.records.experiment import DetectorData, ExperimentData
from nanobrag_torch.records.frames import incident

assert hdf5plugin


@pytest.mark.parametrize("name", ["stills", "scan"])
def test_the_nxmx_package_opens_the_master(name, request, monkeypatch, tmp_path):
    folder = request.getfixturevalue(name)
    monkeypatch.chdir(tmp_path)  # shards are found beside the master, wherever one stands
    with h5py.File(folder.path / "master.nxs", "r") as file, h5py.File(folder.shard(1, "h5"), "r") as shard:
        entry = nxmx.NXmx(file).entries[0]
        assert entry.definition == "NXmx" and len(entry.instruments[0].detectors) == 1
        data = entry.data[0]["data"]
        size = folder.recipe.dataset.shard_images
        assert data.shape == (6, 64, 80) and np.array_equal(data[size], shard["recorded"][0])
        assert data[:].sum() > 0
        axes = nxmx.get_dependency_chain(entry.samples[0].depends_on) if entry.samples[0].depends_on else []
        turning = [axis for axis in axes if len(np.atleast_1d(axis[()])) > 1]
        assert len(turning) == (1 if name == "scan" else 0)
        if name == "scan":
            assert np.allclose(np.atleast_1d(turning[0][()].magnitude), 10 + np.arange(6))
        wavelengths = np.atleast_1d(entry.instruments[0].beams[0].incident_wavelength.magnitude)
        expected = [Renderer(folder.recipe).plan.image(i).wavelength_A for i in range(len(wavelengths))]
        assert np.allclose(wavelengths, expected)


def test_the_geometry_of_a_scan_is_that_of_its_experiment(scan):
    master, truth = read_geometry(scan.path / "master.nxs"), read_expt(scan.path / "master.expt")
    assert np.allclose(master.detector.panels[0].origin_mm, truth.detector.panels[0].origin_mm)
    assert np.allclose(master.crystal.real_space, truth.crystal.real_space)
    assert truth.scan.frames == 6 and truth.scan.start_deg(0) == pytest.approx(10.0)
    assert truth.detector.panels[0].trusted_range == (0.0, 65535.0)


def predictions(experiment, refl, turn):
    """Positions (pixels) of the reflections of a table, by nothing but the experiment's own models."""
    q = refl.columns["miller_index"] @ (turn @ experiment.crystal.A).T
    s1 = incident(experiment.beam) / experiment.beam.wavelength_A + q
    panel = experiment.detector.panels[0]
    scale = (panel.origin_mm @ panel.normal) / (s1 @ panel.normal)
    there = s1 * scale[:, None] - panel.origin_mm
    return np.stack((there @ panel.fast, there @ panel.slow), 1) / panel.pixel_size_mm, s1


def test_the_reflections_of_stills_lie_where_their_experiments_put_them(stills):
    experiments = read_expts(stills.shard(1, "expt"))
    refl = read_refl(stills.shard(1, "refl"))
    assert set(refl.identifiers) == set(range(len(experiments)))
    for number, experiment in enumerate(experiments):
        own = refl.columns["id"] == number
        part = type(refl)(rows=int(own.sum()), identifiers={}, columns={k: v[own] for k, v in refl.columns.items()})
        places, _ = predictions(experiment, part, np.eye(3))
        full = part.columns["partiality"] > 0.5
        assert full.sum() > 5
        assert np.median(np.abs(places - part.columns["xyzcal.px"][:, :2])[full]) < 0.1
    assert (refl.columns["intensity.sum.value"] > 0).all()
    assert np.allclose(np.linalg.norm(refl.columns["s1"], axis=1), 1 / experiments[0].beam.wavelength_A, rtol=1e-9)


def test_reflections_of_a_scan_touch_the_sphere_at_their_angles(scan):
    """Of reflections that the scan passes through: turned by their angle, they lie on the Ewald sphere."""
    experiment, refl = read_expt(scan.path / "master.expt"), read_refl(scan.path / "master.refl")
    box, angle = refl.columns["bbox"], np.degrees(refl.columns["xyzcal.mm"][:, 2])
    inside = (box[:, 4] > 0) & (box[:, 5] < 6)
    assert inside.sum() > 10 and (box[:, 5] - box[:, 4]).max() > 1
    misses = []
    for row in np.flatnonzero(inside):
        q = experiment.goniometer.rotation(angle[row]) @ experiment.crystal.A @ refl.columns["miller_index"][row]
        s1 = incident(experiment.beam) / experiment.beam.wavelength_A + q
        misses.append(abs(np.linalg.norm(s1) - 1 / experiment.beam.wavelength_A))
    width = 1 / np.cbrt(7**3 * np.linalg.det(experiment.crystal.real_space))
    assert np.median(misses) < 0.15 * width
    total = refl.columns["intensity.sum.value"].sum()
    with h5py.File(scan.path / "master.nxs", "r") as file:
        assert 0.8 * file["/entry/data/data"][:].sum() < total


def test_a_reflection_that_comes_back_is_another_one():
    image = np.array([0, 1, 5, 6, 1])
    spots = {
        name: np.ones(5, np.int64)
        for name in ("lattice", "piece", "panel", "h", "k", "fast0", "slow0", "fast1", "slow1")
    }
    spots |= {"l": np.array([1, 1, 1, 1, 2]), "image": image, "photons": np.array([1.0, 3.0, 5.0, 5.0, 7.0])}
    real = (
        "fast",
        "slow",
        "centroid_fast",
        "centroid_slow",
        "angle_deg",
        "d_A",
        "photons_total",
        "background",
        "partiality",
    )
    spots |= {name: np.arange(5) for name in real}
    rows = gathered(spots, 0)
    assert rows["photons"].tolist() == [4.0, 10.0, 7.0] and rows["frame1"].tolist() == [2, 7, 2]
    assert rows["frame_centroid"].tolist() == [1.25, 6.0, 1.5]
    assert rows["angle_deg"][0] == pytest.approx(0.75)
    assert rows["partiality"].tolist() == [1, 3, 4]  # of the best frame, never above that of one


def test_a_detector_of_two_panels_from_a_file(tmp_path):
    """Two halves of the usual detector, the second turned upside down: spots, shards and master follow the panels."""
    whole = Renderer(changed(STILLS, detector={"distance_mm": 100}))
    beam, panel = whole.data.beam, whole.data.detector.panels[0]
    first = replace(panel, image_size=(40, 64), name="left")
    corner = panel.positions_mm(80, 64)
    second = replace(first, origin_mm=corner, fast=-panel.fast, slow=-panel.slow, name="right")
    halves = ExperimentData(beam=beam, detector=DetectorData(panels=(first, second)))
    write_expt(tmp_path / "halves.expt", halves)
    tree = {**STILLS, "detector": {"file": str(tmp_path / "halves.expt")}}
    folder = open_folder(tmp_path / "set", changed(tree, dataset={"images": 2}))
    engine.run(folder, engine.in_this_process).raise_failures()
    assert engine.finish(folder)
    one, two = whole.frame(1), Renderer(folder.recipe).frame(1)
    image, parts = one.expected.reshape(64, 80), two.expected.reshape(2, 64, 40)
    assert np.abs(parts[0] - image[:, :40]).max() < 2e-5 * image.max()
    # a pixel has the solid angle of its first sub-pixel, which is another one where axes are reversed
    assert np.allclose(parts[1], image[::-1, :39:-1], rtol=5e-3, atol=1e-3)
    with h5py.File(folder.path / "master.nxs", "r") as file:
        assert file["/entry/data/data"].shape == (2, 128, 40)
        assert len(nxmx.NXmx(file).entries[0].instruments[0].detectors[0].modules) == 2
    refl, experiment = read_refl(folder.shard(0, "refl")), read_expts(folder.shard(0, "expt"))[0]
    for number in (0, 1):
        own = (refl.columns["panel"] == number) & (refl.columns["partiality"] > 0.5)
        there = experiment.detector.panels[number]
        place, centroid = refl.columns["xyzcal.px"][own], refl.columns["xyzobs.px.value"][own]
        assert own.sum() > 5 and np.median(np.abs(place - centroid)) < 0.3
        ray = there.positions_mm(place[:, 0], place[:, 1])
        assert np.allclose(np.cross(ray, refl.columns["s1"][own]), 0, atol=1e-6)


def test_the_refl_of_stills_has_the_centroids_and_sums_of_the_noiseless_images(tmp_path):
    """Of isolated whole spots as wide as a pixel, on the images that were stored."""
    wide = {"detector": {"pixels": [192, 160], "pixel_size_mm": 0.25}, "crystal": {"N_cells": 6}}
    whole = {"lattices": {"number": 1}, "background": {"constant": 0.0}, "dataset": {"images": 2}}
    folder = open_folder(tmp_path / "set", changed(STILLS, **wide, **whole))
    engine.run(folder, engine.in_this_process).raise_failures()
    refl = read_refl(folder.shard(0, "refl")).columns
    with ShardReader(folder, 0) as reader:
        images, spots = [reader.image(place, "expected") for place in range(2)], reader.spot_columns()
    alone = (spots["overlap"] < 1e-3) & (spots["photons"] > 0.97 * spots["photons_total"]) & (spots["photons"] > 100)
    away = []
    for row in np.flatnonzero(alone):
        fast0, fast1, slow0, slow1 = refl["bbox"][row, :4]
        box = images[spots["image"][row]][slow0:slow1, fast0:fast1].astype(np.float64)
        slow, fast = np.mgrid[slow0:slow1, fast0:fast1] + 0.5
        centroid = (box * fast).sum() / box.sum(), (box * slow).sum() / box.sum()
        away.append(np.hypot(*(refl["xyzcal.px"][row, :2] - centroid)))
        assert box.sum() == pytest.approx(refl["intensity.sum.value"][row], rel=1e-3)
    assert len(away) > 20 and np.median(away) < 0.1
