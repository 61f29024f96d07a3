"""The command as a module, its configuration echoed, its float image read back."""

import subprocess
import sys

import numpy as np

words = (
    "-cell 100 100 100 90 90 90 -default_F 100 -N 5 -lambda 1 -distance 100 -pixel 0.5 -detpixels 32 "
    "-detector_rotx 5 -twotheta 10 -floatfile out.bin -show_config -trace_pixel 16 12 -oversample 1 -nonoise -nopgm"
)
done = subprocess.run(
    [sys.executable, "-m", "nanobrag_torch", *words.split()], capture_output=True, text=True, check=False
)
image = np.fromfile("out.bin", dtype=np.float32).reshape(32, 32)
print("code", done.returncode, image.shape, image.max() > 0)
for wanted in (
    "CONFIGURATION ECHO", "Crystal Configuration", "Detector Configuration", "Beam Configuration", "Cell: a=100.000",
    "Pixels: 32 x 32", "Distance: 100.000 mm", "Wavelength: 1.0000 Å", "rotx=5.000°", "twotheta=10.000°",
    "Sources: 1 source",
):  # fmt: skip
    if wanted not in done.stdout:
        print("absent", wanted)
print("trace", "hkl" in done.stdout.lower())
