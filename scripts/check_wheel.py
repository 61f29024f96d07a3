"""Build the sdist and the wheel, install the wheel into a fresh environment, and render, simulate and trace there.

    make wheel           leaves both in dist/

Everything runs in a temporary folder, without the source tree on the path. torch comes first, in the version that
constraints.txt pins, so that no other is fetched. Exit code 1 names what failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

from nanobrag_torch import __version__

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
CONSTRAINTS = ROOT / "constraints.txt"
WORDS = "-cell 78 78 38 90 90 90 -default_F 100 -N 5 -lambda 1 -distance 100 -detpixels 64 -pixel 0.4"
IN_SOURCE = ("LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "src/nanobrag_torch/py.typed")
EXPERIMENT = """\
import numpy as np
from nanobrag_torch.io.geometry import write_geometry
from nanobrag_torch.records.experiment import BeamData, CrystalData, DetectorData, ExperimentData, PanelData
panel = PanelData(origin_mm=np.array([-6.0, 6.0, -100.0]), fast=np.array([1.0, 0, 0]), slow=np.array([0, -1.0, 0]),
                  pixel_size_mm=(0.2, 0.2), image_size=(60, 60))
data = ExperimentData(beam=BeamData(wavelength_A=1.0), detector=DetectorData(panels=(panel,)),
                      crystal=CrystalData(real_space=np.diag([58.0, 66.0, 81.0])))
write_geometry("example.expt", data)
"""


def built() -> Path:
    """The wheel in dist/, made from the sdist, whose contents are looked at."""
    for old in DIST.glob("*"):
        old.unlink()
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST)], ROOT)
    (sdist,), (wheel,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = set(IN_SOURCE) - names
    if missing:
        raise SystemExit(f"check_wheel: {sdist.name} lacks {', '.join(sorted(missing))}")
    return wheel


def installed(wheel: Path, folder: Path) -> Path:
    """The programs of a new environment that has the wheel and what it needs."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    torch = next(line for line in CONSTRAINTS.read_text().split() if line.startswith("torch=="))
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, torch], folder)
    run([*pip, "-c", str(CONSTRAINTS), str(wheel)], folder)
    return programs


def used(programs: Path, folder: Path) -> None:
    """Render, simulate and trace, and look at what came of it."""
    place = run([str(programs / "python"), "-c", "import nanobrag_torch; print(nanobrag_torch.__file__)"], folder)
    if not Path(place.strip()).is_relative_to(programs.parent):
        raise SystemExit(f"check_wheel: the package is imported from {place.strip()}, not from the environment")
    for command in (["nanoBragg"], ["nb"], ["python", "-m", "nanobrag_torch"]):
        expect(__version__, run([str(programs / command[0]), *command[1:], "--version"], folder))
    run([str(programs / "nanoBragg"), *WORDS.split(), "-pngfile", "picture.png"], folder)
    run([str(programs / "python"), "-c", EXPERIMENT], folder)
    run([str(programs / "nb"), "simulate", "example.expt", "-o", "image.cbf"], folder)
    expect(
        "TRACE_PY: I_pixel_final",
        run([str(programs / "nb"), "trace", "--pixel", "30", "31", "--", *WORDS.split()], folder),
    )
    for name in ("floatimage.bin", "intimage.img", "picture.png", "image.cbf"):
        if not (folder / name).stat().st_size:
            raise SystemExit(f"check_wheel: {name} is empty")


def run(command: list[str], folder: Path) -> str:
    """What a command prints; it must succeed, and knows nothing of the source tree."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    print(" ".join(command)[:150], flush=True)
    done = subprocess.run(command, cwd=folder, env=clean, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"check_wheel: exit code {done.returncode}: {' '.join(command)}\n{done.stdout}")
    return done.stdout


def expect(text: str, printed: str) -> None:
    """Stop where a program did not print what it should."""
    if text not in printed:
        raise SystemExit(f"check_wheel: no {text!r} in what was printed:\n{printed}")


def main() -> int:
    """Build, install, use."""
    wheel = built()
    with tempfile.TemporaryDirectory() as folder:
        used(installed(wheel, Path(folder) / "environment"), Path(folder))
    print(f"{wheel.name}: installed into a fresh environment; it renders, simulates and traces")
    return 0


if __name__ == "__main__":
    sys.exit(main())
