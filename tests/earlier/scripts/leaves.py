"""A fit that replaces numbers of a crystal by leaves, and an orientation through its own a*."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

crystal = Crystal(CrystalConfig(cell_a=70.0, cell_b=80.0, cell_c=90.0, N_cells=(3, 3, 3), default_F=100.0),
                  dtype=torch.float64)  # fmt: skip
detector = Detector(DetectorConfig(distance_mm=100.0, pixel_size_mm=0.4, spixels=20, fpixels=20), dtype=torch.float64)
simulator = Simulator(crystal, detector, crystal.config, BeamConfig(wavelength_A=1.2), dtype=torch.float64)
plain = simulator.run()
crystal.cell_a = torch.tensor(70.0, dtype=torch.float64, requires_grad=True)
crystal.config.misset_deg = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
simulator.run().sum().backward()
assert crystal.config.cell_a.grad != 0 and crystal.config.misset_deg.grad.shape == (3,)
crystal.config.misset_deg = (0.0, 0.0, 0.0)
a_star = crystal.a_star.detach().clone().requires_grad_()
same = simulator.run(override_a_star=a_star)
torch.testing.assert_close(same, plain)
same.sum().backward()
print("gradient", tuple(a_star.grad.shape))
