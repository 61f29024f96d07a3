"""Command lines that people tried, with answers worked out from the physics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compat_scenes import commands

SMALL = (
    "-cell 60 75 90 -default_F 50 -N 5 -lambda 1 -distance 100 -detpixels 16 -pixel 0.4 -oversample 1 -nonoise -nopgm"
)
FLAT = "-cell 10 10 10 -default_F 10 -N 1 -lambda 1 -distance 100 -pixel 5 -oversample 1 -nointerpolate -nonoise -nopgm"


@pytest.fixture
def command(tmp_path):
    yield from commands(tmp_path)


VECTORS = "-fdet_vector 1 0 0 -sdet_vector 0 1 0 -odet_vector 0 0 1 -polar_vector 1 0 0 -spindle_axis 1 0 0"


@pytest.mark.parametrize(
    "frame", ["-xds", "-dials", "-denzo -Xbeam 7.5 -Ybeam 7.5", f"{VECTORS} -beam_vector 0 0 1 -Xbeam 7.5 -Ybeam 7.5"]
)
def test_one_cell_on_a_curved_detector_scatters_by_its_angle(command, frame):
    """photons = F^2 P (pixel / distance)^2: 0.25 at the direct beam, and by (1 + cos^2) / 2 elsewhere."""
    image = command(f"{FLAT} {frame} -detpixels 3 -curved_det").image
    angle = np.array([-5.0, 0, 5]) / 100
    cosine = np.cos(angle[:, None]) * np.cos(angle)
    assert image[1, 1] == pytest.approx(0.25, rel=1e-6)
    assert np.allclose(image, 0.25 * (1 + cosine**2) / 2, rtol=1e-6)


@pytest.mark.parametrize("sensor", ["-oversample_thick", ""])
def test_a_curved_sensor_captures_the_same_everywhere(command, sensor):
    line = f"{FLAT} -nopolar -mosflm -curved_det -detpixels 21"
    ratio = command(f"{line} -detector_thick 450 -detector_abs 450 {sensor}").image / command(line).image
    assert np.allclose(ratio, 1 - math.exp(-1), rtol=1e-6)


@pytest.mark.parametrize("shape", ["-gauss_xtal", "-tophat_spots", "-square_xtal", "-gauss_hkl_xtal"])
def test_a_spot_turned_through_the_sphere_holds_darwins_intensity(command, tmp_path, shape):
    """r_e^2 fluence F^2 lambda^3 V_crystal P / (V_cell^2 sin 2theta), for 0 3 0 of a 64 Angstrom cell."""
    (tmp_path / "one.hkl").write_text("0 3 0 100\n")
    for cells in (4, 8):
        line = (
            f"-cell 64 64 64 90 90 90 -hkl one.hkl -N {cells} -lambda 1 -distance 100 -pixel 0.01468068 -detpixels 160 "
            "-Xbeam 5.85848028 -Ybeam 1.16711383 -phi -12.98095207 -osc 28.64788976 -phisteps 400 -oversample 1 "
            f"-nonoise -nopgm -nointerpolate {shape} -kernel fused -dtype float32"
        )
        twotheta = 2 * math.asin(1 / (2 * 64 / 3))
        polar = (1 + math.cos(twotheta) ** 2) / 2
        darwin = 100**2 * cells**3 / 64**3 * polar / math.sin(twotheta)
        found = command(line).image.sum() * math.radians(28.64788976)
        assert found / darwin == pytest.approx(1, abs=0.02), cells


def test_a_sensor_without_thickness(command):
    assert not command(f"{SMALL} -oversample_thick", "c").image.any()
    assert np.array_equal(command(f"{SMALL} -oversample_thick").image, command(SMALL).image)


def test_three_steps_of_0_7_degrees_are_2_1_degrees(command):
    steps = command(f"{SMALL} -phi 3 -osc 2.1 -phistep 0.7").image
    assert np.array_equal(steps, command(f"{SMALL} -phi 3 -osc 2.1 -phisteps 3").image)
    assert steps.sum() == pytest.approx(5670.4, abs=0.05)
    assert command(f"{SMALL} -phi 3 -osc 2.1 -phistep 0.7", "c").image.sum() == pytest.approx(5289.5, abs=0.05)


def test_a_source_along_the_polarization_axis(command, tmp_path):
    (tmp_path / "s.txt").write_text("0 0 -10 1 1e-10\n")
    in_c = command(f"{SMALL} -polar 0.9 -sourcefile s.txt", "c").image
    assert (in_c.min(), in_c.max()) == (pytest.approx(0.00227, abs=1e-5), pytest.approx(24.15, abs=0.01))
    corrected = command(f"{SMALL} -polar 0.9 -sourcefile s.txt")
    assert corrected.corrections == ["D54"]
    assert np.allclose(corrected.image, command(f"{SMALL} -polar 0 -sourcefile s.txt").image, rtol=1e-6)


@pytest.mark.parametrize("turned", ["-twotheta 100", "-xds -close_distance -100"])
def test_photons_are_never_negative(command, turned):
    corrected = command(f"{SMALL} {turned}")
    assert not corrected.image.any() and "256 of 256 pixels" in corrected.complaint
    assert command(f"{SMALL} {turned}", "c").image.sum() == pytest.approx({"-t": -1507, "-x": -4308}[turned[:2]], abs=1)


def test_a_wavelength_of_a_metre_was_meant_in_angstrom(command, tmp_path):
    (tmp_path / "s.txt").write_text("-10 0 0 1 1.0\n")
    refused = command(f"{SMALL} -sourcefile s.txt")
    assert refused.code == 2 and "metres in the fifth column" in refused.complaint and refused.image is None
    assert command(f"{SMALL} -sourcefile s.txt", "c").code == 0
    for flag in ("-lambda 12398", "-energy 12.398"):
        assert "is it in another unit?" in command(f"{SMALL} {flag}").complaint


def test_a_convention_that_a_vector_discards_is_named(command):
    said = command(f"{SMALL} -xds -spindle_axis 0 1 0").complaint
    assert "-spindle_axis selects the CUSTOM convention and discards -xds" in said
    assert "discards" not in command(f"{SMALL} -spindle_axis 0 1 0").complaint
