"""Images as other programs make them: summed from few samples a pixel, with spots that only their tails show."""

from dataclasses import replace

import numpy as np
import pytest

from nanobrag_torch.refinement.centroids import predicted, refine_centroids
from nanobrag_torch.refinement.setup import Choices, shot_model, start_parameters
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import (
    Start,
    counted,
    errors,
    expected_spots,
    rendered,
    rotation_truth,
    still_truth,
    wrong_start,
)

NARROW = {"size": 700, "distance_mm": 90.0, "domains": 1, "mosaic_spread_deg": 0.0, "N_cells": (40.0, 40.0, 60.0)}


@pytest.mark.parametrize(("samples", "whole"), [(5, False), (12, True)])
def test_an_image_of_few_samples_a_pixel_is_known_for_one(samples, whole):
    """Spots are a third of a pixel wide: an integral would make the crystal 10% too large along a."""
    truth = still_truth(**NARROW, shape="square", oversample=samples, whole_pixels=whole, fluence=2e24)
    noisy = counted(rendered(truth), truth, 1)
    begin = list(wrong_start(truth, Start(), 3))
    result = refine_still(
        begin, noisy.table, noisy.counts, truth.factors, readout_noise=0.7, shape="square", mosaic=False,
        start={"N_a": 41.0, "N_c": 62.0},
    )  # fmt: skip
    said = [note for note in result.notes if "samples a pixel" in note]
    assert [note.split(":")[0] for note in said] == (
        [] if whole else ["the image looks summed from 5 x 5 samples a pixel"]
    )
    values, off = result.parameters.values(), errors(truth.experiments[0], result.experiment)
    assert values["N_a"] == pytest.approx(40, rel=0.015) and values["N_c"] == pytest.approx(60, rel=0.015)
    assert result.status == "converged" and off.rotation_deg < 0.002


def test_spots_far_from_the_sphere_turn_no_crystal():
    """In a wide rotation most spots cross the sphere; of the others some are seen by their tails alone."""
    truth = rotation_truth(size=(1400, 1400))
    scan = replace(truth.experiments[0].scan, oscillation_width_deg=0.5)
    truth = replace(truth, experiments=(replace(truth.experiments[0], scan=scan),))
    near = {tuple(hkl) for hkl in expected_spots(truth).hkl.tolist()}
    wide = expected_spots(replace(truth, options={**truth.options, "mosaic_spread_deg": 2.0}))
    model = shot_model(truth.experiments, [truth.factors], 0, Choices())
    exact = start_parameters(model, truth.experiments, Choices())
    found = predicted(model, exact.unpack(exact.pack()), wide)
    far = (found.excitation > np.radians(0.5)).numpy()
    chosen = np.array([tuple(hkl) in near for hkl in wide.hkl.tolist()])
    chosen[np.flatnonzero(far)[:: max(1, int(far.sum()) // 30)]] = True
    spots = replace(wide, centre=found.centre.numpy()).rows(chosen)
    begin = wrong_start(truth, Start(rotation_deg=0.3), 3)
    model = shot_model(begin, [truth.factors], 0, Choices())
    result = refine_centroids(model, start_parameters(model, begin, Choices()), spots)
    assert result.reason == "" and result.median_pixels < 0.2


def test_with_nothing_free_intensities_are_still_found(still):
    truth, exposure = still
    held = ("rotation", "cell", "distance", "N", "spread", "scale")
    start = {"N_a": 42.0, "N_c": 55.0, "spread": 0.05}
    result = refine_still(
        list(truth.experiments), exposure.table, exposure.counts, truth.factors, fix=held, start=start,
        readout_noise=truth.readout, shape="gauss_hkl", centroids=False, boxes=30,
    )  # fmt: skip
    assert result.status == "converged" and len(result.intensities.photons) >= 30
