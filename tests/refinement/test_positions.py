"""Geometry from the positions of spots: shifts against spots that were moved, and a model of the wrong shape."""

from dataclasses import replace

import pytest
import torch

from nanobrag_torch.refinement.positions import (
    LEAST_PIXELS,
    LEAST_SPOTS,
    Shifts,
    fit_positions,
    misplaced,
    moving,
    of_excitation,
    robust,
    shifts,
)
from nanobrag_torch.refinement.solver import Solution
from nanobrag_torch.refinement.stages import only_pixels
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import Start, counted, errors, rendered, still_truth, wrong_start
from nanobrag_torch.refinement.verdict import verdict


@pytest.fixture(scope="module")
def fitted(still):
    truth, exposure = still
    begin = list(wrong_start(truth, Start(), 3))
    options = {"shape": "gauss_hkl", "readout_noise": truth.readout, "check_sampling": False, "boxes": 60}
    return refine_still(begin, exposure.table, exposure.counts, truth.factors, **options).fit


def seen_elsewhere(fitted, move):
    """The problem with the photons of a model whose panel was moved by these pixels as its data."""
    problem, state = fitted.problem, fitted.state
    base = problem.model.base
    size = float(base.pixel_size[0, 0])
    panels = base.panels.clone()
    panels[:, 0] -= size * (move[0] * panels[:, 1] + move[1] * panels[:, 2])
    elsewhere = replace(problem, model=replace(problem.model, base=replace(base, panels=panels)))
    data = problem.expected(replace(state, rendered=elsewhere.render(state.raw)))
    return replace(problem, boxes=replace(problem.boxes, data=data))


@pytest.mark.parametrize("move", [(0.05, 0.0), (-0.02, 0.04)])
def test_shifts_are_those_by_which_spots_were_moved(fitted, move):
    """Every box says the same."""
    seen = shifts(seen_elsewhere(fitted, move), fitted.state, fitted.jacobian)
    assert len(seen.shift) > 50
    assert torch.allclose(seen.shift, torch.tensor(move).double().expand_as(seen.shift), atol=2e-3)


def test_where_positions_rule_spots_that_lie_elsewhere_are_a_failure(fitted):
    solution = Solution(fitted.state, fitted.projected, fitted.jacobian, "converged")
    here = misplaced(fitted.problem, solution)
    away = misplaced(seen_elsewhere(fitted, (0.8, 0.0)), solution)
    assert here < 0.05 and away > 0.5
    assert verdict(fitted.problem, solution, here) == ("converged", "")
    status, reason = verdict(fitted.problem, solution, away)
    assert status == "failed" and "not where the model has them" in reason


def test_slopes_of_shifts_are_those_of_predictions(fitted):
    """A millimetre of distance moves a spot by its own distance from the centre over the detector's, in pixels."""
    problem, state = fitted.problem, fitted.state
    seen = shifts(problem, state, fitted.jacobian)
    place = problem.parameters.names.index("distance")
    away = torch.from_numpy(problem.boxes.spots.centre) - 750.0
    assert place in moving(problem.parameters)
    assert torch.allclose(seen.slopes[:, :, place], away / 200.0, atol=0.15)


def test_boxes_too_small_for_positions_leave_the_fit_as_it_is(fitted):
    """Their spots' shifts are as much of them as intensity and plane; geometry would fall back to its priors."""
    box = fitted.problem.boxes.box
    place = torch.arange(len(box)) - torch.searchsorted(box, box)
    small = only_pixels(fitted.problem, place < LEAST_PIXELS - 1)
    solution = Solution(fitted.state, fitted.projected, fitted.jacobian, "converged")
    assert len(small.boxes) > LEAST_SPOTS and fit_positions(small, solution, 1) is None


def test_a_gaussian_model_of_square_crystals_keeps_the_geometry():
    truth = still_truth(size=2600, domains=60, mosaic_sampling="quadrature", oversample=3, shape="square")
    exposure = counted(rendered(truth), truth, 1)
    begin = list(wrong_start(truth, Start(), 3))
    result = refine_still(
        begin, exposure.table, exposure.counts, truth.factors, readout_noise=truth.readout, shape="gauss_hkl",
        check_sampling=False, boxes=150,
    )  # fmt: skip
    found = errors(truth.experiments[0], result.experiment)
    assert result.status == "converged" and result.sigma_z > 2
    assert any("positions" in note for note in result.notes)
    assert found.rotation_deg < 0.003 and found.distance_um < 30
    sigma = 1000 * result.parameters["distance"].sigma
    assert found.distance_um < 3 * sigma < 120


def test_square_crystals_whose_spots_are_a_third_of_a_pixel_wide_are_named_and_fit():
    """As the C program makes them by default: no mosaicity, 5 x 5 samples a pixel, which makes N a little too large."""
    truth = still_truth(
        size=700, distance_mm=75.0, N_cells=(40.0, 40.0, 60.0), mosaic_spread_deg=0.0, domains=1, oversample=5,
        shape="square",
    )  # fmt: skip
    exposure = counted(rendered(truth), truth, 1)
    begin = list(wrong_start(truth, Start(rotation_deg=0.3, distance_mm=0.15), 3))
    result = refine_still(
        begin, exposure.table, exposure.counts, truth.factors, readout_noise=truth.readout, check_sampling=False
    )
    assert result.status == "converged" and result.shape.value == "square" and result.sigma_z < 1.2
    assert errors(truth.experiments[0], result.experiment).rotation_deg < 0.002
    assert result.parameters["N_a"].value == pytest.approx(40, rel=0.03)
    assert "spread" not in result.parameters


def test_noise_that_comes_with_excitation_is_found_from_the_shifts():
    """Shifts drawn from counting noise and a power law of the excitation, one in twenty of them far off."""
    generator = torch.Generator().manual_seed(5)
    excitation = torch.rand(400, generator=generator, dtype=torch.float64) * 2e-3 + 5e-5
    counting = torch.full((400, 2), 0.02**2, dtype=torch.float64)
    for power, amount in ((1.0, 0.1), (3.0, 0.03)):
        extra = (amount * (excitation / excitation.median()) ** power) ** 2
        noise = torch.randn((400, 2), generator=generator, dtype=torch.float64)
        noise[::20] *= 10
        seen = Shifts(noise * (counting + extra[:, None]).sqrt(), counting, torch.zeros(400, 2, 0), excitation)
        ratio = (of_excitation(seen, seen.shift) + 0.02**2) / (extra + 0.02**2)
        assert float(ratio.log().abs().max()) < 1.0 and float(ratio.log().abs().median()) < 0.4


def test_what_another_spread_would_do_to_positions_moves_no_geometry(fitted):
    """Shifts that are those of a change of the size and the spread: the geometry's step is small beside its sigma."""
    problem, state = fitted.problem, fitted.state
    which = moving(problem.parameters)
    shaping = [place for place, name in enumerate(problem.parameters.names) if name.startswith(("N_", "spread"))]
    seen = shifts(problem, state, fitted.jacobian[which + shaping])
    turned = replace(seen, shift=seen.shift + seen.slopes[..., len(which) :] @ torch.tensor([0.1, -0.1, 0.2]).double())
    (before, _), (after, covariance) = (robust(problem, state, one, which) for one in (seen, turned))
    off = (after - before).abs() / covariance.diagonal().sqrt()
    pulled = torch.einsum("bcs,bc->s", seen.slopes[..., : len(which)], (turned.shift - seen.shift) / seen.variance)
    assert float(off.max()) < 0.2 and float((pulled * covariance.diagonal().sqrt()).abs().max()) > 1
