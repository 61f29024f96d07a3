"""Where beam, detector and crystals of a recipe come from: files of geometry, presets, spectra, mixtures, scans."""

from __future__ import annotations

from dataclasses import replace

import h5py
import hdf5plugin
import numpy as np
import nxmx
import pytest
from dataset_recipes import SCAN, STILLS, changed, toml
from scipy.spatial.transform import Rotation

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.datasets import engine
from nanobrag_torch.datasets.labels import labels_of
from nanobrag_torch.datasets.reader import ShardReader
from nanobrag_torch.datasets.render import Renderer
from nanobrag_torch.datasets.store import open_folder
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.crystfel_write import write_crystfel
from nanobrag_torch.io.expt import read_expt, read_expts
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.refl import read_refl
from nanobrag_torch.records.experiment import DetectorData, ExperimentData
from nanobrag_torch.response.presets import detector_preset
from nanobrag_torch.units import EV_ANGSTROM

assert hdf5plugin


def made(path, recipe):
    """A finished folder of a recipe."""
    folder = open_folder(path, recipe)
    engine.run(folder, engine.in_this_process).raise_failures()
    assert engine.finish(folder)
    return folder


def two_panels():
    """The usual detector in two halves, one a little turned in its plane."""
    whole = Renderer(changed(STILLS, detector={"distance_mm": 100})).data
    panel = whole.detector.panels[0]
    left = replace(panel, image_size=(40, 64), name="left", thickness_mm=None, mu_per_mm=None, material=None)
    turn = Rotation.from_rotvec([0, 0, 0.02]).as_matrix()
    axes = {"fast": turn @ panel.fast, "slow": turn @ panel.slow, "origin_mm": panel.positions_mm(41, 0)}
    return ExperimentData(beam=whole.beam, detector=DetectorData(panels=(left, replace(left, name="right", **axes))))


def test_a_geometry_of_crystfel_is_a_detector(tmp_path):
    """The images of a .geom are those of the same panels as .expt; labels, master and truth follow them."""
    halves = two_panels()
    with (tmp_path / "halves.geom").open("wb") as file:
        write_crystfel(file, halves)
    write_expt(tmp_path / "halves.expt", halves)
    one, other = (
        changed(
            {**STILLS, "detector": {"file": str(tmp_path / name)}}, dataset={"images": 2}, beam={"wavelength_A": 1.0}
        )
        for name in ("halves.geom", "halves.expt")
    )
    image, same = Renderer(one).frame(1).expected, Renderer(other).frame(1).expected
    assert image.max() > 100 and np.abs(image - same).max() < 1e-4 * same.max()
    folder = made(tmp_path / "set", one)
    with h5py.File(folder.path / "master.nxs", "r") as file:
        assert len(nxmx.NXmx(file).entries[0].instruments[0].detectors[0].modules) == 2
    refl = read_refl(folder.shard(0, "refl")).columns
    for number in (0, 1):
        own = (refl["panel"] == number) & (refl["partiality"] > 0.5)
        assert own.sum() > 5
        assert np.median(np.abs(refl["xyzcal.px"][own] - refl["xyzobs.px.value"][own])[:, :2]) < 0.3


def test_an_integrating_detector_by_name_has_its_gains_and_gaps():
    """JUNGFRAU: counts through the gain of the mode that they need; gaps have their value."""
    tree = {**STILLS, "detector": {"preset": "jungfrau_4m", "distance_mm": 150}}
    parts = {"lattices": {"number": 0}, "background": {"constant": 40.0}, "output": {"pixel_type": "int32"}}
    renderer = Renderer(changed(tree, **parts))
    preset = detector_preset("jungfrau_4m")
    recorded = renderer.record(renderer.frame(0)).reshape(renderer.image_shape)
    assert recorded.shape == preset.shape and np.array_equal(recorded == preset.gap_value, ~preset.mask())
    there = recorded[preset.mask()].astype(float)
    expected = preset.response(renderer.data.beam.wavelength_A, dtype="int32")
    assert expected.gain_modes is not None or expected.gain != 1
    assert there.mean() == pytest.approx(40.0, rel=0.02) and there.var() == pytest.approx(40.0, rel=0.1)


