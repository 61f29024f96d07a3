"""Readers, writers and helpers that scripts for the earlier package of this name use: signature, unit, shape, value."""

from __future__ import annotations

import inspect
import logging
import math
from pathlib import Path
from typing import Any

import fabio
import numpy as np
import pytest
import torch

from nanobrag_torch import BeamConfig, io
from nanobrag_torch.c_random import Streams
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.mask import parse_smv_header
from nanobrag_torch.io.source import read_sourcefile
from nanobrag_torch.utils import auto_selection, c_random, geometry, noise, physics, units

WIDE = torch.float64
SIGNATURES = {
    io.read_hkl_file: "path default_F device dtype",
    io.write_fdump: "grid metadata path",
    io.read_fdump: "path device dtype",
    io.try_load_hkl_or_fdump: "hkl_path fdump_path default_F write_cache device dtype",
    io.read_smv: "path",
    io.write_smv: "filepath image_data pixel_size_mm distance_mm wavelength_angstrom beam_center_x_mm beam_center_y_mm "
    "close_distance_mm phi_deg osc_start_deg osc_range_deg twotheta_deg detector_sn beamline convention byte_order "
    "data_type scale adc_offset",
    io.write_pgm: "filepath image pgm_scale",
    io.read_smv_mask: "path",
    parse_smv_header: "path",
    io.create_circular_mask: "spixels fpixels center_s center_f radius",
    io.create_rectangle_mask: "spixels fpixels roi_xmin roi_xmax roi_ymin roi_ymax",
    io.read_mosflm_matrix: "path wavelength_A",
    io.reciprocal_to_real_cell: "a_star b_star c_star",
    read_sourcefile: "path default_wavelength_m default_source_distance_m beam_direction dtype device",
    noise.generate_poisson_noise: "mean seed adc_offset readout_noise overload_value",
    auto_selection.auto_select_sampling: "count range step",
    auto_selection.generate_sources_from_divergence_dispersion: "hdiv_params vdiv_params disp_params "
    "central_wavelength_m source_distance_m beam_direction polarization_axis round_div dtype",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__name__)
def test_arguments_have_these_names_in_this_order(function):
    wanted = SIGNATURES[function].split()
    assert list(inspect.signature(function).parameters)[: len(wanted)] == wanted


def test_reflections_and_their_cache(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.hkl").write_text("# title\nh k l F sigma\n0 0 1 10 1\n2 -1 2 20.5 1\n")
    grid, metadata = io.read_hkl_file("a.hkl", 3.0)
    assert grid.shape == (3, 2, 2) and grid[2, 0, 1] == 20.5 and (grid == 3.0).sum() == 10
    assert [metadata[name] for name in ("h_min", "h_max", "k_min", "l_max")] == [0, 2, -1, 2]
    assert (metadata["h_range"], metadata["k_range"], metadata["l_range"]) == (3, 2, 2)
    assert "columns" in caplog.text and "skipped: 1" in caplog.text
    assert io.read_hkl_file("a.hkl", 0.0, "cpu", torch.float32)[0].dtype == torch.float32
    assert io.try_load_hkl_or_fdump() == (None, None)
    io.write_fdump(grid, metadata, "Fdump.bin")
    again, limits = io.read_fdump("Fdump.bin", dtype=WIDE)
    assert torch.equal(again, grid) and limits == metadata and limits["l_range"] == 2
    assert torch.equal(io.try_load_hkl_or_fdump()[0], grid)
    io.try_load_hkl_or_fdump("a.hkl", "other.bin", 1.0)
    assert Path("other.bin").stat().st_size == Path("Fdump.bin").stat().st_size
    Path("none.hkl").write_text("h k l\n")
    with pytest.raises(ValueError, match=r"none\.hkl"):
        io.read_hkl_file("none.hkl")


TYPES: dict[str, Any] = {
    "unsigned_short": np.uint16,
    "signed_short": np.int16,
    "unsigned_int": np.uint32,
    "signed_int": np.int32,
}


@pytest.mark.parametrize("data_type", [*TYPES, "float"])
@pytest.mark.parametrize("byte_order", ["little_endian", "big_endian"])
def test_smv_images_of_every_type(tmp_path, data_type, byte_order):
    image = torch.tensor([[0.4, 1.6, 7.0], [-90.0, 3.0, 1e12]], dtype=WIDE)
    path = tmp_path / "a.img"
    io.write_smv(path, image, 0.1, 120.0, 1.1, 5.0, 6.0, 119.0, 1.0, 1.0, 0.5, scale=2.0, adc_offset=10.0,
                 data_type=data_type, byte_order=byte_order)  # fmt: skip
    pixels, header = io.read_smv(path)
    exact = image.numpy() * 2 + 10
    if data_type == "float":
        np.testing.assert_allclose(pixels, exact, rtol=1e-6)
    else:
        limits = np.iinfo(TYPES[data_type])
        np.testing.assert_array_equal(pixels, np.clip(np.rint(exact), limits.min, limits.max))
    assert header["SIZE1"] == "3" and header["SIZE2"] == "2" and header["HEADER_BYTES"] == "512"
    assert [float(header[key]) for key in ("DISTANCE", "CLOSE_DISTANCE", "PIXEL_SIZE", "OSC_RANGE")] == [
        120,
        119,
        0.1,
        0.5,
    ]
    assert parse_smv_header(path) == header


def test_another_programs_reader_opens_what_is_written(tmp_path):
    io.write_smv(tmp_path / "a.img", np.arange(12.0).reshape(3, 4), 0.1, 100.0, 1.0, 5.0, 6.0)
    with fabio.open(str(tmp_path / "a.img")) as file:
        np.testing.assert_array_equal(file.data, np.arange(12).reshape(3, 4) + 40)
        assert file.header["WAVELENGTH"] == "1.0" and "PHI" not in file.header


def test_images_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="image_data: got"):
        io.write_smv(tmp_path / "a.img", np.zeros(5), 0.1, 100.0, 1.0, 5.0, 6.0)
    with pytest.raises(ValueError, match="image: got"):
        io.write_pgm(tmp_path / "a.pgm", torch.zeros(2, 2, 2))
    assert not list(tmp_path.iterdir())


