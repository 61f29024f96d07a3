"""Intensities as many programs have them: boxes summed, shots scaled, observations averaged (a Monte-Carlo merge).

Every reflection that is predicted to light the detector counts, each as if it were full; partiality is what the average
takes away. It is given what a refinement has to find: the true orientation and cell of every shot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.refinement.synthetic import Exposure, Truth

Floats = NDArray[np.float64]
HALF, RING = 4, 7
"""Pixels from the centre that are summed, and those around them, to RING, whose mean is the background."""
ROUNDS = 10
FEWEST = 2
"""Observations of a reflection that give it a standard deviation."""


class Averaged(NamedTuple):
    """Mean intensities [N], their standard deviations by the spread of the observations, and how many there were."""

    intensity: Floats
    sigma: Floats
    times: NDArray[np.int64]


def summed(exposure: Exposure, truth: Truth) -> tuple[NDArray[np.int64], Floats]:
    """Indices [b, 3] and background-subtracted sums [b] of all predicted spots whose box is inside a panel.

    Corrected for polarization and for the solid angle of a pixel.
    """
    counts = exposure.counts if exposure.counts.ndim == 3 else exposure.counts[None]
    spots = exposure.spots
    whole = np.floor(spots.centre).astype(np.int64)
    size = np.array(counts.shape[:0:-1])
    inside = ((whole >= RING) & (whole < size - RING)).all(1)
    slow, fast = np.mgrid[-RING : RING + 1, -RING : RING + 1].reshape(2, -1)
    own = (np.abs(slow) <= HALF) & (np.abs(fast) <= HALF)
    places = spots.panel[inside][:, None], whole[inside, 1][:, None] + slow, whole[inside, 0][:, None] + fast
    boxes = counts[places]
    level = boxes[:, ~own].mean(1)
    sums = boxes[:, own].sum(1) - own.sum() * level
    return spots.hkl[inside], sums / _seen(truth, spots.panel[inside], spots.centre[inside])


def _seen(truth: Truth, panel: NDArray[np.int64], centre: Floats) -> Floats:
    """What polarization and solid angle leave of a spot [b] at a centre [b, 2] on a panel, over that of the nearest."""
    (data,) = truth.experiments
    assert data.detector is not None and data.beam is not None and data.beam.polarization_normal is not None
    places = np.zeros((len(centre), 3))
    slant = np.zeros(len(centre))
    for number, one in enumerate(data.detector.panels):
        own = panel == number
        places[own] = one.positions_mm(centre[own, 0], centre[own, 1])
        slant[own] = np.abs(places[own] @ one.normal)
    far = np.linalg.norm(places, axis=1)
    normal = data.beam.polarization_normal
    across = np.cross(normal, data.beam.direction)
    share = float(data.beam.polarization_fraction or 0.5)  # unpolarized
    polarized = share * (1 - (places @ across / far) ** 2) + (1 - share) * (1 - (places @ normal / far) ** 2)
    angle = slant / far**3
    return np.asarray(polarized * angle / angle.max())


def averaged(shots: Sequence[tuple[NDArray[np.int64], Floats]], count: int) -> Averaged:
    """Averages [N] of scaled shots, each given as places in the list and sums; the mean scale is one.

    A shot's scale is the best factor between its sums and the averages of the round before.
    """
    shot = np.concatenate([np.full(len(sums), n) for n, (_, sums) in enumerate(shots)])
    place, total = np.concatenate([p for p, _ in shots]), np.concatenate([s for _, s in shots])
    number = np.bincount(place, minlength=count)
    scale = np.ones(len(shots))
    for _ in range(ROUNDS):
        mean = np.bincount(place, total / scale[shot], count) / number.clip(1)
        top = np.bincount(shot, total * mean[place], len(shots))
        scale = (top / np.bincount(shot, mean[place] ** 2, len(shots))).clip(1e-3)
        scale /= np.exp(np.log(scale).mean())
    scaled = total / scale[shot]
    mean = np.bincount(place, scaled, count) / number.clip(1)
    spread = np.bincount(place, (scaled - mean[place]) ** 2, count)
    enough = number >= FEWEST
    sigma = np.sqrt(spread / (number.clip(FEWEST) - 1) / number.clip(1))
    return Averaged(np.where(number > 0, mean, np.nan), np.where(enough, sigma, np.nan), number)
