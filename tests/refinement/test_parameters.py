"""Raw and physical values, ties, priors and targets."""

import math

import pytest
import torch

from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.parameters import Parameter, ParameterSet, Transform
from nanobrag_torch.refinement.targets import TARGETS, Gaussian, Poisson, StudentT


def example():
    return ParameterSet(
        [
            Parameter(name="x", value=2.0, prior=(1.0, 0.5)),
            Parameter(name="n", value=30.0, transform=Transform.POSITIVE, prior=(20.0, 0.1)),
            Parameter(name="m", value=30.0, tied_to="n"),
            Parameter(name="held", value=7.0, free=False),
            Parameter(name="share", value=0.25, transform=Transform.BOUNDED, bounds=(0.0, 1.0)),
        ]
    )


def test_raw_and_physical_values_are_inverse():
    parameters = example()
    assert parameters.names == ("x", "n", "share")
    values = parameters.unpack(parameters.pack())
    assert {name: pytest.approx(float(v)) for name, v in values.items()} == parameters.values()
    moved = parameters.at(parameters.pack() + torch.tensor([0.1, math.log(2), 50.0]))
    assert moved["n"].value == pytest.approx(60) and moved["m"].value == pytest.approx(60)
    assert 0.25 < moved["share"].value <= 1 and moved["held"].value == 7


def test_priors_are_gaussian_in_raw_values():
    above, precision = example().prior_terms(example().pack())
    assert above.tolist() == pytest.approx([1.0, math.log(1.5), math.log(0.25 / 0.75)])
    assert precision.tolist() == pytest.approx([4.0, 100.0, 0.0])


def test_sigmas_are_physical():
    covariance = torch.diag(torch.tensor([0.01, 0.0004, 0.04], dtype=torch.float64))
    found = example().at(example().pack(), covariance)
    assert found["x"].sigma == pytest.approx(0.1)
    assert found["n"].sigma == pytest.approx(30 * 0.02) == found["m"].sigma
    assert found["share"].sigma == pytest.approx(0.25 * 0.75 * 0.2)
    assert found["held"].sigma is None


@pytest.mark.parametrize(
    "fields",
    [
        {"value": math.nan},
        {"value": -1.0, "transform": Transform.POSITIVE},
        {"value": 2.0, "transform": Transform.BOUNDED, "bounds": (0.0, 1.0)},
        {"value": 1.0, "prior": (1.0, 0.0)},
    ],
)
def test_impossible_parameters_are_refused(fields):
    with pytest.raises(InputError):
        Parameter(name="p", **fields)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="x, n, m, held, share"):
        example()["y"]
    with pytest.raises(InputError):
        ParameterSet([Parameter(name="a", value=1.0, tied_to="b")])


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("readout", [0.0, 0.5])
def test_slopes_of_targets(target, readout):
    data = torch.tensor([0.0, 0.0, 1.0, 3.0, 40.0, 1000.0], dtype=torch.float64)
    noise = torch.full_like(data, readout)
    for shift in (-0.4, 0.3, 5.0):
        model = (torch.tensor([0.5, 0.01, 2.0, 3.0, 36.0, 1100.0], dtype=torch.float64) + shift).requires_grad_()
        loss = target.terms(data, model, noise).loss
        (slope,) = torch.autograd.grad(loss.sum(), model)
        torch.testing.assert_close(target.terms(data, model.detach(), noise).slope, slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("target", [Poisson(), Gaussian(), StudentT(nu=8.0)], ids=["poisson", "gaussian", "student"])
def test_weights_are_the_variance_of_the_slope(target):
    generator = torch.Generator().manual_seed(1)
    expected, readout, count = 400.0, 4.0, 400_000
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    variance = expected + readout
    if isinstance(target, StudentT):
        chi = torch.distributions.Chi2(target.nu)
        torch.manual_seed(2)
        noise = noise / torch.sqrt(chi.sample((count,)).double() / target.nu)
    data = expected + noise * math.sqrt(variance)
    terms = target.terms(data, torch.full_like(data, expected), torch.full_like(data, readout))
    assert abs(float(terms.slope.mean())) < 5 * float(terms.slope.std()) / math.sqrt(count)
    assert float(terms.slope.var() / terms.weight.mean()) == pytest.approx(1.0, rel=0.02)


def test_poisson_goes_on_as_a_parabola_below_its_floor():
    model = torch.linspace(-3, 1, 401, dtype=torch.float64)
    for value in (0.0, 2.0):
        terms = Poisson().terms(torch.full_like(model, value), model, torch.zeros_like(model))
        assert bool(torch.isfinite(terms.loss).all()) and bool((terms.weight > 0).all())
        assert bool((terms.slope.diff() > -1e-9).all())  # convex
