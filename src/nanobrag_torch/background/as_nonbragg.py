"""What nonBragg renders of an amorphous material, pixel after pixel in float64 (noise-behaviour, section E).

The mean over sub-pixels and sources of sign(F) F^2 polarization omega intensity. F is interpolated between four rows of
a table that is padded far beyond both ends. The command of that name renders through this; background.amorphous is
faster, differentiable, and held to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nanobrag_torch.compilation import compiled
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.detector import DetectorGeometry
from nanobrag_torch.physics.geometry import curve, flat_positions, solid_angle
from nanobrag_torch.physics.polarization import polarization_factor

Reals = npt.NDArray[np.float64]

FAR = np.array([1e98, 1e99])
"""Where the table is padded, in the unit of its first column, on both sides."""
_AT_ONCE = 2**18


@dataclass(frozen=True)
class Source:
    """What scatters: unit vectors along the beam [S, 3], wavelengths (m) and intensities [S], M [S, 3, 3]."""

    incident: Tensor
    wavelengths: Tensor
    intensities: Tensor
    polarization: Tensor


def padded_table(table: Reals, *, sort: bool) -> tuple[Reals, Reals]:
    """sin(theta)/lambda (1/A) and F of a table [n, 2], with its padding; a missing F is 0, but not in the padding.

    sort: put rows in order, and refuse two F at one place; else leave them as they stand.
    """
    if sort:
        table = table[np.argsort(table[:, 0], kind="stable")]
        twice = np.flatnonzero(np.diff(table[:, 0]) == 0)
        if len(twice):
            raise InputError("-stol", f"two rows at {table[twice[0], 0]:g}", "one row a place")
    present = table[~np.isnan(table[:, 1]), 1]
    stol = np.concatenate((-FAR[::-1], table[:, 0], FAR))
    return stol, np.concatenate((np.full(2, present[0]), np.nan_to_num(table[:, 1]), np.full(2, present[-1])))


def render(
    pixels: Tensor,
    geometry: DetectorGeometry,
    image_shape: tuple[int, int],
    source: Source,
    table: tuple[Reals, Reals],
    *,
    oversample: int = 1,
    point_pixel: bool = False,
    curved: bool = False,
    amplitude_alone: bool = False,
    start: int = 2,
) -> Reals:
    """The sum [n] over the steps of each of the flat pixel indices [n], over their number; r_e^2 and all else left out.

    amplitude_alone: the interpolated F itself. start: row where the first search begins.
    """
    parts, where = [], np.array([start])
    for begin in range(0, pixels.numel(), _AT_ONCE):
        part = pixels[begin : begin + _AT_ONCE]
        position = flat_positions(
            part, geometry.panels, geometry.pixel_size, torch.zeros_like(geometry.sensor[:, 0]), image_shape,
            oversample, 1,
        )[:, 0]  # fmt: skip
        if curved:
            axes = geometry.panels[0].expand(len(part), 4, 3)
            position = curve(position, axes[:, 1], axes[:, 2], geometry.beam, geometry.curvature[3])
        radius = torch.linalg.vector_norm(position, dim=-1)
        direction = position / radius[..., None]
        stol = _stol(direction, source)  # [n, J, S] 1/A
        amplitude = np.empty(stol.numel())
        look_up(stol.numpy().reshape(-1), *table, where, amplitude)
        if amplitude_alone:
            parts.append(amplitude.reshape(len(part), -1).mean(1))
            continue
        squares = torch.from_numpy(np.copysign(amplitude * amplitude, amplitude)).reshape(stol.shape)
        area = geometry.pixel_size.prod(-1)[torch.div(part, image_shape[0] * image_shape[1], rounding_mode="floor")]
        omega = solid_angle(radius, area[:, None], geometry.close_distance, point_pixel=point_pixel)
        steps = squares * polarization_factor(direction, source.polarization) * omega[..., None] * source.intensities
        parts.append(steps.mean((1, 2)).numpy())
    return np.concatenate(parts) if parts else np.empty(0)


def _stol(direction: Tensor, source: Source) -> Tensor:
    difference = direction[..., None, :] - source.incident
    stol: Tensor = 0.5 * torch.linalg.vector_norm(difference, dim=-1) / (source.wavelengths * 1e10)
    return stol


@compiled()
def look_up(stol: Reals, places: Reals, values: Reals, where: npt.NDArray[np.int64], found: Reals) -> None:
    """F [n] at sin(theta)/lambda [n], through the four rows about each; a search begins where the last one ended."""
    row, last = where[0], len(places) - 1
    for i in range(len(stol)):
        while row < last and stol[i] > places[row]:
            row += 1
        while row > 1 and stol[i] < places[row]:
            row -= 1
        first = min(max(row - 1, 0), last - 3)
        found[i] = _cubic(places[first : first + 4], values[first : first + 4], stol[i])
    where[0] = row


@compiled()
def _cubic(x: Reals, y: Reals, at: float) -> float:
    """The cubic through four points (Lagrange)."""
    total = 0.0
    for i in range(4):
        term = y[i]
        for j in range(4):
            if j != i:
                term *= (at - x[j]) / (x[i] - x[j])
        total += term
    return total
