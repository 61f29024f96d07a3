"""Counting noise over an image, as integers and as a grey picture."""

from pathlib import Path

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig, NoiseConfig
from nanobrag_torch.io.pgm import write_pgm
from nanobrag_torch.models import Crystal, Detector
from nanobrag_torch.simulator import Simulator
from nanobrag_torch.utils.noise import generate_poisson_noise

noise = NoiseConfig(seed=7, adc_offset=20.0, readout_noise=0.0, overload_value=1000.0)
config = CrystalConfig(cell_a=60.0, N_cells=(5, 5, 5), default_F=100.0)
detector = Detector(DetectorConfig(pixel_size_mm=0.4, spixels=32, fpixels=32))
image = Simulator(Crystal(config), detector, config, BeamConfig(fluence=1e29)).run(oversample=1)
mean = 100 * image / image.mean()
given = (noise.seed, noise.adc_offset, noise.readout_noise, noise.overload_value)
counts, overloads = generate_poisson_noise(mean, *given)
again, _ = generate_poisson_noise(mean, *given)
print("counts", counts.dtype, tuple(counts.shape), torch.equal(counts, again))
print("overloads", int(overloads) == int((counts >= 1000).sum()), counts.max().item() <= 1000)
dim = mean < 500
print("offset", abs((counts[dim] - mean[dim]).mean().item() - 20) < 3)
write_pgm("noise.pgm", counts, pgm_scale=0.25)
content = Path("noise.pgm").read_bytes()
print("picture", content.startswith(b"P5\n32 32\n# pixels scaled by 0.25\n255\n"), len(content) > 32 * 32)
