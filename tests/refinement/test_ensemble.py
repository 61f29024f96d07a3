"""A few small stills whose intensities are refined together, against the truth that they were made from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.brute_force import dense_step

from nanobrag_torch.errors import InputError
from nanobrag_torch.records.experiment import rotation_matrix
from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.ensemble import Ensemble, merge_intensities, refine_intensities
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.reducers import Local
from nanobrag_torch.refinement.shared_prior import SharedPrior
from nanobrag_torch.refinement.shared_shot import SharedShot
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import (
    Start,
    counted,
    rendered,
    still_truth,
    wilson_factors,
    wrong_factors,
    wrong_start,
)

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
    assert all(row["sigma_z"] < 1.05 and row["weight"] == 1 and not row["reason"] for row in joint.shots)
    again = merge_intensities(shots_of(results, shared)[::-1], shared)
    assert np.abs(again.intensity / merged.intensity - 1).max() < 1e-9


def test_a_step_is_that_of_the_dense_matrix_of_everything(stills):
    """Of every parameter, plane and intensity, from the pixels: nothing is eliminated there."""
    _, wrong, results = stills
    shared = Asymmetric.of(wrong)
    ensemble = Ensemble(shots_of(results, shared), shared, Local(), SharedPrior())
    ensemble.begin()
    equations = ensemble.equations()
    answer = ensemble.system(equations, damped=False).solve()
    steps = np.concatenate([e.undamped().follow(answer.change).numpy() for e in equations])
    seen = ensemble.multiplicity().numpy() > 0
    dense = dense_step(ensemble)
    assert dense.unknowns > 400
    assert np.allclose(answer.change.numpy()[seen], dense.intensities[seen], rtol=1e-8, atol=1e-11)
    assert np.allclose(steps, dense.parameters, rtol=1e-8, atol=1e-11)


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
    rows = {str(row["name"]): row for row in found.shots}
    assert rows["nan"]["weight"] == rows["other"]["weight"] == 0
    assert "not finite" in str(rows["nan"]["reason"]) and "sigma-Z" in str(rows["other"]["reason"])
    assert [rows[name]["weight"] for name in sorted(rows) if name.startswith("shot")] == [1] * len(results)
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


def test_an_end_where_shots_refuse_to_move_is_not_called_converged(stills):
    """With so much damping no intensity moves either, as shots that stand still are merged once and for all."""
    _, wrong, results = stills
    shared = Asymmetric.of(wrong)
    shots = shots_of(results, shared)
    for shot in shots:
        shot.damping = 1e6
    found = refine_intensities(shots, shared, most_steps=2)
    assert found.status == "steps" and "still to go" in found.reason
    longer = refine_intensities(shots, shared, most_steps=20)
    free = refine_intensities(shots_of(results, shared), shared)
    assert longer.status == free.status == "converged"
    off = np.abs(longer.intensity - free.intensity)[free.seen] / free.sigma[free.seen]
    assert off.max() < 0.2


def test_shots_that_do_not_agree_are_a_failure(stills):
    _, wrong, results = stills
    shared = Asymmetric.of(wrong)
    shots = shots_of(results, shared)
    for n in (0, 1, 2):  # other indices for the same spots: each shot alone fits as well as before
        fit = results[n].fit
        other = replace(fit.slots, hkl=np.roll(fit.slots.hkl, 7 + n, axis=0))
        shots[n] = SharedShot(f"shot_{n:05d}", fit.problem, other, fit.state, shared)
    found = refine_intensities(shots, shared, most_steps=2)
    assert found.status == "failed", [row["reason"] for row in found.shots]
    assert "do not agree" in found.reason or "left out" in found.reason


def test_priors_pull_as_their_own_loss_falls():
    shared = Asymmetric.of(wilson_factors(CELL, "P 21 21 21", 4.0, b_iso=20, seed=1), anomalous=True)
    even = replace(shared, intensity=torch.cat([shared.intensity[: len(shared) - shared.pairs.shape[1]]] + [
        shared.intensity[shared.pairs[0]]]))  # fmt: skip
    generator = torch.Generator().manual_seed(2)
    x = 1 + 0.3 * torch.rand(len(even), generator=generator, dtype=torch.float64)
    step = torch.rand(len(even), generator=generator, dtype=torch.float64)
    for prior in (
        SharedPrior(),
        SharedPrior(sigma_F=tuple(0.1 + 0.02 * n for n in range(10))),
        SharedPrior(wilson=True, friedel=0.05),
        SharedPrior(sigma_F=np.inf, shell_means=0.1),
    ):
        at, h = prior.at(x, even), 1e-4
        up, down = (prior.loss(x + sign * h * step, even) for sign in (1, -1))
        assert float(at.pull @ step) == pytest.approx(-(up - down) / (2 * h), rel=1e-6)
        curvature = (up + down - 2 * prior.loss(x, even)) / h**2
        assert float(step @ at.product(step)) == pytest.approx(curvature, rel=1e-3)
        assert (at.product(torch.eye(len(x), dtype=torch.float64)).diagonal() - at.diagonal()).abs().max() < 1e-9
    with pytest.raises(InputError, match="above 0"):
        SharedPrior(friedel=0.0)
    with pytest.raises(InputError, match="shells"):
        SharedPrior(sigma_F=(0.1, 0.2)).at(x, even)
