"""Render a still."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, CrystalShape, DetectorConfig
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

crystal_config = CrystalConfig(cell_a=100.0, cell_b=100.0, cell_c=100.0, N_cells=(5, 5, 5), default_F=100.0,
                               shape=CrystalShape.SQUARE)  # fmt: skip
detector_config = DetectorConfig(distance_mm=100.0, pixel_size_mm=0.1, spixels=64, fpixels=64)
beam_config = BeamConfig(wavelength_A=6.2)
crystal = Crystal(crystal_config, beam_config=beam_config, device=torch.device("cpu"), dtype=torch.float64)
detector = Detector(detector_config, device=torch.device("cpu"), dtype=torch.float64)
simulator = Simulator(crystal, detector, crystal_config, beam_config, device=torch.device("cpu"), dtype=torch.float64)
image = simulator.run()
assert image.shape == (64, 64) and image.dtype == torch.float64
print("max", image.max().item() > 0)
