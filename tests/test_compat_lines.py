"""What the command says about corrections: one line for each that changed the image of this run, none when none did."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from compat_scenes import ALWAYS, DATA, SPOTS, Command, Ran, commands
from nanobrag_torch.cli.nanobragg import prepare as preparing
from nanobrag_torch.compat import ROWS, Compat

BESIDE_THE_IMAGE = ("distance_before_twotheta", "solid_angle_over_steps")
IMAGE_SWITCHES = [field.name for field in fields(Compat) if field.name not in BESIDE_THE_IMAGE]
IDS = {row.switch: row.id for row in ROWS}
SHRUNK = "-detpixels 16 -pixel 0.4 -oversample 1"


@pytest.fixture
def command(tmp_path):
    yield from commands(tmp_path)


def rendered(line: str, compat: Compat, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The image of a line with some switches thrown; the C program's own spelling of numbers is accepted."""
    monkeypatch.setattr(preparing, "compat_of", lambda _: compat)
    simulator = preparing.build(preparing.prepare(f"{ALWAYS} -compat c {line}".split()))
    monkeypatch.undo()
    return simulator.run().numpy()


def changed_alone(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Rows whose switch, thrown alone, gives another image: found by rendering them all."""
    corrected = rendered(line, Compat(), monkeypatch)
    images = {name: rendered(line, Compat(**{name: True}), monkeypatch) for name in IMAGE_SWITCHES}
    last_digits = 1e-12 * corrected.max()
    return [IDS[name] for name, image in images.items() if np.abs(image - corrected).max() > last_digits]


def check(command: Command, monkeypatch: pytest.MonkeyPatch, line: str) -> Ran:
    """Run a line, and hold the lines that it prints against what throwing each switch alone does to the image."""
    ran = command(line)
    assert ran.code == 0, ran.complaint
    (ran.folder / "Fdump.bin").unlink(missing_ok=True)
    monkeypatch.chdir(ran.folder)
    assert ran.corrections == changed_alone(line, monkeypatch)
    of_header = ran.printed.count("correction D20 changed the header")
    assert ran.printed.count("correction ") == len(ran.corrections) + of_header
    return ran


@pytest.mark.parametrize("row", [row for row in ROWS if row.switch is not None], ids=lambda row: row.id)
def test_exactly_one_line_for_each_correction_that_changed_the_image(command, monkeypatch, row):
    line = row.example if "-img" in row.example else f"{SHRUNK} {row.example}"
    ran = check(command, monkeypatch, line)
    assert (row.id in ran.corrections) == (row.switch in IMAGE_SWITCHES)
    assert "correction" not in command(line, "c").printed


QUIET = [
    "",
    "-phi 0",
    "-phi 0 -osc 0 -phisteps 3",
    "-phi 1 -osc 2 -phisteps 2",
    "-phi -0.3 -osc 0.4 -phistep 0.1",  # -0.3 + 3 * 0.1 is not quite zero
    "-oversample_omega -water 5",
    "-water 5",
    "-water 5 -dmin 3",
    "-detector_thicksteps 4",
    "-detector_abs inf -detector_thick 450",
    "-sourcefile equal.txt",
    "-twotheta_axis 0 1 0",
    "-twotheta_axis 0 0 1 -twotheta 3",
    "-twotheta_axis 0.6 0.8 0 -twotheta 4",
    "-twotheta_axis 0 0 3 -xds -twotheta 4",
    "-twotheta 3",
    "-misset_seed 3",
    "-misset_seed 0 -nopgm -nopgm -nopgm",
    "-misset_seed 5 -adc 3 -misset random",
    "-cell 60 60 90 90 90 120",
    "-cell 60 60 90 90 100 90",
    "-mat tri.mat -cell 62 71 83 75 97 112",
    "-hkl late.hkl",
    "-hkl p1_wide.hkl -interpolate -distance 300",
    "-img close.img -distance 100",
    "-img close.img -distance 100 -xds",
    "-img close.img -distance 80 -close_distance 90",
]
SPOKEN = {
    "-phi -1 -osc 2 -phisteps 2": ["D2"],
    "-oversample_omega -point_pixel -oversample 2": ["D3"],
    "-oversample_polar -nopolar -oversample 2": ["D19"],
    "-oversample_omega -oversample_polar -oversample_thick": ["D53"],
    "-oversample_thick -oversample 2": ["D53"],
    "-detector_thick 450 -oversample_thick": ["D3", "D61"],
    "-detector_abs 250 -detector_thick 450 -detector_thicksteps 0": ["D4", "D61"],
    "-water 5 -fluence 1e28": ["D7"],
    "-water 5 -dmin 30": ["D7"],
    "-water 5 -detector_abs 250 -detector_thick 450": ["D4", "D7", "D61"],
    "-sourcefile zero.txt": ["D6"],
    "-twotheta 5 -twotheta_axis 1 1 1 -distance 90": ["D10", "D52"],
    "-twotheta_axis 0.5 1 0 -xds": ["D10"],
    "-misset 1 2 3 -misset_seed 5 -adc 3": ["D9"],
    "-misset random -misset_seed 5 -adc 3": ["D9"],
    "-cell 60 60 90 80 100 110 -xtalsize 0.0002": ["D1"],
    "-mat tri.mat -cell 62 71 83 75 97 112 -gauss_xtal -fudge 0.01": ["D38"],
    "-detector_abs 250 -detector_thick 450 -curved_det": ["D4", "D57", "D58"],
    "-twotheta 100 -oversample_thick": ["D60"],
    "-nopolar -polar 0.5 -nopolar -sourcefile sources_along_polar.txt": [],
    "-polar 0 -sourcefile sources_along_polar.txt": [],
    "-gauss_hkl_xtal": [],
    "-phi 5 -osc 3 -phistep 1": [],
    "-phi 5 -osc 1 -phistep 0.3": [],
    "-hdivrange 20": [],
    "-hdivrange 20 -hdivsteps 3": [],
    "-hdivsteps 2 -hdivrange 20 -hdivstep 10": ["D56"],
    "-mosaic 89 -mosaic_domains 3": [],
    "-odet_vector 1 0 0": [],
    "-fdet_vector 0 0 1": [],
    "-hkl late.hkl -N 2 -distance 60": ["D5"],
    "-img close.img -distance 100.5": ["D22"],
}


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "equal.txt").write_text("-10 0 0 2 1e-10\n-10 0.02 0 2 1e-10\n")
    (tmp_path / "zero.txt").write_text("-10 0 0 0 1e-10\n-10 0.02 0 2 1e-10\n")
    (tmp_path / "late.hkl").write_text((DATA / "inputs" / "p1_small.hkl").read_text() + "# the end\n")
    entries = "SIZE1=16;\nSIZE2=16;\nPIXEL_SIZE=0.4;\nCLOSE_DISTANCE=100;\n"
    (tmp_path / "close.img").write_bytes(f"{{\nHEADER_BYTES=512;\n{entries}}}\f".encode().ljust(1024))


@pytest.mark.parametrize("flags", QUIET)
@pytest.mark.usefixtures("inputs")
def test_nothing_is_said_when_nothing_changed(command, monkeypatch, flags):
    assert check(command, monkeypatch, f"{SHRUNK} {SPOTS} {flags}").corrections == []


@pytest.mark.parametrize("flags", SPOKEN)
@pytest.mark.usefixtures("inputs")
def test_what_is_said_is_what_changed(command, monkeypatch, flags):
    assert check(command, monkeypatch, f"{SHRUNK} {SPOTS} {flags}").corrections == SPOKEN[flags]
