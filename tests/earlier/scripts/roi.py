"""A region of interest, both ends included, and statistics within it."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

crystal_config = CrystalConfig(cell_a=60.0, N_cells=(4, 4, 4), default_F=100.0)
detector_config = DetectorConfig(distance_mm=100.0, pixel_size_mm=0.2, spixels=32, fpixels=24,
                                 roi_xmin=4, roi_xmax=9, roi_ymin=10, roi_ymax=19)  # fmt: skip
simulator = Simulator(Crystal(crystal_config), Detector(detector_config), crystal_config, BeamConfig())
image = simulator.run(pixel_batch_size=8)
inside = torch.zeros(32, 24, dtype=torch.bool)
inside[10:20, 4:10] = True
assert (image[~inside] == 0).all() and (image[inside] > 0).any()
statistics = simulator.compute_statistics(image)
assert statistics["N"] == 60 and abs(statistics["mean"] - image[inside].mean().item()) < 1e-4 * statistics["mean"]
print("N", statistics["N"])
