"""Distributions that a recipe may put in the place of a number, and the counters that they are drawn by.

A deviate depends on the seed, the number of the image and the name of what is drawn (Philox 4x32-10), so that image i
has the same numbers whichever images are made before it, and adding a distribution to a recipe changes no other draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.response.counters import uniforms

Reals = NDArray[np.float64]
Row = Mapping[str, float]

NOT_A_PIXEL = 0xFFFF << 32
"""Added to the counter, so that no draw of a recipe shares its random bits with the noise of a pixel."""
_STANDARD = NormalDist()


class Draw(Protocol):
    """What stands for a number in a recipe."""

    def value(self, u: float, row: Row) -> float:
        """The number for a uniform deviate in (0, 1) and a row of the recipe's table."""

    def support(self) -> tuple[float, float]:
        """The least and the largest number that can come out."""

    def tree(self) -> Any:
        """As a recipe says it."""


@dataclass(frozen=True)
class Fixed:
    """Always the same number."""

    number: float

    def value(self, u: float, row: Row) -> float:
        """The number."""
        return self.number

    def support(self) -> tuple[float, float]:
        """The number, twice."""
        return self.number, self.number

    def tree(self) -> Any:
        """The number."""
        return self.number


@dataclass(frozen=True)
class Uniform:
    """Every number between two bounds is as likely; of whole numbers, the bounds included."""

    low: float
    high: float
    whole: bool = False

    def value(self, u: float, row: Row) -> float:
        """Between the bounds."""
        if self.whole:
            return min(math.floor(self.low + u * (self.high - self.low + 1)), self.high)
        return self.low + u * (self.high - self.low)

    def support(self) -> tuple[float, float]:
        """The bounds."""
        return self.low, self.high

    def tree(self) -> Any:
        """Both bounds."""
        return {"uniform": [self.low, self.high]}


@dataclass(frozen=True)
class Normal:
    """Normally distributed, or its logarithm is; cut to `within` without piling up at its ends."""

    middle: float  # mean, or median of the log-normal distribution
    sigma: float  # standard deviation, of the natural logarithm for the log-normal distribution
    within: tuple[float, float] = (-math.inf, math.inf)
    log: bool = False

    def value(self, u: float, row: Row) -> float:
        """By inversion of the cumulative distribution inside the cut."""
        low, high = (_STANDARD.cdf(self._deviate(end)) for end in self.within)
        inside = min(max(low + u * (high - low), 1e-300), 1 - 1e-16)
        deviate = _STANDARD.inv_cdf(inside) * self.sigma
        number = self.middle * math.exp(deviate) if self.log else self.middle + deviate
        return min(max(number, self.within[0]), self.within[1])

    def support(self) -> tuple[float, float]:
        """The ends of the cut; without one a normal number can be anything, a log-normal one anything above 0."""
        return max(self.within[0], math.ulp(0.0)) if self.log else self.within[0], self.within[1]

    def tree(self) -> Any:
        """Its two numbers, and the cut if there is one."""
        found: dict[str, Any] = {"log_normal" if self.log else "normal": [self.middle, self.sigma]}
        if any(map(math.isfinite, self.within)):
            found["within"] = list(self.within)
        return found

    def _deviate(self, end: float) -> float:
        if not math.isfinite(end):
            return end
        if not self.log:
            return (end - self.middle) / self.sigma
        return math.log(end / self.middle) / self.sigma if end > 0 else -math.inf


@dataclass(frozen=True)
class Choice:
    """One of a few numbers, by weight."""

    numbers: tuple[float, ...]
    weights: tuple[float, ...]

    def value(self, u: float, row: Row) -> float:
        """The number in whose share of the weights u falls."""
        return self.numbers[pick(self.weights, u)]

    def support(self) -> tuple[float, float]:
        """The least and the largest of them."""
        return min(self.numbers), max(self.numbers)

    def tree(self) -> Any:
        """The numbers and their weights."""
        return {"choice": list(self.numbers), "weights": list(self.weights)}


@dataclass(frozen=True)
class Column:
    """A column of the recipe's table: what is drawn from one row belongs together."""

    name: str
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def value(self, u: float, row: Row) -> float:
        """The row's number."""
        return row[self.name]

    def support(self) -> tuple[float, float]:
        """The least and the largest number of the column."""
        return self.bounds

    def tree(self) -> Any:
        """The name of the column."""
        return {"table": self.name}


def pick(weights: Sequence[float], u: float) -> int:
    """The place in whose share of the weights u in (0, 1) falls."""
    target, total = u * sum(weights), 0.0
    for place, weight in enumerate(weights):
        total += weight
        if target < total:
            return place
    return max(place for place, weight in enumerate(weights) if weight > 0)


