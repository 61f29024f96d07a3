"""Recipes: what is accepted, what is refused and how, and what images are drawn from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dataset_recipes import SCAN, STILLS, changed, toml
from scipy import stats

from nanobrag_torch.datasets.draws import Choice, Fixed, Normal, Uniform, deviates, read_draw
from nanobrag_torch.datasets.plan import Plan
from nanobrag_torch.datasets.recipe import read_recipe, recipe_of
from nanobrag_torch.errors import InputError

CELL = (40.0, 50.0, 60.0, 90.0, 90.0, 90.0)


def plan_of(tree=STILLS, **parts):
    return Plan(changed(tree, **parts), [CELL], 1.0)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"crystal": {"N_cels": 3}}, ["crystal.N_cels", "N_cells (nearest)"]),
        ({"beam": {"fluenc": 1}}, ["beam.fluenc", "fluence (nearest)"]),
        ({"crystals": {}}, ["crystals", "crystal (nearest)"]),
        ({"dataset": {"images": 0}}, ["dataset.images", "from 1 up"]),
        ({"dataset": {"images": 2.5}}, ["dataset.images", "a whole number"]),
        ({"dataset": {"seed": True}}, ["dataset.seed", "a whole number"]),
        ({"crystal": {"mosaic_spread_deg": {"normal": [0.1, 0.1]}}}, ["mosaic_spread_deg", "within"]),
        ({"crystal": {"mosaic_spread_deg": {"uniform": [0.2, 0.1]}}}, ["low <= high"]),
        ({"crystal": {"mosaic_spread_deg": {"unifrom": [0.1, 0.2]}}}, ["mosaic_spread_deg", "uniform = [low, high]"]),
        ({"crystal": {"N_cells": [1, 2]}}, ["crystal.N_cells", "3 numbers"]),
        ({"crystal": {"shape": "cube"}}, ["crystal.shape", "gauss_star"]),
        ({"crystal": {"cell": [40, 50, 60, 90, 90, 190]}}, ["crystal.cell", "between 0 and 180"]),
        ({"crystal": {"N_cells": {"table": "size"}}}, ["crystal.N_cells", "[table]"]),
        ({"crystal": {"column": "FP"}}, ["crystal.column", "without a file"]),
        ({"lattices": {"number": {"normal": [1, 1], "within": [0, 3]}}}, ["lattices.number", "whole numbers"]),
        ({"lattices": {"number": {"choice": [1, 2], "weights": [1]}}}, ["weights", "2 weights"]),
        ({"detector": {"preset": "eiger"}}, ["detector.preset, detector.file, detector.pixels", "one of the three"]),
        ({"beam": {"bandwidth_pct": 0.5}}, ["beam.lines", "2 wavelengths or more"]),
        ({"response": {"psf": "gauss"}}, ["response.psf, response.psf_fwhm_um", "both, or neither"]),
        ({"response": {"gian": 2}}, ["response.gian", "gain (nearest)"]),
        ({"scan": {"frames": 4}}, ["dataset.images", "whole scans of 4"]),
        ({"output": {"recorded": False, "expected": False}}, ["output.recorded", "one of them"]),
        ({"output": {"pixel_type": "int8"}}, ["output.pixel_type", "uint16"]),
    ],
)
def test_a_bad_key_has_its_line(parts, words):
    with pytest.raises(InputError) as caught:
        changed(STILLS, **parts)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    for word in words:
        assert word in line


def test_a_recipe_reads_back_from_what_is_stored(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(toml(STILLS))
    recipe = read_recipe(path)
    assert recipe == changed(STILLS)
    tree = json.loads(json.dumps(recipe.tree()))
    kept = {
        part: {k: v for k, v in (entries[0] if part == "crystal" else entries).items() if v not in (None, "")}
        for part, entries in tree.items()
    }
    assert recipe_of(kept, tmp_path).tree() == recipe.tree()


def test_text_that_is_no_toml_has_its_line(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("[crystal\n")
    with pytest.raises(InputError, match="TOML"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"uniform": [2.0, 5.0]}, stats.uniform(2, 3)),
        ({"normal": [1.0, 0.5]}, stats.norm(1, 0.5)),
        ({"normal": [1.0, 0.5], "within": [0.8, 2.0]}, stats.truncnorm(-0.4, 2, 1, 0.5)),
        ({"log_normal": [3.0, 0.4]}, stats.lognorm(0.4, scale=3)),
    ],
)
def test_distributions_are_what_they_say(given, expected):
    draw = read_draw(given, "x")
    u = deviates(["x"], range(4000), 11)[:, 0]
    assert stats.kstest([draw.value(float(x), {}) for x in u], expected.cdf).pvalue > 0.01


def test_whole_numbers_and_choices_come_as_often_as_they_should():
    u = deviates(["x"], range(6000), 3)[:, 0]
    dice = [Uniform(1, 6, whole=True).value(float(x), {}) for x in u]
    assert stats.chisquare(np.bincount(np.array(dice, int), minlength=7)[1:]).pvalue > 0.01
    drawn = [Choice((4.0, 8.0, 9.0), (1.0, 0.0, 3.0)).value(float(x), {}) for x in u]
    counts = [drawn.count(x) for x in (4.0, 8.0, 9.0)]
    assert counts[1] == 0 and stats.chisquare(counts[::2], [1500, 4500]).pvalue > 0.01
    assert isinstance(read_draw({"normal": [2, 0]}, "x"), Fixed)
    assert Normal(1.0, 2.0, (0.0, 3.0)).support() == (0.0, 3.0)


def test_orientations_are_uniform_over_all_rotations():
    """Over SO(3) every element has mean 0 and variance 1/3, and turns have the density (1 - cos t) / pi."""
    plan = plan_of(dataset={"images": 3000}, crystal={"cell": [10, 10, 10, 90, 90, 90]}, lattices={"number": 1})
    turns = np.stack([plan.image(i).lattices[0].rows / 10 for i in range(3000)])
    assert np.abs(np.linalg.det(turns) - 1).max() < 1e-12
    assert np.abs(turns.mean(0)).max() < 4 * np.sqrt(1 / 3 / 3000)
    assert np.abs((turns**2).mean(0) - 1 / 3).max() < 4 * np.sqrt(4 / 45 / 3000)
    trace = np.trace(turns, axis1=1, axis2=2)
    angle = np.arccos((trace - 1) / 2)
    assert stats.kstest(angle, lambda t: (t - np.sin(t)) / np.pi).pvalue > 0.01


def test_an_image_depends_on_its_number_alone():
    forwards, backwards = plan_of(), plan_of()
    first = [forwards.image(i) for i in (0, 1, 200)]
    again = [backwards.image(i) for i in (200, 1, 0)][::-1]
    for one, other in zip(first, again, strict=True):
        assert one.fluence == other.fluence and np.array_equal(one.lattices[0].rows, other.lattices[0].rows)
    assert first[0].fluence != first[1].fluence


def test_a_new_distribution_moves_no_other_draw():
    before, after = plan_of().image(3), plan_of(background={"water_mm": {"uniform": [1, 9]}}).image(3)
    assert before.constant == after.constant and before.fluence == after.fluence
    assert np.array_equal(before.lattices[0].rows, after.lattices[0].rows) and after.thicknesses_mm["water"] > 1


def test_what_stands_in_one_row_of_a_table_comes_together(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("size,flux\n5,1e27\n6,2e27\n7,3e27\n")
    parts = {
        "table": {"file": str(path)},
        "crystal": {"N_cells": {"table": "size"}},
        "beam": {"fluence": {"table": "flux"}},
    }
    plan = plan_of(dataset={"images": 60}, **parts)
    pairs = {(plan.image(i).lattices[0].cells[0], plan.image(i).fluence) for i in range(60)}
    assert pairs == {(5, 1e27), (6, 2e27), (7, 3e27)}
    parts["table"] = {"file": str(path), "order": "rows"}
    assert [plan_of(**parts).image(i).fluence for i in range(4)] == [1e27, 2e27, 3e27, 1e27]
    with pytest.raises(InputError, match="size, flux"):
        plan_of(**{**parts, "crystal": {"N_cells": {"table": "sise"}}})


def test_frames_of_a_scan_share_what_is_drawn_for_it():
    parts = {"dataset": {"images": 12}, "crystal": {"N_cells": {"uniform": [4, 9]}}}
    plan = plan_of(SCAN, beam={"fluence": {"uniform": [1e27, 2e27]}}, **parts)
    frames = [plan.image(i) for i in range(12)]
    assert [f.series for f in frames] == [0] * 6 + [1] * 6
    assert np.array_equal(frames[0].lattices[0].rows, frames[5].lattices[0].rows)
    assert not np.array_equal(frames[5].lattices[0].rows, frames[6].lattices[0].rows)
    assert len({f.fluence for f in frames}) == 12
    assert np.allclose(frames[1].phi_deg, 11 + (np.arange(5) + 0.5) / 5)


def test_spectra_have_their_mean_and_width():
    width = 0.02
    plan = plan_of(beam={"wavelength_A": 1.3, "bandwidth_pct": 100 * width, "lines": 60})
    image = plan.image(0)
    spread = np.sqrt(image.weights @ (image.wavelengths_A - 1.3) ** 2)
    assert image.wavelength_A == pytest.approx(1.3, abs=1e-12)
    assert spread * 2.3548 == pytest.approx(1.3 * width, rel=0.03)  # cut at one and a half widths
    spiky = plan_of(beam={"wavelength_A": 1.3, "bandwidth_pct": 2.0, "lines": 60, "spectrum": "sase"})
    pulses = np.stack([spiky.image(i).weights for i in range(300)])
    assert not np.array_equal(pulses[0], pulses[1]) and np.allclose(pulses.sum(1), 1)
    assert np.corrcoef(pulses.mean(0), image.weights)[0, 1] > 0.97


def test_a_split_crystal_has_pieces_at_their_angles():
    plan = plan_of(lattices={"number": 1, "split": 3, "split_angle_deg": 2.5})
    first, *others = plan.image(1).lattices
    assert [piece.piece for piece in (first, *others)] == [0, 1, 2] and first.scale == pytest.approx(1 / 3)
    for piece in others:
        turn = np.linalg.solve(first.rows, piece.rows).T
        assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(2.5)
