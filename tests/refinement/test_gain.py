"""The gain of a detector from the noise of its background, with nothing known of it before."""

from dataclasses import replace

import numpy as np
import pytest

from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import Start, errors, wrong_start


def with_counts(truth, exposure, true, readout, **given):
    """A refinement of counts of a true gain with readout noise in counts; the exposure is photons."""
    generator = np.random.default_rng(7)
    photons = generator.poisson(exposure.expected + 8.0)
    counts = true * photons + generator.normal(0, readout, photons.shape)
    told = {"shape": "gauss_hkl", "check_sampling": False, "boxes": 120, "free": ("gain",)}
    options = {**told, "pedestal": 0.0, "readout_noise": 0.0, **given}
    begin = list(wrong_start(truth, Start(), 3))
    return refine_still(begin, exposure.table, counts, truth.factors, **options)


@pytest.mark.parametrize(("gain", "readout"), [(1.0, 0.0), (2.5, 3.0), (30.0, 10.0)])
def test_a_gain_comes_back(still, gain, readout):
    truth, exposure = still
    result = with_counts(truth, exposure, gain, readout, readout_noise=readout)
    found = result.parameters["gain"]
    assert result.status == "converged" and 0.95 < result.sigma_z < 1.05
    assert found.sigma / found.value < 0.03
    assert abs(found.value - gain) < 4 * found.sigma
    assert result.experiment.detector.panels[0].gain == pytest.approx(found.value)
    assert errors(truth.experiments[0], result.experiment).rotation_deg < 0.001
    boxes = result.fit.problem.boxes
    expected = np.bincount(boxes.box, exposure.expected.reshape(-1)[boxes.pixels], len(boxes))
    assert result.intensities.photons.sum() / expected.sum() == pytest.approx(gain / found.value, rel=0.01)


def test_a_prior_holds_a_gain(still):
    truth, exposure = still
    result = with_counts(truth, exposure, 2.5, 0.0, readout_noise=0.0, gain=2.0, priors={"gain": 1e-4})
    assert result.parameters["gain"].value == pytest.approx(2.0, rel=1e-2)


def test_a_gain_beside_a_scale_that_is_held_is_refused(still):
    truth, exposure = still
    with pytest.raises(InputError, match="scale"):
        with_counts(truth, replace(exposure), 2.0, 0.0, fix=("scale",))


@pytest.mark.parametrize("unknown", ["pedestal", "readout_noise"])
def test_a_gain_needs_what_else_makes_noise(still, unknown):
    """With a pedestal that nobody mentions it would come out ten times too low, and sure of itself."""
    truth, exposure = still
    with pytest.raises(InputError, match=unknown):
        with_counts(truth, exposure, 2.0, 0.0, **{unknown: None})