KINDS = ("uniform", "normal", "log_normal", "choice", "table")
OPTIONS = {"normal": ("within",), "log_normal": ("within",), "choice": ("weights",)}
ACCEPTED = (
    "a number, or one of {uniform = [low, high]}, {normal = [mean, sigma], within = [low, high]}, "
    "{log_normal = [median, sigma]}, {choice = [...], weights = [...]}, {table = column}"
)


def read_draw(value: Any, name: str, *, whole: bool = False, columns: Mapping[str, Reals] | None = None) -> Draw:
    """The distribution that a value of a recipe stands for. Raises InputError naming the key.

    whole: it is to give whole numbers. columns: those of the recipe's table.
    """
    if _is_number(value):
        draw: Draw = Fixed(value)
    elif isinstance(value, dict):
        draw = _distribution(value, name, whole, columns or {})
    else:
        raise InputError(name, value, ACCEPTED)
    if whole and not all(x == round(x) for x in _numbers_of(draw)):
        raise InputError(name, value, "whole numbers: a number, uniform, choice or a table")
    return draw


def _numbers_of(draw: Draw) -> Sequence[float]:
    """What has to be whole; a normal distribution gives fractions."""
    if isinstance(draw, Normal):
        return (0.5,)
    return draw.numbers if isinstance(draw, Choice) else [x for x in draw.support() if math.isfinite(x)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(value: Any, name: str, count: int | None, accepted: str) -> list[float]:
    fits = isinstance(value, list) and bool(value) and all(map(_is_number, value))
    if not fits or (count is not None and len(value) != count):
        raise InputError(name, value, accepted)
    return list(value)


def _distribution(value: dict[str, Any], name: str, whole: bool, columns: Mapping[str, Reals]) -> Draw:
    kinds = [kind for kind in KINDS if kind in value]
    if len(kinds) != 1:
        raise InputError(name, value, ACCEPTED)
    kind = kinds[0]
    for key in value:
        if key != kind and key not in OPTIONS.get(kind, ()):
            raise InputError(f"{name}.{key}", value[key], ", ".join((kind, *OPTIONS.get(kind, ()))))
    if kind == "uniform":
        low, high = _numbers(value[kind], name, 2, "uniform = [low, high]")
        if high < low:
            raise InputError(name, value[kind], "uniform = [low, high] with low <= high")
        return Uniform(low, high, whole)
    if kind == "choice":
        return _choice(value, name)
    if kind == "table":
        return _column(value[kind], name, columns)
    return _normal(value, kind, name)


def _normal(value: dict[str, Any], kind: str, name: str) -> Draw:
    middle, sigma = _numbers(value[kind], name, 2, f"{kind} = [{'median' if kind == 'log_normal' else 'mean'}, sigma]")
    if sigma < 0 or (kind == "log_normal" and middle <= 0):
        raise InputError(name, value[kind], "sigma from 0 up, and a median above 0")
    within = value.get("within", [-math.inf, math.inf])
    if "within" in value:
        _numbers(within, f"{name}.within", 2, "within = [low, high]")
        if not within[0] < within[1] or not within[0] <= middle <= within[1]:
            raise InputError(f"{name}.within", within, "[low, high] about the middle of the distribution")
    if sigma == 0:
        return Fixed(middle)
    return Normal(middle, sigma, (within[0], within[1]), kind == "log_normal")


def _choice(value: dict[str, Any], name: str) -> Draw:
    numbers = _numbers(value["choice"], name, None, "choice = [numbers]")
    weights = value.get("weights", [1.0] * len(numbers))
    _numbers(weights, f"{name}.weights", len(numbers), f"{len(numbers)} weights, one a choice")
    if min(weights) < 0 or sum(weights) <= 0:
        raise InputError(f"{name}.weights", weights, "weights from 0 up, one above 0 at least")
    return Choice(tuple(numbers), tuple(weights))


def _column(column: Any, name: str, columns: Mapping[str, Reals]) -> Draw:
    if not columns:
        raise InputError(name, {"table": column}, "a recipe with [table] file = ...")
    if column not in columns:
        raise InputError(name, {"table": column}, ", ".join(columns))
    return Column(column, (float(columns[column].min()), float(columns[column].max())))


def slot_of(name: str) -> int:
    """The counter of what is drawn under a name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "little")


def deviates(names: Sequence[str], images: Sequence[int], seed: int) -> Reals:
    """Uniform deviates in (0, 1) [images, names], each a function of seed, image and name alone."""
    slots = [slot_of(name) for name in names]
    if len(set(slots)) < len(slots):
        raise InputError("recipe", len(slots), "names whose counters differ: rename a crystal")
    counters = torch.tensor(slots, dtype=torch.int64)[None] + NOT_A_PIXEL
    places = torch.tensor(list(images), dtype=torch.int64)[:, None]
    shape = len(images), len(slots)
    return uniforms(counters.expand(shape), places.expand(shape), seed, 0)[0].numpy()
