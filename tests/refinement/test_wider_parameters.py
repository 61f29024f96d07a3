"""Parameters that are held unless asked for, each fitted to an exposure that the Simulator made with another value."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanobrag_torch.config import CrystalConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.records.experiment import rotation_matrix
from nanobrag_torch.refinement.groups import centred, panel_groups, without_means
from nanobrag_torch.refinement.model import Sampling, perpendicular
from nanobrag_torch.refinement.options import Options
from nanobrag_torch.refinement.setup import shot_model, start_parameters
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import counted, rendered, rotation_truth, still_truth
from nanobrag_torch.units import EV_ANGSTROM

QUICK = {"shape": "gauss_hkl", "boxes": 50, "check_sampling": False, "sampling": Sampling(60, 3, 20)}
SMALL = {"size": 900, "distance_mm": 110.0, "domains": 40, "mosaic_sampling": "quadrature", "oversample": 3}
SPECTRUM = np.linspace(-20, 20, 7)


def refined(begin, noisy, truth, **options):
    return refine_still(begin, noisy.table, noisy.counts, truth.factors, readout_noise=0.7, **QUICK, **options)


def tilted(data):
    detector = data.detector
    (panel,) = detector.panels
    turn = rotation_matrix(panel.fast, 0.08)
    centre = panel.positions_mm(panel.image_size[0] / 2, panel.image_size[1] / 2)
    moved = replace(panel, origin_mm=turn @ (panel.origin_mm - centre) + centre, slow=turn @ panel.slow)
    return replace(data, detector=replace(detector, panels=(moved,)))


def deflected(data):
    first, _ = perpendicular(torch.from_numpy(-data.beam.direction)).numpy()
    turn = rotation_matrix(first, np.degrees(0.15e-3))
    return replace(data, beam=replace(data.beam, direction=turn @ data.beam.direction))


def redder(data):
    return replace(data, beam=replace(data.beam, wavelength_A=data.beam.wavelength_A * 1.0004))


def polychromatic(data, bend):
    energies = EV_ANGSTROM / data.beam.wavelength_A + SPECTRUM
    wavelengths = EV_ANGSTROM / energies
    x = (wavelengths - wavelengths.mean()) / np.abs(wavelengths - wavelengths.mean()).max()
    beam = replace(data.beam, spectrum_energies_eV=energies, spectrum_weights=np.exp(bend * x))
    return replace(data, beam=beam)


CASES = {
    "tilt_fast": (tilted, ("tilt",), ("distance",), 0.08),
    "beam_x": (deflected, ("beam",), ("distance",), 0.15),
    "wavelength": (redder, ("wavelength",), ("cell", "distance"), 0.9795 * 1.0004),
    "spectrum_1": (lambda data: polychromatic(data, 0.6), ("spectrum",), ("distance",), 0.6),
}


@pytest.mark.parametrize("name", CASES)
def test_a_parameter_of_detector_or_beam_is_found(name):
    change, free, fix, value = CASES[name]
    truth = still_truth(**SMALL)
    begin = truth.experiments[0] if name != "spectrum_1" else polychromatic(truth.experiments[0], 0.0)
    extra = {"bandwidth": 0.004} if name == "spectrum_1" else {}
    true = replace(truth, experiments=(change(truth.experiments[0]),), extra=extra)
    noisy = counted(rendered(true), true, 1)
    result = refined([begin], noisy, truth, free=free, fix=fix)
    found = result.parameters[name]
    assert result.status == "converged" and found.sigma < found.prior[1]
    assert abs(found.value - value) < max(4 * found.sigma, 0.05 * abs(value) if name != "wavelength" else 2e-5)


def test_a_b_factor_is_found_where_intensities_are_held():
    truth = still_truth(**SMALL)
    warm = replace(truth, options={**truth.options, "B_factor_A2": 4.0})
    noisy = counted(rendered(warm), warm, 1)
    result = refined(list(truth.experiments), noisy, truth, free=("B",), intensities="held")
    found = result.parameters["B"]
    assert result.status == "converged" and abs(found.value - 4.0) < max(4 * found.sigma, 0.05)


@pytest.mark.parametrize("spread", [0.018, 0.0])
def test_a_spread_that_adds_little_to_the_width_of_spots_is_found_and_none_is_said(spread):
    """Coarse sums, with which a fit begins, want no spread at all for the first of the two."""
    own = {"N_cells": (51.0, 51.0, 30.0), "mosaic_spread_deg": spread, "whole_pixels": True}
    truth = still_truth(**{**SMALL, **own, "domains": 60 if spread else 1})
    noisy = counted(rendered(truth), truth, 1)
    begin = {"N_a": 42.0, "N_c": 55.0, "spread": 0.05}
    options = {**QUICK, "sampling": None, "boxes": 60, "start": begin}
    result = refine_still(
        list(truth.experiments), noisy.table, noisy.counts, truth.factors, readout_noise=0.7, **options
    )
    found = result.parameters.values()
    assert result.status == "converged"
    assert ("no mosaic spread" in " ".join(result.notes)) == (spread == 0) == ("spread" not in found)
    assert found.get("spread", 0.0) == pytest.approx(spread, rel=0.1)
    assert found["N_a"] == pytest.approx(51, rel=0.02) and found["N_c"] == pytest.approx(30, rel=0.02)


def test_sigmas_allow_for_sums_that_are_too_coarse():
    truth = still_truth(**SMALL)
    noisy = counted(rendered(truth), truth, 1)
    options = {**QUICK, "sampling": Sampling(8, 1, 1), "readout_noise": 0.7}
    alone, told = (
        refine_still(
            list(truth.experiments), noisy.table, noisy.counts, truth.factors, **{**options, "check_sampling": c}
        )
        for c in (False, True)
    )
    assert "all sigmas are larger" in " ".join(told.notes) and "all sigmas are larger" not in " ".join(alone.notes)
    true = {"N_a": 42.0, "N_c": 55.0, "spread": 0.05, "distance": SMALL["distance_mm"]}
    off = {name: (alone.parameters[name].value - value) / alone.parameters[name].sigma for name, value in true.items()}
    now = {name: (told.parameters[name].value - value) / told.parameters[name].sigma for name, value in true.items()}
    assert told.parameters["N_a"].value == alone.parameters["N_a"].value
    assert max(map(abs, off.values())) > 8 and max(map(abs, now.values())) < 4


def test_numbers_of_cells_off_the_diagonal_are_found():
    cells = ((30.0, 4.0, 0.0), (4.0, 30.0, 0.0), (0.0, 0.0, 45.0))
    truth = still_truth(**SMALL, N_cells=cells, mosaic_spread_deg=0.03)
    noisy = counted(rendered(replace(truth, extra={})), truth, 1)
    result = refined(list(truth.experiments), noisy, truth, N=6, start={"N_a": 33, "N_b": 33, "N_c": 40})
    values = result.parameters.values()
    assert result.status == "converged"
    assert values["N_ab"] == pytest.approx(4, abs=0.6) and values["N_a"] == pytest.approx(30, rel=0.05)
    assert abs(values["N_bc"]) < 1.0 and abs(values["N_ac"]) < 1.0


@pytest.mark.parametrize(
    ("cells", "shape"),
    [
        (((5, 1, 0), (2, 5, 0), (0, 0, 5)), "gauss"),
        (((5, 6, 0), (6, 5, 0), (0, 0, 5)), "round"),
        (((5, 1, 0), (1, 5, 0), (0, 0, 5)), "square"),
        ((5, 5), "round"),
    ],
)
def test_matrices_of_cells_that_cannot_be(cells, shape):
    with pytest.raises(InputError, match="N_cells"):
        CrystalConfig(cell_a=50.0, N_cells=cells, shape=shape)


def test_start_angle_and_axis_of_a_rotation_are_found():
    truth = rotation_truth(size=(1400, 1400))
    (data,) = truth.experiments
    assert data.scan is not None
    scan = replace(data.scan, oscillation_width_deg=1.0)
    wide, late = replace(data, scan=scan), replace(data, scan=replace(scan, oscillation_start_deg=0.03))
    options = {**truth.options, "oversample": 2, "phi_steps": 40}
    true = replace(truth, experiments=(late,), options=options, most_spots=50)
    noisy = counted(rendered(true), true, 1)
    result = refine_still(
        [wide], noisy.table, noisy.counts, truth.factors, free=("phi", "spindle"), fix=("rotation", "cell", "distance"),
        centroids=False, start={"N_a": 36, "N_b": 28, "N_c": 26}, **QUICK,
    )  # fmt: skip
    found = result.parameters["phi"]
    assert found.value == pytest.approx(0.03, abs=max(4 * found.sigma, 0.001))
    for name in ("spindle_1", "spindle_2"):
        if name in result.parameters.names:
            assert abs(result.parameters[name].value) < max(4 * result.parameters[name].sigma, 0.05)


def test_what_all_groups_do_together_is_no_move_of_theirs():
    truth = still_truth(size=400)
    detector = truth.experiments[0].detector
    assert detector is not None
    parts = panel_groups(replace(detector, panels=(*detector.panels, *detector.panels)), {0: 0, 1: 1})
    moves = {"group 0:shift_fast": 0.3, "group 1:shift_fast": 0.1, "distance": 1.0}
    values = {name: torch.tensor(value) for name, value in moves.items()}
    found = centred(parts, values)
    assert float(found["group 0:shift_fast"]) == pytest.approx(0.1) and float(found["distance"]) == 1.0
    assert float(found["group 1:shift_fast"]) == pytest.approx(-0.1)


def test_sigmas_of_groups_are_those_of_moves_without_a_mean():
    """The covariance of what `centred` makes of the values, whose mean is known from its prior alone."""
    truth = still_truth(size=400)
    detector = truth.experiments[0].detector
    assert detector is not None
    three = replace(detector, panels=detector.panels * 3)
    parts = panel_groups(three, {0: 0, 1: 1, 2: 2})
    names = ("a", "group 0:shift_fast", "group 1:shift_fast", "group 2:shift_fast", "group 0:shift_slow", "distance")
    factor = torch.from_numpy(np.random.default_rng(1).normal(0, 1e-3, (6, 6)))
    factor[1:4, 0] += 0.2  # what all three do together
    covariance = factor @ factor.T
    found = without_means(parts, names, covariance)
    moved = [centred(parts, dict(zip(names, column, strict=True))) for column in factor.T]
    rows = torch.stack([torch.stack([one[name] for name in names]) for one in moved], 1)
    assert float(covariance[1, 1].sqrt()) > 0.1 > 50 * float(found[1, 1].sqrt())
    assert torch.allclose(found, rows @ rows.T, rtol=1e-9, atol=1e-15)


def test_lengths_that_scale_together_are_said():
    truth = still_truth(**{**SMALL, "domains": 20, "oversample": 2})
    noisy = counted(rendered(truth), truth, 1)
    result = refined(list(truth.experiments), noisy, truth, free=("wavelength",))
    assert any("scale the pattern together" in note and "wavelength" in note for note in result.notes)


def test_the_options_tell_what_there_is():
    truth = still_truth(size=400)
    model = shot_model(truth.experiments, [truth.factors], 0, Options(N=6))
    names = {p.name for p in start_parameters(model, truth.experiments, Options(N=6, free=("tilt", "beam")))}
    assert {"N_ab", "N_bc", "N_ac", "tilt_fast", "beam_y", "distance"} <= names
