"""Anomalous differences, and intensities, of shots that share them: against the truth, and against sums of boxes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from benchmarks.rows import Found
from benchmarks.shot_pool import Pool, gathered, with_mates, wrong_by_a_fifth
from benchmarks.summation import Averaged, averaged
from numpy.typing import NDArray

from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.ensemble import refine_intensities
from nanobrag_torch.refinement.merged import Merged
from nanobrag_torch.refinement.shared_prior import SharedPrior

Floats = NDArray[np.float64]
NOTHING_KNOWN = SharedPrior(sigma_F=math.inf)
SHARES = (32, 16, 8, 4, 2, 1)
"""A refinement gets all shots over these, from the fewest on."""
FEWEST = 100
"""Reflections, or pairs, that are compared."""


class Differences(NamedTuple):
    """I+ - I- of pairs that were seen, their standard deviations, and those of the truth [m]."""

    found: Floats
    sigma: Floats
    true: Floats

    @classmethod
    def of(cls, merged: Merged, truth: Floats) -> Differences:
        """All pairs of which both were seen."""
        plus, minus = merged.shared.pairs.numpy()
        both = merged.seen[plus] & merged.seen[minus]
        I, s = merged.intensity, merged.sigma
        pairs = (I[plus] - I[minus], np.hypot(s[plus], s[minus]), truth[plus] - truth[minus])
        return cls(*(values[both] for values in pairs))

    def correlation(self) -> float:
        """With the truth."""
        return float(np.corrcoef(self.found, self.true)[0, 1])

    def allowed(self) -> float:
        """The correlation that standard deviations allow."""
        variance = self.true.var()
        return float(np.sqrt(variance / (variance + (self.sigma**2).mean())))

    def slope(self) -> tuple[float, float]:
        """On the truth, weighted, and its standard error."""
        weight = self.sigma**-2
        norm = (weight * self.true**2).sum()
        return float((weight * self.found * self.true).sum() / norm), float(norm**-0.5)


def anomalous(count: int) -> Found:
    """Differences of mates against those that were planted: correlation, what sigmas allow, and the slope."""
    merged, truth, _ = _with_mates(with_mates(), count)
    found = Differences.of(merged, truth)
    cc, allowed, (slope, error) = found.correlation(), found.allowed(), found.slope()
    pulls = float(np.sqrt((((found.found - slope * found.true) / found.sigma) ** 2).mean()))
    met = cc >= 0.9 * allowed and abs(slope - 1) < 3 * error and error <= 0.02
    said = f"{cc:.3f} of {allowed:.3f}; slope {slope:.4f} +- {error:.4f}; pulls {pulls:.2f} of {len(found.true)} pairs"
    return Found("correlation 0.9 of what sigmas allow, slope 1 within 3 of at most 0.02", said, met, count)


def _with_mates(pool: Pool, count: int) -> tuple[Merged, Floats, Asymmetric]:
    """Mates refined apart, with nothing known of them; the true intensities, and the list."""
    own, shared = gathered(pool, count, anomalous=True)
    truth = Asymmetric.of(pool.shots.base.factors, anomalous=True).intensity.numpy()
    return refine_intensities(own, shared, prior=NOTHING_KNOWN), truth, shared


def summation(count: int) -> Found:
    """How many shots a refinement needs to be as near to the truth as sums and averages of all of them."""
    said, factors = [], []
    for word, pool, mates in (("I", wrong_by_a_fifth(), False), ("differences of mates", with_mates(), True)):
        factor, text = _factor(pool, count, mates=mates)
        factors.append(factor)
        said.append(f"{word}: {text}")
    bar = "as near to the truth with half the shots of a Monte-Carlo merge"
    return Found(bar, "; ".join(said), min(factors) >= 2, count)


def _factor(pool: Pool, count: int, *, mates: bool) -> tuple[float, str]:
    """By what factor fewer shots do, as the shares have it, and how."""
    truth = Asymmetric.of(pool.shots.base.factors, anomalous=mates).intensity.numpy()
    summed = _averages(pool, count, mates=mates)
    for share in SHARES:
        own, shared = gathered(pool, count // share, anomalous=mates)
        merged = refine_intensities(own, shared, prior=NOTHING_KNOWN)
        ours, theirs, size = _correlations(merged, summed, truth, mates=mates)
        if ours >= theirs and size >= FEWEST:
            words = f"{ours:.4f} of {count // share} shots, {theirs:.4f} of {count} summed, {size} compared"
            return float(share), f"factor {share} or more ({words})"
    return 0.0, f"{ours:.4f} against {theirs:.4f} of as many shots summed"


def _averages(pool: Pool, count: int, *, mates: bool) -> Averaged:
    shared = Asymmetric.of(pool.start, anomalous=mates)
    shots = []
    for hkl, sums in pool.sums(count):
        known = shared.knows(hkl)
        shots.append((shared.places(hkl[known]).numpy(), sums[known]))
    return averaged(shots, len(shared))


def _correlations(merged: Merged, summed: Averaged, truth: Floats, *, mates: bool) -> tuple[float, float, int]:
    """With the truth, of both on the same reflections or pairs, and how many there are."""
    both = merged.seen & (summed.times > 0)
    values = merged.intensity, summed.intensity, truth
    if mates:
        plus, minus = merged.shared.pairs.numpy()
        pairs = both[plus] & both[minus]
        ours, theirs, true = ((v[plus] - v[minus])[pairs] for v in values)
    else:
        ours, theirs, true = (v[both] for v in values)
    return float(np.corrcoef(ours, true)[0, 1]), float(np.corrcoef(theirs, true)[0, 1]), len(true)
