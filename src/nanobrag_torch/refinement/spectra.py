"""Spectra for a refinement: fewer channels with the same mean and variance, and Gaussians of a bandwidth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.units import ANGSTROM, EV_ANGSTROM

FWHM = 2 * math.sqrt(2 * math.log(2))
GAUSSIAN_CHANNELS = 20
GAUSSIAN_REACH = 2.5  # standard deviations


def rebinned(
    incident: Tensor, wavelengths: Tensor, weights: Tensor, channels: int | None, bandwidth_eV: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Directions [S, 3], wavelengths [S] (m) and weights [S] of sum one of a beam in `channels` channels of energy.

    bandwidth_eV: full width at half maximum of a Gaussian that takes the place of a single wavelength. Raises
    InputError for a bandwidth where there is a spectrum already.
    """
    weights = weights / weights.sum()
    if bandwidth_eV:
        if len(wavelengths) > 1:
            raise InputError("bandwidth_eV", bandwidth_eV, "nothing where the beam has a spectrum")
        centre = EV_ANGSTROM / float(wavelengths[0] / ANGSTROM)
        energies, weights = gaussian_spectrum(centre, bandwidth_eV, channels or GAUSSIAN_CHANNELS)
        return incident[:1].expand(len(energies), 3).contiguous(), EV_ANGSTROM / energies * ANGSTROM, weights
    if channels is None or channels >= len(wavelengths):
        return incident, wavelengths, weights
    if bool((incident - incident[0]).abs().max() > 1e-12):
        raise InputError("spectrum_channels", channels, "a beam without divergence")
    energies, weights = rebin(EV_ANGSTROM / (wavelengths / ANGSTROM), weights, channels)
    return incident[:1].expand(len(energies), 3).contiguous(), EV_ANGSTROM / energies * ANGSTROM, weights


def gaussian_spectrum(centre_eV: float, fwhm_eV: float, channels: int) -> tuple[Tensor, Tensor]:
    """Energies [channels] (eV) and weights of a Gaussian, with its variance whatever the number of channels."""
    sigma = fwhm_eV / FWHM
    x = torch.linspace(-GAUSSIAN_REACH, GAUSSIAN_REACH, channels, dtype=torch.float64)
    weights = torch.exp(-x * x / 2)
    weights = weights / weights.sum()
    spread = torch.sqrt((weights * x * x).sum())
    return centre_eV + sigma * x / spread.clamp(min=1e-12), weights


def rebin(energies: Tensor, weights: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """A spectrum in so many channels of about equal width, with the mean and the variance that it had."""
    if channels < 1:
        raise InputError("spectrum_channels", channels, "a number from 1 up")
    mean = (weights * energies).sum() / weights.sum()
    if channels == 1:
        return mean[None], torch.ones(1, dtype=torch.float64)
    lit = weights > 0
    low, high = energies[lit].min(), energies[lit].max()
    place = ((energies - low) / (high - low) * channels).long().clamp(0, channels - 1)
    binned = torch.zeros(channels, dtype=torch.float64).index_add_(0, place, weights)
    centres = torch.zeros(channels, dtype=torch.float64).index_add_(0, place, weights * energies)
    used = binned > 0
    binned, centres = binned[used] / binned.sum(), centres[used] / binned[used]
    variance = (weights * (energies - mean) ** 2).sum() / weights.sum()
    kept = (binned * (centres - mean) ** 2).sum()
    return mean + (centres - mean) * torch.sqrt(variance / kept.clamp(min=1e-30)), binned


def read_spectrum(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wavelengths (A) and weights of a text file of two columns, `#` and a line of words being comments.

    Columns are apart by commas or space, as in `.lam` files. Raises InputError naming file and line.
    """
    rows = []
    for number, line in enumerate(
        read_input(path, "spectrum", "wavelength and weight, a pair a line").decode().splitlines()
    ):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            rows.append([float(word) for word in words[:2]])
        except ValueError:
            if rows:
                raise InputError(f"{path}, line {number + 1}", line, "two numbers") from None
        if rows and len(rows[-1]) != 2:
            raise InputError(f"{path}, line {number + 1}", line, "two numbers")
    table = np.array(rows).reshape(-1, 2)
    if len(table) == 0 or (table[:, 0] <= 0).any() or (table[:, 1] < 0).any() or not table[:, 1].any():
        raise InputError(str(path), f"{len(table)} lines", "wavelengths above 0 and weights from 0 up")
    return table[:, 0], table[:, 1]
