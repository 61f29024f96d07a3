"""Models: cells and orientations, detector frames, sources; against formulae and what the C program printed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobrag_torch.compat import Compat
from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.mosflm import read_mosflm_matrix
from nanobrag_torch.models.beam import Beam
from nanobrag_torch.models.crystal import Crystal, stale_steps
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.models.tensors import is_finite
from nanobrag_torch.simulator import Simulator
from nanobrag_torch.testing import EXAMPLES

F64 = torch.float64


def assert_dual(tensors: dict[str, torch.Tensor]) -> None:
    rows = torch.stack([tensors[n] for n in ("a", "b", "c")])
    stars = torch.stack([tensors[n] for n in ("a_star", "b_star", "c_star")])
    assert torch.allclose(rows @ stars.T, torch.eye(3, dtype=F64), atol=1e-12)
    assert math.isclose(tensors["V"], abs(torch.linalg.det(rows)), rel_tol=1e-12)


def supervisor(data, **more) -> CrystalConfig:
    stars = read_mosflm_matrix(data / "supervisor" / "A.mat", 0.9768)
    names = ("mosflm_a_star", "mosflm_b_star", "mosflm_c_star")
    return CrystalConfig(**dict(zip(names, (torch.tensor(s) for s in stars), strict=True)), **more)


def test_matrix_gives_a_dual_basis_and_the_known_volume(data):
    tensors = Crystal(supervisor(data), dtype=F64).compute_cell_tensors()
    assert_dual(tensors)
    assert math.isclose(tensors["V"], 24682.2566301113, rel_tol=1e-10)


def test_matrix_and_cell_take_directions_from_one_and_lengths_from_the_other(data):
    config = supervisor(data, cell_a=27.0, cell_b=31.5, cell_c=33.0, cell_alpha=88.0, cell_beta=71.0, cell_gamma=68.0)
    tensors = Crystal(config, dtype=F64).compute_cell_tensors()
    plain = Crystal(supervisor(data), dtype=F64).compute_cell_tensors()
    assert_dual(tensors)
    for name, length in (("a", 27.0), ("b", 31.5), ("c", 33.0)):
        assert math.isclose(torch.linalg.vector_norm(tensors[name]), length, rel_tol=1e-12)
        cosine = torch.nn.functional.cosine_similarity(tensors[name], plain[name], dim=0)
        assert math.isclose(cosine, 1.0, rel_tol=1e-12)


@pytest.mark.parametrize("angles", [(75, 97, 112), (60, 60, 60), (110, 110, 110), (90, 90, 120), (90, 90, 90)])
def test_a_cell_has_the_angles_asked_for_unless_the_c_program_is_asked_for(angles):
    names = ("cell_alpha", "cell_beta", "cell_gamma")
    config = CrystalConfig(
        cell_a=62.0, cell_b=71.0, cell_c=83.0, misset_deg=(5, -17, 29), **dict(zip(names, angles, strict=True))
    )

    def obtained(compat: Compat) -> np.ndarray:
        a, b, c = (Crystal(config, dtype=F64).compute_cell_tensors(compat)[n].numpy() for n in "abc")
        pairs = ((b, c), (c, a), (a, b))
        return np.rad2deg([np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)) for u, v in pairs])

    assert_dual(Crystal(config, dtype=F64).compute_cell_tensors())
    assert np.allclose(obtained(Compat.corrected()), angles, atol=1e-9)
    assert np.allclose(obtained(Compat.c()), angles, atol=1e-9) == (90 in angles)


@settings(max_examples=25)
@given(st.tuples(*[st.floats(-180, 180)] * 3), st.tuples(*[st.floats(-3, 3)] * 3))
def test_orientation_does_not_change_the_cell(misset, turn):
    plain = CrystalConfig(cell_a=30.0, cell_b=40.0, cell_c=50.0, cell_beta=103.0)
    turned = CrystalConfig(
        cell_a=30.0, cell_b=40.0, cell_c=50.0, cell_beta=103.0, misset_deg=misset, orientation_vector_deg=turn
    )
    metrics = []
    for config in (plain, turned):
        tensors = Crystal(config, dtype=F64).compute_cell_tensors()
        rows = torch.stack([tensors[n] for n in "abc"])
        metrics.append(rows @ rows.T)
        assert_dual(tensors)
    assert torch.allclose(metrics[0], metrics[1], rtol=1e-12, atol=1e-9)


def test_phi_steps_start_their_interval_and_stale_steps_follow_the_c_program():
    config = CrystalConfig(cell_a=50.0, phi_start_deg=-0.5, osc_range_deg=1.0, phi_steps=4)
    phi = Crystal(config).phi_radians()
    assert np.allclose(np.rad2deg(phi.numpy()), [-0.5, -0.25, 0.0, 0.25])
    assert stale_steps(phi).tolist() == [0, 1, 1, 3]
    assert stale_steps(torch.tensor([0.0, 0.1, 0.2])).tolist() == [2, 1, 2]
    assert stale_steps(torch.tensor([0.0])).tolist() == [0]


def test_number_of_cells_comes_from_the_sample_size():
    config = CrystalConfig(cell_a=60.0, cell_b=75.0, cell_c=90.0, sample_size_mm=(2e-5, 3.2e-5, 1e-9))
    assert Crystal(config).cells().tolist() == [4, 5, 1]


def test_scale_and_b_factor_act_on_the_table():
    crystal = Crystal(CrystalConfig(cell_a=50.0, F_scale=2.0, B_factor_A2=30.0, default_F=3.0), dtype=F64)
    crystal.hkl_data = torch.ones(3, 1, 1, dtype=F64)
    crystal.hkl_metadata = {"h_min": 4, "k_min": 0, "l_min": 0}
    table, first = crystal.structure_factors(F64)
    stol2 = (torch.tensor([4.0, 5.0, 6.0], dtype=F64) / 50 / 2) ** 2
    assert torch.allclose(table.flatten(), 2 * torch.exp(-30 * stol2)) and first == (4, 0, 0)
    assert crystal.default_amplitude() == 6


# detector


@pytest.mark.parametrize(
    ("convention", "beyond"), [("mosflm", 1.0), ("denzo", 0.5), ("adxv", 0.5), ("xds", 0), ("dials", 0)]
)
def test_default_beam_centre_is_where_the_c_program_puts_it(convention, beyond):
    """A pixel beyond the middle for MOSFLM, half for DENZO and ADXV, none for XDS and DIALS (5.1, D21)."""
    config = DetectorConfig(
        distance_mm=100.0, spixels=64, fpixels=64, pixel_size_mm=0.1, detector_convention=convention
    )
    geometry = Detector(config).geometry()
    assert math.isclose(geometry.Fbeam, (32 + beyond) * 1e-4, rel_tol=1e-12)
    assert math.isclose(geometry.Sbeam, (32 + beyond) * 1e-4, rel_tol=1e-12)
    assert math.isclose(geometry.distance, 0.1, rel_tol=1e-12)


@pytest.mark.parametrize("convention", ["mosflm", "denzo", "adxv", "custom"])
@pytest.mark.parametrize("compat", [Compat.corrected(), Compat.c()])
def test_the_beam_pivot_keeps_the_spot_and_the_report_is_right_unless_it_is_the_c_programs(convention, compat):
    still = {
        "distance_mm": 100.0,
        "pixel_size_mm": 0.1,
        "spixels": 64,
        "fpixels": 48,
        "detector_convention": convention,
    }
    spot = [float(getattr(Detector(DetectorConfig(**still)).geometry(), n)) for n in ("Fbeam", "Sbeam", "distance")]
    turned = DetectorConfig(**still, detector_twotheta_deg=20.0, detector_rotz_deg=3.0)
    geometry = Detector(turned).geometry(compat)
    got = [float(getattr(geometry, n)) for n in ("Fbeam", "Sbeam", "distance")]
    assert np.allclose(got, spot, rtol=1e-9) == (compat == Compat.corrected())
    panel = geometry.panels[0]
    where = panel[0] + spot[0] * panel[1] + spot[1] * panel[2]
    assert torch.allclose(where, 0.1 * geometry.beam, atol=1e-12)


def test_c_program_reports_a_short_distance_after_two_theta():
    """MOSFLM, -distance 100 -twotheta 20 reports 93.97 mm (section 5.3)."""
    config = DetectorConfig(distance_mm=100.0, detector_twotheta_deg=20.0)
    assert math.isclose(Detector(config).geometry(Compat.c()).distance, 0.09396926, rel_tol=1e-6)


def test_a_two_theta_axis_of_any_length_turns_without_distortion():
    config = DetectorConfig(distance_mm=100.0, detector_twotheta_deg=5.0, twotheta_axis=(0, 0, 2))
    for compat, straight in ((Compat.corrected(), True), (Compat.c(), False)):
        rows = Detector(config).geometry(compat).panels[0, 1:]
        assert torch.allclose(rows @ rows.T, torch.eye(3, dtype=F64), atol=1e-12) == straight


def test_layers_span_the_thickness_unless_the_c_program_is_asked_for():
    config = DetectorConfig(detector_thick_um=450.0, detector_abs_um=250.0, detector_thicksteps=4)
    layers, sensor = Detector(config).sensor()
    assert layers * sensor[0] == pytest.approx(450e-6) and sensor[1] == pytest.approx(4000)
    layers, sensor = Detector(config).sensor(Compat.c())
    assert layers * sensor[0] == pytest.approx(600e-6)


def test_automatic_oversampling_of_a_known_crystal():
    """500 A along b, 1 A, 100 mm, 0.4 mm pixels: 3 * 500 / 250 = 6."""
    crystal = Crystal(CrystalConfig(cell_a=60.0, cell_b=100.0, cell_c=20.0, N_cells=(5, 5, 5), default_F=1.0))
    detector = Detector(DetectorConfig(distance_mm=100.0, pixel_size_mm=0.4))
    assert Simulator(crystal, detector).oversample == 6


# beam


def test_source_weights_are_shares_unless_the_c_program_is_asked_for():
    config = BeamConfig(source_directions=torch.eye(3), source_weights=[1.0, 2.0, 5.0])
    axes = torch.tensor([1.0, 0, 0], dtype=F64), torch.tensor([0.0, 0, 1], dtype=F64)
    assert Beam(config).sources(*axes).weights.tolist() == [0.125, 0.25, 0.625]
    assert torch.allclose(Beam(config).sources(*axes, Compat.c()).weights, torch.full((3,), 1 / 3, dtype=F64))


def test_a_grid_without_sources_is_an_error():
    config = BeamConfig(hdiv_range_mrad=1000.0, hdiv_step_mrad=1000.0, vdiv_range_mrad=1000.0, vdiv_step_mrad=1000.0)
    axes = torch.tensor([1.0, 0, 0], dtype=F64), torch.tensor([0.0, 0, 1], dtype=F64)
    with pytest.raises(InputError, match="hdiv_steps"):
        Beam(config).sources(*axes, Compat.c())
    assert Beam(config).sources(*axes).incident.tolist() == [[1, 0, 0]]  # evenly about the beam, one point is on it


def test_flux_over_beam_area_replaces_fluence():
    assert Beam(BeamConfig(flux=1e12, exposure=0.1, beamsize_mm=0.05)).fluence() == pytest.approx(1e11 / 2.5e-9)


# configuration


@pytest.mark.parametrize(
    ("maker", "fields", "names"),
    [
        (CrystalConfig, {"cell_a": float("nan")}, "cell_a"),
        (CrystalConfig, {"cell_a": -1.0}, "cell_a"),
        (CrystalConfig, {"cell_a": 50.0, "cell_alpha": 20.0, "cell_beta": 90.0, "cell_gamma": 130.0}, "cell_alpha"),
        (CrystalConfig, {"cell_a": 50.0, "phi_steps": 0}, "phi_steps"),
        (CrystalConfig, {"cell_a": 50.0, "shape": "hexagon"}, "square, round"),
        (CrystalConfig, {"mosflm_a_star": (1, 0, 0)}, "all three"),
        (CrystalConfig, {"cell_a": 50.0, "N_cells": (1, 2)}, "N_cells"),
        (DetectorConfig, {"pixel_size_mm": 0.0}, "pixel_size_mm"),
        (DetectorConfig, {"mask_array": torch.ones(3, 3)}, "mask_array"),
        (DetectorConfig, {"detector_convention": "imosflm"}, "mosflm, denzo"),
        (DetectorConfig, {"roi_xmin": 5, "roi_xmax": 3}, "roi_xmin"),
        (BeamConfig, {"wavelength_A": 0.0}, "wavelength_A"),
        (BeamConfig, {"dispersion_steps": 0}, "dispersion_steps"),
        (BeamConfig, {"source_directions": torch.eye(3), "source_weights": [1.0]}, "one entry"),
        (BeamConfig, {"source_wavelengths": []}, "at least one"),
        (BeamConfig, {"source_directions": [[1.0, 0.0]]}, "3 numbers a source"),
        (BeamConfig, {"hdiv_steps": 2.5}, "hdiv_steps.*whole"),
        (CrystalConfig, {"cell_a": 50.0, "phi_steps": 2.5}, "phi_steps.*whole"),
        (CrystalConfig, {"cell_a": 50.0, "mosaic_spread_deg": [0.1] * 9}, "mosaic_spread_deg"),
        (CrystalConfig, {"cell_a": 50.0, "spindle_axis": (0, 0, 0)}, "spindle_axis"),
        (DetectorConfig, {"distance_mm": 0.0}, "distance_mm.*but 0"),
        *[
            (DetectorConfig, {"detector_convention": "custom", name: (0, 0, 0)}, f"{name}: got .*but 0")
            for name in ("custom_fdet_vector", "custom_sdet_vector", "custom_odet_vector", "custom_beam_vector")
        ],
        (DetectorConfig, {"custom_polar_vector": torch.zeros(3)}, "custom_polar_vector.*but 0"),
        (DetectorConfig, {"custom_spindle_axis": (0.0, 0.0, 0.0)}, "custom_spindle_axis.*but 0"),
        (DetectorConfig, {"twotheta_axis": (0, 0, 0)}, "twotheta_axis.*but 0"),
        (BeamConfig, {"polarization_axis": (0, 0, 0)}, "polarization_axis.*but 0"),
        (BeamConfig, {"source_directions": torch.eye(3), "source_weights": [0, 0, 0]}, "source_weights.*one above 0"),
        (BeamConfig, {"source_directions": [[1.0, 0, 0], [0, 0, 0]]}, "source_directions.*not at the sample"),
        (CrystalConfig, {"cell_a": 50.0, "mosaic_domains": 0}, "mosaic_domains"),
        (DetectorConfig, {"roi_xmin": 3.5}, "roi_xmin.*whole"),
        (DetectorConfig, {"mask_array": [[1, 1], [1, 1]]}, "mask_array.*an array"),
    ],
)
def test_bad_values_are_named(maker, fields, names):
    with pytest.raises(InputError, match=names) as error:
        maker(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("maker", [Crystal, Detector, Beam, lambda device: Simulator(Crystal(), device=device)])
@pytest.mark.parametrize("device", ["bad", "cuda:x", "mps", 7.5])
def test_a_device_that_is_none_is_named(maker, device):
    if device == "mps" and torch.backends.mps.is_available():
        return
    with pytest.raises(InputError, match=f"device: got '{device}'.*cpu, cuda or cuda:N"):
        maker(device=device)


@pytest.mark.parametrize("kernel", ["reference", "fused"])
@pytest.mark.parametrize(
    ("bad", "shown"),
    [([3, 480], "480"), ([-1], "-1"), ([10**12, 2], str(10**12)), ([1.5], "float32"), ([True] * 480, "bool")],
)
def test_pixels_that_are_none_are_refused(kernel, bad, shown):
    simulator = EXAMPLES["cubic still"]().simulator(kernel=kernel)  # 24 x 20 pixels
    with pytest.raises(InputError, match=f"pixels: got .*{shown}.*(0 to 479|whole numbers)"):
        simulator.pixel_values(torch.tensor(bad))


@pytest.mark.parametrize("sampling", ["random", "quadrature"])
@pytest.mark.parametrize("spread", [0.5, torch.tensor(0.5), (0.0, 0.0, 0.5), torch.full((3,), 0.5).numpy()])
def test_a_spread_without_a_number_of_domains_spreads(spread, sampling):
    """Ten domains, as the command takes; one that was asked for is one, unturned, as in the C program."""
    spindle = torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    fields = {"cell_a": 50.0, "mosaic_spread_deg": spread, "mosaic_sampling": sampling}
    crystal = Crystal(CrystalConfig(**fields))
    lattice, weights = crystal.lattice(spindle)
    assert lattice.shape == (10, 3, 3)
    assert weights.sum() == pytest.approx(1)
    assert lattice.std(0).max() > 1e-4 * lattice.abs().max()
    assert torch.equal(lattice, Crystal(CrystalConfig(**fields, mosaic_domains=10)).lattice(spindle)[0])
    assert Simulator(crystal, Detector(DetectorConfig(oversample=1))).steps == 10
    assert Crystal(CrystalConfig(**fields, mosaic_domains=1)).lattice(spindle)[0].shape == (1, 3, 3)


@pytest.mark.parametrize("spread", [0.0, 0, (0.0, 0.0, 0.0)])
def test_no_spread_is_one_domain(spread):
    for domains in (None, 1, 7):
        assert Crystal(CrystalConfig(cell_a=50.0, mosaic_spread_deg=spread, mosaic_domains=domains)).domain_count == 1


def test_a_parameter_may_have_one_element_instead_of_no_axis():
    """Optimisers' parameters are often made as torch.tensor([x])."""
    whole = {"cell_a": 50.0, "mosaic_spread_deg": 0.5, "N_cells": (5, 5, 5), "mosaic_domains": 4}
    plain, listed = (
        Crystal(CrystalConfig(**whole | {name: torch.tensor(whole[name], dtype=F64).reshape(shape) for name in given}))
        for given in [("cell_a", "mosaic_spread_deg")]
        for shape in [(), (1,)]
    )
    spindle = torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    assert torch.equal(plain.lattice(spindle)[0], listed.lattice(spindle)[0])


