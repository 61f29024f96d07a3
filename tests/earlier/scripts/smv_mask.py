"""A mask through an SMV file: written, read, and left out of the image."""

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.io.mask import create_circular_mask, create_rectangle_mask, read_smv_mask
from nanobrag_torch.io.smv import read_smv, write_smv
from nanobrag_torch.models import Crystal, Detector
from nanobrag_torch.simulator import Simulator

beamstop = create_circular_mask(24, 30, center_s=12.0, center_f=15.0, radius=4.0)
inside = create_rectangle_mask(24, 30, roi_xmin=2, roi_xmax=27, roi_ymin=3, roi_ymax=20)
mask = inside * (1 - beamstop)
write_smv("mask.img", mask, 0.5, 100.0, 1.0, 7.5, 6.0, adc_offset=0.0)
read, header = read_smv_mask("mask.img")
print("mask", torch.equal(read, mask.to(read.dtype)), header["SIZE1"], header["SIZE2"])
config = CrystalConfig(cell_a=60.0, N_cells=(3, 3, 3), default_F=100.0)
detector = Detector(DetectorConfig(pixel_size_mm=0.5, spixels=24, fpixels=30, mask_array=read))
simulator = Simulator(Crystal(config), detector, config, BeamConfig())
image = simulator.run(oversample=1)
print("dark", image[read == 0].abs().max().item(), bool((image[read == 1] > 0).any()))
print("N", simulator.compute_statistics(image)["N"] == int(read.sum()))
scale = 1000.0 / image.max()
write_smv("image.img", image, 0.5, 100.0, 1.0, 7.5, 6.0, close_distance_mm=100.0, osc_range_deg=0.1, scale=scale.item())
counts, text = read_smv("image.img")
print("counts", counts.shape, int(counts.max()), text["WAVELENGTH"])
