"""Reflections as plain data: what every structure-factor file is read into, and what is written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError

Floats = NDArray[np.float64]
Indices = NDArray[np.int32]
Cell = tuple[float, float, float, float, float, float]
"""a, b, c (Angstrom), alpha, beta, gamma (degrees)."""


class IndexLimits(dict[str, int]):
    """h_min h_max k_min k_max l_min l_max of a table; h_range k_range l_range, how many each axis has, on asking.

    >>> IndexLimits(h_min=-2, h_max=3, k_min=0, k_max=0, l_min=1, l_max=4)["h_range"]
    6
    """

    def __missing__(self, name: str) -> int:
        axis, _, what = name.partition("_")
        if what != "range" or axis not in ("h", "k", "l"):
            raise KeyError(name)
        return self[f"{axis}_max"] - self[f"{axis}_min"] + 1


@dataclass(frozen=True, kw_only=True)
class Reflections:
    """Amplitudes of unique reflections: a row each, in the order of the file.

    space_group None means that the rows are the whole list: neither symmetry nor Friedel mates are to be added.
    anomalous: F(h) and F(-h) are rows of their own; where one of them is missing the other stands for both.
    """

    hkl: Indices  # [n, 3]
    amplitude: Floats  # [n]
    sigma: Floats | None = None  # [n]
    phase_deg: Floats | None = None  # [n]
    cell: Cell | None = None
    space_group: str | None = None  # extended Hermann-Mauguin name, as "R 3:H"
    anomalous: bool = False
    source: str = ""  # what was read, for people
    remark: str = ""  # which of several columns that was, why, and what was made of it

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.hkl)

    def __post_init__(self) -> None:
        if self.hkl.ndim != 2 or self.hkl.shape[1] != 3:
            raise InputError("hkl", self.hkl.shape, "an array [n, 3]")
        for name in ("amplitude", "sigma", "phase_deg"):
            column = getattr(self, name)
            if column is not None and column.shape != (len(self.hkl),):
                raise InputError(name, column.shape, f"one value a reflection, {len(self.hkl)}")

    def rows(self, kept: NDArray[np.bool_]) -> Reflections:
        """The rows where `kept` [n] is true."""
        sigma = None if self.sigma is None else self.sigma[kept]
        phase = None if self.phase_deg is None else self.phase_deg[kept]
        return replace(self, hkl=self.hkl[kept], amplitude=self.amplitude[kept], sigma=sigma, phase_deg=phase)


def require_cell(words: Sequence[float]) -> Cell:
    """A cell of a, b, c and perhaps alpha, beta, gamma (90 degrees). Raises InputError unless it has a volume."""
    numbers = [float(word) for word in words]
    numbers += [90.0] * (6 - len(numbers)) if len(numbers) in (3, 6) else []
    if len(numbers) != 6 or not np.isfinite(numbers).all():
        raise InputError("cell", tuple(words), "a b c (Angstrom), alpha beta gamma (degrees)")
    a, b, c, alpha, beta, gamma = numbers
    cosines = np.cos(np.radians([alpha, beta, gamma]))
    if min(numbers) <= 0 or not 1 - (cosines**2).sum() + 2 * cosines.prod() > 1e-12:
        raise InputError("cell", tuple(words), "lengths above 0 and angles that enclose a volume")
    return a, b, c, alpha, beta, gamma


def amplitudes_of_intensities(intensity: Floats, sigma: Floats | None) -> tuple[Floats, Floats | None]:
    """F and sigma(F) of I and sigma(I): F = sqrt(I), and 0 where I is not positive.

    sigma(F) = sigma(I) / 2 sqrt(max(I, sigma(I))), which stays finite for weak reflections. This is no French-Wilson
    estimate: weak reflections come out as they were measured.
    """
    amplitude = np.sqrt(np.maximum(intensity, 0))
    if sigma is None:
        return amplitude, None
    width = np.sqrt(np.maximum(np.maximum(intensity, sigma), np.finfo(np.float64).tiny))
    return amplitude, sigma / (2 * width)


def paired_rows(
    hkl: Indices, plus: tuple[Floats, Floats | None], minus: tuple[Floats, Floats | None], centric: NDArray[np.bool_]
) -> tuple[Indices, Floats, Floats | None]:
    """Rows for F(h) at h and F(-h) at -h; NaN is missing; a centric reflection gets one row, the mean of what there is.

    plus, minus: amplitude [n] and sigma [n] or None. Returns hkl [m, 3], amplitude [m] and sigma [m].
    """
    middle = mean_of_pair(plus, minus)
    first = np.where(centric, middle[0], plus[0])
    there, mated = ~np.isnan(first), ~np.isnan(minus[0]) & ~centric
    indices = np.concatenate([hkl[there], -hkl[mated]])
    amplitude = np.concatenate([first[there], minus[0][mated]])
    if plus[1] is None or minus[1] is None or middle[1] is None:
        return indices, amplitude, None
    sigma = np.where(centric, middle[1], plus[1])
    return indices, amplitude, np.concatenate([sigma[there], minus[1][mated]])


def mean_of_pair(
    plus: tuple[Floats, Floats | None], minus: tuple[Floats, Floats | None]
) -> tuple[Floats, Floats | None]:
    """Mean of two columns of amplitude and sigma where both are numbers, else the one that is."""

    def mean(a: Floats, b: Floats) -> Floats:
        return np.where(np.isnan(a), b, np.where(np.isnan(b), a, (a + b) / 2))

    sigma = None if plus[1] is None or minus[1] is None else mean(plus[1], minus[1])
    return mean(plus[0], minus[0]), sigma
