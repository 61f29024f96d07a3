"""A crystal of many blocks in a beam of some width, with a background, by the words of `nb simulate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.io.geometry import read_geometry, write_geometry
from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    PanelData,
    ScanData,
)
from nanobrag_torch.response.photons import poisson_counts


@pytest.fixture
def shot(tmp_path: Path) -> Path:
    """A still of 40 x 30 pixels."""
    panel = PanelData(
        origin_mm=[-4, 3, -60], fast=[1, 0, 0], slow=[0, -1, 0], pixel_size_mm=(0.2, 0.2), image_size=(40, 30)
    )
    data = ExperimentData(
        beam=BeamData(wavelength_A=1.0),
        detector=DetectorData(panels=(panel,)),
        crystal=CrystalData(real_space=np.diag([30.0, 40.0, 50.0])),
    )
    write_geometry(tmp_path / "shot.expt", data)
    return tmp_path / "shot.expt"


def rendered(shot: Path, *words: str) -> np.ndarray:
    """The expected photons of the still."""
    target = shot.parent / "image.npy"
    assert main(["simulate", str(shot), "-o", str(target), "--tolerance", "0", "--oversample", "1", *words]) == 0
    return np.load(target).astype(np.float64)


def test_blocks_multiply_the_crystal_alone(shot: Path) -> None:
    """A million blocks give a million times the photons of one; the background stays."""
    one = rendered(shot, "--fluence", "1e20")
    many = rendered(shot, "--fluence", "1e20", "--blocks", "1e6")
    np.testing.assert_allclose(many, 1e6 * one, rtol=1e-5)
    alone = rendered(shot, "--fluence", "1e14", "--default-f", "0", "--background", "water:1mm")
    both = rendered(shot, "--fluence", "1e14", "--background", "water:1mm", "--blocks", "1e12")
    np.testing.assert_allclose(both - alone, 1e12 * 1e-6 * one, rtol=1e-4, atol=1e-4 * alone.max())


def test_a_background_scales_with_the_area_of_the_beam(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half the edge, a quarter of the photons; the line before the image says the beam."""
    words = ("--fluence", "1e14", "--default-f", "0", "--background", "water:1mm")
    whole, half = rendered(shot, *words), rendered(shot, *words, "--beam-size", "50um")
    np.testing.assert_allclose(whole, 4 * half, rtol=1e-6)
    assert "in a beam of 0.05 mm" in capsys.readouterr().out


def test_images_are_called_by_their_numbers(shot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a scan that begins with image 7, the line names image 8 where frame 1 is the first that is rendered."""
    data = read_geometry(shot)
    scan = ScanData(image_range=(7, 9), oscillation_start_deg=0.0, oscillation_width_deg=0.1)
    axis = GoniometerData(rotation_axis=np.array([1.0, 0.0, 0.0]))
    write_geometry(shot, replace(data, scan=scan, goniometer=axis))
    words = ["--frames", "8", "-o", str(shot.parent / "image.npy"), "--oversample", "1"]
    assert main(["simulate", str(shot), *words]) == 0
    assert "a sample of pixels of image 8 has" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--blocks", "0"), "--blocks"),
        (("--blocks", "nan"), "--blocks"),
        (("--beam-size", "50um"), "--beam-size"),
        (("--beam-size", "50", "--background", "water:1mm"), "--beam-size"),
        (("--background", "water:1mm", "--noise"), "3"),
    ],
)
def test_what_cannot_be_is_refused(
    shot: Path, words: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the option, or the photons that nobody can count, and no image."""
    target = shot.parent / "image.npy"
    assert main(["simulate", str(shot), "-o", str(target), *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert named in line and "accepted" in line
    assert not target.exists()


@pytest.mark.parametrize("value", [float("nan"), -0.5, 3e9])
def test_a_mean_that_cannot_be_counted_is_named(value: float) -> None:
    """The error has the number itself."""
    import torch

    from nanobrag_torch.errors import InputError

    with pytest.raises(InputError, match="nan" if value != value else f"{value:.4g}".replace("+", r"\+")):
        poisson_counts(torch.tensor([[1.0, value, 2.0]]), seed=1)
