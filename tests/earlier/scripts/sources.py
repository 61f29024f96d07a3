"""Sources of a divergent beam, their wavelengths in metres as the helper gives them."""

import torch

from nanobrag_torch.config import BeamConfig
from nanobrag_torch.utils.auto_selection import (
    auto_select_dispersion,
    auto_select_divergence,
    generate_sources_from_divergence_dispersion,
)

directions, weights, wavelengths = generate_sources_from_divergence_dispersion(
    auto_select_divergence(3, 0.001), auto_select_divergence(1, 0.0), auto_select_dispersion(2, 0.01), 1.0e-10,
    source_distance_m=10.0, round_div=False, dtype=torch.float64,
)  # fmt: skip
print("sources", directions.shape[0])
BeamConfig(wavelength_A=1.0, source_directions=directions, source_weights=weights, source_wavelengths=wavelengths)
