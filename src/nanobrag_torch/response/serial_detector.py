"""What noisify records, deviate after deviate: one stream through the image, as the C program draws it.

Rules: noise-behaviour, section B. Flicker and calibration are drawn pixel by pixel; all streams share one table and one
spare normal deviate, so that neither pattern belongs to a source or a detector. For `-compat c` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nanobrag_torch.c_random import Floats, Integers, Streams, gaussian_deviate, poisson_deviate
from nanobrag_torch.compilation import compiled

Reals = npt.NDArray[np.float64]


@dataclass
class SerialNoise:
    """The streams of one run: states of -seed and -calib_seed, and what they share."""

    state: int
    calibration_state: int
    streams: Streams

    def count(self, photons: Floats, *, flicker: float, calibration: float) -> Floats:
        """Photons counted where these are expected (any shape, rounded to float32); not whole above a million."""
        counts = np.array(photons, np.float32, order="C")
        states = np.array([self.state, self.calibration_state])
        table, spare = self.streams.table, self.streams.spare
        _count_fill(counts.reshape(-1), float(flicker), float(calibration), states, table, spare)
        self.state, self.calibration_state = (int(state) for state in states)
        return counts

    def in_adu(self, counts: Floats, *, gain: float, adc: float, readout: float) -> Reals:
        """Gain times counts plus the offset, with a normal deviate of the readout noise each; before any cut."""
        adu = np.empty(counts.shape)
        table, spare = self.streams.table, self.streams.spare
        self.state = int(_adu_fill(counts.reshape(-1), adu.reshape(-1), gain, adc, readout, self.state, table, spare))
        return adu


@compiled()
def _count_fill(
    counts: Floats, flicker: float, calibration: float, states: Integers, table: Integers, spare: Floats
) -> None:
    state, calibration_state = states[0], states[1]
    for i in range(len(counts)):
        photons = np.float64(counts[i])
        if flicker > 0:
            state, deviate = gaussian_deviate(state, table, spare)
            photons *= 1.0 + flicker * np.float64(deviate)
        if calibration > 0:
            calibration_state, deviate = gaussian_deviate(calibration_state, table, spare)
            photons *= 1.0 + calibration * np.float64(deviate)
        state, counts[i] = poisson_deviate(np.float32(photons), state, table, spare)
    states[0], states[1] = state, calibration_state


@compiled()
def _adu_fill(
    counts: Floats, adu: Reals, gain: float, adc: float, readout: float, state: int, table: Integers, spare: Floats
) -> int:
    for i in range(len(counts)):
        adu[i] = np.float64(counts[i]) * gain + adc
        if readout > 0:
            state, deviate = gaussian_deviate(state, table, spare)
            adu[i] += readout * np.float64(deviate)
    return state
