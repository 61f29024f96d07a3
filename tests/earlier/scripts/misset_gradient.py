"""Orientation and number of cells as leaves, in a tuple and as attributes; a few steps of Adam."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.models import Crystal, Detector
from nanobrag_torch.simulator import Simulator

detector = Detector(DetectorConfig(pixel_size_mm=0.4, spixels=24, fpixels=24), dtype=torch.float64)


def simulator(misset):
    config = CrystalConfig(cell_a=60.0, cell_b=61.0, cell_c=62.0, N_cells=(4, 4, 4), default_F=100.0, misset_deg=misset)
    crystal = Crystal(config, dtype=torch.float64)
    return Simulator(crystal, detector, config, BeamConfig(), dtype=torch.float64)


truth = simulator((1.0, 2.0, 3.0)).run(oversample=1)
turn = torch.tensor(2.2, dtype=torch.float64, requires_grad=True)
optimiser = torch.optim.Adam([turn], lr=0.05)
losses = []
for _ in range(8):
    optimiser.zero_grad()
    image = simulator((1.0, turn, 3.0)).run(oversample=1)
    loss = ((image - truth) ** 2).sum() / (truth**2).sum()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
print("better", losses[-1] < losses[0], abs(turn.item() - 2.0) < 0.2)
cells = torch.tensor(4.5, dtype=torch.float64, requires_grad=True)
other = simulator((1.0, 2.0, 3.0))
other.crystal.N_cells_a = cells
other.run(oversample=1).sum().backward()
print("gradient", cells.grad is not None and cells.grad.abs().item() > 0)
