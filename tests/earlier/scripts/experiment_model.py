"""A module with parameters that begin at zero, and an optimiser that moves them."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.models import ExperimentModel

crystal = CrystalConfig(cell_a=60.0, cell_b=61.0, cell_c=62.0, N_cells=(4, 4, 4), default_F=100.0)
detector = DetectorConfig(distance_mm=100.0, pixel_size_mm=0.5, spixels=20, fpixels=20)
frozen = ExperimentModel(crystal, detector, BeamConfig(), dtype=torch.float64)
print("frozen", len(list(frozen.parameters())))
target = frozen(oversample=1)
model = ExperimentModel(crystal, detector, BeamConfig(), dtype=torch.float64, param_init="stage_a")
print("parameters", len(list(model.parameters())), torch.allclose(model(oversample=1), target))
with torch.no_grad():
    model.crystal_params.delta_log_a.fill_(0.004)
    model.beam_params.delta_log_fluence.fill_(0.1)
print("edge", round(model.crystal_params.build_config().cell_a.item(), 3))
optimiser = torch.optim.Adam(model.parameters(), lr=5e-4)
losses = []
for _ in range(10):
    optimiser.zero_grad()
    loss = ((model(oversample=1) - target) ** 2).sum() / (target**2).sum()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
print("better", losses[-1] < losses[0], all(p.grad is not None for p in model.parameters()))
