"""Orientation matrices as MOSFLM writes them, and the cell that a reciprocal basis spans (section 6.2)."""

from __future__ import annotations

import math
import os
import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output, read_input

FLAG = "-mat"
ACCEPTED = "a file that starts with nine numbers: rows x, y, z of the columns a*, b*, c*, each times the wavelength"

Vector = NDArray[np.float64]
_NUMBER = re.compile(r"[+-]?(?:[0-9]++\.?[0-9]*+|\.[0-9]+)(?:[eEdD][+-]?[0-9]+)?")


def read_mosflm_matrix(path: str | os.PathLike[str], wavelength_A: float) -> tuple[Vector, Vector, Vector]:
    """a*, b*, c* (each (3,), 1/Angstrom) of a MOSFLM matrix file, the wavelength (Angstrom) removed.

    Only the first nine numbers count; MOSFLM adds missetting angles, U matrix and cell. Raises InputError if the file
    cannot be read, does not begin with nine numbers, or the vectors span no volume, and for a wavelength not above 0.
    """
    if not (math.isfinite(wavelength_A) and wavelength_A > 0):
        raise InputError("wavelength_A", wavelength_A, "a number above 0")
    words = read_input(path, FLAG, ACCEPTED).decode("ascii", "replace").split()[:9]
    if len(words) < 9 or not all(map(_NUMBER.fullmatch, words)):
        raise InputError(FLAG, f"{path}: {' '.join(words)[:80]}", ACCEPTED)
    matrix = np.array([float(word.upper().replace("D", "E")) for word in words]).reshape(3, 3)
    stars = matrix.T / wavelength_A
    if not np.isfinite(stars).all() or _volume(stars) == 0:
        raise InputError(FLAG, f"{path}: {' '.join(words)[:80]}", "three vectors that span a volume")
    return stars[0], stars[1], stars[2]


def reciprocal_to_real_cell(
    a_star: ArrayLike, b_star: ArrayLike, c_star: ArrayLike
) -> tuple[float, float, float, float, float, float]:
    """The cell a, b, c (Angstrom), alpha, beta, gamma (degrees) of reciprocal vectors (1/Angstrom).

    Raises InputError if they span no volume.

    >>> [round(x, 6) for x in reciprocal_to_real_cell([0.1, 0, 0], [0, 0.05, 0], [0, 0, 0.02])]
    [10.0, 20.0, 50.0, 90.0, 90.0, 90.0]
    """
    stars = np.array([a_star, b_star, c_star], dtype=np.float64)
    volume = _volume(stars)
    if not (np.isfinite(volume) and volume != 0):
        raise InputError("a_star, b_star, c_star", stars.tolist(), "three vectors that span a volume")
    a, b, c = np.cross(stars[[1, 2, 0]], stars[[2, 0, 1]]) / volume
    return _length(a), _length(b), _length(c), _angle_deg(b, c), _angle_deg(c, a), _angle_deg(a, b)


def write_mosflm_matrix(
    target: Target, a_star: ArrayLike, b_star: ArrayLike, c_star: ArrayLike, wavelength_A: float, *, flag: str = FLAG
) -> None:
    """Write a MOSFLM matrix file: A times the wavelength, missetting angles of 0, U, the cell, missetting angles of 0.

    A is written to 15 decimals, where MOSFLM stops at 8, so that it reads back as it was. Raises InputError if the file
    cannot be written or the vectors (1/Angstrom) span no volume.
    """
    cell = reciprocal_to_real_cell(a_star, b_star, c_star)
    matrix = np.array([a_star, b_star, c_star], dtype=np.float64).T
    orientation = matrix @ np.linalg.inv(_busing_levy(matrix.T))
    lines = [
        *("".join(f"{x:20.15f}" for x in row) for row in matrix * wavelength_A),
        "       0.000       0.000       0.000",
        *("".join(f"{x:12.7f}" for x in row) for row in orientation),
        "".join(f"{x:12.4f}" for x in cell),
        "       0.000       0.000       0.000",
    ]
    with open_output(target, flag) as file:
        file.write("".join(line + "\n" for line in lines).encode())


def _busing_levy(stars: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper triangle B with B^T B = the metric of rows a*, b*, c*: a* along x, b* in the xy plane."""
    return np.asarray(np.linalg.cholesky(stars @ stars.T).T, np.float64)


def _volume(stars: NDArray[np.float64]) -> float:
    return float(stars[0] @ np.cross(stars[1], stars[2]))


def _length(vector: Vector) -> float:
    return float(np.linalg.norm(vector))


def _angle_deg(first: Vector, second: Vector) -> float:
    return math.degrees(math.atan2(_length(np.cross(first, second)), float(first @ second)))
