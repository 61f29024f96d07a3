"""Images as other programs make them: summed from few samples a pixel, with spots that only their tails show."""

from dataclasses import replace

import gemmi
import numpy as np
import pytest

from nanobrag_torch.records.experiment import ScanData
from nanobrag_torch.refinement.centroids import refine_centroids
from nanobrag_torch.refinement.setup import Choices, shot_model, start_parameters
from nanobrag_torch.refinement.spots import listed_spots
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import (
    Start,
    Truth,
    counted,
    errors,
    flat_detector,
    oriented_crystal,
    rendered,
    rotation_truth,
    still_truth,
    wilson_factors,
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
    cell = (61.0, 72.0, 43.0, 90.0, 90.0, 90.0)
    frame = rotation_truth().experiments[0]
    data = replace(
        frame,
        detector=flat_detector(150.0, (700, 700), 0.1),
        crystal=oriented_crystal(cell, 9, hall=gemmi.SpaceGroup("P 21 21 21").hall),
        scan=ScanData(image_range=(1, 1), oscillation_start_deg=0.0, oscillation_width_deg=0.5),
    )
    factors = wilson_factors(cell, "P 21 21 21", 1.9, b_iso=18, seed=1)
    options = {"N_cells": (30.0, 25.0, 40.0), "shape": "square", "fluence": 1e25, "oversample": 3, "phi_steps": 25}
    table = rendered(Truth(experiments=(data,), factors=factors, options=options, background=0.1)).table
    begin = wrong_start(Truth(experiments=(data,), factors=factors, options=options), Start(rotation_deg=0.3), 3)
    model = shot_model(begin, [factors], 0, Choices())
    spots = listed_spots(table, {0: 0}, None).spots
    result = refine_centroids(model, start_parameters(model, begin, Choices()), spots)
    assert result.reason == "" and result.median_pixels < 0.5
    assert float(result.excitation.abs().max()) > np.radians(0.5)


def test_with_nothing_free_intensities_are_still_found(still):
    truth, exposure = still
    held = ("rotation", "cell", "distance", "N", "spread", "scale")
    start = {"N_a": 42.0, "N_c": 55.0, "spread": 0.05}
    result = refine_still(
        list(truth.experiments), exposure.table, exposure.counts, truth.factors, fix=held, start=start,
        readout_noise=truth.readout, shape="gauss_hkl", centroids=False, boxes=30,
    )  # fmt: skip
    assert result.status == "converged" and len(result.intensities.photons) >= 30
