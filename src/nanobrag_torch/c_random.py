"""The C program's random numbers, bit for bit (reference-behaviour section 9): uniform, normal, Poisson, orientations.

A stream is known by its state, an integer below 2^31: `-seed n` starts a stream at -n. A state that is not positive
fills the shuffle table anew at the next draw; a positive one goes on with the table as it is, whichever stream filled
it. That table, the last output and the spare normal deviate are shared by all streams of a run, in one `Streams`. The C
program also keeps the constants of the last Poisson mean; they depend on the mean alone and are formed where needed.

Roundings to float32 are part of the contract: every np.float32 below stands where the C program stores a float, and
every np.float64 where it computes with one (numba's float() leaves single precision as it is).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nanobrag_torch.compilation import compiled
from nanobrag_torch.physics.rotations import axis_rotation, quaternion_rotation

Reals = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Draw = tuple[int, np.float32]

_MODULUS = 2147483647
_MULTIPLIER = 16807
_LAST = 32  # where the table keeps the last output, after its 32 entries
_LARGEST = np.float32(1.0 - 1.2e-7)
_THIRD = np.float32(1.0 / 3.0)
_NORMAL_ABOVE = 1.0e6  # means from which the C program takes a normal deviate for a Poisson one


@dataclass(frozen=True)
class Streams:
    """What the streams of one run share: the shuffle table with the last output, and the spare normal deviate."""

    table: Integers = field(default_factory=lambda: np.zeros(33, np.int64))
    spare: Floats = field(default_factory=lambda: np.zeros(2, np.float32))  # is there one; its value

    def draw(self, state: int) -> tuple[float, int]:
        """A uniform deviate in (0, 1), and the stream's next state (section 9.1)."""
        state, uniform = _draw(state, self.table)
        return float(uniform), int(state)

    def gaussian(self, state: int) -> tuple[float, int]:
        """A normal deviate, and the stream's next state (section 9.2)."""
        state, deviate = gaussian_deviate(state, self.table, self.spare)
        return float(deviate), int(state)

    def poisson(self, means: Floats, state: int) -> tuple[Floats, int]:
        """Poisson deviates of finite means, drawn in the order of memory, and the stream's next state (section 9.3).

        Means above a million give normal deviates that are not rounded to integers; negative means give 0.
        """
        means = np.ascontiguousarray(means, np.float32)
        counts = np.empty_like(means)
        state = _poisson_fill(means.reshape(-1), counts.reshape(-1), state, self.table, self.spare)
        return counts, int(state)


class MosaicDomains(NamedTuple):
    """Random domains before their spread is known: domain m turns by spread * angles[m] about axes[m]."""

    axes: Tensor  # [M, 3], unit length, float64
    angles: Tensor  # [M], for a spread of one, float32 as the C program draws them; the first is 0
    next_state: int  # of the stream, for who draws on


def random_axes(streams: Streams, state: int, count: int) -> tuple[Reals, Floats, int]:
    """Axes (count, 3) of unit length, angles (count,) for a spread of one, and the next state (section 9.4)."""
    axes, factors = np.empty((count, 3)), np.empty(count, np.float32)
    state = _axes_fill(axes, factors, state, streams.table)
    return axes, factors, int(state)


def random_domains(streams: Streams, state: int, count: int) -> MosaicDomains:
    """Draw `count` domains. The first takes its three deviates like the others, and then is not turned."""
    axes, angles, next_state = random_axes(streams, state, count)
    angles[:1] = 0.0
    return MosaicDomains(torch.from_numpy(axes), torch.from_numpy(angles), next_state)


def random_rotations(streams: Streams, state: int, spread_rad: float, count: int) -> tuple[Reals, int]:
    """Rotation matrices (count, 3, 3) within a spread, applied to column vectors, and the next state (section 9.4)."""
    axes, factors, state = random_axes(streams, state, count)
    angles = (np.float32(spread_rad) * factors).astype(np.float64)
    rotations: Reals = axis_rotation(torch.from_numpy(axes), torch.from_numpy(angles)).numpy()
    return rotations, state


def misset_angles(streams: Streams, state: int) -> tuple[float, float, float]:
    """The C program's random misset about x, then y, then z, in radians (section 9.4).

    Its spread of 90 is taken as radians, so orientations are not quite uniform; `uniform_misset_angles` gives those.
    """
    rotations, _ = random_rotations(streams, state, 90.0, 1)
    return angles_about_xyz(rotations[0])


def uniform_misset_angles(state: int) -> tuple[float, float, float]:
    """A misset (radians) that is uniform over all orientations, from a stream of its own.

    Shoemake, Graphics Gems III (1992), 124: a unit quaternion from three uniform deviates.
    """
    streams = Streams()
    share, state = streams.draw(state)
    first, state = streams.draw(state)
    second, state = streams.draw(state)
    near, far = math.sqrt(1.0 - share), math.sqrt(share)
    x, y = near * math.sin(2.0 * math.pi * first), near * math.cos(2.0 * math.pi * first)
    z, w = far * math.sin(2.0 * math.pi * second), far * math.cos(2.0 * math.pi * second)
    quaternion = torch.tensor([w, x, y, z], dtype=torch.float64)
    return angles_about_xyz(quaternion_rotation(quaternion).numpy())


