"""Structure factors through the binary cache, given to a crystal by hand."""

from pathlib import Path

import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.io.hkl import read_fdump, read_hkl_file, try_load_hkl_or_fdump, write_fdump
from nanobrag_torch.models import Crystal, Detector
from nanobrag_torch.simulator import Simulator

lines = [f"{h} {k} {l} {10 + h * h + 2 * k + 3 * l}" for h in range(-4, 5) for k in range(5) for l in range(5)]
Path("list.hkl").write_text("\n".join(lines) + "\n")
grid, metadata = read_hkl_file("list.hkl", default_F=1.0)
write_fdump(grid, metadata, "Fdump.bin")
again, same = read_fdump("Fdump.bin")
print("cache", torch.equal(grid.double(), again.double()), metadata["k_range"], same["h_min"])
print("nothing", try_load_hkl_or_fdump(None, "absent.bin"))
config = CrystalConfig(cell_a=50.0, cell_b=50.0, cell_c=50.0, N_cells=(5, 5, 5), default_F=1.0)
images = []
for source in (lambda: (grid, metadata), lambda: try_load_hkl_or_fdump(fdump_path="Fdump.bin")):
    crystal = Crystal(config)
    crystal.hkl_data, crystal.hkl_metadata = source()
    detector = Detector(DetectorConfig(pixel_size_mm=1.0, spixels=20, fpixels=20))
    images.append(Simulator(crystal, detector, config, BeamConfig(wavelength_A=1.5)).run())
print("images", torch.equal(*images), images[0].max().item() > 0)
