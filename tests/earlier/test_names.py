"""Names, signatures, units and shapes that scripts for the earlier package of this name use: imports and models."""

from __future__ import annotations

import inspect
import math
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from nanobrag_torch import Simulator, __version__
from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig, DetectorConvention, NoiseConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector

WIDE = torch.float64
MODULES = {
    "config": "CrystalConfig DetectorConfig BeamConfig NoiseConfig DetectorConvention DetectorPivot CrystalShape",
    "models.detector": "Detector",
    "models.crystal": "Crystal",
    "models": "Crystal Detector CrystalConfig DetectorConfig BeamConfig ExperimentModel",
    "models.experiment": "ExperimentModel",
    "simulator": "Simulator",
    "io": "read_hkl_file write_fdump read_fdump try_load_hkl_or_fdump write_smv read_smv write_pgm read_smv_mask "
    "create_circular_mask create_rectangle_mask",
    "io.hkl": "read_hkl_file write_fdump read_fdump try_load_hkl_or_fdump",
    "io.smv": "read_smv write_smv parse_smv_header",
    "io.pgm": "write_pgm",
    "io.mask": "read_smv_mask create_circular_mask create_rectangle_mask parse_smv_header",
    "io.source": "read_sourcefile",
    "io.mosflm": "read_mosflm_matrix reciprocal_to_real_cell",
    "utils.geometry": "dot_product cross_product magnitude unitize rotate_axis rotate_umat angles_to_rotation_matrix",
    "utils.units": "mm_to_angstroms meters_to_angstroms angstroms_to_mm angstroms_to_meters mm_to_meters "
    "micrometers_to_meters mrad_to_radians degrees_to_radians radians_to_degrees",
    "utils.physics": "sincg sinc3 polarization_factor",
    "utils.c_random": "CLCG mosaic_rotation_umat umat2misset",
    "utils.noise": "generate_poisson_noise",
    "utils.auto_selection": "SamplingParams auto_select_sampling auto_select_divergence auto_select_dispersion "
    "auto_select_thickness generate_sources_from_divergence_dispersion",
    "__main__": "main create_parser parse_and_validate_args",
}


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in MODULES.items() for n in names.split()])
def test_a_name_is_in_its_module(module, name):
    assert callable(getattr(import_module(f"nanobrag_torch.{module}"), name))
    assert __version__ == "0.1.0"


def first(function, count):
    return [name for name in inspect.signature(function).parameters if name != "self"][:count]


def test_constructors_and_run_take_positions_in_this_order():
    assert first(Detector, 3) == ["config", "device", "dtype"]
    assert first(Crystal, 4) == ["config", "beam_config", "device", "dtype"]
    assert first(Simulator, 7) == [
        "crystal", "detector", "crystal_config", "beam_config", "device", "dtype", "debug_config",
    ]  # fmt: skip
    assert first(Simulator.run, 6) == [
        "pixel_batch_size", "override_a_star", "oversample", "oversample_omega", "oversample_polar", "oversample_thick",
    ]  # fmt: skip


def config(**given):
    return DetectorConfig(**{"distance_mm": 120.0, "pixel_size_mm": 0.2, "spixels": 9, "fpixels": 7, **given})


TILTED = {"detector_rotx_deg": 5.0, "detector_roty_deg": -3.0, "detector_rotz_deg": 2.0, "detector_twotheta_deg": 12.0}


@pytest.fixture
def detector():
    return Detector(config(**TILTED), "cpu", WIDE)


def test_vectors_of_a_detector(detector):
    for name in ("fdet_vec", "sdet_vec", "odet_vec", "pix0_vector", "beam_vector"):
        vector = getattr(detector, name)
        assert vector.shape == (3,) and vector.dtype == WIDE, name
    frame = torch.stack((detector.fdet_vec, detector.sdet_vec, detector.odet_vec))
    torch.testing.assert_close(frame @ frame.T, torch.eye(3, dtype=WIDE))
    assert detector.beam_vector.tolist() == [1, 0, 0]
    flat = Detector(config(), dtype=WIDE)
    # MOSFLM: beam +x, fast +z, slow -y; the beam hits pixel (3.5 + 1) of 9 by 7 after its half pixel
    expected = [0.120, 1e-3 * 0.2 * (9 / 2 + 1), -1e-3 * 0.2 * (7 / 2 + 1)]
    torch.testing.assert_close(flat.pix0_vector, torch.tensor(expected, dtype=WIDE))


