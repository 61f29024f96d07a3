"""Counting noise and normal deviates in machine code: the deviates of response.photons, bit for bit, on a CPU.

Random words are made for a block of pixels at once, in a loop without branches; each pixel then takes its own way.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nanobrag_torch.compilation import compiled
from nanobrag_torch.response.counters import (
    ATTEMPT_SHIFT,
    KEY_STEPS,
    MULTIPLIERS,
    PURPOSE_SHIFT,
    ROUNDS,
    WORD,
)
from nanobrag_torch.response.formulas import (
    INVERSES,
    LARGEST_COUNT,
    LN_2,
    LOG2_E,
    LOG_FACTORIALS,
    MANTISSA_BITS,
    MOST_BY_INVERSION,
    NORMAL_ABOVE,
    ROOT_HALF_BITS,
    ROOT_TWO_PI,
    SMALL_COUNT,
    SMALL_MEAN,
    log_of_mantissa,
    power_of_two,
    rejection_constants,
    sine_of_pi,
    stirling_rest,
)

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]
Bits = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int32]

BLOCK = 512
FEW = 64
"""Counts by inversion that are looked for side by side: many fill the vectors of a processor, few have no large one."""
_M0, _M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_K0, _K1 = np.uint64(KEY_STEPS[0]), np.uint64(KEY_STEPS[1])
_WORD, _HALF_WORD, _HIGH_PIXEL = np.uint64(WORD), np.uint64(32), np.uint64(0xFFFF)
_LEFT, _RIGHT = np.uint64(21), np.uint64(11)
_STEP = 2.0**-53


@compiled(inline="always")
def _two_uniforms(pixel: Any, second: Any, image: Any, seed: Any) -> Any:
    """Two deviates in (0, 1) of a pixel; second: attempt and purpose, in their places. All uint64."""
    a, b = pixel & _WORD, ((pixel >> _HALF_WORD) & _HIGH_PIXEL) | second
    c, d = image & _WORD, image >> _HALF_WORD
    first_key, second_key = seed & _WORD, seed >> _HALF_WORD
    for _ in range(ROUNDS):
        p, q = a * _M0, c * _M1
        a, b, c, d = (
            (q >> _HALF_WORD) ^ b ^ first_key,
            q & _WORD,
            (p >> _HALF_WORD) ^ d ^ second_key,
            p & _WORD,
        )
        first_key, second_key = (first_key + _K0) & _WORD, (second_key + _K1) & _WORD
    u, v = np.int64((a << _LEFT) | (b >> _RIGHT)), np.int64((c << _LEFT) | (d >> _RIGHT))
    return (float(u) + 0.5) * _STEP, (float(v) + 0.5) * _STEP


@compiled(inline="always")
def _logarithm(x: float, word: Reals, bits: Bits) -> float:
    """log(x) of a positive number; word and bits are one place in memory, seen as a number and as its bits."""
    word[0] = x
    exponent = (bits[0] - ROOT_HALF_BITS) >> MANTISSA_BITS
    bits[0] -= exponent << MANTISSA_BITS
    return float(exponent * LN_2 + log_of_mantissa(word[0]))


@compiled()
def _by_inversion(means: Floats, u: Reals, terms: Reals, below: Reals, counts: Counts) -> None:
    """The least k with u <= P(count <= k) of a few means below SMALL_MEAN, side by side; 0 elsewhere.

    terms: P(count = 0). All take as many steps as the largest count among them; a step too many changes nothing.
    """
    for i in range(len(means)):
        counts[i] = 0
        below[i] = terms[i] if np.float64(means[i]) < SMALL_MEAN else 2.0
    for count in range(1, MOST_BY_INVERSION + 1):
        beyond, inverse = 0, INVERSES[count]
        for i in range(len(means)):
            more = 1 if u[i] > below[i] else 0
            counts[i] += more
            beyond += more
            terms[i] = terms[i] * np.float64(means[i]) * inverse
            below[i] += terms[i]
        if beyond == 0:
            break


@compiled()
def _is_accepted(mean: float, count: float, v: float, share: float, word: Reals, bits: Bits) -> bool:
    """PTRS without its short cut; share: v / alpha over the density of the proposal."""
    if count < SMALL_COUNT:
        logarithm = count * _logarithm(mean, word, bits) - mean - LOG_FACTORIALS[int(count)]
        return bool(_logarithm(share, word, bits) <= logarithm)
    excess = count - mean - count * _logarithm(count / mean, word, bits) - stirling_rest(count)
    return bool(_logarithm(share * (ROOT_TWO_PI * math.sqrt(count)), word, bits) <= excess)


@compiled()
def _by_rejection(mean: float, u: float, v: float, pixel: Any, image: Any, seed: Any, word: Reals, bits: Bits) -> int:
    a, b, inverse_alpha, quick = rejection_constants(math.sqrt(mean))
    attempt = 0
    while True:
        centred = u - 0.5
        edge = 0.5 - abs(centred)
        count = math.floor((2.0 * a / edge + b) * centred + mean + 0.43)
        if edge >= 0.07 and v <= quick:
            return int(count)
        if count >= 0.0 and not (edge < 0.013 and v > edge):
            share = v * inverse_alpha / (a / (edge * edge) + b)
            if _is_accepted(mean, count, v, share, word, bits):
                return int(count)
        attempt += 1
        u, v = _two_uniforms(pixel, np.uint64(attempt << ATTEMPT_SHIFT), image, seed)


@compiled(inline="always")
def _normal(u: float, v: float, word: Reals, bits: Bits) -> float:
    """A normal deviate of two uniform ones (Box and Muller 1958)."""
    turn = 2.0 * v - 1.0  # from -1 to 1; sin(pi turn)
    if abs(turn) > 0.5:
        turn = math.copysign(1.0 - abs(turn), turn)
    return float(math.sqrt(-2.0 * _logarithm(u, word, bits)) * sine_of_pi(turn))


@compiled()
def _large_count(mean: float, u: float, v: float, pixel: Any, image: Any, seed: Any, word: Reals, bits: Bits) -> int:
    if mean <= NORMAL_ABOVE:
        return _by_rejection(mean, u, v, pixel, image, seed, word, bits)
    found = math.floor(mean + math.sqrt(mean) * _normal(u, v, word, bits) + 0.5)
    return int(min(found, float(LARGEST_COUNT)))


@compiled()
def _probability_of_none(means: Floats, terms: Reals, bits: Bits) -> tuple[float, float]:
    """exp(-mean) of a block, where it is small, into terms, whose bits those are; the least and the largest mean."""
    least, largest = np.float64(means[0]), 0.0
    for i in range(len(means)):
        mean = np.float64(means[i])
        least, largest = min(least, mean), max(largest, mean)
        turns = min(mean, SMALL_MEAN) * LOG2_E
        whole = math.floor(turns + 0.5)
        terms[i] = power_of_two(whole - turns)
        bits[i] -= int(whole) << MANTISSA_BITS
    return least, largest


@compiled()
def _quick_counts(means: Floats, u: Reals, v: Reals, counts: Counts) -> None:
    """Of means from SMALL_MEAN up, what PTRS accepts without a look at the probability, nearly all; -1 elsewhere."""
    for i in range(len(means)):
        small = np.float64(means[i]) < SMALL_MEAN
        mean = max(np.float64(means[i]), SMALL_MEAN)
        a, b, _, quick = rejection_constants(math.sqrt(mean))
        centred = u[i] - 0.5
        edge = 0.5 - abs(centred)
        count = math.floor((2.0 * a / edge + b) * centred + mean + 0.43)
        good = edge >= 0.07 and v[i] <= quick and mean <= NORMAL_ABOVE
        counts[i] = counts[i] if small else (int(count) if good else -1)


@compiled()
def poisson_fill(means: Floats, pixels: Bits, size: int, first: int, image: Any, seed: Any, counts: Counts) -> None:
    """Counts of means [n] that begin at place `first` of images of `size` pixels each.

    pixels [size]: the index of each, or none at all where the index is the place. image, seed: uint64.
    """
    word = np.empty(1)
    u, v, terms, below = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(FEW)
    index, number = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    term_bits, word_bits = terms.view(np.int64), word.view(np.int64)
    for start in range(0, len(means), BLOCK):
        block = means[start : start + BLOCK]
        found = counts[start : start + BLOCK]
        _label(pixels, size, first + start, image, index[: len(block)], number[: len(block)])
        for i in range(len(block)):
            u[i], v[i] = _two_uniforms(index[i], np.uint64(0), number[i], seed)
        least, largest = _probability_of_none(block, terms, term_bits)
        if least < SMALL_MEAN:
            for few in range(0, len(block), FEW):
                end = min(few + FEW, len(block))
                _by_inversion(block[few:end], u[few:end], terms[few:end], below, found[few:end])
        if largest >= SMALL_MEAN:
            _quick_counts(block, u, v, found)
            for i in range(len(block)):
                mean = np.float64(block[i])
                if found[i] < 0 or mean > NORMAL_ABOVE:
                    found[i] = _large_count(mean, u[i], v[i], index[i], number[i], seed, word, word_bits)


@compiled()
def _label(pixels: Bits, size: int, first: int, image: Any, index: Any, number: Any) -> None:
    """Pixel and image of consecutive places."""
    which, place = first // size, first % size
    for i in range(len(index)):
        index[i] = np.uint64(place if len(pixels) == 0 else pixels[place])
        number[i] = image + np.uint64(which)
        place += 1
        if place == size:
            which, place = which + 1, 0


@compiled()
def normal_fill(pixels: Bits, size: int, first: int, image: Any, seed: Any, purpose: int, deviates: Floats) -> None:
    """Normal deviates [n] of the pixels that begin at place `first`; arguments as for poisson_fill."""
    second = np.uint64(purpose << PURPOSE_SHIFT)
    u, v = np.empty(BLOCK), np.empty(BLOCK)
    index, number = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    bits = u.view(np.int64)
    for start in range(0, len(deviates), BLOCK):
        many = min(BLOCK, len(deviates) - start)
        _label(pixels, size, first + start, image, index[:many], number[:many])
        for i in range(many):
            u[i], v[i] = _two_uniforms(index[i], second, number[i], seed)
        for i in range(many):
            exponent = (bits[i] - ROOT_HALF_BITS) >> MANTISSA_BITS
            bits[i] -= exponent << MANTISSA_BITS
            turn = 2.0 * v[i] - 1.0
            folded = math.copysign(1.0 - abs(turn), turn) if abs(turn) > 0.5 else turn
            length = math.sqrt(-2.0 * (exponent * LN_2 + log_of_mantissa(u[i])))
            deviates[start + i] = np.float32(length * sine_of_pi(folded))


@compiled()
def uniform_fill(pixels: Bits, size: int, first: int, image: Any, seed: Any, purpose: int, deviates: Floats) -> None:
    """Uniform deviates [n] in [0, 1], rounded to float32; arguments as for normal_fill."""
    second = np.uint64(purpose << PURPOSE_SHIFT)
    index, number = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    for start in range(0, len(deviates), BLOCK):
        many = min(BLOCK, len(deviates) - start)
        _label(pixels, size, first + start, image, index[:many], number[:many])
        for i in range(many):
            deviates[start + i] = np.float32(_two_uniforms(index[i], second, number[i], seed)[0])
