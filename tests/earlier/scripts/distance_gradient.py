"""The gradient of pixel positions and of the image by the distance, set on the configuration after construction."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

distance = torch.tensor(150.0, dtype=torch.float64, requires_grad=True)
detector = Detector(DetectorConfig(pixel_size_mm=0.3, spixels=16, fpixels=16), dtype=torch.float64)
detector.config.distance_mm = distance
detector.invalidate_cache()
coordinates = detector.get_pixel_coords()
assert coordinates.shape == (16, 16, 3)
(by_distance,) = torch.autograd.grad(coordinates[..., 0].mean(), distance)
assert abs(by_distance.item() - 1e-3) < 1e-12  # metres by millimetres

crystal = Crystal(CrystalConfig(cell_a=60.0, N_cells=(4, 4, 4), default_F=50.0), dtype=torch.float64)
simulator = Simulator(crystal, detector, beam_config=BeamConfig(wavelength_A=1.0), dtype=torch.float64)
simulator.run().sum().backward()
print("gradient", distance.grad.item() != 0)