def test_pixel_coordinates_are_centres(detector):
    coordinates = detector.get_pixel_coords()
    assert coordinates.shape == (9, 7, 3) and coordinates.dtype == WIDE
    edge = 0.2e-3
    by_hand = detector.pix0_vector + 4.5 * edge * detector.sdet_vec + 2.5 * edge * detector.fdet_vec
    torch.testing.assert_close(coordinates[4, 2], by_hand)
    curved = Detector(config(curved_detector=True), dtype=WIDE).get_pixel_coords()
    torch.testing.assert_close(torch.linalg.vector_norm(curved, dim=-1), torch.full((9, 7), 0.12, dtype=WIDE))


def test_beam_centres_are_in_pixels():
    given = Detector(config(beam_center_s=0.9, beam_center_f=0.7), dtype=WIDE)  # MOSFLM adds half a pixel
    assert (given.beam_center_s.item(), given.beam_center_f.item()) == pytest.approx((5.0, 4.0))
    xds = Detector(config(beam_center_s=0.9, beam_center_f=0.7, detector_convention=DetectorConvention.XDS), dtype=WIDE)
    assert (xds.beam_center_s.item(), xds.beam_center_f.item()) == pytest.approx((4.5, 3.5))


def test_distances_of_a_detector(detector):
    close = detector.pix0_vector @ detector.odet_vec
    assert detector.close_distance.item() == pytest.approx(close.item(), rel=1e-14)
    cosine = (detector.beam_vector @ detector.odet_vec).item()
    for r_factor in (detector.get_r_factor(), detector.r_factor):
        assert r_factor.item() == pytest.approx(cosine)
    for distance in (detector.distance, detector.get_corrected_distance(), detector.distance_corrected):
        assert distance.item() == pytest.approx(close.item() / cosine)
    assert Detector(config(), dtype=WIDE).distance.item() == pytest.approx(0.12)
    assert detector.pixel_size.item() == pytest.approx(0.2e-3)
    assert (detector.spixels, detector.fpixels, detector.dtype, detector.device.type) == (9, 7, WIDE, "cpu")


def test_solid_angles(detector):
    coordinates = detector.get_pixel_coords()
    radius = torch.linalg.vector_norm(coordinates, dim=-1)
    expected = 0.2e-3**2 * detector.close_distance / radius**3
    torch.testing.assert_close(detector.get_solid_angle(), expected)
    torch.testing.assert_close(detector.get_solid_angle(coordinates[2:4]), expected[2:4])
    point = Detector(config(point_pixel=True, **TILTED), dtype=WIDE)
    torch.testing.assert_close(point.get_solid_angle(), 1 / radius**2)


def test_the_beam_stays_where_the_pivot_keeps_it(detector):
    kept, report = Detector(config(detector_rotx_deg=5.0, detector_roty_deg=3.0)).verify_beam_center_preservation()
    assert kept and report["max_error"] < 1e-12
    assert set(report) == {
        "original_beam_f", "original_beam_s", "computed_beam_f", "computed_beam_s", "error_f", "error_s", "max_error",
    }  # fmt: skip
    turned = Detector(config(detector_pivot="sample", detector_twotheta_deg=12.0))
    assert not turned.verify_beam_center_preservation(1e-6)[0]


def test_a_detector_moves_and_is_placed_anew(detector):
    assert detector.to("cpu", torch.float32) is detector and detector.fdet_vec.dtype == torch.float32
    before = detector.pix0_vector
    detector.config.distance_mm = 200.0
    detector.invalidate_cache()
    assert not torch.equal(before, detector.pix0_vector)


def test_a_detector_of_defaults():
    assert Detector().get_pixel_coords().shape == (1024, 1024, 3)


def test_attributes_carry_gradients():
    distance = torch.tensor(120.0, dtype=WIDE, requires_grad=True)
    detector = Detector(config(distance_mm=distance), dtype=WIDE)
    (detector.get_pixel_coords()[..., 0].sum() + detector.get_solid_angle().sum()).backward()
    assert distance.grad is not None and distance.grad.item() == pytest.approx(9 * 7 * 1e-3, rel=1e-3)


