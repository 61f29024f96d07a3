"""Counting and reading noise in one call."""

from __future__ import annotations

import secrets

from torch import Tensor

from nanobrag_torch.config import NoiseConfig
from nanobrag_torch.response.chain import Response


def generate_poisson_noise(
    mean: Tensor,
    seed: int | None = None,
    adc_offset: float = 40.0,
    readout_noise: float = 3.0,
    overload_value: float = 65535.0,
) -> tuple[Tensor, int]:
    """What a detector records of expected photons, int32, shaped as `mean`, and how many pixels are at the overload.

    Photons are counted, then read with the noise (ADU rms) and the offset, as response.Response has it. Without a seed
    no two images are the same.
    """
    config = NoiseConfig(seed=seed, adc_offset=adc_offset, readout_noise=readout_noise, overload_value=overload_value)
    recorded = Response(config).record(mean, secrets.randbelow(2**31) if seed is None else seed)
    return recorded, int((recorded >= overload_value).sum())
