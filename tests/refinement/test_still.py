"""One exposure from a wrong start to the truth, which has other domains and samples than the model; and failures."""

from dataclasses import replace

import numpy as np
import pytest

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.refl import read_refl
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.solver import levenberg_marquardt
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import (
    Start,
    counted,
    errors,
    rendered,
    still_truth,
    wrong_factors,
    wrong_start,
)


def refined(truth, exposure, factors=None, seed=3, start=None, **options):
    begin = list(wrong_start(truth, start or Start(), seed))
    options = {"readout_noise": truth.readout or None, "shape": "gauss_hkl", **options}
    return refine_still(begin, exposure.table, exposure.counts, factors or truth.factors, **options)


@pytest.mark.parametrize("wrong", [0.0, 0.2, 0.4])
def test_a_still_comes_back(still, wrong):
    truth, exposure = still
    factors = wrong_factors(truth.factors, wrong, 5) if wrong else truth.factors
    result = refined(truth, exposure, factors)
    found = errors(truth.experiments[0], result.experiment)
    assert result.status == "converged" and result.sigma_z < 1.03
    assert found.rotation_deg < 0.001 and found.cell_percent < 0.01 and found.distance_um < 25
    values = result.parameters.values()
    assert values["N_a"] == pytest.approx(42, rel=0.02) and values["N_c"] == pytest.approx(55, rel=0.02)
    assert values["spread"] == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize("seed", [1, 6])
def test_a_shot_without_a_crystal_is_not_called_converged(still, seed):
    """Free intensities follow the noise of both signs, which is no signal."""
    truth, exposure = still
    noise = np.random.default_rng(seed).poisson(4.0, exposure.counts.shape).astype(float)
    result = refined(truth, replace(exposure, counts=noise), seed=seed, check_sampling=False)
    assert result.status != "converged"


def test_a_start_that_is_a_degree_off(still):
    truth, exposure = still
    result = refined(truth, exposure, start=Start(rotation_deg=1.0, cell=0.003, distance_mm=0.3), check_sampling=False)
    found = errors(truth.experiments[0], result.experiment)
    assert result.status == "converged" and found.rotation_deg < 0.005 and found.cell_percent < 0.05


def test_intensities_are_those_of_the_truth(still):
    truth, exposure = still
    result = refined(truth, exposure, wrong_factors(truth.factors, 0.2, 5))
    found = result.intensities
    boxes = result.fit.problem.boxes
    expected = np.bincount(boxes.box, exposure.expected.reshape(-1)[boxes.pixels], len(boxes))
    pulls = (found.photons - expected) / found.photons_sigma
    assert 0.8 < pulls.std() < 1.2 and abs(pulls.mean()) < 0.4
    assert (found.partiality > 0).all() and (found.partiality <= 1).all()


def test_a_fit_ends_at_the_minimum_of_its_own_sum(still):
    """Slopes of coarser sums lead there fast, but stop beside it and take N to be known better than it is."""
    truth, exposure = still
    fit = refined(truth, exposure, wrong_factors(truth.factors, 0.2, 5)).fit
    further = levenberg_marquardt(fit.problem, fit.state, small_step=0.01)
    before, after = (p.covariance().diagonal().sqrt() for p in (fit.projected, further.projected))
    assert ((further.state.raw - fit.state.raw).abs() < 0.1 * after).all()
    assert (before / after - 1).abs().max() < 0.02


def test_pixels_that_are_not_summed_finely_are_dark(still):
    """Fine sums leave most of a box out: the rest of it gets nothing that counts."""
    truth, exposure = still
    fit = refined(truth, exposure).fit
    (chosen,) = fit.problem.passes
    whole = replace(fit.problem, passes=(replace(chosen, lit=None, dim=None),))
    every = whole.expected(replace(fit.state, rendered=whole.render(fit.state.raw)))
    off = every - fit.problem.expected(fit.state)
    assert float(chosen.lit.double().mean()) < 0.75
    assert off.abs().max() < 0.1 and (off**2 / every).sum() < 0.01  # a hundredth of what moves a parameter by a sigma


def test_sums_that_are_too_coarse_tell_what_they_are_wrong_by(still):
    """Of parameters and intensities alike: sigmas with that hold what finer sums change."""
    truth, exposure = still
    coarse, fine = (
        refined(truth, exposure, sampling=Sampling(domains, 4, 1, extrapolated=True)) for domains in (8, 100)
    )
    assert any("all sigmas are larger" in note for note in coarse.notes)
    assert not any("all sigmas are larger" in note for note in fine.notes)
    pulls = (coarse.intensities.intensity - fine.intensities.intensity) / coarse.intensities.sigma
    alone = (coarse.intensities.intensity - fine.intensities.intensity) / fine.intensities.sigma
    assert np.sqrt((alone**2).mean()) > 2 * np.sqrt((pulls**2).mean()) and np.sqrt((pulls**2).mean()) < 1


