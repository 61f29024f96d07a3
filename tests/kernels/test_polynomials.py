"""The polynomials of the compiled kernel against the functions that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from nanobrag_torch import polynomials

X = np.linspace(-0.5, 0.5, 2001)


def evaluate(coefficients, y):
    return np.polynomial.polynomial.polyval(y, coefficients)


@pytest.mark.parametrize(("coefficients", "bound"), [(polynomials.SINE_32, 1e-8), (polynomials.SINE_64, 1e-15)])
def test_sine(coefficients, bound):
    true = np.pi * np.sinc(X)
    assert np.abs(evaluate(coefficients, X**2) / true - 1).max() < bound


@pytest.mark.parametrize(
    ("sine", "slope", "bound"),
    [(polynomials.SINE_32, polynomials.SLOPE_32, 1e-6), (polynomials.SINE_64, polynomials.SLOPE_64, 1e-14)],
)
def test_cosine_from_the_slope_of_the_sine(sine, slope, bound):
    cosine = (evaluate(sine, X**2) + X**2 * evaluate(slope, X**2)) / np.pi
    assert np.abs(cosine - np.cos(np.pi * X)).max() < bound


@pytest.mark.parametrize(("coefficients", "bound"), [(polynomials.POWER_32, 1e-8), (polynomials.POWER_64, 1e-15)])
def test_power_of_two(coefficients, bound):
    assert np.abs(evaluate(coefficients, X) / 2**X - 1).max() < bound


@pytest.mark.parametrize(("coefficients", "bound"), [(polynomials.BALL_32, 1e-9), (polynomials.BALL_64, 1e-12)])
def test_ball(coefficients, bound):
    x = np.linspace(0.2, 1.0, 500)
    true = 3 * (np.sin(x) - x * np.cos(x)) / x**3
    assert np.abs(evaluate(coefficients, x**2) - true).max() < bound
