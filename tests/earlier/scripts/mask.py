"""A mask: pixels that are skipped are zero, the others as without it."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.io import create_circular_mask
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

mask = create_circular_mask(32, 32, 16, 16, 8)
shape = {"distance_mm": 100.0, "pixel_size_mm": 0.2, "spixels": 32, "fpixels": 32}
crystal_config = CrystalConfig(cell_a=60.0, N_cells=(4, 4, 4), default_F=100.0)
whole, masked = (
    Simulator(
        Crystal(crystal_config), Detector(DetectorConfig(**shape, mask_array=m)), crystal_config, BeamConfig()
    ).run()
    for m in (None, mask)
)
assert torch.allclose(masked, whole * mask, rtol=1e-4, atol=1e-5 * whole.max().item())
try:
    DetectorConfig(**shape, mask_array=torch.ones(5, 5))
except ValueError as error:
    print(error)
