"""The merge that refinements are compared with: sums of boxes, scales of shots, and averages."""

import numpy as np
import pytest
from benchmarks.summation import averaged, summed

from nanobrag_torch.refinement.synthetic import rendered
from nanobrag_torch.refinement.synthetic_shots import small_series

MANY = 300


def observed(generator, intensity, shots, spread):
    """Shots of half the list each, with a scale and with partialities of a mean of one."""
    scales = np.exp(generator.normal(0, 0.5, shots))
    found = []
    for scale in scales:
        place = generator.choice(MANY, MANY // 2, replace=False)
        found.append((place, scale * intensity[place] * generator.gamma(1 / spread**2, spread**2, len(place))))
    return scales, found


def test_averages_of_scaled_shots_tend_to_the_intensities():
    generator = np.random.default_rng(1)
    intensity = generator.exponential(1000.0, MANY)
    scales, shots = observed(generator, intensity, 200, 0.5)
    found = averaged(shots, MANY)
    assert found.times.sum() == 200 * (MANY // 2)
    pull = (found.intensity / np.exp(np.log(scales).mean()) - intensity) / found.sigma
    assert 0.8 < pull.std() < 1.3
    fewer = averaged(shots[:50], MANY)
    assert np.nanmedian(fewer.sigma / found.sigma) == pytest.approx(2.0, rel=0.15)


def test_sums_of_boxes_are_the_photons_of_spots():
    series = small_series(mosaic_spread_deg=0.12, fluence=4e25)
    truth = series.truth(0)
    exposure = rendered(truth)
    hkl, sums = summed(exposure, truth)
    assert len(hkl) > 50
    known = {tuple(h): total for h, total in zip(exposure.spots.hkl.tolist(), photons(exposure), strict=True)}
    wanted = np.array([known[tuple(h)] for h in hkl.tolist()])
    strong = wanted > 0.1 * wanted.max()
    ratio = sums[strong] / wanted[strong]
    assert (ratio > 0.9).all() and (ratio < 1.5).all()  # divided by polarization and solid angle, both below one


def photons(exposure):
    """Of the crystal alone about every spot."""
    for fast, slow in np.floor(exposure.spots.centre).astype(int):
        yield exposure.expected[max(slow - 4, 0) : slow + 5, max(fast - 4, 0) : fast + 5].sum()
