"""Counting noise on any device, from a counter-based generator: no state, no order.

The deviate of a pixel depends on the seed, the number of the image and the index of the pixel alone (Philox 4x32-10,
Salmon et al. 2011), so image i of seed s is the same in any batch, on any number of devices, drawn whole or in pieces.
It is the noise of Simulator.counts, Experiment.counts and `nb simulate --noise`. The command nanoBragg draws the C
program's, one deviate after the other: nanobrag_torch.response.serial_noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError

SMALL_MEAN = 10.0
"""Below this, inversion; from here, transformed rejection (Hoermann 1993, PTRS)."""
NORMAL_ABOVE = 1e8
"""Above this, a normal deviate rounded to a whole number: skew and kurtosis differ by 1e-4 and 1e-8."""
_LARGEST_SMALL = 64  # P(count above this | mean 10) = 3e-29
_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LARGEST_COUNT = 65535
_AT_ONCE_ON_A_CPU, _AT_ONCE = 2**16, 2**22
"""Pixels drawn at once: what stays in a CPU's cache; elsewhere what bounds memory to less than a gigabyte."""


def poisson_counts(
    means: Tensor, seed: int, *, first_image: int = 0, pixels: Tensor | None = None, validate: bool = True
) -> Tensor:
    """Photons counted, int64 like `means` [images, ...], where means (photons per pixel) are expected.

    The first axis runs over images first_image, first_image + 1 ...; pixels [...]: flat indices of the pixels, when not
    all of an image are there, in order. Raises InputError for a mean that is negative or not finite, unless validate
    is False, which spares a GPU a look at the means; and for a seed or image that is no whole number below 2^64.
    """
    for name, number in (("seed", seed), ("image", first_image)):
        if not (isinstance(number, int) and 0 <= number < 1 << 64):
            raise InputError(name, number, "a whole number from 0 to 2^64 - 1")
    if means.dim() < 1 or (validate and not bool((torch.isfinite(means) & (means >= 0)).all())):
        raise InputError("means", "negative or not finite", "finite photons per pixel, one image or more [images, ...]")
    flat = means.detach().reshape(-1)
    size = means[0].numel() if means.shape[0] else 1
    index = torch.arange(size, device=means.device) if pixels is None else pixels.reshape(-1).to(torch.int64)
    counts = torch.empty(flat.shape, dtype=torch.int64, device=means.device)
    step = _AT_ONCE_ON_A_CPU if means.device.type == "cpu" else _AT_ONCE
    for start in range(0, flat.numel(), step):
        place = torch.arange(start, min(start + step, flat.numel()), device=means.device)
        image = first_image + torch.div(place, size, rounding_mode="floor")
        mean = flat[start : start + step].to(torch.float64)
        counts[start : start + step] = _counts(mean, index[place % size], image, seed)
    return counts.reshape(means.shape)


def recorded_counts(photons: Tensor, adc: float = 40.0) -> Tensor:
    """What a detector records of `photons` (any shape): photons + adc, cut off to 0...65535, uint16."""
    return (photons.to(torch.float64) + adc).clamp(0, _LARGEST_COUNT).to(torch.int32).to(torch.uint16)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four words of 32 random bits (in int64) of a counter of four such words and a key of two."""
    a, b, c, d = counter
    first, second = key
    for _ in range(_ROUNDS):
        high_a, low_a = _product(a, _MULTIPLIERS[0])
        high_c, low_c = _product(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
        first, second = (first + _KEY_STEPS[0]) & _WORD, (second + _KEY_STEPS[1]) & _WORD
    return a, b, c, d


def _product(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low word of the product; int64 products wrap, which leaves all 64 bits right."""
    signed = multiplier - (1 << 32) if multiplier >= 1 << 31 else multiplier
    product = word * signed + (word << 32 if signed < 0 else 0)
    return (product >> 32) & _WORD, product & _WORD


def uniforms(pixel: Tensor, image: Tensor, seed: int, draw: int) -> tuple[Tensor, Tensor]:
    """Two uniform deviates in (0, 1), float64 with 53 random bits each, for every pixel; `draw` counts the attempts."""
    high = (pixel >> 32) & 0xFFFF
    counter = pixel & _WORD, high | (draw << 16), image & _WORD, (image >> 32) & _WORD
    a, b, c, d = philox(counter, (seed & _WORD, (seed >> 32) & _WORD))
    return _uniform(a, b), _uniform(c, d)


def _uniform(high: Tensor, low: Tensor) -> Tensor:
    bits = (high << 21) | (low >> 11)
    return (bits.to(torch.float64) + 0.5) * 2.0**-53


def _counts(mean: Tensor, pixel: Tensor, image: Tensor, seed: int) -> Tensor:
    u, v = uniforms(pixel, image, seed, 0)
    counts = torch.zeros_like(pixel)
    ranges: tuple[tuple[Tensor, Callable[..., Tensor]], ...] = (
        ((mean > 0) & (mean < SMALL_MEAN), _by_inversion),
        ((mean >= SMALL_MEAN) & (mean <= NORMAL_ABOVE), _by_rejection),
        (mean > NORMAL_ABOVE, _by_normal),
    )
    for chosen, method in ranges:
        place = chosen.nonzero().squeeze(1)
        if place.numel():
            counts[place] = method(mean[place], u[place], v[place], pixel[place], image[place], seed)
    return counts


def _by_inversion(mean: Tensor, u: Tensor, v: Tensor, pixel: Tensor, image: Tensor, seed: int) -> Tensor:
    """The least k with u <= P(count <= k)."""
    term = torch.exp(-mean)
    below, counts = term.clone(), torch.zeros_like(pixel)
    for k in range(1, _LARGEST_SMALL + 1):
        counts += u > below
        term = term * mean / k
        below += term
    return counts


def _by_rejection(mean: Tensor, u: Tensor, v: Tensor, pixel: Tensor, image: Tensor, seed: int) -> Tensor:
    """PTRS: a transformed uniform deviate, accepted with the probability that makes it Poisson; nine in ten are."""
    counts, place, draw = torch.zeros_like(pixel), torch.arange(mean.numel(), device=mean.device), 0
    while place.numel():
        count, accepted = _proposal(mean[place], u, v)
        counts[place[accepted]] = count[accepted].to(torch.int64)
        place, draw = place[~accepted], draw + 1
        u, v = uniforms(pixel[place], image[place], seed, draw)
    return counts


def _proposal(mean: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    b = 0.931 + 2.53 * torch.sqrt(mean)
    a = -0.059 + 0.02483 * b
    inverse_alpha, quick = 1.1239 + 1.1328 / (b - 3.4), 0.9277 - 3.6224 / (b - 2)
    centred = u - 0.5
    edge = 0.5 - centred.abs()
    count = torch.floor((2 * a / edge + b) * centred + mean + 0.43)
    hat = torch.log(v * inverse_alpha / (a / (edge * edge) + b))
    exact = hat <= count * torch.log(mean) - mean - torch.lgamma(count.clamp(min=0) + 1)
    tail = (count < 0) | ((edge < 0.013) & (v > edge))
    return count, ((edge >= 0.07) & (v <= quick)) | (exact & ~tail)


def _by_normal(mean: Tensor, u: Tensor, v: Tensor, pixel: Tensor, image: Tensor, seed: int) -> Tensor:
    deviate = torch.sqrt(-2 * torch.log(u)) * torch.cos(2 * math.pi * v)
    return torch.round(mean + torch.sqrt(mean) * deviate).to(torch.int64)