def triclinic(**given):
    cell = {"cell_a": 70.0, "cell_b": 80.0, "cell_c": 90.0, "cell_alpha": 85.0, "cell_beta": 95.0, "cell_gamma": 105.0}
    return CrystalConfig(**{**cell, "N_cells": (5, 5, 5), **given})


def test_vectors_of_a_crystal():
    crystal = Crystal(triclinic(misset_deg=(10.0, 20.0, 30.0)), None, "cpu", WIDE)
    real = torch.stack((crystal.a, crystal.b, crystal.c))
    stars = torch.stack((crystal.a_star, crystal.b_star, crystal.c_star))
    torch.testing.assert_close(real @ stars.T, torch.eye(3, dtype=WIDE), atol=1e-12, rtol=0)
    assert crystal.V.shape == () and crystal.V.item() == pytest.approx(abs(torch.linalg.det(real).item()))
    assert crystal.volume.item() == crystal.V.item()
    assert set(crystal.compute_cell_tensors()) == {"a", "b", "c", "a_star", "b_star", "c_star", "V"}
    assert torch.linalg.vector_norm(crystal.b).item() == pytest.approx(80.0)


def test_amplitudes_by_index():
    table = torch.arange(7**3, dtype=WIDE).reshape(7, 7, 7)
    limits = {f"{axis}_{end}": sign * 3 for axis in "hkl" for end, sign in (("min", -1), ("max", 1))}
    crystal = Crystal(triclinic(default_F=7.0), dtype=WIDE, hkl_data=table, hkl_metadata=limits)
    h = torch.tensor([[0.0, 1.2], [-3.0, 9.0]], dtype=WIDE)
    k, l = torch.zeros_like(h), torch.ones_like(h)
    found = crystal.get_structure_factor(h, k, l)
    assert found.shape == (2, 2) and not crystal.interpolate
    torch.testing.assert_close(found, torch.stack((table[3:5, 3, 4], torch.tensor([table[0, 3, 4], 7.0], dtype=WIDE))))
    crystal.interpolate = True  # linear in h, so that a cubic through four points is exact
    between = crystal.get_structure_factor(*(torch.tensor([x], dtype=WIDE) for x in (0.25, 0.0, 0.0)))
    assert between.item() == pytest.approx(table[3, 3, 3].item() + 0.25 * 49)


def test_interpolation_starts_by_the_number_of_cells():
    assert Crystal(triclinic(N_cells=(2, 5, 5))).interpolate and not Crystal(triclinic()).interpolate


def test_a_list_of_reflections_is_loaded(tmp_path):
    (tmp_path / "a.hkl").write_text("0 0 1 10\n1 -1 2 20 0.5\n")
    crystal = Crystal(triclinic(default_F=3.0))
    crystal.load_hkl(str(tmp_path / "a.hkl"), write_cache=False)
    assert crystal.hkl_data is not None and crystal.hkl_metadata is not None
    assert crystal.hkl_data.shape == (2, 2, 2) and crystal.hkl_data[0, 0, 0] == 3.0
    assert [crystal.hkl_metadata[f"{axis}_range"] for axis in "hkl"] == [2, 2, 2]


def test_rotated_vectors_of_every_step():
    crystal = Crystal(triclinic(spindle_axis=(0.0, 0.0, 1.0)), dtype=WIDE)
    turning = CrystalConfig(
        phi_start_deg=0.0, osc_range_deg=90.0, phi_steps=3, mosaic_spread_deg=0.5, mosaic_domains=4,
        spindle_axis=(0.0, 0.0, 1.0),
    )  # fmt: skip
    real, stars = crystal.get_rotated_real_vectors(turning)
    assert [v.shape for v in (*real, *stars)] == [(3, 4, 3)] * 6
    torch.testing.assert_close(real[0][0, 0], crystal.a)  # the first domain is not turned
    turned = torch.tensor([-crystal.a[1], crystal.a[0], crystal.a[2]]).to(WIDE)
    third = Crystal(triclinic(spindle_axis=(0.0, 0.0, 1.0), phi_start_deg=90.0), dtype=WIDE)
    torch.testing.assert_close(third.get_rotated_real_vectors(third.config)[0][0][0, 0], turned)
    torch.testing.assert_close((real[1] * stars[1]).sum(-1), torch.ones(3, 4, dtype=WIDE))
    torch.testing.assert_close((real[1] * stars[2]).sum(-1), torch.zeros(3, 4, dtype=WIDE), atol=1e-12, rtol=0)


