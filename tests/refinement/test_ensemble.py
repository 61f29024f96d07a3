"""A few small stills whose intensities are refined together, against the truth that they were made from."""

from dataclasses import replace

import numpy as np
import pytest

from nanobrag_torch.records.experiment import rotation_matrix
from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.ensemble import SharedPrior, merge_intensities, refine_intensities
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.shared_shot import SharedShot
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import Start, counted, rendered, still_truth, wrong_factors, wrong_start

CELL = (42.0, 42.0, 38.0, 90.0, 90.0, 90.0)


def turned(truth, number):
    """The crystal turned by 0.12 degrees from the first, so that reflections are seen by several shots."""
    data = truth.experiments[0]
    axis = np.random.default_rng(number).normal(size=3)
    rows = data.crystal.real_space @ rotation_matrix(axis, 0.12 if number else 0.0).T
    return replace(truth, experiments=(replace(data, crystal=replace(data.crystal, real_space=rows)),))


@pytest.fixture(scope="module")
def stills():
    """Truth, structure factors that are 20 percent wrong, and the refinement of each still alone."""
    base = still_truth(
        size=800, distance_mm=100, domains=25, mosaic_sampling="quadrature", cell=CELL, fluence=4e24
    )  # summed as the fit does it: what is tried here is what shots say together
    base = replace(base, most_spots=60)
    wrong = wrong_factors(base.factors, 0.2, 5)
    options = {"readout_noise": 0.7, "shape": "gauss_hkl", "sampling": Sampling(25, 2), "neighbours": False}
    results = []
    for number in range(4):
        truth = turned(base, number)
        exposure = counted(rendered(truth), truth, number)
        begin = list(wrong_start(truth, Start(rotation_deg=0.02, cell=0.0005, distance_mm=0.02), number))
        results.append(refine_still(begin, exposure.table, exposure.counts, wrong, **options))
    return base, wrong, results


def shots_of(results, shared):
    return [SharedShot(f"shot_{n:05d}", r.fit.problem, r.fit.slots, r.fit.state, shared) for n, r in enumerate(results)]


def pulls(merged, truth):
    """ln I against the truth in sigmas, with the common factor taken out, of what is well measured."""
    seen = merged.seen & (merged.intensity > 5 * merged.sigma)
    ratio = np.log(merged.intensity[seen] / Asymmetric.of(truth.factors).intensity.numpy()[seen])
    sigma = merged.sigma[seen] / merged.intensity[seen]
    return (ratio - np.average(ratio, weights=sigma**-2)) / sigma


def test_shots_find_intensities_together_that_a_merge_does_not(stills):
    truth, wrong, results = stills
    shared = Asymmetric.of(wrong)
    merged = merge_intensities(shots_of(results, shared), shared)
    joint = refine_intensities(shots_of(results, shared), shared)
    assert joint.status == "converged" and len(joint.history) <= 6
    assert len(pulls(joint, truth)) > 30 and joint.multiplicity[joint.seen].mean() > 2.5
    assert 0.8 < pulls(joint, truth).std() < 1.2 < pulls(merged, truth).std()
    assert all(row["sigma_z"] < 1.05 and row["weight"] == 1 for row in joint.shots)
    again = merge_intensities(shots_of(results, shared)[::-1], shared)
    assert np.abs(again.intensity / merged.intensity - 1).max() < 1e-9


def test_bad_shots_are_left_out_by_name_and_spoil_nothing(stills):
    _, wrong, results = stills
    shared = Asymmetric.of(wrong)
    good = merge_intensities(shots_of(results, shared), shared)
    shots = shots_of(results, shared)
    for name, data in (("blank", lambda d: d * 0), ("nan", lambda d: d * np.nan), ("other", lambda d: 3 * d.flip(0))):
        fit = results[0].fit
        boxes = fit.problem.boxes
        spoilt = replace(fit.problem, boxes=replace(boxes, data=data(boxes.data)))
        shots.append(SharedShot(name, spoilt, fit.slots, fit.state, shared))
    found = merge_intensities(shots, shared)
    weights = {row["name"]: row["weight"] for row in found.shots}
    assert weights["nan"] == weights["other"] == 0
    assert [weights[name] for name in sorted(weights) if name.startswith("shot")] == [1] * len(results)
    seen = good.seen
    assert (np.abs(found.intensity - good.intensity)[seen] < 0.1 * good.sigma[seen]).all()


def test_mates_that_are_bound_stay_together(stills):
    _, wrong, results = stills
    shared = Asymmetric.of(wrong, anomalous=True)
    loose = merge_intensities(shots_of(results, shared), shared)
    bound = merge_intensities(shots_of(results, shared), shared, prior=SharedPrior(friedel=0.001))
    plus, minus = shared.pairs.numpy()
    both = loose.seen[plus] | loose.seen[minus]  # a mate that no shot saw follows the other
    assert both.sum() > 30
    apart = [np.abs(m.intensity[plus] / m.intensity[minus] - 1)[both].mean() for m in (loose, bound)]
    assert apart[1] < 0.2 * apart[0]
