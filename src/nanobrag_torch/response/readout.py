"""From counted photons to the numbers in a file: count-rate loss, gain or gain modes, noise, whole numbers, gaps."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobrag_torch.response.config import WORDS, CountRateConfig, GainModesConfig

MODE_BITS = (0, 1, 3)
"""What JUNGFRAU writes above the ADC's bits in its three modes."""


def observed_rate(photons: Tensor, config: CountRateConfig) -> Tensor:
    """Counts that a busy counter sees of photons a frame (mean rates; Knoll, Radiation Detection, ch. 4.VII)."""
    busy = photons * config.share
    return photons / (1 + busy) if config.counter == "nonparalysable" else photons * torch.exp(-busy)


def rate_variance(photons: Tensor, config: CountRateConfig) -> Tensor:
    """Variance of the counts of a busy counter, for frames much longer than the dead time (Mueller 1973)."""
    busy = photons * config.share
    if config.counter == "nonparalysable":
        return photons / (1 + busy) ** 3
    seen = torch.exp(-busy)
    return photons * seen * (1 - 2 * busy * seen).clamp(min=0)


def lose_counts(counts: Tensor, photons: Tensor, config: CountRateConfig, uniform: Tensor) -> Tensor:
    """Poisson counts of expected photons, as a busy counter has them: mean and variance are those of the formulas.

    uniform: deviates in (0, 1) that decide how a fraction is rounded, so that the mean stays right.
    """
    mean = photons.to(torch.float64)
    slope = torch.sqrt(rate_variance(mean, config) / mean.clamp(min=1e-30))
    seen = observed_rate(mean, config) + (counts - mean) * slope
    seen = torch.where(mean > 0, seen, torch.zeros_like(seen))
    return torch.floor(seen.clamp(min=0) + uniform)


def chosen_mode(charge: Tensor, config: GainModesConfig) -> Tensor:
    """Mode of each pixel, 0 the highest gain, by its charge in photons."""
    edges = torch.tensor(list(config.switch_photons), dtype=charge.dtype, device=charge.device)
    return torch.bucketize(charge, edges)


def through_modes(charge: Tensor, normal: Tensor, config: GainModesConfig) -> Tensor:
    """ADU of an integrating pixel with its mode in the high bits, or photons converted back; float64.

    charge: photons; normal: deviates. ADU are whole and within the ADC's range, whatever they are converted to.
    """
    mode, steps = chosen_mode(charge, config), 2**config.adc_bits
    gain, pedestal, noise = (
        torch.tensor(list(values), dtype=torch.float64, device=charge.device)[mode]
        for values in (config.gains, config.pedestals, config.noises)
    )
    adu: Tensor = pedestal + gain * charge + noise * normal
    adu = torch.round(adu).clamp(0, steps - 1)
    if not config.packed:
        back: Tensor = (adu - pedestal) / gain
        return back
    bits = torch.tensor(MODE_BITS[: len(config.gains)], dtype=torch.float64, device=charge.device)[mode]
    packed: Tensor = adu + bits * steps
    return packed


def whole_numbers(adu: Tensor, rounding: str) -> Tensor:
    """Values rounded to the nearest whole number (halves up), towards 0, or not at all."""
    if rounding == "nearest":
        return torch.floor(adu + 0.5)
    return torch.trunc(adu) if rounding == "down" else adu


def cut_off(
    values: Tensor, dtype: str, lowest: float | None, saturation: float | None, overload: float | None
) -> Tensor:
    """Values within what is recorded; those above the saturation become the overload value."""
    low, high = WORDS.get(dtype, (-float("inf"), float("inf")))
    low = low if lowest is None else max(low, lowest)
    top = high if saturation is None else min(high, saturation)
    least, most = torch.aminmax(values) if values.numel() else (values.new_zeros(()),) * 2
    if low <= float(least) and float(most) <= top:  # nearly every image, and seen in a fraction of the time
        return values
    recorded = values.clamp(min=low)
    above = recorded > top
    return recorded.masked_fill(above, top if overload is None else overload) if bool(above.any()) else recorded