def test_numbers_of_a_crystal_are_tensors_and_leaves_replace_them():
    shared = triclinic()
    crystal = Crystal(shared, dtype=WIDE)
    assert [crystal.cell_b.item(), crystal.cell_gamma.item(), crystal.N_cells_c.item()] == [80, 105, 5]
    edge = torch.tensor(71.0, dtype=WIDE, requires_grad=True)
    crystal.cell_a = edge
    crystal.N_cells_b = 9
    crystal.a.norm().backward()
    assert edge.grad is not None and edge.grad.item() == pytest.approx(1.0)
    assert crystal.cells().tolist() == [5, 9, 5] and shared.cell_a == 70.0
    with pytest.raises(InputError, match="cell_a: got -1"):
        crystal.cell_a = -1.0


@pytest.mark.parametrize("bad", [{"cell_a": 0.0}, {"cell_alpha": 0.0}, {"cell_beta": 180.0}])
def test_cells_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="cell_"):
        Crystal(triclinic(**bad)).compute_cell_tensors()


def test_a_beam_clips_the_crystal(caplog):
    size = {"sample_size_mm": (1e-3, 1e-3, 1e-4), "N_cells": (1, 1, 1)}
    crystal = Crystal(triclinic(**size), BeamConfig(beamsize_mm=5e-4))
    whole, clipped = Crystal(triclinic(**size)).cells(), crystal.cells()
    assert whole.tolist() == [math.ceil(1e4 / 70), math.ceil(1e4 / 80), math.ceil(1e3 / 90)]
    assert clipped.tolist() == [math.ceil(1e4 / 70), math.ceil(5e3 / 80), math.ceil(1e3 / 90)]
    assert "clipping sample_y from 1.000000e-06 m to beamsize 5.000000e-07 m" in caplog.text
    assert "sample_z" not in caplog.text
    assert Simulator(crystal, Detector(config())).beam_config is crystal.beam_config


def small(**given):
    crystal = Crystal(triclinic(default_F=100.0), dtype=WIDE)
    return Simulator(
        crystal, Detector(config(), dtype=WIDE), crystal.config, BeamConfig(**given), "cpu", WIDE, kernel="reference"
    )


def test_attributes_of_a_simulator():
    simulator = small(wavelength_A=1.2, polarization_factor=0.9, fluence=1e20)
    assert simulator.wavelength.item() == 1.2 and simulator.fluence.item() == 1e20
    assert simulator.kahn_factor.item() == 0.9
    assert simulator.polarization_axis.tolist() == [0, 0, 1] and simulator.incident_beam_direction.tolist() == [1, 0, 0]
    assert simulator.dtype == WIDE and simulator.device.type == "cpu"
    assert simulator.beam_config.wavelength_A == 1.2
    text = repr(simulator)
    assert "9 x 7" in text and "CrystalConfig(cell_a=70.0" in text and "BeamConfig(wavelength_A=1.2" in text


def test_statistics_of_an_image():
    simulator = small()
    simulator.detector.config.roi_xmin, simulator.detector.config.mask_array = 1, np.arange(63).reshape(9, 7) % 5
    image = torch.rand(9, 7, generator=torch.Generator().manual_seed(1), dtype=WIDE)
    image[:, 0] = image.reshape(-1)[::5] = 9.0  # outside, and skipped
    image[simulator.detector.config.mask_array == 0] = 0.0
    image[4, 3] = 5.0
    found = simulator.compute_statistics(image)
    inside = image[:, 1:].float().double().numpy()
    count = int((simulator.detector.config.mask_array[:, 1:] != 0).sum())
    assert (found["max_I"], found["max_I_slow"], found["max_I_fast"], found["N"]) == (5.0, 4, 3, count)
    assert found["mean"] == pytest.approx(inside.sum() / count)
    assert found["RMS"] == pytest.approx(math.sqrt((inside**2).sum() / (count - 1)))
    last = (simulator.oversample - 0.5) / simulator.oversample
    assert found["max_I_subpixel_fast"] == pytest.approx(3 + last)
    assert found["max_I_subpixel_slow"] == pytest.approx(4 + last)
    assert set(found) == {
        "max_I", "max_I_fast", "max_I_slow", "max_I_subpixel_fast", "max_I_subpixel_slow", "mean", "RMS", "RMSD", "N",
    }  # fmt: skip


