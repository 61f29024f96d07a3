"""What DIALS itself finds in the files that are written; where no DIALS is at hand these tests say so and are skipped.

DIALS is looked for in NANOBRAGG_DIALS (an interpreter that imports dxtbx), dials.python and python3. Debian has it:
apt-get install dials python3-dials.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hdf5plugin
import numpy as np
import pytest

from nanobrag_torch.io.geometry import write_geometry
from nanobrag_torch.io.images import write_image
from nanobrag_torch.io.nxmx_write import write_nxmx
from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    GroupData,
    PanelData,
    ScanData,
    part_of_scan,
)
from nanobrag_torch.records.frames import beam_on_panel

READER = Path(__file__).with_name("dials_reader.py")
ENVIRONMENT = {**os.environ, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH, "PYTHONPATH": ""}


@functools.cache
def interpreter() -> str:
    """A Python that has dxtbx; the test is skipped where there is none."""
    for name in (os.environ.get("NANOBRAGG_DIALS"), "dials.python", "/usr/bin/python3"):
        found = None if name is None else shutil.which(name)
        words = [found or "", "-c", "import dxtbx, dials"]
        if found and subprocess.run(words, capture_output=True, check=False, env=ENVIRONMENT).returncode == 0:
            return found
    pytest.skip("no DIALS is at hand: what it finds in our files was not tried")


def dials(*paths: Path) -> list[Any]:
    """What DIALS finds in each file."""
    words = [interpreter(), str(READER), *map(str, paths)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=600)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: list[Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def panel(**fields: Any) -> PanelData:
    """A tilted panel of 30 x 20 pixels."""
    turn = np.array([[np.cos(0.1), 0, -np.sin(0.1)], [0, -1, 0]])
    whole: dict[str, Any] = {"origin_mm": [-3.0, 2.0, -150.0], "fast": turn[0], "slow": turn[1]}
    return PanelData(**whole | {"pixel_size_mm": (0.2, 0.1), "image_size": (30, 20)} | fields)


def experiment(frames: int = 0, panels: Sequence[PanelData] | None = None, **crystal: Any) -> ExperimentData:
    """A still, or a scan of some frames, of a triclinic crystal."""
    scan = ScanData(image_range=(5, 4 + max(frames, 1)), oscillation_start_deg=12.0, oscillation_width_deg=0.25)
    return ExperimentData(
        beam=BeamData(wavelength_A=1.3),
        detector=DetectorData(panels=tuple(panels or (panel(),))),
        goniometer=GoniometerData(rotation_axis=[0.0, 1.0, 0.0]) if frames else None,
        scan=scan if frames else None,
        crystal=CrystalData(real_space=[[30.0, 1.0, 0.5], [-2.0, 40.0, 1.5], [3.0, -1.0, 50.0]], **crystal),
    )


def agree(found: dict[str, Any], data: ExperimentData, scale: float = 1e-6, *, numbered: bool = True) -> None:
    """Beam, panels, scan, axis and crystal are the ones that were written, relative positions in the laboratory."""
    assert data.beam is not None and data.detector is not None
    assert found["wavelength"] == pytest.approx(data.beam.wavelength_A, rel=1e-6)
    assert len(found["panels"]) == len(data.detector.panels)
    for theirs, ours in zip(found["panels"], data.detector.panels, strict=True):
        np.testing.assert_allclose(theirs["origin"], ours.origin_mm, atol=100 * scale)
        np.testing.assert_allclose(theirs["fast"], ours.fast, atol=scale)
        np.testing.assert_allclose(theirs["slow"], ours.slow, atol=scale)
        assert theirs["size"] == list(ours.image_size)
        np.testing.assert_allclose(theirs["pixel"], ours.pixel_size_mm, rtol=1e-6)
    if data.scan is not None and data.goniometer is not None:
        if numbered:
            assert found["image_range"] == list(data.scan.image_range)
        np.testing.assert_allclose(
            found["oscillation"], [data.scan.start_deg(0), data.scan.oscillation_width_deg], atol=1e-6
        )
        np.testing.assert_allclose(found["axis"], data.goniometer.rotation_axis, atol=scale)


GROUPED = replace(
    experiment(panels=[panel(), panel(origin_mm=[-3.0, -4.0, -151.0])]),
    detector=DetectorData(
        panels=(panel(), panel(origin_mm=[-3.0, -4.0, -151.0])),
        root=GroupData(origin_mm=[0, 0, -150.0], children=(GroupData(children=(0,)), GroupData(children=(1,)))),
    ),
)
WAYS = {
    "still": experiment(),
    "scan": experiment(4),
    "mosaicity": experiment(4, mosaicity_deg=0.2),
    "blocks": experiment(half_mosaicity_deg=0.1, domain_size_A=1500.0),
    "both": experiment(mosaicity_deg=0.2, half_mosaicity_deg=0.1, domain_size_A=1500.0),
    "half": experiment(half_mosaicity_deg=0.1),
    "grouped": GROUPED,
    "sensor": experiment(4, panels=[panel(thickness_mm=0.32, material="Si", mu_per_mm=3.9, trusted_range=(0, 999))]),
}


@pytest.mark.parametrize("name", WAYS)
def test_dials_reads_experiments(name: str, tmp_path: Path) -> None:
    """Every kind of crystal, detector and scan, with the same numbers."""
    data = WAYS[name]
    write_geometry(tmp_path / "a.expt", data, allow_loss=True)
    (found,) = dials(tmp_path / "a.expt")[0]
    agree(found, data, 1e-9)
    assert data.crystal is not None
    np.testing.assert_allclose(np.reshape(found["A"], (3, 3)), np.linalg.inv(data.crystal.real_space), atol=1e-9)
    if name == "blocks":
        assert (found["half_mosaicity_deg"], found["domain_size_ang"]) == (0.1, 1500.0)


def test_dials_reads_a_crystal_that_varies_through_a_scan(tmp_path: Path) -> None:
    """A setting for every edge of an image."""
    data = experiment(3)
    assert data.crystal is not None
    stars = np.linalg.inv(data.crystal.real_space)
    data = replace(data, crystal=replace(data.crystal, A_at_scan_points=np.stack([stars] * 4)))
    write_geometry(tmp_path / "a.expt", data)
    assert dials(tmp_path / "a.expt")[0][0]["points"] == 4


@pytest.mark.parametrize("name", ["still", "scan", "sensor"])
@pytest.mark.parametrize("suffix", [".nxs", ".cbf", ".img"])
def test_dials_opens_images(name: str, suffix: str, tmp_path: Path) -> None:
    """Geometry and pixels of one image: NXmx whatever is known of the sensor, mini-CBF, SMV."""
    data = WAYS[name] if name == "still" else part_of_scan(WAYS[name], 0, 1)
    if suffix == ".img":  # whose pixels are square, and whose axis is x
        square = [
            replace(p, pixel_size_mm=(0.2, 0.2), fast=[1.0, 0, 0], slow=[0, -1.0, 0]) for p in data.detector.panels
        ]
        axis = None if data.goniometer is None else GoniometerData(rotation_axis=[1.0, 0.0, 0.0])
        data = replace(data, detector=DetectorData(panels=tuple(square)), goniometer=axis)
    pixels = np.arange(600, dtype=np.int32).reshape(20, 30) % 97
    target = tmp_path / f"a_0005{suffix}"
    write_image(target, pixels.astype(np.uint16) if suffix == ".img" else pixels, data, allow_loss=True)
    (found,) = dials(target)[0]
    assert found["sums"] == [float(pixels.sum())]
    if suffix != ".cbf":
        agree(found, data, numbered=False)
    else:  # which has no place for a tilt: the beam meets the detector where it did, at the same distance
        assert data.beam is not None and data.detector is not None
        spot = beam_on_panel(data.detector.panels[0], data.beam)
        (panel_found,) = found["panels"]
        expected = [-spot.fast_mm, spot.slow_mm, -spot.distance_mm]
        np.testing.assert_allclose(panel_found["origin"], expected, atol=1e-9)


def test_dials_reads_parts_of_scans_from_the_right_images(tmp_path: Path) -> None:
    """An experiment of the last images of a file of several points at those."""
    data = replace(
        experiment(6), scan=ScanData(image_range=(1, 6), oscillation_start_deg=0.0, oscillation_width_deg=0.25)
    )
    frames = np.stack([np.full((20, 30), 10 * n, np.int32) for n in range(6)])
    write_nxmx(tmp_path / "a.nxs", frames, data)
    whole = replace(data, image_template=str(tmp_path / "a.nxs"))
    write_geometry(tmp_path / "part.expt", part_of_scan(whole, 4, 2))
    (found,) = dials(tmp_path / "part.expt")[0]
    assert found["images"] == 2 and found["image_range"] == [5, 6]
    assert found["sums"] == [40.0 * 600]