def spectral(tmp_path, **beam):
    """Stills on a file that has a spectrum of three lines."""
    energies = EV_ANGSTROM / np.array([0.99, 1.0, 1.02])
    data = two_panels()
    lines = {"spectrum_energies_eV": energies, "spectrum_weights": np.array([1.0, 2.0, 1.0])}
    write_expt(tmp_path / "pink.expt", replace(data, beam=replace(data.beam, **lines)))
    return changed({**STILLS, "detector": {"file": str(tmp_path / "pink.expt")}}, beam={"spectrum": "file", **beam})


def test_a_spectrum_comes_from_the_file_of_the_detector(tmp_path):
    plan = Renderer(spectral(tmp_path)).plan.image(3)
    assert np.allclose(np.sort(plan.wavelengths_A), [0.99, 1.0, 1.02]) and plan.weights.sum() == pytest.approx(1)
    assert plan.wavelength_A == pytest.approx((0.99 + 2 * 1.0 + 1.02) / 4)
    drawn = Renderer(spectral(tmp_path, wavelength_A={"uniform": [1.2, 1.3]})).plan
    for image in range(3):
        one = drawn.image(image)
        assert 1.2 < one.wavelength_A < 1.3
        assert np.allclose(np.sort(one.wavelengths_A) / one.wavelength_A * plan.wavelength_A, [0.99, 1.0, 1.02])


@pytest.mark.parametrize(("spectrum", "said"), [("gauss", True), ("sase", True), ("file", False)])
def test_a_spectrum_of_the_file_that_is_not_used_is_said(tmp_path, capsys, spectrum, said):
    spectral(tmp_path)
    detector = {"file": str(tmp_path / "pink.expt")}
    tree = {**STILLS, "detector": detector, "beam": {"spectrum": spectrum}}
    (tmp_path / "recipe.toml").write_text(toml(tree))
    words = ["dataset", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "set"), "--shard", "0", "--images", "1"]
    assert main(words) == 0
    assert (f"pink.expt is not used: beam.spectrum is {spectrum}, not file" in capsys.readouterr().err) == said
    assert main([*words, "-q"]) == 0 and "not used" not in capsys.readouterr().err


def test_an_image_of_a_spectrum_is_the_sum_of_its_lines(tmp_path):
    recipe = spectral(tmp_path)
    renderer = Renderer(recipe)
    plan = renderer.plan.image(1)
    total = np.zeros(1)
    for wavelength, weight in zip(plan.wavelengths_A, plan.weights, strict=True):
        single = Renderer(replace(recipe, beam=replace(recipe.beam, spectrum="gauss")))
        single.plan._wavelength = float(wavelength)
        total = total + weight * sum(lattice.photons.astype(float) for lattice in single.frame(1).lattices)
    found = sum(lattice.photons for lattice in renderer.frame(1).lattices)
    # the polarization of a pixel is that of its first line
    assert np.abs(found - total).max() < 1e-3 * total.max()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"beam": {"spectrum": "file"}}, "detector.file"),
        ({"beam": {"spectrum": "file", "lines": 3}, "detector": {"file": "x.expt"}}, "beam.lines"),
    ],
)
def test_a_spectrum_without_a_file_is_refused(parts, says):
    tree = {**STILLS, "detector": {}} if "detector" in parts else STILLS
    with pytest.raises(InputError, match=says):
        changed(tree, **parts)


def test_a_file_without_a_spectrum_is_refused(tmp_path):
    write_expt(tmp_path / "plain.expt", two_panels())
    tree = {**STILLS, "detector": {"file": str(tmp_path / "plain.expt")}, "beam": {"spectrum": "file"}}
    with pytest.raises(InputError, match="has no spectrum"):
        Renderer(changed(tree))