def test_grey_pictures(tmp_path):
    io.write_pgm(tmp_path / "a.pgm", torch.tensor([[0.0, 1.9], [200.0, 3.0]]), 2.0)
    assert (tmp_path / "a.pgm").read_bytes() == b"P5\n2 2\n# pixels scaled by 2\n255\n" + bytes([0, 3, 255, 6])


def test_masks(tmp_path):
    circle = io.create_circular_mask(7, 9, 3.0, 4.0, 2.0)
    by_hand = [[float((s - 3) ** 2 + (f - 4) ** 2 <= 4) for f in range(9)] for s in range(7)]
    assert circle.shape == (7, 9) and circle.tolist() == by_hand
    rectangle = io.create_rectangle_mask(7, 9, 1, 3, 2, 5)
    assert rectangle.sum() == 12 and rectangle[2, 1] == rectangle[5, 3] == 1 and rectangle[5, 4] == 0
    io.write_smv(tmp_path / "mask.img", circle, 0.1, 100.0, 1.0, 5.0, 6.0, adc_offset=0.0)
    mask, header = io.read_smv_mask(tmp_path / "mask.img")
    assert torch.equal(mask, circle) and mask.dtype == torch.float32 and header["SIZE1"] == "9"


def test_an_orientation_matrix(data):
    stars = io.read_mosflm_matrix(str(data / "inputs" / "A.mat") if (data / "inputs" / "A.mat").exists() else
                                  str(next((data / "inputs").glob("*.mat"))), 1.0)  # fmt: skip
    assert [star.shape for star in stars] == [(3,)] * 3 and all(isinstance(star, np.ndarray) for star in stars)
    cell = io.reciprocal_to_real_cell(*stars)
    assert len(cell) == 6 and np.prod(cell[:3]) > 0


def test_sources_of_a_file(tmp_path, caplog):
    path = tmp_path / "sources.txt"
    path.write_text("-10 0 0 1 1e-10\n0 0 -5 3 1.1e-10\n")
    directions, weights, wavelengths = read_sourcefile(path, 1e-10, dtype=WIDE)
    assert directions.tolist() == [[-1, 0, 0], [0, 0, -1]] and weights.tolist() == [1, 3]
    assert wavelengths.tolist() == [1e-10, 1.1e-10] and "wavelengths are those of the file" in caplog.text
    with pytest.raises(InputError, match="metres: times 1e10"):
        BeamConfig(source_directions=directions, source_wavelengths=wavelengths)
    assert BeamConfig(source_directions=directions, source_wavelengths=wavelengths * 1e10).source_weights is None
    path.write_text("\n")
    with pytest.raises(ValueError, match="at least one source"):
        read_sourcefile(path, 1e-10)


UNITS = {
    "mm_to_angstroms": 1e7, "meters_to_angstroms": 1e10, "angstroms_to_mm": 1e-7, "angstroms_to_meters": 1e-10,
    "mm_to_meters": 1e-3, "micrometers_to_meters": 1e-6, "mrad_to_radians": 1e-3,
    "degrees_to_radians": math.pi / 180, "radians_to_degrees": 180 / math.pi,
}  # fmt: skip


