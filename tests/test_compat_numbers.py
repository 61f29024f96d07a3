"""The rows of the table of defects about numbers, in both modes, each held against a formula."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from compat_scenes import (
    BOX,
    FLAT,
    MODES,
    SMALL,
    SPOTS,
    Plane,
    assert_same,
    commands,
    grating,
    rodrigues,
)
from nanobrag_torch import sampling
from nanobrag_torch.compat import Compat
from nanobrag_torch.config import CrystalConfig, CrystalShape, MosaicSampling
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.physics.lattice_factor import PROFILES, amplitude, lattice_factor, shape_matrix


@pytest.fixture
def command(tmp_path):
    yield from commands(tmp_path)


def reciprocal_integral(
    shape: CrystalShape, cells: tuple[int, int, int], edges: tuple[float, ...], compat: Compat
) -> float:
    """Integral of L^2 over one reciprocal cell: N for a crystal of N cells, by Parseval."""
    N, stars = torch.tensor(cells, dtype=torch.float64), torch.diag(1 / torch.tensor(edges, dtype=torch.float64))
    matrix = shape_matrix(shape, N, torch.ones((), dtype=torch.float64), stars, 1 / torch.linalg.det(stars),
                          product_widths=compat.product_widths)  # fmt: skip
    reach = (3.0 / N).clamp(max=0.5)  # beyond three times its width there is nothing of a spot
    axes = [((torch.arange(120, dtype=torch.float64) + 0.5) / 60 - 1) * r for r in reach]
    L = amplitude(shape, N) * lattice_factor(
        torch.stack(torch.meshgrid(*axes, indexing="ij"), -1), PROFILES[shape], matrix
    )
    return float((L * L).mean() * (2 * reach).prod())


@pytest.mark.parametrize("edges", [(40.0, 40.0, 40.0), (64.0, 64.0, 64.0), (50.0, 80.0, 110.0)])
@pytest.mark.parametrize("cells", [(4, 4, 4), (8, 8, 8), (12, 12, 12), (4, 7, 10)])
@pytest.mark.parametrize("shape", [CrystalShape.GAUSS, CrystalShape.TOPHAT])
def test_D38_a_spot_holds_darwins_intensity(shape, cells, edges):
    assert reciprocal_integral(shape, cells, edges, Compat()) == pytest.approx(math.prod(cells), rel=0.02)


@pytest.mark.parametrize(("cells", "share"), [(4, 31.3), (8, 0.985), (12, 0.086)])
def test_D38_the_c_programs_width_is_that_of_the_product(cells, share):
    """Ratios to Darwin's intensity as they were measured at a cell of 64 Angstrom."""
    N = (cells, cells, cells)
    found = reciprocal_integral(CrystalShape.GAUSS, N, (64.0, 64.0, 64.0), Compat.c())
    assert found / cells**3 == pytest.approx(share, rel=0.02)


def test_D38_command(command):
    line = f"{SPOTS} {SMALL} -gauss_xtal -fudge 0.4"
    plane = Plane(16, 16, 0.4, 100)
    hkl = plane.hkl(np.diag([60.0, 75, 90]), 1.0)
    d, common = hkl - np.round(hkl), (2500 * plane.omega() * plane.polar())[..., 0]
    own = 125 * np.exp(-0.4 * math.pi / 2 * ((5 * d) ** 2).sum(-1))
    product = 125 * np.exp(-0.4 * ((d / [60, 75, 90]) ** 2).sum(-1) * 125**2 / 0.63)
    corrected, in_c = command(line), command(line, "c")
    assert_same(corrected.image, own[..., 0] ** 2 * common, 1e-6)
    assert_same(in_c.image, product[..., 0] ** 2 * common, 1e-6)
    assert corrected.corrections == ["D38"]


