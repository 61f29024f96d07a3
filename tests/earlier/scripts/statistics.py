"""Statistics of an image, and the image as SMV and PGM."""

import numpy as np

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.io.pgm import write_pgm
from nanobrag_torch.io.smv import read_smv, write_smv
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

crystal_config = CrystalConfig(cell_a=60.0, N_cells=(4, 4, 4), default_F=100.0)
detector = Detector(DetectorConfig(distance_mm=100.0, pixel_size_mm=0.2, spixels=20, fpixels=30))
simulator = Simulator(crystal=Crystal(crystal_config), detector=detector, crystal_config=crystal_config,
                      beam_config=BeamConfig(wavelength_A=1.0))  # fmt: skip
image = simulator.run()
statistics = simulator.compute_statistics(image)
assert statistics["max_I"] == image.max().item() and statistics["N"] == 600
assert image[statistics["max_I_slow"], statistics["max_I_fast"]] == image.max()
write_smv("image.img", image, 0.2, 100.0, 1.0, 2.0, 3.0, scale=1000 / statistics["max_I"], adc_offset=40.0)
pixels, header = read_smv("image.img")
assert pixels.shape == (20, 30) and pixels.max() == 1040 and header["BEAM_CENTER_Y"] == "3.0"
write_pgm("image.pgm", image, pgm_scale=255 / statistics["max_I"])
print("mean", bool(np.isclose(statistics["mean"], image.double().mean().item())))
