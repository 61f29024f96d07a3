"""The same, as it is done here: wavelengths in Angstrom."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator
from nanobrag_torch.utils.auto_selection import (
    auto_select_dispersion,
    auto_select_divergence,
    generate_sources_from_divergence_dispersion,
)

one = auto_select_divergence(1, 0.0)
directions, weights, wavelengths = generate_sources_from_divergence_dispersion(
    one, one, auto_select_dispersion(2, 0.01), 1.0e-10, dtype=torch.float64
)
beam = BeamConfig(source_directions=directions, source_weights=weights, source_wavelengths=wavelengths * 1e10)
config = CrystalConfig(cell_a=60.0, N_cells=(4, 4, 4), default_F=100.0)
detector = Detector(DetectorConfig(distance_mm=100.0, pixel_size_mm=0.4, spixels=16, fpixels=16))
table = Simulator(Crystal(config), detector, config, beam, dtype=torch.float64).run(oversample=1)
fields = BeamConfig(wavelength_A=1.0, dispersion_pct=1.0, dispersion_steps=2)
torch.testing.assert_close(
    Simulator(Crystal(config), detector, config, fields, dtype=torch.float64).run(oversample=1), table
)
print("equal", True)