@pytest.mark.parametrize(
    "sensor", ["", "-detector_abs 450", "-detector_thicksteps 3", "-detector_thick 450 -detector_abs inf", "-water 20"]
)
def test_D53_a_sensor_without_thickness_captures_everything(command, sensor):
    line = f"{SPOTS} {SMALL} {sensor}"
    corrected, in_c = command(f"{line} -oversample_thick"), command(f"{line} -oversample_thick", "c")
    assert_same(corrected.image, command(line).image)
    assert not in_c.image.any()
    assert corrected.corrections == ["D53"]


def test_D54_a_source_along_the_polarization_axis_is_unpolarized(command):
    line = f"{FLAT} -detpixels 16 -pixel 0.4 -distance 20 -oversample 1 -polar 0.9 -sourcefile sources_along_polar.txt"
    plane = Plane(16, 16, 0.4, 20)
    cosine2 = plane.directions()[..., 0, 2] ** 2  # the source shines along z
    omega = plane.omega()[..., 0]
    corrected, in_c = command(line), command(line, "c")
    assert_same(corrected.image, 2500 * omega * (1 + cosine2) / 2)
    assert_same(in_c.image, 2500 * omega * (1 + cosine2 - 0.9 * (1 - cosine2)) / 2)
    assert corrected.corrections == ["D54"]


def test_D55_a_whole_number_of_steps_is_that_number(command):
    line = f"{SPOTS} {SMALL} -phi 3 -osc 2.1"
    corrected, in_c = command(f"{line} -phistep 0.7"), command(f"{line} -phistep 0.7", "c")
    assert_same(corrected.image, command(f"{line} -phisteps 3").image)
    assert_same(in_c.image, command(f"{SPOTS} {SMALL} -phi 3 -osc 2.8 -phisteps 4").image)
    assert corrected.corrections == ["D55"]


