"""Random numbers without state or order: a deviate is a function of seed, image, pixel, purpose and attempt alone.

Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011): image i of seed s is the same in any batch, on any number of
devices, drawn whole or in pieces. This is the plain form, on any device; response.fused has the same in machine code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError

COUNTING, READOUT, SENSITIVITY, FLICKER, MODE_NOISE, THINNING = range(6)
"""What a deviate is for; at most 16 purposes."""
WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
PURPOSE_SHIFT, ATTEMPT_SHIFT = 28, 16
"""Where a purpose and an attempt stand in the second word of a counter; below them the high bits of the pixel."""
LARGEST = 1 << 64


def require_number(name: str, number: object) -> None:
    """Raise InputError unless it is a whole number below 2^64, such as a seed or the number of an image."""
    if not (isinstance(number, int) and not isinstance(number, bool) and 0 <= number < LARGEST):
        raise InputError(name, number, "a whole number from 0 to 2^64 - 1")


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four words of 32 random bits (in int64) of a counter of four such words and a key of two."""
    a, b, c, d = counter
    first, second = key
    for _ in range(ROUNDS):
        high_a, low_a = _product(a, MULTIPLIERS[0])
        high_c, low_c = _product(c, MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
        first, second = (first + KEY_STEPS[0]) & WORD, (second + KEY_STEPS[1]) & WORD
    return a, b, c, d


def _product(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low word of the product; int64 products wrap, which leaves all 64 bits right."""
    signed = multiplier - (1 << 32) if multiplier >= 1 << 31 else multiplier
    product = word * signed + (word << 32 if signed < 0 else 0)
    return (product >> 32) & WORD, product & WORD


def uniforms(pixel: Tensor, image: Tensor, seed: int, attempt: int, purpose: int = COUNTING) -> tuple[Tensor, Tensor]:
    """Two uniform deviates in (0, 1), float64 with 53 random bits each, for every pixel of its image; int64 tensors."""
    high = ((pixel >> 32) & 0xFFFF) | (attempt << ATTEMPT_SHIFT) | (purpose << PURPOSE_SHIFT)
    counter = pixel & WORD, high, image & WORD, (image >> 32) & WORD
    a, b, c, d = philox(counter, (seed & WORD, (seed >> 32) & WORD))
    return _uniform(a, b), _uniform(c, d)


def _uniform(high: Tensor, low: Tensor) -> Tensor:
    bits = (high << 21) | (low >> 11)
    return (bits.to(torch.float64) + 0.5) * 2.0**-53
