"""A detector by its own vectors."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig, DetectorConvention, DetectorPivot
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

config = DetectorConfig(
    detector_convention=DetectorConvention.CUSTOM,
    detector_pivot=DetectorPivot.SAMPLE,
    custom_fdet_vector=(1.0, 0.0, 0.0),
    custom_sdet_vector=(0.0, 1.0, 0.0),
    custom_odet_vector=(0.0, 0.0, 1.0),
    custom_beam_vector=(0.0, 0.0, 1.0),
    distance_mm=120.0, pixel_size_mm=0.2, spixels=20, fpixels=24, beam_center_s=2.0, beam_center_f=2.4,
)  # fmt: skip
detector = Detector(config, dtype=torch.float64)
torch.testing.assert_close(detector.pix0_vector, torch.tensor([-0.0024, -0.002, 0.12], dtype=torch.float64))
assert detector.odet_vec.tolist() == [0, 0, 1] and detector.beam_vector.tolist() == [0, 0, 1]
assert abs(detector.beam_center_f.item() - 12) < 1e-9 and abs(detector.beam_center_s.item() - 10) < 1e-9
crystal_config = CrystalConfig(cell_a=50.0, N_cells=(5, 5, 5), default_F=100.0)
image = Simulator(Crystal(crystal_config), detector, crystal_config, BeamConfig()).run()
print("image", tuple(image.shape))
