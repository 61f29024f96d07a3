"""Geometry files: numbers worked out by hand, round trips of random experiments, and what is refused.

What a file means is restated here from each program's own description (XDS: pixel (x, y) is at
qx (x - ORGX) e1 + qy (y - ORGY) e2 + F e3; CrystFEL: metres from corner and clen; dxtbx: nested frames), not by the
package's own functions.
"""

import json
import struct
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from geometry_scenes import assert_same_crystal, assert_same_detector, experiments, rotation
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.crystfel import read_crystfel
from nanobrag_torch.io.crystfel_write import bad_rectangles, write_crystfel
from nanobrag_torch.io.expt import read_expt, read_expts
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.formats import FORMATS
from nanobrag_torch.io.geometry import losses, read_geometry, write_geometry
from nanobrag_torch.io.mosflm import read_mosflm_matrix
from nanobrag_torch.io.refl import read_refl
from nanobrag_torch.io.smv import HeaderText
from nanobrag_torch.io.smv_geometry import experiment_of_smv
from nanobrag_torch.io.xparm import read_xparm, write_xparm
from nanobrag_torch.records.contents import contents
from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    PanelData,
    ScanData,
)
from nanobrag_torch.records.frames import (
    BEAM_CENTRES,
    FRAMES,
    beam_on_panel,
    electric_axis,
    fold_rotations,
    from_imgcif,
    kahn_factor,
    rotate_experiment,
    to_imgcif,
    turn_to_z,
)

CLOSE = 1e-9
ROUND_TRIP = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
FLAT = PanelData(
    origin_mm=[-30.0, 20.0, -100.0], fast=[1, 0, 0], slow=[0, -1, 0], pixel_size_mm=(0.1, 0.2), image_size=(600, 250)
)


# Conventions


def test_every_frame_is_a_proper_rotation():
    for name, turn in FRAMES.items():
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), err_msg=name)
        assert np.linalg.det(turn) == pytest.approx(1), name


def test_frames_agree_with_what_the_programs_say():
    np.testing.assert_array_equal(FRAMES["mcstas"], np.diag([-1, 1, -1]))
    assert to_imgcif("mosflm", [1.0, 2.0, 3.0]).tolist() == [3, 2, -1]  # dials_origin, section 5.3 item 7
    for name in ("mosflm", "denzo"):  # beam along x, spindle z
        assert to_imgcif(name, [1.0, 0, 0]).tolist() == [0, 0, -1]
        assert to_imgcif(name, [0, 0, 1.0]).tolist() == [1, 0, 0]
    for name in ("xds", "adxv", "dials", "mcstas", "crystfel"):  # beam along z
        assert to_imgcif(name, [0.0, 0, 1]).tolist() == [0, 0, -1]
    vectors = np.random.default_rng(1).normal(size=(5, 3))
    for name in FRAMES:
        np.testing.assert_allclose(from_imgcif(name, to_imgcif(name, vectors)), vectors)


def test_beam_centres_of_a_flat_panel_in_every_convention():
    """Section 5.1: Fbeam = Ybeam + p/2, Sbeam = Xbeam + p/2 (MOSFLM); ADXV from the far edge; ORGX = F/p + 0.5."""
    spot = beam_on_panel(FLAT, BeamData(wavelength_A=1.0))
    found = {name: centre(spot) for name, (_, centre) in BEAM_CENTRES.items()}
    assert found["dxtbx fast, slow (mm)"] == pytest.approx((30, 20))
    assert found["dxtbx fast, slow (pixels)"] == pytest.approx((300, 100))
    assert found["XDS ORGX, ORGY (pixels)"] == pytest.approx((300.5, 100.5))
    assert found["MOSFLM X, Y (mm)"] == pytest.approx((19.9, 29.95))
    assert found["DENZO X, Y (mm)"] == pytest.approx((20, 30))
    assert found["ADXV X, Y (mm)"] == pytest.approx((30, 30))
    assert spot.distance_mm == pytest.approx(100) == spot.close_distance_mm


