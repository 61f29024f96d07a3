"""Images as counted: Poisson about the expected image, and the same one whatever is rendered around it."""

from __future__ import annotations

import pytest
import torch

from nanobrag_torch import Experiment
from nanobrag_torch.errors import InputError
from nanobrag_torch.response.photons import poisson_counts
from nanobrag_torch.testing import cubic_still, triclinic_turned
from test_experiment import experiment_data

SMALL = {"N_cells": (3, 3, 3), "oversample": 1, "phi_steps": 1}


def test_an_image_is_the_same_alone_in_a_batch_and_in_a_region():
    simulator = triclinic_turned().simulator()
    expected = simulator.run()
    drawn = simulator.counts(7, image=2)
    assert drawn.dtype == torch.int32 and drawn.shape == expected.shape
    batch = poisson_counts(torch.stack([expected] * 4), 7)
    assert torch.equal(drawn, batch[2])
    assert not torch.equal(batch[1], batch[2])
    part = triclinic_turned().with_fields(roi_xmin=3, roi_xmax=9, roi_ymin=5, roi_ymax=15).simulator()
    assert torch.equal(part.counts(7, image=2)[5:16, 3:10], drawn[5:16, 3:10])
    assert part.counts(7, image=2).sum() == drawn[5:16, 3:10].sum()


def test_the_counts_of_many_images_have_the_mean_and_variance_of_poisson():
    """Each pixel over 4000 images; their sum over pixels, which correlations would widen."""
    simulator = cubic_still().with_fields(spixels=6, fpixels=5, pixel_size_mm=3.2, fluence=1e28).simulator()
    expected = simulator.run()
    images = 4000
    drawn = torch.stack([simulator.counts(3, image=i) for i in range(100)])
    many = poisson_counts(expected.expand(images, *expected.shape), 3)
    assert torch.equal(drawn, many[:100])
    seen = expected > 0.5
    assert seen.sum() > 10
    z = (many - expected)[:, seen] / expected[seen].sqrt()
    assert z.mean(0).abs().max() < 5 / images**0.5
    assert ((z**2).mean(0) - 1).abs().max() < 5 * ((2 + 1 / expected[seen].min()) / images) ** 0.5
    whole = (many - expected).sum((1, 2)) / expected.sum().sqrt()
    assert abs(float((whole**2).mean()) - 1) < 5 * (2 / images) ** 0.5


def test_a_frame_is_the_same_whichever_frames_are_rendered():
    experiment = Experiment(data=experiment_data(panels=2), options={**SMALL, "water_size_um": 0.2, "default_F": 0.0})
    forwards = [experiment.counts(frame, seed=5) for frame in (0, 1)]
    backwards = [experiment.counts(frame, seed=5) for frame in (1, 0)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not torch.equal(*forwards)
    assert not torch.equal(forwards[1], experiment.counts(0, seed=6))  # seeds are no shift of the images


@pytest.mark.parametrize("bad", [-1, 1 << 64, 0.5])
def test_seeds_that_are_none_are_refused(bad):
    with pytest.raises(InputError, match="seed: got"):
        cubic_still().simulator().counts(bad)
    with pytest.raises(InputError, match="image: got"):
        cubic_still().simulator().counts(1, image=bad)
