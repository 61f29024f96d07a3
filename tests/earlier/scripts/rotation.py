"""A rotation of a mosaic crystal: its vectors, and the image with other sampling for one run."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

config = CrystalConfig(
    cell_a=60.0, cell_b=70.0, cell_c=80.0, N_cells=(4, 4, 4), default_F=100.0, phi_start_deg=5.0, osc_range_deg=1.0,
    phi_steps=4, mosaic_spread_deg=0.3, mosaic_domains=3, mosaic_seed=42, spindle_axis=(0.0, 0.0, 1.0),
)  # fmt: skip
crystal = Crystal(config, dtype=torch.float64)
(a, b, c), (a_star, b_star, c_star) = crystal.get_rotated_real_vectors(config)
print("vectors", tuple(a.shape), tuple(c_star.shape))
print("dual", torch.allclose((a * a_star).sum(-1), torch.ones(4, 3, dtype=torch.float64)))
print("lengths", torch.allclose(b.norm(dim=-1), torch.full((4, 3), 70.0, dtype=torch.float64)))
detector = Detector(DetectorConfig(pixel_size_mm=0.4, spixels=16, fpixels=12), dtype=torch.float64)
simulator = Simulator(crystal, detector, config, BeamConfig(), dtype=torch.float64)
coarse, fine = simulator.run(oversample=1), simulator.run(oversample=3, oversample_omega=True)
print("images", tuple(coarse.shape), not torch.equal(coarse, fine), bool((fine >= 0).all()))
