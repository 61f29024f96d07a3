"""Rendered images against the simulator itself, and labels against sums over pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from dataset_recipes import SCAN, STILLS, changed
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from nanobrag_torch import BeamConfig, CrystalConfig, Simulator
from nanobrag_torch.background.amorphous import amorphous_values
from nanobrag_torch.background.materials import MaterialConfig
from nanobrag_torch.datasets import spots
from nanobrag_torch.datasets.backdrop import rings_of
from nanobrag_torch.datasets.labels import labels_of
from nanobrag_torch.datasets.render import Renderer
from nanobrag_torch.datasets.turning import turns_of, uniform_turn
from nanobrag_torch.errors import InputError
from nanobrag_torch.experiment import Experiment
from nanobrag_torch.models.beam import Beam, Sources
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.physics.lattice_factor import Profile, lattice_factor
from nanobrag_torch.response.chain import Response
from nanobrag_torch.response.presets import detector_preset


def simulated(renderer, image):
    """The crystals of an image by the public simulator, from configurations alone."""
    plan, recipe = renderer.plan.image(image), renderer.recipe
    panel = renderer.data.detector.panels[0]
    config = Experiment(
        data=renderer.data, options={"cell_a": 1.0, "oversample": recipe.render.oversample}
    ).detector_config()
    moved = [*config.panels]
    object.__setattr__(moved[0], "origin_mm", tuple(panel.origin_mm + plan.shift_mm))
    total = 0.0
    for lattice in plan.lattices:
        part, stars = recipe.crystal[lattice.crystal], np.linalg.inv(lattice.rows)
        step = 0.0 if len(plan.phi_deg) == 1 else plan.phi_deg[1] - plan.phi_deg[0]
        crystal = Crystal(
            CrystalConfig(
                **{f"mosflm_{axis}_star": tuple(stars[:, i]) for i, axis in enumerate("abc")},
                N_cells=tuple(lattice.cells),
                shape=part.shape,
                mosaic_spread_deg=lattice.spread_deg,
                mosaic_domains=part.mosaic_domains,
                mosaic_sampling="quadrature",
                phi_start_deg=plan.phi_deg[0],
                phi_step_deg=step,
                phi_steps=len(plan.phi_deg),
                spindle_axis=recipe.scan.axis,
                interpolate=False,
            )
        )
        material = renderer.materials[lattice.crystal]
        ends = zip("hkl", material.first, material.table.shape, strict=True)
        crystal.hkl_data = material.table
        crystal.hkl_metadata = {f"{a}_{e}": v for a, low, n in ends for e, v in (("min", low), ("max", low + n - 1))}
        beam = BeamConfig(wavelength_A=plan.wavelength_A, fluence=plan.fluence, polarization_factor=0.0)
        total = total + lattice.scale * Simulator(crystal, Detector(config), beam_config=beam, threads=1).run().numpy()
    return total[0]


@pytest.mark.parametrize(
    ("tree", "parts"),
    [
        (STILLS, {}),
        (STILLS, {"crystal": {"shape": "square", "N_cells": 6}, "lattices": {"number": 1, "split": 2}}),
        (SCAN, {}),
        (SCAN, {"scan": {"axis": [0, 1, 0]}, "detector": {"shift_mm": [1.0, -2.0, 3.0]}}),
    ],
)
def test_an_image_is_what_the_simulator_renders(tree, parts):
    renderer = Renderer(changed(tree, **parts))
    for image in (0, 4):
        frame = renderer.frame(image)
        crystals = sum(lattice.photons for lattice in frame.lattices).reshape(renderer.image_shape)
        expected = simulated(renderer, image)
        assert expected.max() > 10
        assert np.abs(crystals - expected).max() < 1e-5 * expected.max()
        assert frame.expected.sum() == pytest.approx(crystals.sum() + frame.background.sum(), rel=1e-5)


def test_threads_and_the_order_of_images_change_nothing():
    renderer = Renderer(changed(STILLS))
    first = renderer.record(renderer.frame(3))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        other = Renderer(changed(STILLS))
        other.frame(5)
        assert np.array_equal(other.record(other.frame(3)), first) and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def labelled(recipe, image):
    renderer = Renderer(recipe)
    frame = renderer.frame(image)
    recorded = renderer.record(frame)
    return renderer, frame, recorded, labels_of(renderer, frame, recorded)


def alone(table, share=1e-3):
    """Spots whose box holds all of them and nothing else."""
    return (table["overlap"] < share) & (table["photons"] > 0.97 * table["photons_total"]) & (table["photons"] > 100)


def test_a_mask_changes_no_overlap():
    """Nor any other number of a spot's noiseless photons; below a bright background all overlaps would be none."""
    recipe = changed(STILLS, background={"constant": 50.0}, lattices={"number": 3})
    plain, masked = Renderer(recipe), Renderer(recipe)
    masked.good = np.random.default_rng(0).random(masked.good.size) > 0.3
    masked.whole = False
    expected, found = (labels_of(one, one.frame(1), None).spots for one in (plain, masked))
    assert (expected["overlap"] > 0.2).sum() > 3
    assert all(np.array_equal(found[name], values) for name, values in expected.items())