def angles_about_xyz(rotation: Reals) -> tuple[float, float, float]:
    """Angles whose product Rz Ry Rx is the rotation."""
    (xx, xy, _), (yx, yy, _), (zx, zy, zz) = rotation / np.linalg.norm(rotation, axis=1, keepdims=True)
    if zx * zx >= 1.0:
        return math.pi, math.pi / 2.0, math.atan2(xy, -yy)
    return math.atan2(zy, zz), math.atan2(-zx, math.sqrt(zy * zy + zz * zz)), math.atan2(yx, xx)


@compiled()
def _next(state: int) -> int:
    """Park and Miller's minimal standard generator, Commun. ACM 31 (1988), 1192."""
    return _MULTIPLIER * state % _MODULUS


@compiled()
def _draw(state: int, table: Integers) -> Draw:
    if state <= 0 or table[_LAST] == 0:
        state = max(1, -state)
        for entry in range(39, -1, -1):
            state = _next(state)
            if entry < 32:
                table[entry] = state
        table[_LAST] = table[0]
    state = _next(state)
    entry = table[_LAST] >> 26
    table[_LAST] = table[entry]
    table[entry] = state
    return state, min(np.float32(table[_LAST] * (1.0 / _MODULUS)), _LARGEST)


@compiled(title="random rotations")
def _axes_fill(axes: Reals, factors: Floats, state: int, table: Integers) -> int:
    for i in range(len(factors)):
        state, first = _draw(state, table)
        state, second = _draw(state, table)
        state, third = _draw(state, table)
        turn, height, depth = (
            2.0 * np.float64(first) - 1.0,
            2.0 * np.float64(second) - 1.0,
            2.0 * np.float64(third) - 1.0,
        )
        radius = math.sqrt(1.0 - height * height)
        axes[i, 0] = radius * math.sin(math.pi * turn)
        axes[i, 1] = radius * math.cos(math.pi * turn)
        axes[i, 2] = height
        factors[i] = np.float32(1.0 - depth * depth) ** _THIRD
    return state


@compiled()
def gaussian_deviate(state: int, table: Integers, spare: Floats) -> Draw:
    """The next state, and a normal deviate."""
    if spare[0] != 0:
        spare[0] = 0
        return state, spare[1]
    first = second = square = np.float32(0.0)
    while square == 0 or square >= 1:
        state, uniform = _draw(state, table)
        first = np.float32(2.0 * np.float64(uniform) - 1.0)
        state, uniform = _draw(state, table)
        second = np.float32(2.0 * np.float64(uniform) - 1.0)
        square = first * first + second * second
    factor = np.float32(math.sqrt(-2.0 * math.log(np.float64(square)) / np.float64(square)))
    spare[0], spare[1] = 1, first * factor
    return state, second * factor


@compiled()
def _log_gamma(argument: np.float32) -> np.float32:
    """Lanczos, SIAM J. Numer. Anal. B 1 (1964), 86, with the C program's coefficients."""
    x = np.float64(argument)
    series = 1.000000000190015 + 76.18009172947146 / (x + 1.0)
    series += -86.50532032941677 / (x + 2.0)
    series += 24.01409824083091 / (x + 3.0)
    series += -1.231739572450155 / (x + 4.0)
    series += 0.1208650973866179e-2 / (x + 5.0)
    series += -0.5395239384953e-5 / (x + 6.0)
    power = x + 5.5
    power -= (x + 0.5) * math.log(power)
    return np.float32(-power + math.log(2.5066282746310005 * series / x))


@compiled()
def _poisson_by_product(mean: np.float32, state: int, table: Integers) -> Draw:
    """For means below 12: how many uniform deviates multiply to exp(-mean)."""
    limit = np.float32(math.exp(-np.float64(mean)))
    count, product = 0, np.float32(1.0)
    state, uniform = _draw(state, table)
    product = product * uniform
    while product > limit:
        count += 1
        state, uniform = _draw(state, table)
        product = product * uniform
    return state, np.float32(count)


@compiled()
def _poisson_by_rejection(mean: np.float32, state: int, table: Integers) -> Draw:
    """For larger means: rejection under a Lorentzian."""
    width, log_mean = np.float32(math.sqrt(2.0 * np.float64(mean))), np.float32(math.log(np.float64(mean)))
    peak = mean * log_mean - _log_gamma(np.float32(np.float64(mean) + 1.0))
    while True:
        count = np.float32(-1.0)
        slope = np.float32(0.0)
        while count < 0:
            state, uniform = _draw(state, table)
            slope = np.float32(math.tan(math.pi * np.float64(uniform)))
            count = width * slope + mean
        count = np.float32(math.floor(count))
        exponent = count * log_mean - _log_gamma(np.float32(np.float64(count) + 1.0)) - peak
        accepted = np.float32(0.9 * (1.0 + np.float64(slope * slope)) * math.exp(np.float64(exponent)))
        state, uniform = _draw(state, table)
        if uniform <= accepted:
            return state, count


@compiled()
def poisson_deviate(mean: np.float32, state: int, table: Integers, spare: Floats) -> Draw:
    """The next state, and a Poisson deviate; a normal one above a million."""
    if mean > _NORMAL_ABOVE:
        state, deviate = gaussian_deviate(state, table, spare)
        return state, np.float32(np.float64(mean) + math.sqrt(np.float64(mean)) * np.float64(deviate))
    if mean < 12:
        return _poisson_by_product(mean, state, table)
    return _poisson_by_rejection(mean, state, table)


@compiled(title="the serial photon counts")
def _poisson_fill(means: Floats, counts: Floats, state: int, table: Integers, spare: Floats) -> int:
    for i in range(len(means)):
        state, counts[i] = poisson_deviate(means[i], state, table, spare)
    return state
