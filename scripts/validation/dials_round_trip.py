"""What DIALS makes of a simulated series: `python scripts/validation/dials_round_trip.py`; --help says more.

40 frames of half a degree of a mosaic crystal of 58 x 66 x 81 Angstrom in front of water, spread and counted, go
through dials.import, find_spots, index, refine and integrate, which know nothing of this package. What comes out is
held against what went in: the cell, the part of the spots that is indexed, and intensities against squares of
structure factors. DIALS is Debian's (apt-get install dials python3-dials) or any whose commands are on the path.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import gemmi
import hdf5plugin
import numpy as np

from nanobrag_torch.cli.nb.app import main as nb
from nanobrag_torch.io.geometry import write_geometry
from nanobrag_torch.io.refl import read_refl
from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    PanelData,
    ScanData,
)

CELL = (58.0, 66.0, 81.0)
FRAMES, WIDTH_DEG = 40, 0.5
SIMULATE = (
    "-N 40 --shape gauss_hkl --mosaic-spread 0.1 --mosaic-domains 20 --noise --fluence 2e18 --blocks 3e7 "
    "--psf gauss:60um --background water:1mm --oversample 3"
)
STRONG = 5.0
"""Standard deviations of an intensity that is compared."""


def experiment() -> ExperimentData:
    """The series, whose crystal stands askew."""
    turn = np.linalg.qr(np.array([[1.0, 2.0, 0.3], [-0.4, 1.0, 1.7], [0.9, -0.2, 1.0]]))[0]
    panel = PanelData(
        origin_mm=np.array([-65.0, 75.0, -180.0]),
        fast=np.array([1.0, 0.0, 0.0]),
        slow=np.array([0.0, -1.0, 0.0]),
        pixel_size_mm=(0.172, 0.172),
        image_size=(768, 860),
        trusted_range=(0, 1048500),
    )
    return ExperimentData(
        beam=BeamData(wavelength_A=0.98),
        detector=DetectorData(panels=(panel,)),
        goniometer=GoniometerData(rotation_axis=np.array([1.0, 0.0, 0.0])),
        scan=ScanData(image_range=(1, FRAMES), oscillation_start_deg=0.0, oscillation_width_deg=WIDTH_DEG),
        crystal=CrystalData(real_space=np.diag(CELL) @ turn.T * np.linalg.det(turn), space_group_hall="P 2 2"),
    )


def dials(folder: Path, command: str) -> str:
    """The output of one command of DIALS. Raises SystemExit with its end if it fails."""
    environment = {**os.environ, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH, "PYTHONPATH": ""}
    ended = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        raise SystemExit(f"{command}: {(ended.stdout + ended.stderr)[-1500:]}")
    return ended.stdout


def processed(folder: Path) -> dict[str, Any]:
    """What DIALS finds in series.nxs."""
    version = dials(folder, "dials.version").split("\n", 1)[0].strip()
    dials(folder, "dials.import series.nxs")
    dials(folder, "dials.find_spots imported.expt nproc=1")
    indexed = dials(folder, "dials.index imported.expt strong.refl nproc=1")
    dials(folder, "dials.refine indexed.expt indexed.refl scan_varying=false")
    dials(folder, "dials.integrate refined.expt refined.refl nproc=1")
    share = re.findall(r"\|\s*0 \|\s*(\d+) \|\s*(\d+) \|\s*([0-9.]+)%", indexed)[-1]
    return {"version": version, "spots": int(share[0]) + int(share[1]), "indexed_percent": float(share[2])}


def held_against_truth(folder: Path) -> dict[str, Any]:
    """Cell, and intensities with their Lorentz and polarization factors against squares of F."""
    from nanobrag_torch.io.geometry import read_geometry

    crystal = read_geometry(folder / "refined.expt").crystal
    assert crystal is not None
    table = read_refl(folder / "integrated.refl").columns
    mtz = gemmi.read_mtz_file(str(folder / "truth.mtz"))
    rows = np.array(mtz, copy=False)
    factors = {tuple(row[:3].astype(int)): float(row[mtz.column_labels().index("F")]) for row in rows}
    found = table["intensity.sum.value"] * table["lp"]
    sigma = np.sqrt(np.maximum(table["intensity.sum.variance"], 0)) * table["lp"]
    truth = np.array([factors.get(tuple(hkl), np.nan) ** 2 for hkl in np.abs(table["miller_index"]).tolist()])
    chosen = np.isfinite(truth) & (table["partiality"] > 0.99) & (found > STRONG * sigma)
    scale = np.median(found[chosen] / truth[chosen])
    return {
        "cell": [float(x) for x in crystal.cell],
        "reflections": int(chosen.sum()),
        "cc": float(np.corrcoef(found[chosen], truth[chosen])[0, 1]),
        "r": float(np.abs(found[chosen] / scale - truth[chosen]).sum() / truth[chosen].sum()),
    }


def main() -> None:
    """Simulate, have it processed, print and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    write_geometry(folder / "series.expt", experiment())
    cell = " ".join(map(str, CELL))
    made = nb(f"wilson --cell {cell} 90 90 90 --spacegroup P222 --dmin 1.8 -o {folder}/truth.mtz".split())
    words = f"simulate {folder}/series.expt -o {folder}/series.nxs --structure-factors {folder}/truth.mtz {SIMULATE}"
    if made or nb(words.split()):
        raise SystemExit("the series could not be made")
    found = {**processed(folder), **held_against_truth(folder)}
    print(json.dumps(found, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