@pytest.mark.parametrize("name", UNITS)
def test_units_take_numbers_and_tensors(name):
    convert = getattr(units, name)
    assert isinstance(convert(3.0), float) and convert(3.0) == pytest.approx(3 * UNITS[name], rel=1e-15)
    tensor = torch.tensor([1.0, 2.0], dtype=WIDE, requires_grad=True)
    assert convert(tensor).requires_grad and convert(tensor).tolist() == pytest.approx([UNITS[name], 2 * UNITS[name]])


def random_vectors(*shape):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(2), dtype=WIDE)


def test_vectors():
    x, y = random_vectors(2, 4)
    np.testing.assert_allclose(geometry.dot_product(x, y), np.einsum("ij,ij->i", x, y))
    np.testing.assert_allclose(geometry.cross_product(x, y), np.cross(x, y))
    direction, length = geometry.unitize(x)
    np.testing.assert_allclose(length, np.linalg.norm(x, axis=1))
    np.testing.assert_allclose(direction * length[:, None], x)
    assert torch.equal(geometry.magnitude(x), length)
    turned = geometry.rotate_axis(x, torch.tensor([0.0, 0.0, 5.0], dtype=WIDE), torch.tensor(math.pi / 2, dtype=WIDE))
    np.testing.assert_allclose(turned, np.stack((-x[:, 1], x[:, 0], x[:, 2]), -1), atol=1e-15)
    a, b, c = (torch.tensor(angle, dtype=WIDE) for angle in (0.1, 0.2, 0.3))
    matrix = geometry.angles_to_rotation_matrix(a, b, c).numpy()
    from scipy.spatial.transform import Rotation

    np.testing.assert_allclose(matrix, Rotation.from_euler("xyz", [0.1, 0.2, 0.3]).as_matrix(), atol=1e-15)
    np.testing.assert_allclose(geometry.rotate_umat(x, torch.from_numpy(matrix)), x.numpy() @ matrix.T)


@pytest.mark.parametrize("cells", [5, 6])
def test_the_grating_far_from_zero(cells):
    u = torch.linspace(-9.0, 9.0, 301, dtype=WIDE)
    np.testing.assert_allclose(
        physics.sincg(u, cells), np.sin(cells * u.numpy()) / np.sin(u.numpy()), rtol=1e-9, atol=1e-9
    )
    at_zero = physics.sincg(torch.tensor([0.0, math.pi, -2 * math.pi], dtype=WIDE), torch.tensor(float(cells)))
    np.testing.assert_allclose(at_zero, [cells, cells * (-1.0) ** (cells - 1), cells], rtol=1e-12)


def test_the_ball():
    x = np.linspace(0.5, 20.0, 100)
    np.testing.assert_allclose(
        physics.sinc3(torch.from_numpy(x)), 3 * (np.sin(x) / x - np.cos(x)) / x**2, rtol=1e-9, atol=1e-12
    )
    assert physics.sinc3(torch.zeros(1)).item() == 1


def test_polarization_of_many_directions():
    """Kahn's formula, J. Appl. Cryst. 15 (1982), 330, with angles."""
    incident, axis = torch.tensor([1.0, 0, 0], dtype=WIDE), torch.tensor([0.0, 0, 1.0], dtype=WIDE)
    diffracted = random_vectors(3, 5)
    d = diffracted / diffracted.norm(dim=-1, keepdim=True)
    cosine = d[..., 0]
    b = np.cross(axis, incident)
    e = np.cross(incident, b)
    psi = -torch.atan2(d @ torch.from_numpy(b), d @ torch.from_numpy(e))
    expected = (1 + cosine**2 - 0.7 * torch.cos(2 * psi) * (1 - cosine**2)) / 2
    found = physics.polarization_factor(0.7, incident, diffracted, axis)
    assert found.shape == (3, 5)
    torch.testing.assert_close(found, expected)


def test_random_numbers_are_those_of_the_c_program():
    generator, streams, state = c_random.CLCG(42), Streams(), -42
    for _ in range(5):
        expected, state = streams.draw(state)
        assert generator.ran1() == expected
    matrix = c_random.mosaic_rotation_umat(0.01, 7)
    assert matrix.shape == (3, 3) and torch.equal(matrix, c_random.mosaic_rotation_umat(0.01, 7))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(3, dtype=WIDE))
    angles = c_random.umat2misset(matrix)
    again = geometry.angles_to_rotation_matrix(*(torch.tensor(angle, dtype=WIDE) for angle in angles))
    torch.testing.assert_close(again, matrix)
    assert c_random.mosaic_rotation_umat(0.01).shape == (3, 3)