def test_beam_centre_of_a_swung_panel_is_where_the_beam_is():
    turn = rotation([0, 1, 0], 20)
    panel = replace(FLAT, origin_mm=turn @ FLAT.origin_mm, fast=turn @ FLAT.fast, slow=turn @ FLAT.slow)
    beam = BeamData(wavelength_A=1.0, direction=[0.01, -0.02, 1.0])
    spot = beam_on_panel(panel, beam)
    place = panel.positions_mm(spot.fast_mm / 0.1, spot.slow_mm / 0.2)
    np.testing.assert_allclose(place, -spot.distance_mm * beam.direction, atol=1e-9)
    assert (spot.close_distance_mm, spot.foot_fast_mm, spot.foot_slow_mm) == pytest.approx((100, 30, 20))
    assert beam_on_panel(replace(panel, slow=[0, 0, 1]), BeamData(wavelength_A=1.0)) is None


def test_polarization_fraction_is_kahns_factor():
    assert kahn_factor(1.0) == 1 and kahn_factor(0.5) == 0
    horizontal = electric_axis(BeamData(wavelength_A=1.0, polarization_normal=[0, 1, 0]))
    np.testing.assert_allclose(np.abs(horizontal), [1, 0, 0])
    assert electric_axis(BeamData(wavelength_A=1.0)) is None


@given(experiments())
@ROUND_TRIP
def test_a_goniometer_without_fixed_and_setting_rotation_turns_the_same(data):
    axis, real_space = fold_rotations(data.goniometer, data.crystal)
    there = data.goniometer.rotation(41.0) @ data.crystal.real_space.T
    np.testing.assert_allclose(rotation(axis, 41.0) @ real_space.T, there, atol=1e-9)


@given(experiments())
@ROUND_TRIP
def test_turning_the_frame_changes_no_distance_and_no_diffraction(data):
    turned = rotate_experiment(data, turn_to_z(data.beam.direction))
    np.testing.assert_allclose(turned.beam.direction, [0, 0, 1], atol=1e-14)
    for angle in (0.0, 33.0):
        before = data.goniometer.rotation(angle) @ data.crystal.A
        after = turned.goniometer.rotation(angle) @ turned.crystal.A
        np.testing.assert_allclose(
            turned.detector.panels[0].origin_mm @ after, data.detector.panels[0].origin_mm @ before, atol=1e-9
        )


# DIALS

NESTED = {
    "__id__": "ExperimentList",
    "experiment": [{"__id__": "Experiment", "identifier": "one", "beam": 0, "detector": 0, "scan": 0, "crystal": 0}],
    "beam": [{"__id__": "monochromatic", "direction": [0, 0, 2], "wavelength": 1.5, "polarization_fraction": 0.9}],
    "detector": [{
        "panels": [
            {"name": n, "type": "SENSOR_PAD", "fast_axis": [1, 0, 0], "slow_axis": [0, 1, 0], "origin": o,
             "pixel_size": [0.1, 0.2], "image_size": [4, 5], "trusted_range": [-1, 1000], "thickness": 0.32,
             "material": "Si", "mu": 3.9, "gain": 1.0, "pedestal": 0.0, "raw_image_offset": [0, 0],
             "mask": [[0, 1, 2, 3]], "px_mm_strategy": {"type": "ParallaxCorrectedPxMmStrategy"}}
            for n, o in (("p0", [0, 0, 0]), ("p1", [1, 2, 3]))
        ],
        "hierarchy": {
            "name": "root", "fast_axis": [0, 1, 0], "slow_axis": [-1, 0, 0], "origin": [0, 0, -100],
            "children": [
                {"name": "left", "fast_axis": [1, 0, 0], "slow_axis": [0, 0, 1], "origin": [10, 0, 0],
                 "children": [{"panel": 0}]},
                {"panel": 1},
            ],
        },
    }],
    "goniometer": [], "imageset": [],
    "scan": [{"image_range": [3, 5], "batch_offset": 0, "valid_image_ranges": {},
              "properties": {
                  "oscillation": [10.0, 10.5, 11.0], "exposure_time": [0.1, 0.1, 0.1], "epochs": [0, 0, 0]}}],
    "crystal": [{"__id__": "crystal",
                 "real_space_a": [10, 0, 0], "real_space_b": [0, 20, 0], "real_space_c": [0, 0, 40],
                 "space_group_hall_symbol": " P 2 2", "A_at_scan_points": [[0.1, 0, 0, 0, 0.05, 0, 0, 0, 0.025]] * 4}],
}  # fmt: skip


