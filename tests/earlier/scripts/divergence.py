"""Sources of a divergent beam with a spectrum, from the helpers, with wavelengths in Angstrom."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.models import Crystal, Detector
from nanobrag_torch.simulator import Simulator
from nanobrag_torch.utils.auto_selection import (
    auto_select_dispersion,
    auto_select_divergence,
    generate_sources_from_divergence_dispersion,
)
from nanobrag_torch.utils.units import meters_to_angstroms, mrad_to_radians

horizontal = auto_select_divergence(3, mrad_to_radians(2.0), None)
vertical = auto_select_divergence(3, mrad_to_radians(2.0), None)
spread = auto_select_dispersion(2, 0.01, None)
directions, weights, wavelengths = generate_sources_from_divergence_dispersion(
    horizontal, vertical, spread, 1.0e-10, round_div=True, beam_direction=torch.tensor([1.0, 0.0, 0.0])
)
print("sources", len(weights), tuple(directions.shape), set(weights.tolist()))
beam = BeamConfig(source_directions=directions, source_wavelengths=meters_to_angstroms(wavelengths))
config = CrystalConfig(cell_a=60.0, N_cells=(5, 5, 5), default_F=100.0)
detector = Detector(DetectorConfig(pixel_size_mm=0.4, spixels=16, fpixels=16))
single = Simulator(Crystal(config), detector, config, BeamConfig()).run(oversample=1)
many = Simulator(Crystal(config), detector, config, beam).run(oversample=1)
print("images", not torch.allclose(single, many), bool(torch.isfinite(many).all()))
