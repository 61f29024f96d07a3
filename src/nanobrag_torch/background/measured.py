"""The radial profile of an image: what lies under its spots, as a material that can be put under a simulation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.background.amorphous import smooth_interpolation
from nanobrag_torch.background.radial import View, last_sine, radial_image
from nanobrag_torch.errors import InputError

Reals = NDArray[np.float64]

FEWEST = 20
"""A bin with fewer pixels says nothing."""
ENTRIES = 1 << 14
CLIPPED = 3.0
"""Deviations, of those that the middle half of a bin shows, beyond which a pixel belongs to a spot."""
QUARTILES_PER_SIGMA = 1.3489795003921634
ROUNDS = 3


@dataclass(frozen=True)
class MeasuredProfile:
    """Photons per solid angle at sin(theta), polarization divided out; linear between the bins."""

    sine: Reals  # [n] grows
    value: Reals  # [n]
    error: Reals  # [n] of its mean
    pixels: NDArray[np.int64]  # [n] that were averaged

    def image(self, pixels: Tensor | None, view: View, dtype: torch.dtype = torch.float64) -> Tensor:
        """Photons [n] of flat pixel indices on any detector and beam; all pixels for None."""
        step = last_sine(view) * (1 + 1e-9) / (ENTRIES - 4)
        at = step * torch.arange(ENTRIES, dtype=torch.float64)
        table = smooth_interpolation(torch.from_numpy(self.sine), torch.from_numpy(self.value), at)
        return radial_image(pixels, view, table.expand(view.incident.shape[0], -1).contiguous(), step, dtype)


def measure_profile(
    image: Tensor, view: View, *, mask: Tensor | None = None, bins: int = 200, robust: bool = True
) -> MeasuredProfile:
    """The profile of an image [panel, slow, fast] or (slow, fast) in photons.

    mask: True where a pixel counts. robust: leave out what lies far above or below the rest of a bin, such as spots.
    Raises InputError for an image without a bin of pixels.
    """
    values = image.detach().reshape(-1).to(torch.float64)
    if values.numel() != view.panels.shape[0] * view.image_shape[0] * view.image_shape[1]:
        raise InputError("image", tuple(image.shape), f"{view.panels.shape[0]} panels of {view.image_shape} pixels")
    top = last_sine(view)
    ramp = torch.linspace(0, top * (1 + 1e-9), ENTRIES, dtype=torch.float64)[None]
    step = float(ramp[0, 1])
    first = replace(view, incident=view.incident[:1], polarization=view.polarization[:1], oversample=1)
    own = radial_image(None, first, torch.ones_like(ramp), step, torch.float64)
    sine = radial_image(None, first, ramp, step, torch.float64) / own
    wanted = torch.isfinite(values) if mask is None else torch.isfinite(values) & (mask.reshape(-1) != 0)
    return _binned(sine[wanted].numpy(), values[wanted].numpy(), own[wanted].numpy(), top, bins, robust)


def _binned(sine: Reals, values: Reals, own: Reals, top: float, bins: int, robust: bool) -> MeasuredProfile:
    place = np.minimum((sine / top * bins).astype(np.int64), bins - 1)
    order = np.argsort(place, kind="stable")
    sine, values, own, place = sine[order], values[order], own[order], place[order]
    rows = []
    for low, high in zip(*(np.searchsorted(place, np.arange(bins), side) for side in ("left", "right")), strict=True):
        if high - low < FEWEST:
            continue
        kept = _kept(values[low:high] / own[low:high]) if robust else np.ones(high - low, bool)
        counts, share = values[low:high][kept], own[low:high][kept]
        value = counts.sum() / share.sum()
        error = np.sqrt(((counts - value * share) ** 2).sum()) / share.sum()
        rows.append((np.average(sine[low:high][kept], weights=share), value, error, kept.sum()))
    if len(rows) < 2:
        raise InputError("image", f"{len(values)} pixels", f"an image with {FEWEST} pixels in each of two bins or more")
    columns = np.array(rows).T
    return MeasuredProfile(columns[0], columns[1], columns[2], columns[3].astype(np.int64))


def _kept(ratios: Reals) -> NDArray[np.bool_]:
    """What lies about the median, by the spread of the middle half of what is left."""
    kept = np.ones(len(ratios), bool)
    for _ in range(ROUNDS):
        low, middle, high = np.percentile(ratios[kept], [25, 50, 75])
        spread = max((high - low) / QUARTILES_PER_SIGMA, 1e-12 * abs(middle))
        kept = np.abs(ratios - middle) <= CLIPPED * spread
        if kept.sum() < FEWEST:
            return np.ones(len(ratios), bool)
    return kept