def saved(tmp_path, tree, name="a.expt"):
    path = tmp_path / name
    path.write_text(json.dumps(tree))
    return path


def test_expt_nested_panels_are_placed_by_their_groups(tmp_path):
    data = read_expt(saved(tmp_path, NESTED))
    left, right = data.detector.panels
    # the root turns x to y and y to -x; "left" then lays its slow axis along the root's normal
    np.testing.assert_allclose(left.origin_mm, [0, 10, -100])
    np.testing.assert_allclose((left.fast, left.slow), [[0, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(right.origin_mm, [-2, 1, -97])
    np.testing.assert_allclose((right.fast, right.slow), [[0, 1, 0], [-1, 0, 0]])
    assert [group.name for group in data.detector.root.groups()] == ["root", "left"]
    assert left.parallax and left.trusted_range == (-1, 1000) and left.material == "Si" and left.mu_per_mm == 3.9
    assert left.good_pixels().sum() == 20 - 4 and not left.good_pixels()[1:3, 0:2].any()
    assert data.beam.direction.tolist() == [0, 0, 1] and data.beam.polarization_normal is None
    assert data.scan.image_range == (3, 5)
    assert (data.scan.oscillation_start_deg, data.scan.oscillation_width_deg) == (10, 0.5)
    assert data.scan.epochs is None and data.scan.exposure_times_s.tolist() == [0.1] * 3
    assert data.crystal.space_group_hall == "P 2 2" and data.crystal.cell == pytest.approx((10, 20, 40, 90, 90, 90))
    np.testing.assert_allclose(data.crystal.A_at_scan_points[2], data.crystal.A)
    assert data.goniometer is None and data.identifier == "one"


@pytest.mark.parametrize(
    ("template", "numbers", "indices"),
    [("a.nxs", (), [4, 5]), ("a.nxs", (9, 10), [9, 10]), ("a_####.cbf", (), None)],
)
def test_expt_has_what_dials_looks_for(tmp_path, template, numbers, indices):
    """Crystals of every class by one name, and the place of each image in a file of several."""
    crystal = CrystalData(real_space=np.eye(3) * 40, mosaicity_deg=0.2, half_mosaicity_deg=0.1, domain_size_A=900.0)
    scan = ScanData(image_range=(5, 6), oscillation_start_deg=0.0, oscillation_width_deg=0.1)
    data = ExperimentData(crystal=crystal, scan=scan, image_template=template, image_numbers=numbers)
    write_geometry(tmp_path / "a.expt", data, allow_loss=True)
    tree = json.loads((tmp_path / "a.expt").read_text())
    (crystal_entry,) = tree["crystal"]
    assert crystal_entry["__id__"] == "crystal"
    assert (crystal_entry["ML_half_mosaicity_deg"], crystal_entry["ML_domain_size_ang"]) == (0.1, 900.0)
    assert tree["imageset"][0].get("single_file_indices") == indices


def test_expt_old_forms(tmp_path):
    tree = json.loads(json.dumps(NESTED))
    del tree["detector"][0]["hierarchy"]
    tree["scan"] = [{"image_range": [1, 1], "properties": {"oscillation": [5.0], "oscillation_width": [0.25]}}]
    data = read_expt(saved(tmp_path, tree))
    np.testing.assert_allclose(data.detector.panels[1].origin_mm, [1, 2, 3])
    assert data.detector.root is None and data.scan.oscillation_width_deg == 0.25
    tree["scan"] = [{"image_range": [1, 2], "oscillation": [5.0, 0.5], "exposure_time": [1, 1], "epochs": [7, 8]}]
    data = read_expt(saved(tmp_path, tree))
    assert data.scan.oscillation_start_deg == 5 and data.scan.epochs.tolist() == [7, 8]


def test_expt_goniometer_axes_run_from_the_crystal_to_the_base(tmp_path):
    tree = json.loads(json.dumps(NESTED))
    tree["goniometer"] = [{
        "axes": [[1, 0, 0], [0, 0, 1], [0, 1, 0]], "angles": [30, 40, 50], "names": ["phi", "chi", "omega"],
        "scan_axis": 1,
    }]  # fmt: skip
    tree["experiment"][0]["goniometer"] = 0
    goniometer = read_expt(saved(tmp_path, tree)).goniometer
    expected = rotation([0, 1, 0], 50) @ rotation([0, 0, 1], 12) @ rotation([1, 0, 0], 30)
    np.testing.assert_allclose(goniometer.rotation(12), expected, atol=1e-15)
    write_expt(tmp_path / "b.expt", ExperimentData(goniometer=goniometer))
    again = read_expt(tmp_path / "b.expt").goniometer
    assert again.names == goniometer.names
    np.testing.assert_allclose(again.rotation(77), goniometer.rotation(77), atol=1e-15)


def test_expt_laue_beam_and_spectrum(tmp_path):
    tree = json.loads(json.dumps(NESTED))
    tree["beam"] = [{"__id__": "polychromatic", "direction": [0, 0, 1], "wavelength_range": [0.8, 1.2]}]
    beam = read_expt(saved(tmp_path, tree)).beam
    assert beam.wavelength_range_A == (0.8, 1.2) and beam.wavelength_A == pytest.approx(1.0)
    given_beam = BeamData(wavelength_A=1.0, spectrum_energies_eV=[12000.0, 12001.5], spectrum_weights=[1.0, 3.0])
    write_expt(tmp_path / "s.expt", ExperimentData(beam=given_beam))
    again = read_expt(tmp_path / "s.expt").beam
    assert again.spectrum_energies_eV.tolist() == [12000, 12001.5] and again.spectrum_weights.tolist() == [1, 3]


def test_expt_several_experiments_share_models(tmp_path):
    first = read_expt(saved(tmp_path, NESTED))
    second = replace(first, crystal=CrystalData(real_space=np.diag([5.0, 6, 7])), identifier="two")
    write_expt(tmp_path / "two.expt", [first, second])
    assert len(json.loads((tmp_path / "two.expt").read_text())["detector"]) == 1
    found = read_expts(tmp_path / "two.expt")
    assert [e.identifier for e in found] == ["one", "two"] and found[1].crystal.cell[0] == pytest.approx(5)
    assert read_geometry(tmp_path / "two.expt", index=1).identifier == "two"
    with pytest.raises(InputError, match=r"two.expt: got '2 experiments'"):
        read_expt(tmp_path / "two.expt")


@given(experiments())
@ROUND_TRIP
def test_expt_round_trip(tmp_path, data):
    write_expt(tmp_path / "r.expt", data)
    again = read_expt(tmp_path / "r.expt")
    assert_same_detector(again.detector, data.detector, CLOSE)
    assert_same_crystal(again, data, CLOSE)
    np.testing.assert_allclose(again.beam.direction, data.beam.direction, atol=1e-15)
    assert again.beam.wavelength_A == data.beam.wavelength_A
    assert sorted(contents(again)) == sorted(contents(data))


# XDS

XPARM = """ XPARM.XDS    VERSION Jan 31, 2020
     1       10.0000    0.5000  0.999000  0.010000  0.043589
       1.000000       0.000000       0.000000       1.000000
     19     40.0000   50.0000   60.0000  90.000  90.000  90.000
       0.000000      40.000000       0.000000
       0.000000       0.000000      50.000000
      60.000000       0.000000       0.000000
         1        600       250    0.100000    0.200000
     300.500000     100.500000     120.000000
       1.000000       0.000000       0.000000
       0.000000       1.000000       0.000000
       0.000000       0.000000       1.000000
         1         1       600         1       250
    0.00    0.00    0.00  1.00000  0.00000  0.00000  0.00000  1.00000  0.00000
"""


def test_xparm_of_a_flat_detector(tmp_path):
    (tmp_path / "GXPARM.XDS").write_text(XPARM)
    data = read_geometry(tmp_path / "GXPARM.XDS")
    panel = data.detector.panels[0]
    # XDS's own formula for the centre of the pixel (7, 9), in its frame, turned half a turn about x
    x, y = 7, 9
    there = np.array([0.1 * (x - 300.5), 0.2 * (y - 100.5), 120.0])
    np.testing.assert_allclose(panel.positions_mm(x - 0.5, y - 0.5), there * [1, -1, -1], atol=1e-12)
    assert beam_on_panel(panel, data.beam).fast_mm == pytest.approx(30) and panel.image_size == (600, 250)
    np.testing.assert_allclose(data.beam.direction, [0, 0, 1])
    np.testing.assert_allclose(data.goniometer.rotation_axis, [0.999, -0.01, -0.043589], atol=1e-6)
    np.testing.assert_allclose(data.crystal.real_space, [[0, -40, 0], [0, 0, -50], [60, 0, 0]])
    assert data.crystal.space_group_hall == "P 2ac 2ab" and data.scan.oscillation_start_deg == 10


def test_xparm_segments_are_panels(tmp_path):
    lines = XPARM.splitlines()
    lines[7] = "  2  600  250  0.1  0.1"
    lines[12:] = [
        "1 1 300 1 250", "0 0 0 1 0 0 0 1 0",
        "2 301 600 1 250", "310 5 -2 0 1 0 -1 0 0",
    ]  # fmt: skip
    (tmp_path / "XPARM.XDS").write_text("\n".join(lines) + "\n")
    first, second = read_xparm(tmp_path / "XPARM.XDS").detector.panels
    x, y = 400, 20
    own = 0.1 * (x - 310) * np.array([0, 1, 0]) + 0.1 * (y - 5) * np.array([-1, 0, 0]) - 2 * np.array([0, 0, 1])
    lab = own + [-0.1 * 300.5, -0.1 * 100.5, 120]
    np.testing.assert_allclose(second.positions_mm(x - 300.5, y - 0.5), lab * [1, -1, -1], atol=1e-12)
    assert second.raw_image_offset == (300, 0) and first.image_size == second.image_size == (300, 250)


@given(experiments())
@ROUND_TRIP
def test_xparm_round_trip(tmp_path, data):
    write_xparm(tmp_path / "XPARM.XDS", data)
    again = read_xparm(tmp_path / "XPARM.XDS")
    assert_same_detector(again.detector, data.detector, CLOSE, groups=False)
    assert_same_crystal(again, data, CLOSE)
    np.testing.assert_allclose(again.beam.direction, data.beam.direction, atol=1e-12)


# CrystFEL

GEOM = """; a comment
photon_energy = 9000 eV
adu_per_photon = 2
clen = 0.1
res = 5000
max_adu = 10000
rigid_group_a = q0
rigid_group_b = q1
rigid_group_collection_all = a, b
q0/min_fs = 0
q0/max_fs = 9
q0/min_ss = 0
q0/max_ss = 4
q0/corner_x = -10.5
q0/corner_y = 20
q0/fs = +0.8x +0.6y
q0/ss = -0.6x +0.8y
q1/min_fs = 0
q1/max_fs = 9
q1/min_ss = 5
q1/max_ss = 9
q1/corner_x = 0
q1/corner_y = 0
q1/coffset = 0.002  ; further away
q1/fs = x
q1/ss = -1.0y + 0.1z
bad_beam/panel = q0
bad_beam/min_fs = 2
bad_beam/max_fs = 3
bad_beam/min_ss = 1
bad_beam/max_ss = 1
bad_xy/min_x = 0
bad_xy/max_x = 2
bad_xy/min_y = -3
bad_xy/max_y = 0
"""


def test_crystfel_panels_groups_and_bad_regions(tmp_path):
    (tmp_path / "a.geom").write_text(GEOM)
    data = read_geometry(tmp_path / "a.geom")
    first, second = data.detector.panels
    np.testing.assert_allclose(first.origin_mm, [10.5 * 0.2, 20 * 0.2, -100])  # CrystFEL x is to the left
    np.testing.assert_allclose((first.fast, first.slow), [[-0.8, 0.6, 0], [0.6, 0.8, 0]], atol=1e-15)
    assert first.pixel_size_mm == pytest.approx((0.2, 0.2)) and first.gain == 2 and first.trusted_range == (0, 10000)
    assert second.origin_mm[2] == pytest.approx(-102) and second.raw_image_offset == (0, 5)
    np.testing.assert_allclose(second.slow, np.array([0, -1, -0.1]) / np.hypot(1, 0.1))
    assert second.pixel_size_mm[1] == pytest.approx(0.2 * np.hypot(1, 0.1))
    assert data.beam.wavelength_A == pytest.approx(12398.42 / 9000)
    assert [g.name for g in data.detector.root.groups()] == ["detector", "a", "b"]
    assert (~first.mask).sum() == 2 and not first.mask[1, 2:4].any()
    assert not second.mask[0:3, 0:2].any() and (~second.mask).sum() == 6  # centres at x 0.5, 1.5; y -0.5, -1.5, -2.5


@given(experiments(square=False))
@ROUND_TRIP
def test_crystfel_round_trip(tmp_path, data):
    write_crystfel(tmp_path / "r.geom", data)
    again = read_crystfel(tmp_path / "r.geom")
    turned = rotate_experiment(data, turn_to_z(data.beam.direction))
    assert_same_detector(again.detector, turned.detector, CLOSE, groups=False)
    assert again.beam.wavelength_A == data.beam.wavelength_A


def test_bad_rectangles_cover_the_bad_pixels_once():
    bad = np.random.default_rng(0).random((17, 23)) < 0.4
    covered = np.zeros(bad.shape, int)
    for fast0, slow0, fast1, slow1 in bad_rectangles(bad):
        covered[slow0:slow1, fast0:fast1] += 1
    np.testing.assert_array_equal(covered, bad)
    assert bad_rectangles(np.ones((5, 6), bool)) == [(0, 0, 6, 5)]


# MOSFLM, SMV headers


def test_mosflm_matrix_is_the_crystal_of_the_c_programs_frame(tmp_path, data):
    crystal = read_geometry(data / "inputs" / "tri.mat", wavelength_A=1.0).crystal
    stars = np.stack(read_mosflm_matrix(data / "inputs" / "tri.mat", 1.0))
    np.testing.assert_allclose(crystal.A.T, np.stack((stars[:, 2], stars[:, 1], -stars[:, 0]), axis=1), atol=1e-15)
    whole = ExperimentData(beam=BeamData(wavelength_A=1.0), crystal=crystal)
    write_geometry(tmp_path / "b.mat", whole, allow_loss=True)
    np.testing.assert_allclose(np.stack(read_mosflm_matrix(tmp_path / "b.mat", 1.0)), stars, atol=1e-14)


def reference_headers():
    from pathlib import Path

    for path in sorted((Path(__file__).parents[1] / "data" / "reference").glob("*.npz")):
        with np.load(path) as case:
            yield path.stem, HeaderText(str(case["int_header"])), str(case["args"])


def test_headers_of_the_c_program_give_the_origin_that_it_states():
    """DIALS_ORIGIN is in the imgCIF frame where the convention is MOSFLM's or DENZO's (section 5.3, item 7)."""
    seen = 0
    for name, header, args in reference_headers():
        other = any(word in args for word in ("-adxv", "-xds", "-dials", "vector", "_axis", "-img", "-mask"))
        if other or "-twotheta" in args or "_rot" in args:
            continue
        panel = experiment_of_smv(header, name).detector.panels[0]
        stated = [float(x) for x in header.entry("DIALS_ORIGIN").split(",")]
        np.testing.assert_allclose(panel.origin_mm, stated, rtol=2e-5, atol=2e-4, err_msg=name)
        seen += 1
    assert seen > 20


def test_a_tilt_that_a_header_does_not_describe_is_refused(data):
    with pytest.raises(InputError, match=r"nb_xds_64.img: header: got 'TWOTHETA=12"):
        read_geometry(data / "inputs" / "nb_xds_64.img")
    adsc = read_geometry(data / "inputs" / "adsc_80x48.img")
    assert adsc.scan.oscillation_width_deg == 1 and adsc.detector.panels[0].image_size == (80, 48)


# Reflections


def table(rows=3, **changes):
    columns = {
        "miller_index": ["cctbx::miller::index<>", [rows, np.arange(3 * rows, dtype="<i4").tobytes()]],
        "panel": ["std::size_t", [rows, np.arange(rows, dtype="<u8").tobytes()]],
        "bbox": ["int6", [rows, np.arange(6 * rows, dtype="<i4").tobytes()]],
        "s1": ["vec3<double>", [rows, np.arange(3 * rows, dtype="<f8").tobytes()]],
        "flags": ["std::size_t", [rows, np.full(rows, 2**40, "<u8").tobytes()]],
        "shoebox": ["Shoebox<>", [rows, b"anything"]],
    } | changes
    content = {"identifiers": {0: "one"}, "nrows": rows, "data": columns}
    return msgpack.packb(["dials::af::reflection_table", 1, content])


def test_reflection_columns(tmp_path):
    (tmp_path / "a.refl").write_bytes(table())
    found = read_refl(tmp_path / "a.refl")
    assert found.rows == 3 and found.identifiers == {0: "one"} and found.skipped == ("shoebox",)
    assert found.column("miller_index").tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert found.column("bbox").shape == (3, 6) and found.column("s1")[1, 2] == 5.0
    assert found.column("flags")[0] == 2**40
    with pytest.raises(InputError, match="column: got 'intensity'"):
        found.column("intensity")


@pytest.mark.parametrize(
    ("name", "kind", "width"),
    [("s1", "vec3<double>", 3), ("xyzobs.px.value", "vec3<double>", 3), ("nb.intensity", "double", 1)],
)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_reflections_with_numbers_that_are_not_finite(tmp_path, name, kind, width, number):
    values = np.zeros((3, width), "<f8")
    (tmp_path / "a.refl").write_bytes(table(**{name: [kind, [3, values.tobytes()]]}))
    assert name in read_refl(tmp_path / "a.refl").columns
    values[1, -1] = number
    (tmp_path / "a.refl").write_bytes(table(**{name: [kind, [3, values.tobytes()]]}))
    with pytest.raises(InputError, match=rf"a\.refl: column {name}, row 1.*finite"):
        read_refl(tmp_path / "a.refl")


def test_a_column_that_nobody_asks_for_may_have_0_over_0_in_it(tmp_path, caplog):
    values = np.array([0.5, np.nan, 0.25], "<f8")
    (tmp_path / "a.refl").write_bytes(table(**{"profile.correlation": ["double", [3, values.tobytes()]]}))
    found = read_refl(tmp_path / "a.refl")
    assert set(found.skipped) == {"shoebox", "profile.correlation"} and "s1" in found.columns
    assert "profile.correlation is not read: it holds nan in row 1" in caplog.text


def shoebox(kind, mask):
    """A box of 1 x 2 x 3 pixels on panel 4 as the file holds it."""
    head = struct.pack("<I6iB", 4, 10, 13, 20, 22, 5, 6, kind)
    data = np.arange(6, dtype="<f4").tobytes()
    return head + data + np.array([1, 1, 0, 5, 1, 1], mask).tobytes() + np.full(6, 0.5, "<f4").tobytes()


def test_shoeboxes_of_both_versions(tmp_path):
    column = shoebox(1, "<i4") + shoebox(2, "u1") + struct.pack("<I6iB", 0, 1, 2, 1, 2, 0, 1, 0)
    (tmp_path / "a.refl").write_bytes(table(shoebox=["Shoebox<>", [3, column]]))
    found = read_refl(tmp_path / "a.refl", shoeboxes=True)
    first, second, none = found.shoeboxes
    assert found.skipped == () and first.panel == 4 and first.bbox.tolist() == [10, 13, 20, 22, 5, 6]
    assert np.array_equal(first.data, [[[0, 1, 2], [3, 4, 5]]]) and np.array_equal(first.mask, second.mask)
    assert second.mask[0, 1, 0] == 5 and second.background[0, 1, 2] == 0.5 and none.data is None


@pytest.mark.parametrize("cut", [3, 40, 70])
def test_shoeboxes_that_are_cut_short(tmp_path, cut):
    (tmp_path / "a.refl").write_bytes(table(1, shoebox=["Shoebox<>", [1, shoebox(2, "u1")[:cut]]]))
    with pytest.raises(InputError, match="shoebox"):
        read_refl(tmp_path / "a.refl", shoeboxes=True)


# What would be lost, and what is wrong


BY_NAME = {found.name: found for found in FORMATS}


def test_losses_are_named(tmp_path):
    data = read_expt(saved(tmp_path, NESTED))
    assert losses(data, BY_NAME["expt"]) == ()
    lost = losses(data, BY_NAME["crystfel"])
    assert {"crystal", "scan", "polarization", "sensor", "parallax", "group frames"} <= set(lost)
    with pytest.raises(InputError, match="conversion to crystfel: got 'polarization, .*--allow-loss"):
        write_geometry(tmp_path / "a.geom", data)
    assert not (tmp_path / "a.geom").exists()
    assert write_geometry(tmp_path / "a.geom", data, allow_loss=True).lost == lost
    assert {"detector", "scan"} <= set(losses(data, BY_NAME["mosflm"]))
    assert all(set(contents(data)) >= set(losses(data, kind)) for kind in FORMATS)


WRONG = {
    "empty.expt": b"",
    "cut.expt": json.dumps(NESTED)[:-20].encode(),
    "other.expt": b'{"__id__": "Datablock"}',
    "none.expt": b'{"__id__": "ExperimentList", "experiment": []}',
    "axis.expt": json.dumps(NESTED).replace('"fast_axis": [1, 0, 0]', '"fast_axis": [1, 0]', 1).encode(),
    "zero.expt": json.dumps(NESTED).replace('"real_space_b": [0, 20, 0]', '"real_space_b": [1, 0, 0]', 1).encode(),
    "index.expt": json.dumps(NESTED).replace('"beam": 0', '"beam": 4', 1).encode(),
    "nan.expt": json.dumps(NESTED).replace('"wavelength": 1.5', '"wavelength": NaN').encode(),
    "waves.expt": json.dumps(NESTED).replace('"wavelength": 1.5', '"wavelength": 0').encode(),
    "uneven.expt": json.dumps(NESTED).replace("10.5, 11.0", "10.5, 12.0").encode(),
    "cut.XDS": XPARM[: len(XPARM) // 2].encode(),
    "segments.XDS": XPARM.replace("300.500000", "").encode(),
    "words.XDS": XPARM.replace("120.000000", "far").encode(),
    "group.XDS": XPARM.replace("     19  ", "     500 ").encode(),
    "fs.geom": GEOM.replace("+0.8x +0.6y", "0.8 + 0.6").encode(),
    "missing.geom": GEOM.replace("q0/corner_x = -10.5\n", "").encode(),
    "clen.geom": GEOM.replace("clen = 0.1", "clen = /LCLS/detector_1/EncoderValue").encode(),
    "res.geom": GEOM.replace("res = 5000", "res = 0").encode(),
    "energy.geom": GEOM.replace("9000 eV", "0 eV").encode(),
    "line.geom": GEOM.replace("clen = 0.1", "clen 0.1").encode(),
    "group.geom": GEOM.replace("rigid_group_b = q1", "rigid_group_b = q7").encode(),
    "reflection.refl": table()[:-5],
    "other.refl": msgpack.packb([1, 2, 3]),
    "rows.refl": table(panel=["std::size_t", [2, b"\0" * 16]]),
    "text.dat": b"what is this\n",
    "short.mat": b"1 2 3 4 5 6 7 8",
}


@pytest.mark.parametrize("name", WRONG)
def test_malformed_files_are_one_line_that_names_the_file(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(WRONG[name])
    with pytest.raises(InputError) as caught:
        read_refl(path) if name.endswith(".refl") else read_geometry(path, wavelength_A=1.0)
    assert name in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_errors_name_the_place(tmp_path):
    (tmp_path / "axis.expt").write_bytes(WRONG["axis.expt"])
    with pytest.raises(InputError, match=r"axis.expt: detector\[0\].panels\[0\].fast_axis: got .*3 finite numbers"):
        read_geometry(tmp_path / "axis.expt")
    (tmp_path / "fs.geom").write_bytes(WRONG["fs.geom"])
    with pytest.raises(InputError, match=r"fs.geom: line 16, q0/fs: got '0.8 \+ 0.6'"):
        read_geometry(tmp_path / "fs.geom")


def test_impossible_descriptions_are_refused():
    for wrong in (
        lambda: PanelData(**{**vars(FLAT), "slow": [1, 0, 0]}),
        lambda: PanelData(**{**vars(FLAT), "pixel_size_mm": (0.1, 0.0)}),
        lambda: DetectorData(panels=()),
        lambda: GoniometerData(rotation_axis=[0, 0, 0]),
        lambda: GoniometerData(rotation_axis=[0, 0, 1], fixed_rotation=np.diag([1.0, 1, -1])),
        lambda: BeamData(wavelength_A=float("nan")),
    ):
        with pytest.raises(InputError):
            wrong()
