"""Structure factors of a file, kept as a binary cache, and F by index."""

from pathlib import Path

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.io.hkl import read_fdump, read_hkl_file, try_load_hkl_or_fdump, write_fdump
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

axis = range(-4, 5)
lines = [f"{h} {k} {l} {10 + h * h + k * k + l * l}.5" for h in axis for k in axis for l in axis]
Path("reflections.hkl").write_text("# h k l F\n" + "\n".join(lines) + "\n")
grid, metadata = read_hkl_file("reflections.hkl", default_F=0.0)
write_fdump(grid, metadata, "Fdump.bin")
again, limits = read_fdump("Fdump.bin")
assert torch.equal(again, grid) and limits["h_range"] == 9
assert try_load_hkl_or_fdump()[0] is not None

config = CrystalConfig(cell_a=40.0, N_cells=(5, 5, 5), default_F=0.0)
crystal = Crystal(config, dtype=torch.float64)
crystal.hkl_data, crystal.hkl_metadata = grid, metadata
index = torch.tensor([1.0, 2.0], dtype=torch.float64)
assert crystal.get_structure_factor(index, -index, index).tolist() == [13.5, 22.5]
other = Crystal(config)
other.load_hkl("reflections.hkl")
detector = Detector(DetectorConfig(distance_mm=100.0, pixel_size_mm=1.0, spixels=24, fpixels=24))
images = [Simulator(c, detector, config, BeamConfig(wavelength_A=1.0)).run() for c in (crystal, other)]
assert torch.equal(*images)
print("max", images[0].max().item() > 0)
