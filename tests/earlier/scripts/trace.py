"""The trace of a pixel while an image is rendered."""

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

crystal_config = CrystalConfig(cell_a=60.0, N_cells=(4, 4, 4), default_F=100.0)
detector = Detector(DetectorConfig(distance_mm=100.0, pixel_size_mm=0.2, spixels=16, fpixels=16))
simulator = Simulator(Crystal(crystal_config), detector, crystal_config, BeamConfig(), None,
                      debug_config={"trace_pixel": [5, 7]})  # fmt: skip
image = simulator.run()
print(f"pixel {image[5, 7].item():.15g}")