@pytest.mark.parametrize(
    ("table", "metadata", "names"),
    [
        (torch.ones(3, 3), {"h_min": 0, "k_min": 0, "l_min": 0}, "hkl_data"),
        (torch.ones(3, 3, 3), {"h_min": 0}, "hkl_metadata"),
    ],
)
def test_a_table_that_is_none_is_refused(table, metadata, names):
    crystal = Crystal(CrystalConfig(cell_a=50.0))
    crystal.hkl_data, crystal.hkl_metadata = table, metadata
    with pytest.raises(InputError, match=names):
        crystal.structure_factors(F64)


@pytest.mark.parametrize("options", [{"threads": 0}, {"device": "cudda"}, {"kernel": "fast"}, {"dtype": torch.int32}])
def test_bad_options_of_a_simulator_are_named(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Simulator(Crystal(CrystalConfig(cell_a=50.0)), **options)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_render_something(name):
    image = EXAMPLES[name]().simulator(kernel="reference").run()
    assert image.dtype == F64 and image.max() > 0 and image.min() >= 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_number_that_is_not_finite_is_found_and_a_large_sum_is_no_such_number(dtype):
    most = torch.finfo(dtype).max
    assert is_finite(torch.full((1000,), most, dtype=dtype)) and is_finite(torch.zeros(0, dtype=dtype))
    for bad in ([torch.nan], [torch.inf], [-torch.inf], [torch.inf, -torch.inf], [most, most, -torch.inf]):
        assert not is_finite(torch.cat((torch.ones(5000, dtype=dtype), torch.tensor(bad, dtype=dtype))))
