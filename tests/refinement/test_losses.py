"""loss_and_gradient against one backward pass through the whole image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator, loss_and_gradient
from nanobrag_torch.background.materials import MaterialConfig
from nanobrag_torch.config import CrystalShape
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.refinement import losses
from nanobrag_torch.response.config import ResponseConfig

pytestmark = pytest.mark.usefixtures("kept_or_not")
D = torch.float64
SHAPE = (17, 23)


def leaves(*names: str) -> dict[str, Tensor]:
    values = {
        "cell_a": 60.0,
        "misset_deg": (3.0, 5.0, 7.0),
        "distance_mm": 80.0,
        "wavelength_A": 1.1,
        "water_size_um": 4.0,
    }
    return {name: torch.tensor(values[name], dtype=D, requires_grad=True) for name in names}


def simulator(given: dict[str, Tensor], dtype: torch.dtype = D, **more: object) -> Simulator:
    def of(config: type) -> dict[str, Tensor]:
        return {name: value for name, value in given.items() if name in config.__dataclass_fields__}  # type: ignore[attr-defined]

    def settings(config: type) -> dict[str, object]:
        return {name: more.pop(name) for name in list(more) if name in config.__dataclass_fields__}  # type: ignore[attr-defined]

    plain = {"cell_a": 60.0, "N_cells": (6, 7, 8), "default_F": 40.0}
    crystal = Crystal(CrystalConfig(**plain | settings(CrystalConfig) | of(CrystalConfig)))

    detector = {"distance_mm": 80.0, "pixel_size_mm": 0.4, "spixels": SHAPE[0], "fpixels": SHAPE[1], "oversample": 1}
    beam = BeamConfig(**{"wavelength_A": 1.1} | settings(BeamConfig) | of(BeamConfig))
    return Simulator(
        crystal,
        Detector(DetectorConfig(**detector | settings(DetectorConfig) | of(DetectorConfig))),
        beam_config=beam,
        dtype=dtype,
        **more,
    )


def data(seed: int = 0) -> Tensor:
    return torch.rand(SHAPE[0] * SHAPE[1], generator=torch.Generator().manual_seed(seed), dtype=D) * 50


def squares(photons: Tensor, at: Tensor) -> Tensor:
    return (data(1)[at] * (photons - data()[at]) ** 2).sum()


def poisson(photons: Tensor, at: Tensor) -> Tensor:
    return torch.nn.functional.poisson_nll_loss(photons + 1, data()[at], log_input=False, reduction="sum")


def robust(photons: Tensor, at: Tensor) -> Tensor:
    return torch.nn.functional.huber_loss(photons, data()[at].to(photons.dtype), reduction="sum", delta=3.0)


CASES = {
    "squares": (squares, ("cell_a", "misset_deg", "distance_mm", "wavelength_A"), {}),
    "poisson": (poisson, ("cell_a", "misset_deg"), {}),
    "robust": (robust, ("misset_deg", "wavelength_A"), {}),
    "water": (squares, ("cell_a", "water_size_um"), {}),
    "amorphous": (squares, ("cell_a", "distance_mm"), {"background": (MaterialConfig(thickness_mm=1.0),)}),
    "reference kernel": (squares, ("cell_a", "misset_deg"), {"kernel": "reference"}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_backward_pass(name, monkeypatch):
    monkeypatch.setattr(losses, "PIXELS_AT_ONCE", 100)
    loss, names, more = CASES[name]
    given = leaves(*names)
    made = simulator(given, **more)
    found = loss_and_gradient(made, loss, list(given.values()))
    every = torch.arange(SHAPE[0] * SHAPE[1])
    whole = loss(made.pixel_values(every), every)
    wanted = torch.autograd.grad(whole, list(given.values()))
    assert float(found.loss) == pytest.approx(float(whole.detach()), rel=1e-12)
    for f, w in zip(found.gradients, wanted, strict=True):
        assert f.shape == w.shape
        assert float((f - w).abs().max()) < 1e-10 * float(w.abs().max())


CRYSTAL: dict[str, object] = {
    "mosaic_spread_deg": 0.3,
    "mosaic_domains": 3,
    "mosaic_seed": 1,
    "phi_steps": 2,
    "osc_range_deg": 0.4,
}
SENSOR: dict[str, object] = {"detector_thick_um": 300.0, "detector_abs_um": 200.0, "detector_thicksteps": 3}
OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "domains and phi": CRYSTAL,
    "colours": {"dispersion_pct": 3.0, "dispersion_steps": 3},
    "sub-pixels": {"oversample": 2},
    "each factor": {"oversample": 2, "oversample_omega": True, "oversample_polar": True, **CRYSTAL},
    "thick": SENSOR | {"dispersion_pct": 3.0, "dispersion_steps": 2},
    "each capture": SENSOR | {"oversample": 2, "oversample_thick": True},
    "resolution": {"dmin": 1.4, "dispersion_pct": 8.0, "dispersion_steps": 3},
    "point pixels": {"point_pixel": True, "oversample": 2},
    "many cells": {"N_cells": (500, 400, 300)},
    "turned detector": {"detector_rotx_deg": 11.0, "detector_twotheta_deg": 20.0},
    "a spread that moves": CRYSTAL | {"mosaic_spread_deg": torch.tensor(0.3, dtype=D, requires_grad=True)},
    "phi that moves": CRYSTAL | {"osc_range_deg": torch.tensor(0.4, dtype=D, requires_grad=True)},
    "three spreads": CRYSTAL | {"mosaic_spread_deg": torch.tensor([0.3, 0.1, 0.2], dtype=D)},
    "round": {"shape": CrystalShape.ROUND},
    "curved": {"curved_detector": True},
}


@pytest.mark.parametrize("dtype", [D, torch.float32], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, dtype, monkeypatch):
    """Whatever is kept of pixels, and of whatever nothing can be: what the backward pass finds."""
    monkeypatch.setattr(losses, "PIXELS_AT_ONCE", 300)
    given, more = leaves("cell_a", "misset_deg", "distance_mm", "wavelength_A"), OPTIONS[name]
    made = simulator(given, dtype, **more)
    by = [*given.values(), *(value for value in more.values() if isinstance(value, Tensor) and value.requires_grad)]
    found = loss_and_gradient(made, squares, by)
    every = torch.arange(SHAPE[0] * SHAPE[1])
    whole = squares(made.pixel_values(every), every)
    wanted = torch.autograd.grad(whole, by)
    close = 1e-9 if dtype == D else 2e-4
    fourth = 1e-12 if dtype == D else 4e-6  # of L, which slopes need as another product
    assert float(found.loss) == pytest.approx(float(whole.detach()), rel=fourth)
    for f, w in zip(found.gradients, wanted, strict=True):
        assert float((f - w).abs().max()) < close * float(w.abs().max())


def test_what_is_kept_is_used_where_lattices_change_alike(kept_or_not):
    """A gradient that is right by either way says nothing about which was taken."""
    kept = []
    for name, more in OPTIONS.items():
        given, before = leaves("cell_a", "distance_mm"), len(kept_or_not)
        loss_and_gradient(simulator(given, **more), squares, list(given.values()))
        kept += [name] if any(kept_or_not[before:]) else []
    alone = {"a spread that moves", "phi that moves", "three spreads", "round", "curved", "resolution"}
    assert set(OPTIONS) - set(kept) == alone


def test_few_lattices_take_two_passes(kept_or_not, monkeypatch):
    monkeypatch.setattr(losses, "FEWEST_LATTICES", CRYSTAL["mosaic_domains"])
    given = leaves("cell_a")
    loss_and_gradient(simulator(given), squares, list(given.values()))
    assert not kept_or_not
    loss_and_gradient(simulator(given, **CRYSTAL), squares, list(given.values()))
    assert all(kept_or_not) and kept_or_not


def test_lists_of_pixels_and_functions_that_build(monkeypatch):
    monkeypatch.setattr(losses, "PIXELS_AT_ONCE", 7)
    given, pixels = leaves("cell_a"), torch.tensor([5, 300, 17, 40, 41, 42, 43, 44, 9])
    found = loss_and_gradient(lambda: simulator(given), squares, list(given.values()), pixels=pixels)
    whole = squares(simulator(given).pixel_values(pixels), pixels)
    assert float(found.loss) == pytest.approx(float(whole.detach()), rel=1e-12)
    (wanted,) = torch.autograd.grad(whole, list(given.values()))
    assert float(found.gradients[0]) == pytest.approx(float(wanted), rel=1e-10)


def test_gradients_against_differences():
    given = leaves("cell_a")
    found = loss_and_gradient(simulator(given), squares, list(given.values()))

    def at(x: float) -> float:
        moved = {"cell_a": torch.tensor(60.0 + x, dtype=D)}
        return float(squares(simulator(moved).photons().reshape(-1), torch.arange(SHAPE[0] * SHAPE[1])))

    step = 1e-5
    assert float(found.gradients[0]) == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-6)


def test_float32_is_close():
    given = leaves("cell_a", "misset_deg")
    exact = loss_and_gradient(simulator(given), squares, list(given.values()))
    found = loss_and_gradient(simulator(given, torch.float32), squares, list(given.values()))
    assert float(found.loss) == pytest.approx(float(exact.loss), rel=1e-5)
    for f, w in zip(found.gradients, exact.gradients, strict=True):
        assert float((f - w).abs().max()) < 1e-4 * float(w.abs().max())


def test_what_cannot_be_is_refused():
    given = leaves("cell_a")
    unused = torch.ones(2, dtype=D, requires_grad=True)
    with pytest.raises(InputError, match="parameters"):
        loss_and_gradient(simulator(given), squares, [unused])
    with pytest.raises(InputError, match="loss"):
        loss_and_gradient(simulator(given), lambda photons, at: photons, list(given.values()))
    with pytest.raises(InputError, match="loss"):
        loss_and_gradient(simulator(given), lambda photons, at: torch.ones(()), list(given.values()))
    with pytest.raises(InputError, match="compat"):
        loss_and_gradient(simulator(given, compat="c"), squares, list(given.values()))
    with pytest.raises(InputError, match="response"):
        loss_and_gradient(simulator(given, response=ResponseConfig()), squares, list(given.values()))


def test_torch_keeps_to_one_thread_meanwhile():
    """Its own would spin on where the kernel's are to run; afterwards it has as many as before, and after a failure."""
    given = leaves("cell_a")
    before, seen = torch.get_num_threads(), []

    def loss(photons, _):
        seen.append(torch.get_num_threads())
        return photons.sum()

    def broken(photons, _):
        raise ZeroDivisionError

    torch.set_num_threads(3)
    try:
        loss_and_gradient(simulator(given), loss, list(given.values()))
        assert seen and set(seen) == {1} and torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            loss_and_gradient(simulator(given), broken, list(given.values()))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