@pytest.mark.parametrize("image", [0, 1, 2])
def test_the_photons_of_a_spot_are_the_noiseless_pixels_of_its_box(image):
    renderer, frame, _, labels = labelled(changed(STILLS), image)
    table, noiseless = labels.spots, (frame.expected - frame.background).reshape(renderer.image_shape)
    isolated = alone(table)
    assert isolated.sum() > 10
    for row in np.flatnonzero(isolated):
        box = noiseless[table["slow0"][row] : table["slow1"][row], table["fast0"][row] : table["fast1"][row]]
        assert table["photons"][row] == pytest.approx(box.sum(dtype=np.float64), rel=1e-3)
    assert (table["photons"] <= table["photons_total"] * (1 + 1e-6)).all()
    labelled_photons = table["photons_total"].sum()
    assert labelled_photons == pytest.approx(noiseless.sum(dtype=np.float64), rel=0.02)  # the rest is in faint spots


def test_predicted_positions_are_the_centroids_of_isolated_spots():
    """Of spots as wide as a pixel: the centroid of a narrower one is drawn to the middle of its pixel."""
    wide = {"detector": {"pixels": [192, 160], "pixel_size_mm": 0.25}, "lattices": {"number": 1}}
    recipe = changed(STILLS, crystal={"N_cells": 6}, **wide)
    for image in range(3):
        renderer, frame, _, labels = labelled(recipe, image)
        table, noiseless = labels.spots, (frame.expected - frame.background).reshape(renderer.image_shape)
        away = []
        for row in np.flatnonzero(alone(table)):
            slow, fast = (slice(table[f"{a}0"][row], table[f"{a}1"][row]) for a in ("slow", "fast"))
            box = noiseless[slow, fast].astype(np.float64)
            s, f = np.mgrid[slow, fast] + 0.5
            centroid = (box * f).sum() / box.sum(), (box * s).sum() / box.sum()
            away.append(np.hypot(centroid[0] - table["fast"][row], centroid[1] - table["slow"][row]))
        assert len(away) > 10 and np.median(away) < 0.1


def test_a_label_names_the_reflection_that_the_simulator_computes_there():
    """Rendered again with one reflection's amplitude alone, the photons of the label are what is left."""
    renderer, frame, _, labels = labelled(changed(STILLS, lattices={"number": 1}), 1)
    table = labels.spots
    material = renderer.materials[0]
    for row in np.argsort(table["photons"])[-3:]:
        alone_table = torch.zeros_like(material.table)
        place = tuple(int(table[a][row]) - low for a, low in zip("hkl", material.first, strict=True))
        alone_table[place] = material.table[place]
        renderer.materials[0] = type(material)(alone_table, material.first, 0.0, material.cell, material.space_group)
        single = renderer.frame(1).lattices[0].photons
        renderer.materials[0] = material
        assert single.sum(dtype=np.float64) == pytest.approx(table["photons_total"][row], rel=2e-3)