@pytest.mark.parametrize("unit", [10, 100])
def test_D55_every_pair_on_a_grid(unit):
    pairs = [(n * step, step) for step in range(1, 200) for n in range(1, 200 // step + 1)]
    for osc, step in pairs:
        assert sampling.phi_steps(None, osc / unit, step / unit).count == osc // step
        assert sampling.grid_steps(None, osc / unit, step / unit).count == osc // step
        radians = [x / unit / (180.0 * (1.0 / math.pi)) for x in (osc, step)]
        in_c = sampling.phi_steps(None, osc / unit, step / unit, rounded_up=True).count
        assert in_c == math.ceil(radians[0] / radians[1])
    assert sampling.phi_steps(None, 1.0, 0.3).count == 4  # a part of a step is a step in both


def test_D56_divergence_lies_evenly_about_the_beam(command):
    line = f"{SPOTS} {SMALL} -hdivrange 20 -hdivstep 10"
    points = [[float(x) for x in text.split(":")[1].split()] for text in command(line).printed.splitlines()
              if text.startswith("divergence deviation:")]  # fmt: skip
    in_c = command(line, "c")
    assert points == [[-0.005, 0], [0.005, 0]]
    assert [in_c.numbers("divergence deviation: ")] == [[-0.01, 0]]
    assert command(line).corrections == ["D56"]
    plane, rows, total = Plane(16, 16, 0.4, 100), np.diag([60.0, 75, 90]), np.zeros(())
    for angle in (-0.005, 0.005):  # about x cross z
        incident = rodrigues(np.array([1.0, 0, 0]), np.array([0, -1.0, 0]), math.degrees(angle))
        total = total + grating((plane.directions() - incident) @ rows.T, (5, 5, 5)) ** 2 / 2
    assert_same(command(f"{line} -nopolar").image, (2500 * total * plane.omega())[..., 0], 1e-6)


def test_D56_the_mean_direction_of_the_sources_is_the_beam():
    from nanobrag_torch.config import BeamConfig
    from nanobrag_torch.models.beam import Beam

    config = BeamConfig(hdiv_range_mrad=6.0, hdiv_steps=3, hdiv_step_mrad=2.0, vdiv_range_mrad=4.0, vdiv_steps=2,
                        vdiv_step_mrad=2.0, round_div=False)  # fmt: skip
    beam, polar = torch.tensor([1.0, 0, 0]).double(), torch.tensor([0.0, 0, 1]).double()
    for compat, aside in ((Compat(), 0.0), (Compat.c(), 1e-3)):
        table = Beam(config).sources(beam, polar, compat)
        mean = table.incident.mean(0)
        assert torch.linalg.vector_norm(mean[1:]).item() == pytest.approx(aside * math.sqrt(2), abs=1e-8)


@pytest.mark.parametrize("convention", ["-mosflm", "-denzo", "-adxv", "-xds", "-dials"])
def test_D57_a_curved_detector_is_the_flat_one_for_small_angles(command, convention):
    tilted = "-cell 60 75 90 75 97 112 -misset 10 20 30 -default_F 50 -N 5"
    line = f"{tilted} -detpixels 16 -pixel 0.4 -distance 900 {convention}"
    flat, curved = command(line), command(f"{line} -curved_det")
    assert_same(curved.image, flat.image, 1e-3)
    assert curved.corrections == ["D1", "D57"]
    in_c = command(f"{line} -curved_det", "c")
    assert np.abs(in_c.image - flat.image).max() > 0.1 * flat.image.max()


def test_D57_arcs_about_the_sample(command):
    line = f"{FLAT} -detpixels 16 -pixel 1 -distance 20 -oversample 1 -denzo -Xbeam 8 -Ybeam 8"
    arc = (np.arange(16) - 7.5) / 20
    cosine = np.cos(arc[:, None]) * np.cos(arc)
    assert_same(command(f"{line} -curved_det").image, 2500 * (1 / 20) ** 2 * (1 + cosine**2) / 2)


def test_D58_every_ray_meets_a_curved_sensor_at_a_right_angle(command):
    line = f"{FLAT} -detpixels 21 -pixel 5 -distance 100 -oversample 1 -nopolar -curved_det"
    sensor = "-detector_thick 450 -detector_abs 450 -oversample_thick"
    corrected, thin = command(f"{line} {sensor}"), command(line)
    assert_same(corrected.image, thin.image * (1 - math.exp(-1)), 1e-6)
    assert corrected.corrections == ["D3", "D57", "D58"]


def test_D59_the_normal_of_custom_vectors_is_fast_cross_slow(command):
    vectors = "-fdet_vector 0 0.6 0.8 -sdet_vector 0.48 -0.64 0.6"
    fast, slow = np.array([0, 0.6, 0.8]), np.array([0.48, -0.64, 0.6])
    slow = slow / np.linalg.norm(slow)
    normal = np.cross(fast, slow)
    corrected, in_c = command(f"{SPOTS} {SMALL} {vectors}"), command(f"{SPOTS} {SMALL} {vectors}", "c")
    normal *= np.sign(normal[0])  # the beam goes along x
    assert corrected.numbers("DIRECTION_OF_DETECTOR_Z-AXIS=") == pytest.approx(
        normal / np.linalg.norm(normal), abs=1e-5
    )
    assert in_c.numbers("DIRECTION_OF_DETECTOR_Z-AXIS=") == [1, 0, 0]
    given = command(f"{SPOTS} {SMALL} {vectors} -odet_vector {' '.join(map(str, 2 * normal))}")
    assert "D59" in corrected.corrections and given.corrections == []
    if np.sign(np.cross(fast, slow)[0]) > 0:  # the C program makes a normal anew that is not of unit length
        assert_same(corrected.image, given.image)


@pytest.mark.parametrize("turned", ["-twotheta 100", "-xds -close_distance -100"])
def test_D60_what_comes_from_behind_is_not_recorded(command, turned):
    line = f"{SPOTS} {SMALL} {turned}"
    corrected, in_c = command(line), command(line, "c")
    assert not corrected.image.any()
    assert "256 of 256 pixels see the crystal from behind their sensor: they record nothing" in corrected.complaint
    assert (in_c.image < 0).all() and "count negative photons" in in_c.complaint
    assert corrected.corrections == ["D60"]


@pytest.mark.parametrize("flag", ["", "-oversample_omega -nopolar"])
def test_D61_each_layer_has_its_own_solid_angle(command, flag):
    distance, thick, layers = 2.0, 1.0, 3
    line = f"{FLAT} -detpixels 8 -pixel 0.4 -distance {distance} -oversample 1 {flag or '-nopolar'}"
    sensor = f"-detector_abs 500 -detector_thick {1000 * thick} -detector_thicksteps {layers}"
    corrected = command(f"{line} {sensor}")
    total = 0
    for layer in range(layers):
        depth = layer * thick / layers
        plane = Plane(8, 8, 0.4, distance)
        place = plane.positions()[..., 0, :] + [depth, 0, 0]
        radius = np.linalg.norm(place, axis=-1)
        cosine = (distance + depth) / radius
        near, far = (np.exp(-x * thick / layers / 0.5 / cosine) for x in (layer, layer + 1))
        total = total + 2500 * 0.4**2 / radius**2 * cosine * (near - far)
    assert_same(corrected.image, total)
    assert "D61" in corrected.corrections


def test_D61_layers_are_cached_by_their_first_sub_pixel(command):
    line = f"{FLAT} -detpixels 8 -pixel 0.4 -distance 2 -nopolar -detector_abs 500 -detector_thick 1000 -oversample"
    fine = command(
        f"{line.replace('-pixel 0.4', '-pixel 0.2').replace('-detpixels 8', '-detpixels 16')} 1 -Xbeam 1.7 -Ybeam 1.7"
    )
    coarse = command(f"{line} 2 -Xbeam 1.6 -Ybeam 1.6")
    assert_same(coarse.image, 4 * fine.image[::2, ::2], 1e-6)  # F^2 omega capture of the first sub-pixel, for all four


def rotation_angles(crystal: Crystal, compat: Compat) -> np.ndarray:
    return Rotation.from_matrix(crystal.mosaic_domains(crystal.cell()[0], compat)[0].numpy()).magnitude()


@pytest.mark.parametrize("sampling_of_domains", list(MosaicSampling))
def test_D62_a_powder_has_every_orientation(sampling_of_domains):
    config = CrystalConfig(
        cell_a=60.0, mosaic_spread_deg=90.0, mosaic_domains=3000, mosaic_sampling=sampling_of_domains
    )
    crystal = Crystal(config)
    angles = np.sort(rotation_angles(crystal, Compat()))
    expected = (angles - np.sin(angles)) / math.pi  # probability of a uniform rotation to turn by less
    assert np.abs(expected - (np.arange(3000) + 0.5) / 3000).max() < 0.03
    turned = crystal.mosaic_domains(crystal.cell()[0])[0].numpy() @ [0, 0, 1]
    assert np.abs(turned.mean(0)).max() < 0.05
    assert np.abs(turned.T @ turned / 3000 - np.eye(3) / 3).max() < 0.03
    if sampling_of_domains is MosaicSampling.RANDOM:
        assert rotation_angles(crystal, Compat.c()).max() < math.pi / 2 + 1e-6
        below = Crystal(replace(config, mosaic_spread_deg=89.0))
        assert rotation_angles(below, Compat()).max() < math.radians(89) + 1e-6


def test_D62_command(command):
    line = f"{BOX} -default_F 50 -N 3 {SMALL} -mosaic 90 -mosaic_domains 50"
    assert command(line).corrections == ["D62"]
    assert command(line.replace("90 -mosaic_d", "30 -mosaic_d")).corrections == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", ["fused", "reference"])
@pytest.mark.parametrize("mode", MODES)
def test_a_gaussian_far_from_any_spot_is_exactly_dark(command, mode, kernel, dtype):
    line = f"{BOX} -default_F 50 -N 200 -gauss_xtal -detpixels 8 -pixel 0.01 -Xbeam 31 -Ybeam 31 -oversample 1"
    ran = command(f"{line} -kernel {kernel} -dtype {dtype} -nonoise -nopgm", mode)
    assert not ran.image.any()
    assert set(ran.counts["intimage.img"].ravel()) == {40}  # the offset alone
