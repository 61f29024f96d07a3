"""Automatic choices of steps and sizes (reference-behaviour section 3), as plain functions of Python numbers.

None is "not said". Lengths in metres; angles and fractions in any unit, the same for range and step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nanobrag_torch.config import MOSAIC_DOMAINS
from nanobrag_torch.units import DEGREES_PER_RADIAN

STEPS_OF_A_RANGE = 2
"""Steps for a range, or a step, whose steps nobody counted."""
RANGE_OF_STEPS_RAD = 1.0
"""Divergence, in radians, for steps without range."""
OSCILLATION_OF_STEPS_DEG = 1.0


@dataclass(frozen=True)
class Steps:
    """A scan: how many steps, the whole range, and what lies between two steps."""

    count: int
    range: float
    step: float


ONE_STEP = Steps(1, 0.0, 0.0)
WHOLE = 1e-9
"""Relative difference from a whole number of steps below which a range is one."""


def steps_within(range_: float, step: float, *, rounded_up: bool) -> int:
    """Steps that begin within a range: the quotient, up to the next whole number.

    rounded_up: as the C program counts them, which takes 3.0000000000000004 for more than 3 (D55).
    """
    quotient = range_ / step
    nearest = round(quotient)
    if not rounded_up and abs(quotient - nearest) <= WHOLE * nearest:
        return nearest
    return math.ceil(quotient)


def phi_steps(count: int | None, range_: float | None, step: float | None, *, rounded_up: bool = False) -> Steps:
    """Phi steps in degrees (3.2). A range below 0 or a step up to 0 counts as not said; count may come out as 0."""
    counted = count is not None and count >= 0
    ranged = range_ is not None and range_ >= 0
    stepped = step is not None and step > 0
    n, width, between = max(count or 0, 1), range_ or 0.0, step or 0.0
    if not counted:
        if not ranged:
            return Steps(STEPS_OF_A_RANGE, between, between) if stepped else ONE_STEP
        if stepped:
            of_range = steps_within(
                width / DEGREES_PER_RADIAN, between / DEGREES_PER_RADIAN, rounded_up=rounded_up
            )  # the C program divides radians
            return Steps(of_range, width, between)
        return Steps(STEPS_OF_A_RANGE, width, width / STEPS_OF_A_RANGE)
    if not ranged:
        if stepped:
            return Steps(STEPS_OF_A_RANGE, between, between)
        return Steps(n, OSCILLATION_OF_STEPS_DEG, OSCILLATION_OF_STEPS_DEG / n)
    if step is None or step < 0:
        return Steps(n, width, width / n)
    return Steps(n, width, between)


def grid_steps(
    count: int | None,
    range_: float | None,
    step: float | None,
    *,
    range_of_steps: float = RANGE_OF_STEPS_RAD,
    rounded_up: bool = False,
) -> Steps:
    """Steps of a divergence or dispersion grid (3.3), one step without width where any of the three comes out as 0.

    range_of_steps: the range for counted steps without one, in the unit of the others.
    """
    chosen = _grid_steps(count, range_, step, range_of_steps, rounded_up)
    return ONE_STEP if chosen.range <= 0 or chosen.step <= 0 or chosen.count <= 0 else chosen


def _grid_steps(
    count: int | None, range_: float | None, step: float | None, range_of_steps: float, rounded_up: bool
) -> Steps:
    counted = count is not None and count > 0
    ranged = range_ is not None and range_ >= 0
    stepped = step is not None and step > 0
    n, width, between = count or 0, range_ or 0.0, step or 0.0
    if not ranged:
        if stepped:
            return Steps(STEPS_OF_A_RANGE, between, between)
        return Steps(n, range_of_steps, range_of_steps / n) if counted else ONE_STEP
    if not counted:
        if stepped:
            return Steps(steps_within(width, between, rounded_up=rounded_up), width, between)
        return Steps(STEPS_OF_A_RANGE, width, width)
    if not stepped:
        n = max(n, STEPS_OF_A_RANGE)
        return Steps(n, width, width / (n - 1))
    return Steps(n, width, between)


def mosaic_steps(domains: int | None, spread: float | None) -> tuple[int, float]:
    """Number of domains and spread (3.5); one domain without spread."""
    if spread is None or spread <= 0:
        return 1, 0.0
    return (domains if domains is not None and domains > 0 else MOSAIC_DOMAINS), spread


def detector_axis(pixels: int, size: float, pixel: float) -> tuple[int, float]:
    """Pixels along one detector axis and its size (3.1): counted pixels decide the size, else the size the pixels.

    A size is rounded to pixels half down, and is not itself rounded.
    """
    if pixels != 0:
        size = pixel * pixels
    return math.ceil(size / pixel - 0.5), size


def fluence(given: float, flux: float, exposure: float, beamsize: float) -> float:
    """Photons per m^2 (3.1): flux * exposure / beamsize^2 where there is a flux, else what was given."""
    if flux != 0.0 and exposure > 0.0 and beamsize > 0.0:
        return flux * exposure / beamsize / beamsize
    return given


def roi(low: int, high: int, pixels: int) -> tuple[int, int]:
    """First and last pixel to render along one axis (3.1), both included; below 0 is "not said"."""
    return (low if low >= 0 else 0), min(high if high >= 0 else pixels, pixels - 1)


def interpolates(cells: tuple[int, int, int], forced: bool | None, reflections: int) -> bool:
    """Whether structure factors are interpolated (7.4): when forced, else with two cells or fewer along any axis."""
    wanted = any(n <= 2 for n in cells) if forced is None else forced
    return wanted and reflections > 0


def clipped(size: float, beamsize: float) -> float:
    """Extent of the crystal that a beam of `beamsize` sees (3.1)."""
    return beamsize if beamsize >= 0 and size > beamsize else size


def cells_along(size: float, cells: int, length: float) -> int:
    """Unit cells along an axis of `length` (6.4): those that fill `size` where it is above 0, else as counted."""
    return max(1, math.ceil(size / length) if size > 0 else cells)