def test_partiality_is_one_on_the_sphere_and_falls_as_the_shape_does():
    renderer, frame, _, labels = labelled(changed(STILLS, crystal={"mosaic_spread_deg": 0.0}), 0)
    table = labels.spots
    assert (table["partiality"] > 0).all() and (table["partiality"] <= 1).all()
    lattice = frame.lattices[0]
    own = (table["lattice"] == 0) & (table["piece"] == 0)
    hkl = np.stack([table[a][own] for a in "hkl"], 1)
    q = hkl @ np.linalg.inv(lattice.rows if hasattr(lattice, "rows") else lattice.middle).T
    wavelength = frame.plan.wavelength_A * 1e-10
    miss = np.abs(np.linalg.norm(q + frame.incident / wavelength, axis=1) - 1 / wavelength)
    volume = np.linalg.det(lattice.middle)
    width = (np.prod(lattice.plan.cells) * volume) ** (2 / 3) * 1.75  # of gauss_star: L^2 = exp(-2 width miss^2)
    assert np.allclose(table["partiality"][own], np.exp(-2 * width * miss**2), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("profile", list(Profile))
def test_the_lattice_factor_of_the_labels_is_that_of_the_physics(profile):
    generator = np.random.default_rng(3)
    distance = generator.uniform(-0.5, 0.5, (200, 3)) * generator.choice([1.0, 0.05, 1e-12], (200, 1))
    metric = np.diag([5.0, 7.0, 4.0])
    if profile is not Profile.GRATING:
        metric = metric @ metric + np.array([[0, 2.0, 1], [2, 0, 3], [1, 3, 0]])
    exact = lattice_factor(torch.from_numpy(distance), profile, torch.from_numpy(metric)) ** 2
    exact /= lattice_factor(torch.zeros(3, dtype=torch.float64), profile, torch.from_numpy(metric)) ** 2
    ours = [spots.squared_factor(d[0], d[1], d[2], int(profile), metric) for d in distance]
    assert np.allclose(ours, exact.numpy(), rtol=1e-6, atol=1e-12)


def test_classes_of_pixels_say_what_they_show():
    saturation = {"saturation": 60}
    renderer, frame, recorded, labels = labelled(changed(STILLS, response=saturation), 1)
    classes, owner, table = labels.classes, labels.spot_of_pixel, labels.spots
    assert recorded.max() == 60
    assert np.array_equal(classes == spots.SATURATED, recorded == 60) and (recorded == 60).any()
    assert (owner[classes == spots.BACKGROUND] == -1).all() and (owner[classes == spots.SPOT] >= 0).all()
    brightest = int(np.argmax(sum(lattice.photons for lattice in frame.lattices)))
    row = owner[brightest]
    fast, slow = brightest % renderer.image_shape[1], brightest // renderer.image_shape[1]
    assert table["fast0"][row] <= fast < table["fast1"][row] and table["slow0"][row] <= slow < table["slow1"][row]
    assert table["saturated"].sum() >= (recorded == 60).sum() * 0.9


def test_counts_are_poisson_about_what_is_expected():
    renderer = Renderer(changed(STILLS, background={"constant": 20.0}, lattices={"number": 0}))
    counts = np.stack([renderer.record(renderer.frame(i)) for i in range(6)]).astype(float)
    count = counts.size
    assert abs(counts.mean() - 20) < 4 * np.sqrt(20 / count)
    assert abs(counts.var() - 20) < 4 * np.sqrt((20 + 2 * 400) / count)


def test_the_response_of_the_recipe_is_that_of_the_response():
    """Against the chain itself on the image without a response; the point spread reaches the labels too."""
    words = {
        "psf": "gauss",
        "psf_fwhm_um": 900.0,
        "gain": 3.0,
        "pedestal": 20.0,
        "readout_noise": 2.0,
        "beamstop_mm": 2.0,
    }
    bare, whole = Renderer(changed(STILLS)), Renderer(changed(STILLS, response=words))
    before, after = bare.frame(1), whole.frame(1)
    config = whole.recipe.response.config("uint16", None, (600.0, 600.0))
    response = Response(config, geometry=whole._geometry)
    image = torch.from_numpy(before.expected).reshape(bare.image_shape)
    assert np.allclose(after.expected, response.photons(image).numpy().ravel(), rtol=1e-4, atol=1e-3)
    seed = whole.recipe.dataset.seed
    apart = response.record(image, seed, 1).numpy().ravel().astype(float) - whole.record(after)
    assert np.abs(apart).mean() < 0.1  # roundings of the mean may move a count
    spread = labels_of(whole, after, whole.record(after)).spots
    sharp = labels_of(bare, before, bare.record(before)).spots
    assert np.median(spread["fast1"] - spread["fast0"]) > np.median(sharp["fast1"] - sharp["fast0"])


def test_water_air_and_ice_are_those_of_the_background_itself():
    """Against the sum over pixels in plain torch, of the materials on the detector where it was drawn to be."""
    thick = {"water_mm": {"uniform": [0.1, 0.3]}, "air_mm": 20.0, "ice_mm": 0.01}
    spectrum = {"wavelength_A": 1.1, "bandwidth_pct": 1.0, "lines": 3, "fluence": {"uniform": [1e27, 2e27]}}
    renderer = Renderer(changed(STILLS, background={"constant": 2.0, **thick}, beam=spectrum, lattices={"number": 0}))
    for image in (2, 3, 2):
        frame = renderer.frame(image)
        plan = frame.plan
        materials = [MaterialConfig(name=n, thickness_mm=t) for n, t in plan.thicknesses_mm.items() if t]
        assert [m.name for m in materials] == ["water", "air", "ice"] and 0.1 < materials[0].thickness_mm < 0.3
        expected = amorphous_values(
            materials,
            None,
            beam=Beam(BeamConfig(fluence=plan.fluence, beamsize_mm=0.05)),
            sources=Sources(
                torch.tensor([[0.0, 0.0, 1.0]]).double().expand(3, 3),
                torch.from_numpy(plan.wavelengths_A * 1e-10),
                torch.from_numpy(plan.weights),
            ),
            polarization=renderer._scene.polarization.expand(3, 3, 3),
            geometry=replace(renderer._geometry, panels=torch.from_numpy(frame.panels)),
            image_shape=(64, 80),
            dtype=torch.float64,
            fused=False,
        ).numpy()
        assert expected.min() > 0 and np.abs(frame.background - 2 - expected).max() < 1e-5 * expected.max()
    rings = rings_of(plan, renderer.finest_A)
    assert rings[0] == pytest.approx(3.895, abs=0.01) and min(rings) > renderer.finest_A  # 100 of ice Ih


def test_a_preset_brings_its_gaps_and_values():
    dark = {"lattices": {"number": 0}, "background": {"constant": 5.0}, "output": {"pixel_type": "int32"}}
    tree = {**STILLS, "detector": {"preset": "eiger4m", "distance_mm": 200}}
    renderer = Renderer(changed(tree, **dark))
    recorded = renderer.record(renderer.frame(0)).reshape(renderer.image_shape)
    preset = detector_preset("eiger4m")
    assert recorded.shape == preset.shape and np.array_equal(recorded == preset.gap_value, ~preset.mask())
    assert recorded[preset.mask()].mean() == pytest.approx(5.0, abs=0.01)
    assert renderer.saturation == preset.highest_count
    with pytest.raises(InputError, match=r"detector\.preset"):
        Renderer(changed({**STILLS, "detector": {"preset": "eigr", "distance_mm": 200}}))


@pytest.mark.parametrize("shape", ["gauss_star", "square", "tophat"])
def test_no_pixel_loses_more_than_the_tolerance(shape):
    """Of the noiseless image; without a tolerance nothing that float32 could show is left out."""
    crystal = {"shape": shape, "N_cells": 9}
    exact = Renderer(changed(STILLS, crystal=crystal, render={"dtype": "float64"})).frame(1).expected
    for tolerance in (0.0, 0.01, 1.0):
        frame = Renderer(changed(STILLS, crystal=crystal, render={"tolerance": tolerance})).frame(1)
        assert np.abs(frame.expected - exact).max() < tolerance + 2e-5 * exact.max()
    assert exact.max() > 1000 and not np.array_equal(frame.expected, exact)


@pytest.mark.parametrize("shape", ["gauss_star", "square"])
def test_an_image_is_the_same_alone_and_in_company(shape):
    """Lattices of several images are one call of the kernel; of each shape of spots, to the last bit."""
    recipe = changed(STILLS, crystal={"shape": shape}, lattices={"number": {"choice": [0, 1, 3]}})
    together = Renderer(recipe).frames(range(9))
    renderer = Renderer(recipe)
    assert {len(frame.lattices) for frame in together} == {0, 1, 3}
    for image, frame in enumerate(together):
        assert np.array_equal(renderer.frame(image).expected, frame.expected)


def test_turns_are_those_of_a_library():
    vectors = np.random.default_rng(1).normal(size=(50, 3)) * np.logspace(-12, 0.5, 50)[:, None]
    assert np.allclose(turns_of(vectors), Rotation.from_rotvec(vectors).as_matrix(), atol=1e-15)
    for u, v, w in np.random.default_rng(2).uniform(size=(20, 3)):
        turn = uniform_turn(u, v, w)
        assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-14) and np.linalg.det(turn) == pytest.approx(1)
    turns = np.stack([uniform_turn(*row) for row in np.random.default_rng(3).uniform(size=(4000, 3))])
    assert np.abs(turns.mean(0)).max() < 0.05  # no direction is preferred
    angles = Rotation.from_matrix(turns).magnitude()
    expected = lambda angle: (angle - np.sin(angle)) / np.pi  # noqa: E731  of rotations as likely as any other
    assert kstest(angles, expected).pvalue > 1e-3
