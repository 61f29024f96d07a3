"""Render the full-size example: 2463 x 2527 pixels, a MOSFLM matrix, 10 phi steps, invented structure factors.

    make demo            writes demo/: float image, SMV, noise SMV and a picture

Amplitudes follow Wilson statistics with a B factor of 20 A^2; the geometry is that of a real experiment. The time that
nanoBragg prints at the end is that of rendering and writing; compiling, once for a version, comes before it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nanobrag_torch.cli.nanobragg import main as nanobragg
from nanobrag_torch.crystallography.wilson import wilson_box
from nanobrag_torch.io.hkl import write_hkl_file
from nanobrag_torch.io.mosflm import read_mosflm_matrix, reciprocal_to_real_cell
from nanobrag_torch.validation.scenes import named_scene, scene_in

FOLDER = Path("demo")
LIMITS = (24, 28, 31)
B_ISO = 20.0
WAVELENGTH_A = 0.9768
REPLACED = {"-hkl": "demo.hkl", "-mat": "A.mat"}
ADDED = ["-noisefile", "noiseimage.img", "-seed", "1", "-pngfile", "picture.png", "-progress"]
LEFT_OUT = ("-nonoise", "-noprogress")


def command_line(folder: Path) -> list[str]:
    """The words of the example, with our own structure factors, a noise image and a picture."""
    scene_in("supervisor", folder)
    (folder / "Fdump.bin").unlink()
    words = [word for word in named_scene("supervisor").words() if word not in LEFT_OUT]
    for flag, name in REPLACED.items():
        words[words.index(flag) + 1] = name
    return words + ADDED


def write_structure_factors(folder: Path) -> None:
    """demo.hkl: an amplitude for every index of the box."""
    matrix = next(folder.glob("*.mat"))
    matrix.rename(folder / "A.mat")
    cell = reciprocal_to_real_cell(*read_mosflm_matrix(folder / "A.mat", WAVELENGTH_A))
    grid, limits = wilson_box(cell, LIMITS, b_iso=B_ISO, seed=1)
    write_hkl_file(folder / "demo.hkl", grid.round(3), limits)  # as many digits as such files have


def main() -> int:
    """Write the inputs, run the command there, say where to look."""
    FOLDER.mkdir(exist_ok=True)
    words = command_line(FOLDER)
    write_structure_factors(FOLDER)
    os.chdir(FOLDER)
    print("nanoBragg", *words)
    code = nanobragg(words)
    print(f"look at {FOLDER / 'picture.png'}; all files are in {FOLDER}/")
    return code


if __name__ == "__main__":
    sys.exit(main())