def test_a_box_that_is_left_out_has_no_sigma_z(still, tmp_path):
    truth, exposure = still
    counts = exposure.counts.copy()
    fast, slow = np.floor(exposure.table.columns["xyzobs.px.value"][0, :2]).astype(int)
    counts[slow - 3 : slow + 4, fast - 3 : fast + 4] += np.random.default_rng(1).choice([0, 200], (7, 7))
    result = refined(truth, replace(exposure, counts=counts), check_sampling=False)
    assert result.status == "converged" and any("left out" in note for note in result.notes)
    dark = np.bincount(result.fit.problem.boxes.box, minlength=len(result.box_sigma_z)) == 0
    assert dark.any() and (np.isnan(result.box_sigma_z) == dark).all()
    assert result._repr_png_().startswith(b"\x89PNG")
    result.write(tmp_path)
    written = read_refl(tmp_path / "refined.refl").column("nb.sigz")
    assert ((written == 0) == dark).all() and np.allclose(written[~dark], result.box_sigma_z[~dark])


def test_a_frame_of_a_rotation_with_every_shape_tried(frame):
    truth, exposure = frame
    result = refined(truth, exposure, wrong_factors(truth.factors, 0.15, 5), shape="auto")
    found = errors(truth.experiments[0], result.experiment)
    assert result.status == "converged" and result.sigma_z < 1.03
    assert result.shape.value == "gauss_hkl" and "spread" not in result.parameters
    assert found.rotation_deg < 0.003 and found.cell_percent < 0.01


@pytest.mark.parametrize("shape", ["square", "round"])
def test_the_shape_is_found_though_the_fit_begins_with_another(shape):
    """Spots of the wrong shapes are a little too wide or too narrow until they are fitted: that rules none out."""
    truth = still_truth(size=1200, domains=150, mosaic_sampling="quadrature", oversample=4, shape=shape)
    result = refined(truth, counted(rendered(truth), truth, 1), shape="auto", boxes=60, check_sampling=False)
    assert result.shape.value == shape and result.shapes[shape] == 0
    assert all(loss > 10 for name, loss in result.shapes.items() if name != shape)


def test_the_crystals_photons_are_shaped_like_the_image(still):
    truth, exposure = still
    result = refined(truth, exposure)
    image = result.bragg_image().numpy()
    assert image.shape == exposure.counts.shape
    boxes = exposure.table.columns["xyzobs.px.value"].astype(int)
    strongest = np.argsort(-exposure.table.columns["intensity.sum.value"])[:20]
    for fast, slow, _ in boxes[strongest]:
        place = slice(slow - 4, slow + 5), slice(fast - 4, fast + 5)
        assert image[place].sum() == pytest.approx(exposure.expected[place].sum(), rel=0.1)


def mirrored(truth, exposure):
    """The detector read from the other side."""
    data = truth.experiments[0]
    panel = data.detector.panels[0]
    width = panel.image_size[0] * panel.pixel_size_mm[0]
    turned = replace(panel, origin_mm=panel.origin_mm + width * panel.fast, fast=-panel.fast)
    return replace(truth, experiments=(replace(data, detector=replace(data.detector, panels=(turned,))),)), exposure


def misindexed(truth, exposure):
    columns = {**exposure.table.columns, "miller_index": exposure.table.columns["miller_index"] + np.array([1, 0, 0])}
    return truth, replace(exposure, table=replace(exposure.table, columns=columns))


def blank(truth, exposure):
    counts = np.random.default_rng(1).poisson(4.0, exposure.counts.shape).astype(float)
    return truth, replace(exposure, counts=counts)


@pytest.mark.parametrize("spoil", [mirrored, misindexed, blank])
def test_what_cannot_be_is_called_failed(still, spoil):
    truth, exposure = spoil(*still)
    result = refined(truth, exposure)
    assert result.status == "failed" and result.exit_code == 4
    assert result.reason and str(result).startswith("failed")


def test_options_are_checked(still):
    truth, exposure = still
    with pytest.raises(InputError, match="poisson, gaussian, student"):
        refined(truth, exposure, target="least squares")
    with pytest.raises(InputError, match="sigma_F"):
        refined(truth, exposure, sigma_f=1)
    with pytest.raises(InputError, match="rotation, cell"):
        refined(truth, exposure, free=("colour",))