def test_several_scans_have_masters_of_their_own(tmp_path):
    """Two scans of three frames in shards of four images: the second scan begins in the middle of a shard."""
    scan = {"frames": 3, "start_deg": {"uniform": [0, 90]}}
    folder = made(tmp_path / "set", changed(SCAN, dataset={"images": 6, "shard_images": 4}, scan=scan))
    plan, starts = Renderer(folder.recipe).plan, []
    with ShardReader(folder, 0) as first, ShardReader(folder, 1) as second:
        stored = [first.image(i) for i in range(4)] + [second.image(i) for i in range(2)]
    for number in range(2):
        master, expt = folder.path / f"master_{number:04d}.nxs", read_expt(folder.path / f"master_{number:04d}.expt")
        with h5py.File(master, "r") as file:
            entry = nxmx.NXmx(file).entries[0]
            assert np.array_equal(entry.data[0]["data"][:], np.stack(stored[3 * number : 3 * number + 3]))
            axes = nxmx.get_dependency_chain(entry.samples[0].depends_on)
            turning = [np.atleast_1d(axis[()].magnitude) for axis in axes if len(np.atleast_1d(axis[()])) > 1]
        angles = turning[0]
        starts.append(float(angles[0]))
        assert np.allclose(np.diff(angles), 1.0)
        assert expt.scan.start_deg(0) == pytest.approx(starts[-1]) and expt.scan.frames == 3
        assert np.allclose(expt.crystal.real_space, plan.image(3 * number).lattices[0].rows)
        refl = read_refl(folder.path / f"master_{number:04d}.refl").columns
        assert refl["bbox"][:, 4].min() >= 0 and refl["bbox"][:, 5].max() <= 3 and len(refl["id"]) > 10
    assert abs(starts[0] - starts[1]) > 0.1
    assert not (folder.path / "master.nxs").exists()


USUAL: dict = dict(STILLS["crystal"])
MIXTURE: dict = {
    **{name: part for name, part in STILLS.items() if name != "crystal"},
    "crystal": [
        {**USUAL, "name": "small", "probability": 1},
        {**USUAL, "name": "large", "cell": [45, 80, 90, 90, 100, 90], "space_group": "P21", "N_cells": 6},
    ],
}


def test_mixtures_and_split_lattices_are_told_apart(tmp_path):
    """Kinds come by their probability; pieces of a crystal share its cell and are turned by what was drawn."""
    from nanobrag_torch.datasets.recipe import recipe_of

    split = {"number": 2, "split": {"choice": [1, 2]}, "split_angle_deg": {"uniform": [1, 3]}}
    tree = {**MIXTURE, "lattices": split, "dataset": {"images": 12, "shard_images": 12, "seed": 3}}
    folder = made(tmp_path / "set", recipe_of(tree, tmp_path))
    with ShardReader(folder, 0) as reader:
        rows, spots = [reader.row(place) for place in range(12)], reader.spot_columns()
    experiments = read_expts(folder.shard(0, "expt"))
    kinds = [kind for row in rows for kind in row["crystal"]]
    assert set(kinds) == {0, 1} and len(experiments) == len(kinds)
    groups = {experiment.crystal.space_group_hall for experiment in experiments}
    assert len(groups) == 2
    place = 0
    for row in rows:
        for entry in range(row["pieces"]):
            assert np.allclose(experiments[place + entry].crystal.real_space.ravel(), row["abc_A"][entry])
        pieces = [i for i in range(1, row["pieces"]) if row["piece"][i] == 1]
        for piece in pieces:
            first, second = (np.reshape(row["abc_A"][i], (3, 3)) for i in (piece - 1, piece))
            turn = np.degrees(Rotation.from_matrix(np.linalg.solve(first, second).T).magnitude())
            assert 1 <= turn <= 3 and row["cell"][piece] == row["cell"][piece - 1]
        place += row["pieces"]
    assert {0, 1} <= set(spots["lattice"].tolist()) and {0, 1} <= set(spots["piece"].tolist())


def test_labels_of_a_mixture_belong_to_their_own_lattice(tmp_path):
    """Every lattice rendered without the others has the photons that its labels say."""
    from nanobrag_torch.datasets.recipe import recipe_of

    tree = {**MIXTURE, "lattices": {"number": 3}, "dataset": {"images": 4, "seed": 8}}
    renderer = Renderer(recipe_of(tree, tmp_path))
    frame = renderer.frame(2)
    table = labels_of(renderer, frame, None).spots
    for number, lattice in enumerate(frame.lattices):
        own = table["lattice"] == number
        image = lattice.photons.reshape(renderer.image_shape).astype(np.float64)
        for row in np.flatnonzero(own & (table["overlap"] < 1e-6))[:20]:
            slow, fast = (slice(table[f"{axis}0"][row], table[f"{axis}1"][row]) for axis in ("slow", "fast"))
            assert image[slow, fast].sum() == pytest.approx(table["photons"][row], rel=1e-3)
        assert table["photons_total"][own].sum() == pytest.approx(image.sum(), rel=0.02)