def test_memory_is_that_of_image_and_scene():
    found = small().estimate_memory(target_gpu_gb=1.0)
    assert set(found) == {"batch_size", "tricubic_peak_gb", "recommended_chunk_size", "full_vectorization_ok"}
    assert found["full_vectorization_ok"] and found["batch_size"] == 9
    assert 9 * 7 * 8e-9 < found["tricubic_peak_gb"] < 1e-5


def test_an_unknown_field_is_answered_with_ours():
    for maker, name, hint in (
        (DetectorConfig, "pix0_override_m", "pix0_vector_mm"),
        (CrystalConfig, "misset_seed", "random_misset_deg"),
        (BeamConfig, "source_size_mm", "hdiv_range_mrad"),
        (CrystalConfig, "mosaic_spred_deg", "mosaic_spread_deg"),
    ):
        with pytest.raises(InputError, match=f"{name}: got 1; accepted: .*{hint}"):
            maker(**{name: 1})
        with pytest.raises(InputError, match=hint):
            setattr(maker(), name, 1)


def test_a_change_of_a_configuration_is_checked_and_counts():
    simulator = small()
    first = simulator.run()
    simulator.crystal.config.misset_deg = torch.tensor([1.0, 2.0, 3.0], dtype=WIDE)
    assert not torch.equal(simulator.run(), first)
    with pytest.raises(InputError, match="phi_steps: got 0"):
        simulator.crystal.config.phi_steps = 0
    with pytest.raises(InputError, match="shape: got 'cube'"):
        simulator.crystal.config.shape = "cube"
    simulator.crystal.config.shape = "gauss"
    assert simulator.crystal.config.shape.name == "GAUSS" and simulator.crystal.config.phi_steps == 1


def test_the_record_of_noise_has_its_fields_and_is_what_a_response_takes():
    from nanobrag_torch.response.chain import Response

    noise = NoiseConfig()
    assert (noise.seed, noise.adc_offset, noise.readout_noise, noise.overload_value) == (None, 40.0, 3.0, 65535.0)
    assert (noise.generate_noise_image, noise.intfile_scale) == (False, 1.0)
    response = Response(NoiseConfig(readout_noise=2.0, adc_offset=10.0, overload_value=100.0)).config
    assert (response.readout_noise, response.pedestal, response.saturation) == (2.0, 10.0, 100.0)


@pytest.mark.parametrize(("close", "far", "pivot", "name"), [
    (None, 90.0, None, "BEAM"), (80.0, None, None, "SAMPLE"), (80.0, 90.0, "beam", "BEAM"),
    (None, 90.0, "sample", "SAMPLE"),
])  # fmt: skip
def test_the_pivot_of_a_command_line(close, far, pivot, name):
    made = DetectorConfig.from_cli_args(far, close, pivot, spixels=8)
    assert made.detector_pivot is not None and made.detector_pivot.name == name and made.spixels == 8


@pytest.mark.parametrize("turn", [{"detector_roty_deg": 90.0}, {"detector_twotheta_deg": 90.0},
                                  {"detector_pivot": "sample", "detector_rotz_deg": -90.0}])  # fmt: skip
def test_a_detector_seen_edge_on_is_empty(turn):
    simulator = Simulator(Crystal(triclinic(default_F=100.0)), Detector(config(**turn)), kernel="reference")
    assert simulator.oversample == 1 and not simulator.run().any()


def test_no_resolution_limit_may_be_none():
    assert torch.equal(small(dmin=None).run(), small(dmin=0.0).run())


def test_the_page_for_those_who_migrate_names_every_name():
    page = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()
    helpers = ("utils.geometry", "utils.units", "utils.auto_selection")  # named there as a whole
    for module, names in MODULES.items():
        for name in names.split():
            assert name in page or module in helpers, name
    for config in (CrystalConfig, DetectorConfig, BeamConfig):
        assert all(name in page for name in config.elsewhere)
