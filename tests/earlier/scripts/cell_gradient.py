"""The gradient of an image by a cell edge, held against a difference."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.models import Crystal, Detector
from nanobrag_torch.simulator import Simulator


def loss(cell_a):
    config = CrystalConfig(cell_a=cell_a, cell_b=80.0, cell_c=90.0, N_cells=(3, 3, 3), default_F=100.0)
    crystal = Crystal(config, device="cpu", dtype=torch.float64)
    detector = Detector(
        DetectorConfig(distance_mm=100.0, pixel_size_mm=0.4, spixels=24, fpixels=24), "cpu", torch.float64
    )
    simulator = Simulator(crystal, detector, config, BeamConfig(wavelength_A=1.5), dtype=torch.float64)
    return simulator.run(oversample=1).sum()


edge = torch.tensor(70.0, dtype=torch.float64, requires_grad=True)
(gradient,) = torch.autograd.grad(loss(edge), edge)
step = 1e-4
difference = (loss(edge.detach() + step) - loss(edge.detach() - step)) / (2 * step)
assert torch.isclose(gradient, difference, rtol=1e-4), (gradient, difference)
print("gradient", gradient.item() != 0)
