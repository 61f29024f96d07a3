"""The fused counting noise against its plain form, to the last bit, and both against the law they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from nanobrag_torch.errors import InputError
from nanobrag_torch.response import formulas
from nanobrag_torch.response.counters import READOUT, SENSITIVITY
from nanobrag_torch.response.photons import normal_deviates, poisson_counts, uniform_deviates


@pytest.mark.parametrize("scale", [0.1, 3.0, 11.9, 12.5, 40.0, 1e3, 1e5, 1e8, 1.5e9])
def test_machine_code_counts_as_the_plain_form(scale):
    means = torch.rand(3, 20_000, generator=torch.Generator().manual_seed(0)) * scale * 1.2
    pixels = torch.randperm(10**5)[:20_000] + 2**33
    for options in ({"first_image": 4}, {"first_image": 2**63 + 4, "pixels": pixels}):
        fused, plain = (poisson_counts(means, 2**63 + 9, fused=f, **options) for f in (True, False))
        assert torch.equal(fused, plain)


def test_machine_code_draws_the_uniform_deviates_of_the_plain_form():
    fused, plain = (uniform_deviates((2, 70_000), 5, READOUT, fused=f) for f in (True, False))
    assert torch.equal(fused, plain)
    assert stats.kstest(fused.reshape(-1).numpy(), "uniform").pvalue > 1e-3


def test_machine_code_draws_the_normal_deviates_of_the_plain_form():
    fused, plain = (normal_deviates((2, 150_000), 5, READOUT, fused=f) for f in (True, False))
    assert torch.equal(fused, plain)
    assert stats.kstest(fused.reshape(-1).numpy(), "norm").pvalue > 1e-3
    assert abs(float((normal_deviates((2, 150_000), 5, SENSITIVITY) * fused).mean())) < 4 / 3e5**0.5


@pytest.mark.parametrize("mean", [0.1, 2.0, 11.99, 12.01, 17.0, 100.0, 1234.5])
def test_a_million_counts_are_poisson(mean):
    """Chi-square over cells of at least a hundred expected; the mean is what float32 makes of it."""
    draws, law = 1_000_000, stats.poisson(float(np.float32(mean)))
    counts = poisson_counts(torch.full((1, draws), mean), 11)[0].numpy()
    edges = np.arange(int(law.ppf(1e-9)), int(law.ppf(1 - 1e-9)) + 2)
    expected = np.diff(law.cdf(edges - 1)) * draws
    observed = np.bincount(counts - edges[0], minlength=len(expected))
    assert counts.min() >= edges[0] and len(observed) == len(expected)
    common = expected >= 100
    rare = draws - expected[common].sum()
    chi_square = ((observed - expected)[common] ** 2 / expected[common]).sum()
    chi_square += (draws - observed[common].sum() - rare) ** 2 / max(rare, 1e-9) if rare > 1 else 0.0
    assert stats.chi2(common.sum()).sf(chi_square) > 1e-4


def test_counts_do_not_depend_on_threads_or_batch():
    means = torch.rand(2, 200_000, generator=torch.Generator().manual_seed(1)) * 30
    threads = torch.get_num_threads()
    try:
        drawn = []
        for count in (1, 3):
            torch.set_num_threads(count)
            drawn.append(poisson_counts(means, 3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*drawn)
    assert torch.equal(poisson_counts(means[1:], 3, first_image=1)[0], drawn[0][1])
    assert torch.equal(poisson_counts(means.double(), 3), drawn[0])


@pytest.mark.parametrize(
    ("name", "truth", "low", "high"),
    [
        ("power_of_two", np.exp2, -0.5, 0.5),
        ("log_of_mantissa", np.log, 0.5**0.5, 2**0.5),
        ("sine_of_pi", lambda x: np.sin(np.pi * x), -0.5, 0.5),
    ],
)
def test_polynomials_are_the_functions(name, truth, low, high):
    x = np.linspace(low, high, 4001)
    error = np.abs(getattr(formulas, name).function(x) - truth(x))
    assert (error <= 5e-16 * np.maximum(np.abs(truth(x)), 1e-3) + 2e-16 * np.abs(x)).all()


def test_the_rest_of_stirling():
    k = np.arange(10.0, 2000.0)
    exact = np.array([math.lgamma(x + 1) for x in k])
    found = (k + 0.5) * np.log(k) - k + np.log(2 * np.pi) / 2 + formulas.stirling_rest.function(k)
    assert np.abs(found - exact).max() < 1e-11 and np.abs(found - exact)[:90].max() < 3e-13


@pytest.mark.parametrize("bad", [-1.0, 3e9, float("nan")])
def test_means_that_cannot_be_counted_are_refused(bad):
    with pytest.raises(InputError, match="means"):
        poisson_counts(torch.tensor([[1.0, bad]]), 1)
