"""Amplitudes from measured intensities that may be negative: French and Wilson, Acta Cryst. A34 (1978) 517.

The true intensity J has Wilson's distribution of mean S, the measurement I is J with a Gaussian error; the amplitude
is the mean of sqrt(J) under both, by quadrature over the amplitude itself, where the density has no pole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError

Floats = NDArray[np.float64]
NODES = 200
REACH = 8.0
"""Standard deviations of I to either side that the quadrature covers."""


def amplitudes(
    intensity: Floats, sigma: Floats, expected: Floats, centric: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats]:
    """Posterior mean of J [n], of F [n], and the standard deviation of F [n].

    expected [n]: Wilson's mean of J (epsilon in it). Raises InputError where sigma or expected is not above 0.
    """
    if not ((sigma > 0) & (expected > 0)).all():
        raise InputError("sigma, expected intensity", "0 or less", "numbers above 0")
    centre = intensity - sigma**2 / np.where(centric, 2 * expected, expected)  # of the Gaussian times the exponential
    high = np.sqrt(np.maximum(centre, 0) + REACH * sigma)
    low = np.sqrt(np.maximum(centre - REACH * sigma, 0))
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    f = low[:, None] + (high - low)[:, None] * (nodes + 1) / 2
    exponent = -0.5 * ((f**2 - centre[:, None]) / sigma[:, None]) ** 2
    density = np.exp(exponent - exponent.max(1, keepdims=True)) * weights
    density *= np.where(centric[:, None], 1.0, f)
    density /= density.sum(1, keepdims=True)
    mean = (density * f).sum(1)
    squared = (density * f**2).sum(1)
    return squared, mean, np.sqrt(np.maximum((density * (f - mean[:, None]) ** 2).sum(1), 0))