def test_a_random_orientation_is_that_of_the_command(tmp_path, monkeypatch, capsys):
    from nanobrag_torch.cli.nanobragg import main

    monkeypatch.chdir(tmp_path)
    words = "-cell 50 50 50 90 90 90 -N 1 -default_F 1 -detpixels 4 -kernel reference -nopgm -nonoise -misset random"
    assert main([*words.split(), "-misset_seed", "9"]) == 0
    printed = capsys.readouterr().out.split("misset angles: ")[1].split(" deg")[0].split()
    assert [float(x) for x in printed] == pytest.approx(c_random.random_misset_deg(9), abs=1e-6)


def test_noise_counts_reads_and_saturates():
    mean = torch.full((200, 200), 100.0)
    recorded, overloads = noise.generate_poisson_noise(
        mean, 5, adc_offset=40.0, readout_noise=3.0, overload_value=160.0
    )
    assert recorded.dtype == torch.int32 and recorded.shape == (200, 200)
    assert recorded.double().mean().item() == pytest.approx(140, abs=0.5)
    plain, none = noise.generate_poisson_noise(mean, 5, overload_value=65535.0)
    assert none == 0 and plain.double().var().item() == pytest.approx(100 + 9, rel=0.05)
    assert recorded.max() == 160 and overloads == int((plain >= 160).sum()) > 0
    assert torch.equal(plain, noise.generate_poisson_noise(mean, 5)[0])
    assert not torch.equal(noise.generate_poisson_noise(mean)[0], noise.generate_poisson_noise(mean)[0])


def test_steps_are_chosen_as_by_the_c_program():
    chosen = auto_selection.auto_select_divergence(3, 0.002)
    assert (chosen.count, chosen.range, chosen.step) == (3, 0.002, 0.001)
    assert auto_selection.auto_select_dispersion() == auto_selection.SamplingParams(1, 0.0, 0.0)
    assert auto_selection.auto_select_thickness(None, 1e-4).count == 2


def test_a_table_of_sources():
    h, one = auto_selection.auto_select_divergence(3, 0.002), auto_selection.SamplingParams(1, 0.0, 0.0)
    spectrum = auto_selection.auto_select_dispersion(2, 0.01)
    directions, weights, wavelengths = auto_selection.generate_sources_from_divergence_dispersion(
        h, one, spectrum, 1e-10, dtype=WIDE
    )
    assert directions.shape == (6, 3) and weights.tolist() == [1.0] * 6
    torch.testing.assert_close(torch.linalg.vector_norm(directions, dim=-1), torch.ones(6, dtype=WIDE))
    angles = torch.acos((directions @ torch.tensor([-1.0, 0, 0], dtype=WIDE)).clamp(max=1))
    torch.testing.assert_close(angles, torch.tensor([1e-3, 1e-3, 0, 0, 1e-3, 1e-3], dtype=WIDE), atol=1e-8, rtol=0)
    torch.testing.assert_close(wavelengths, torch.tensor([0.995e-10, 1.005e-10] * 3, dtype=WIDE))
    with pytest.raises(InputError, match="disp_params"):
        auto_selection.generate_sources_from_divergence_dispersion(
            one, one, auto_selection.SamplingParams(3, 0.01, 0.001), 1e-10
        )


def test_departures_are_said_once(caplog, monkeypatch):
    from nanobrag_torch import CrystalConfig, DetectorConfig, Simulator
    from nanobrag_torch.models import departures
    from nanobrag_torch.models.crystal import Crystal
    from nanobrag_torch.models.detector import Detector

    monkeypatch.setattr(departures, "_SAID", set())
    crystal = Crystal(CrystalConfig(cell_a=50.0, default_F=1.0))
    detector = Detector(DetectorConfig(detector_convention="adxv", beam_center_s=1.0, spixels=4, fpixels=4))
    turning = CrystalConfig(cell_a=60.0, osc_range_deg=1.0, mosaic_spread_deg=0.1)
    for _ in range(2):
        Simulator(crystal, detector, turning, BeamConfig(flux=1e12, polarization_factor=0.5))
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    for word in ("far edge", "spindle_axis is", "polarization", "mosaic_domains is 10", "flux counts", "not: cell_a"):
        assert sum(word in line for line in said) == (2 if word == "not: cell_a" else 1), word
    assert crystal.config.osc_range_deg == 1.0 and crystal.config.cell_a == 50.0
