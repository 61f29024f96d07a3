"""Every row of the table of defects that a mode switches, in both modes.

Each number is held against a formula, a figure that the behaviour page gives, or an image of the C program.
test_compat_fixed.py has the rows that no mode brings back.
"""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch

import test_compat_fixed
import test_compat_numbers
from compat_scenes import (
    ABS,
    BOX,
    CASES,
    DATA,
    FLAT,
    MODES,
    SMALL,
    SPOTS,
    THICK,
    Plane,
    assert_same,
    assert_stored,
    commands,
    grating,
    rodrigues,
    subpixel_images,
    turn,
)
from nanobrag_torch.compat import ROWS, Compat
from nanobrag_torch.config import CrystalConfig, DetectorConfig
from nanobrag_torch.io.smv import read_smv_image
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

CORRECTABLE = ["D1", "D2", "D3", "D4", "D5", "D6", "D7", "D9", "D10", "D19", "D20", "D22", "D27", "D28", "D36", "D52"]
NUMBERS = ["D38", *(f"D{n}" for n in range(53, 63))]
FIXED = ["D8", "D14", "D15", "D16", "D25", "D26", "D31", "D32", "D34", "D41", "D42", "D44"]


@pytest.fixture
def command(tmp_path):
    yield from commands(tmp_path)


def test_every_row_has_a_test_named_for_it():
    assert {row.id for row in ROWS if row.switch is not None} == {*CORRECTABLE, *NUMBERS}
    assert {row.id for row in ROWS if row.switch is None} == set(FIXED)
    assert len(ROWS) == len(CORRECTABLE) + len(NUMBERS) + len(FIXED)
    everywhere = (*globals(), *vars(test_compat_fixed), *vars(test_compat_numbers))
    names = [name for name in everywhere if name.startswith("test_D")]
    assert {name.split("_")[1] for name in names} == {row.id for row in ROWS}


def test_every_switch_belongs_to_one_row():
    assert [field.name for field in fields(Compat)] == [row.switch for row in ROWS if row.switch is not None]
    assert not any(getattr(Compat.corrected(), field.name) for field in fields(Compat))
    assert all(getattr(Compat.c(), field.name) for field in fields(Compat))


ANGLES = {
    (85, 95, 105): (84.992, 95.008, 105.001),
    (60, 70, 80): (59.619, 69.717, 79.750),
    (60, 60, 60): (57.849, 57.849, 58.525),
    (110, 110, 110): (108.309, 108.309, 111.705),
}


@pytest.mark.parametrize("asked", ANGLES)
def test_D1_a_cell_has_the_angles_asked_for(command, asked):
    edges = (70, 70, 70) if len(set(asked)) == 1 else (60, 70, 80)
    line = f"-cell {' '.join(map(str, (*edges, *asked)))} -default_F 50 -N 3 {SMALL}"
    for mode, angles in (("corrected", asked), ("c", ANGLES[asked])):
        assert command(line, mode).numbers("Unit Cell: ") == pytest.approx([*edges, *angles], abs=6e-4)


def test_D1_the_image_is_that_of_the_reciprocal_lattice(command, tmp_path):
    edges, angles = np.array([62, 71, 83]), np.radians([75, 97, 112])
    alpha, beta, gamma = angles
    metric = np.outer(edges, edges) * np.cos([[0, gamma, beta], [gamma, 0, alpha], [beta, alpha, 0]])
    stars = np.linalg.cholesky(np.linalg.inv(metric))  # a* along x, b* in the xy plane
    np.savetxt(tmp_path / "A.mat", stars.T * 1.1, "%.17g")
    line = CASES["triclinic_cell_defect"]
    by_matrix = command(line.replace("-cell 62 71 83 75 97 112", "-mat A.mat"))
    corrected, in_c = command(line), command(line, "c")
    assert corrected.corrections == ["D1"] and by_matrix.corrections == []
    assert_same(corrected.image, by_matrix.image)
    assert_stored(in_c, "triclinic_cell_defect")
    assert np.abs(in_c.image - corrected.image).max() > 0.01 * in_c.image.max()


def test_D2_each_phi_step_is_a_still_of_its_own(command):
    line = CASES["phi_zero_leak"]
    stills = [command(line.replace("-phi 0 -osc 1 -phisteps 3", f"-phi {i / 3!r}")).image for i in range(3)]
    corrected, in_c = command(line), command(line, "c")
    assert_same(corrected.image, sum(stills) / 3)
    assert corrected.corrections == ["D2"]
    stale = (stills[2] + stills[1] + stills[2]) / 3  # all but the first sub-pixel of the first pixel
    assert_same(in_c.image.ravel()[1:], stale.ravel()[1:])
    assert_stored(in_c, "phi_zero_leak")
    alone = command(f"{line} -phi_mode c-parity")
    assert np.array_equal(alone.image, in_c.image) and alone.corrections == []
    assert np.array_equal(command(f"{line} -phi_mode spec", "c").image, corrected.image)


def test_D3_solid_angles_multiply_their_own_terms(command):
    line = f"{SPOTS} -nopolar -distance 60 -oversample_omega"
    fine = command(f"{line} -pixel 0.2 -detpixels 128 -oversample 1 -Xbeam 13.1 -Ybeam 13.1").image
    parts = subpixel_images(fine, 2)  # each holds the omega of its own quarter
    corrected, in_c = (command(f"{line} -pixel 0.4 -detpixels 64 -oversample 2", mode) for mode in MODES)
    assert_same(corrected.image, parts.sum(0))
    assert corrected.corrections == ["D3"]
    assert_same(in_c.image, parts[3], 1e-4)  # omega is about 1e-5: the last step alone survives
    assert in_c.image.sum() / corrected.image.sum() == pytest.approx(0.247, abs=0.001)


@pytest.mark.parametrize("flag", ["-oversample_polar", "-oversample_thick"])
def test_D3_polarization_and_capture_multiply_their_own_terms(command, flag):
    bare = command(f"{SPOTS} -nopolar -distance 60 -pixel 0.2 -detpixels 32 -oversample 1 -Xbeam 3.5 -Ybeam 3.5")
    line = f"{SPOTS} -distance 60 -pixel 0.4 -detpixels 16 -oversample 2 -detector_abs {ABS} -detector_thick {THICK}"
    plane = Plane(16, 16, 0.4, 60, 2)
    terms = subpixel_images(bare.image, 2).transpose(1, 2, 0) / plane.omega()  # F^2 L^2 of each step
    depth = THICK / ABS / plane.directions()[..., 0]
    capture = np.stack((1 - np.exp(-depth / 2), np.exp(-depth / 2) - np.exp(-depth)))  # [layer, slow, fast, sub-pixel]
    polar = np.stack((plane.polar(), plane.polar()))
    factor, cached = (polar, capture) if flag == "-oversample_polar" else (capture, polar)
    cached = cached[..., 0] * plane.omega()[..., 0]  # those of the first sub-pixel
    running = np.zeros((16, 16))
    for layer, subpixel in np.ndindex(2, 4):
        running = (running + terms[..., subpixel]) * factor[layer, ..., subpixel]
    corrected, in_c = (command(f"{line} {flag}", mode) for mode in MODES)
    assert_same(corrected.image, ((terms * factor).sum(-1) * cached).sum(0), 1e-5)
    assert_same(in_c.image, running * cached[1], 1e-5)
    assert corrected.corrections == (["D3", "D4", "D61"] if flag == "-oversample_polar" else ["D3", "D61"])


@pytest.mark.parametrize(("layers", "share"), [("-detector_thicksteps 4", 0.298), ("", 0.483)])
def test_D4_each_layer_has_its_own_capture(command, layers, share):
    line = f"{FLAT} -detpixels 16 -pixel 0.4 -oversample 1 -distance 20"
    sensor = f"-detector_abs {ABS} -detector_thick {THICK} {layers}"
    thin, corrected, in_c = command(line), command(f"{line} {sensor}"), command(f"{line} {sensor}", "c")
    depth = THICK / ABS / Plane(16, 16, 0.4, 20).directions()[:, :, 0, 0]
    assert_same(corrected.image, thin.image * (1 - np.exp(-depth)), 1e-6)
    count, step = (4, depth / 3) if layers else (2, depth / 2)
    last = np.exp(-(count - 1) * step) - np.exp(-count * step)
    assert_same(in_c.image, thin.image * count * last, 1e-6)
    middle = np.unravel_index(depth.argmin(), depth.shape)
    assert (corrected.image / thin.image)[middle] == pytest.approx(0.835, abs=1e-3)
    assert (in_c.image / thin.image)[middle] == pytest.approx(share, abs=1e-3)
    assert corrected.corrections == (["D4", "D28", "D61"] if layers else ["D4", "D61"])


def test_D4_with_oversample_thick_the_running_sum_leaves_even_less(command):
    line = f"{FLAT} {SMALL} -detector_abs 250 -detector_thick 450 -detector_thicksteps 4 -oversample_thick"
    thin = command(f"{FLAT} {SMALL}").image
    assert (command(line).image / thin).max() == pytest.approx(0.835, abs=2e-3)  # deep layers look smaller
    assert (command(line, "c").image / thin)[8, 8] == pytest.approx(0.088, abs=1e-3)


def table_of(name: str) -> tuple[np.ndarray, int]:
    """Amplitudes [H, K, L] of a cubic block of reflections, and its first index."""
    rows = np.loadtxt(DATA / "inputs" / name)
    first, size = int(rows[:, 0].min()), int(np.ptp(rows[:, 0])) + 1
    grid = np.zeros((size, size, size))
    grid[tuple((rows[:, :3] - first).astype(int).T)] = rows[:, 3]
    return grid, first


def cubic_weights(x: np.ndarray) -> np.ndarray:
    """Weights [..., 4] of the cubic through the nodes -1, 0, 1, 2 at x."""
    nodes = np.linalg.inv(np.vander([-1.0, 0, 1, 2], increasing=True))
    return np.stack([x**power for power in range(4)], -1) @ nodes


def test_D5_an_evaluation_out_of_range_falls_back_alone(command):
    grid, first = table_of("p1_small.hkl")
    rows = np.diag([60.0, 75, 90]) @ turn(10, 10, 10).T
    plane = Plane(64, 12, 0.5, 200, 2, (1, 3))
    hkl = plane.hkl(rows, 1.0)
    inside = ((hkl >= first + 2) & (hkl <= -first - 2)).all(-1)
    nearest = np.ceil(hkl - 0.5).astype(int) - first
    listed = ((nearest >= 0) & (nearest < len(grid))).all(-1)
    by_nearest = np.where(listed, grid[tuple(np.clip(nearest, 0, len(grid) - 1).transpose(3, 0, 1, 2))], 2.0)
    floor = np.floor(hkl).astype(int)
    weights = cubic_weights(hkl - floor)
    at = np.clip(floor[..., None] + np.arange(-1, 3) - first, 0, len(grid) - 1)  # [slow, fast, sub-pixel, 3, 4]
    block = grid[at[..., 0, :, None, None], at[..., 1, None, :, None], at[..., 2, None, None, :]]
    by_cubic = np.einsum("sfjabc,sfja,sfjb,sfjc->sfj", block, *np.moveaxis(weights, 3, 0))
    before = np.arange(inside.size).reshape(inside.shape) < np.argmin(inside.ravel())
    corrected, in_c = (command(CASES["interp_out_of_range_switch"], mode) for mode in MODES)
    for ran, cubic in ((corrected, inside), (in_c, before)):
        amplitude = np.where(cubic, by_cubic, by_nearest)
        terms = (amplitude * grating(hkl, (2, 2, 2))) ** 2
        assert_same(ran.image, terms.mean(-1) * plane.omega()[..., 0] * plane.polar()[..., 0], 1e-6)
    assert 0 < before.sum() < inside.sum() < inside.size
    assert corrected.corrections == ["D5"]
    assert_stored(in_c, "interp_out_of_range_switch")


def test_D6_sources_weigh_by_their_intensities(command, tmp_path):
    line = CASES["sourcefile_full"].replace("-polar 0.8", "-nopolar")
    sources = np.loadtxt(DATA / "inputs" / "sources_full.txt")
    alone = []
    for i, row in enumerate(sources):
        (tmp_path / f"one{i}.txt").write_text(" ".join(map(repr, row.tolist())) + "\n")
        alone.append(command(line.replace("sources_full", f"one{i}")).image)
    corrected, in_c = command(line), command(line, "c")
    assert_same(corrected.image, np.average(alone, axis=0, weights=sources[:, 3]))
    assert_same(in_c.image, np.mean(alone, axis=0))
    assert corrected.corrections == ["D6"]
    assert_stored(command(CASES["sourcefile_full"], "c"), "sourcefile_full")


@pytest.mark.parametrize("dmin", [0, 1e6])
def test_D7_water_scatters_in_every_step(command, dmin):
    line = f"{BOX} -default_F 1e-9 -N 1 {SMALL} -oversample 2 -water 20 -fluence 3e28 -dmin {dmin}"
    molecules = 20e-6**3 * 1e6 * 6.02214179e23 / 18
    scattered = 7.94079248018965e-30 * 3e28 * 2.57**2 * molecules
    plane = Plane(16, 16, 0.4, 100, 2)
    factors = plane.omega()[..., 0] * plane.polar()[..., 0]
    corrected, in_c = command(line), command(line, "c")
    assert_same(corrected.image, scattered * factors, 1e-6)
    assert_same(in_c.image, 0 * factors if dmin else scattered * (7.94079248018965e-30 * 3e28) / 4 * factors, 1e-6)
    assert corrected.corrections == ["D7"]


def test_D9_misset_seed_sets_the_seed_alone(command):
    line = CASES["misset_seed_misparse"]
    corrected, in_c = command(line), command(line, "c")
    assert_same(in_c.image, command(line.replace("-misset_seed 33 -N 5", "-misset 33 0 5 -N 5")).image)
    assert_same(corrected.image, command(line.replace("-misset_seed 33", "")).image)
    assert corrected.corrections == ["D9"]
    assert_stored(in_c, "misset_seed_misparse")
    plane = Plane(64, 64, 0.4, 100)
    lattice = (50 * grating(plane.hkl(np.diag([60.0, 75, 90]), 1.0), (5, 5, 5))) ** 2
    assert_same(corrected.image, (lattice * plane.omega() * plane.polar())[..., 0])


def custom_origin(axis: np.ndarray, degrees: float) -> np.ndarray:
    """The first pixel's corner (mm) of a 16 x 16 CUSTOM detector turned about the sample, as -dials prints it."""
    corner = np.array([100, 8 * 0.4, -8 * 0.4])  # 100 beam - Fclose fast - Sclose slow
    x, y, z = rodrigues(corner, axis, degrees)
    return np.array([z, y, -x])


def test_D10_twotheta_axis_sets_the_axis_alone(command):
    line = f"{SPOTS} {SMALL} -twotheta_axis 0.6 0.8 0"
    corrected, in_c = command(line), command(line, "c")
    axis = np.array([0.6, 0.8, 0])
    assert corrected.numbers("dials origin=") == pytest.approx(custom_origin(axis, 0), abs=1e-4)
    assert in_c.numbers("dials origin=") == pytest.approx(custom_origin(axis, 0.6), abs=1e-4)
    assert (corrected.header("TWOTHETA"), in_c.header("TWOTHETA")) == (0, 0.6)
    assert_same(in_c.image, command(f"{line} -twotheta 0.6").image)
    assert corrected.corrections == ["D10"]
    assert_stored(command(CASES["custom_twotheta_axis_sidefx"], "c"), "custom_twotheta_axis_sidefx")


def test_D19_nopolar_wins(command):
    line = f"{FLAT} {SMALL} -distance 30 -oversample_polar -nopolar"
    plane = Plane(16, 16, 0.4, 30)
    corrected, in_c = command(line), command(line, "c")
    assert_same(corrected.image, 2500 * plane.omega()[..., 0])
    assert_same(in_c.image, 2500 * (plane.omega() * plane.polar())[..., 0])
    assert corrected.corrections == ["D19"]
    assert_stored(command(CASES["oversample_polar_nopolar"], "c"), "oversample_polar_nopolar")


def test_D20_headers_report_the_turned_detector(command):
    line = f"{SPOTS} -detpixels 64 -pixel 0.4 -oversample 1 -distance 100 -twotheta 20"
    corrected, in_c = command(line), command(line, "c")
    centre = 32 * 0.4 + 0.4  # one pixel beyond the middle, and the beam pivot keeps it there
    assert corrected.header("DISTANCE") == pytest.approx(100, abs=1e-4)
    assert in_c.header("DISTANCE") == pytest.approx(93.97, abs=0.005)
    assert corrected.header("DENZO_X_BEAM") == pytest.approx(centre, abs=1e-4)
    shift = in_c.header("DENZO_X_BEAM") - centre
    assert abs(shift) == pytest.approx(100 * (1 - math.cos(math.radians(20))) * math.sin(math.radians(20)), abs=1e-3)
    assert round(abs(shift) / 0.4) == 5
    assert corrected.header("DENZO_Y_BEAM") == in_c.header("DENZO_Y_BEAM") == pytest.approx(centre, abs=1e-4)
    assert np.array_equal(corrected.image, in_c.image)
    assert corrected.corrections == [] and "correction D20 changed the header" in corrected.printed


def test_D22_a_distance_on_the_line_beats_the_header(command):
    line = f"{FLAT} -img nb_xds_64.img -distance 200 -oversample 1"
    corrected, in_c = command(line), command(line, "c")
    for ran, distance in ((corrected, 200), (in_c, 88)):  # CLOSE_DISTANCE=88 in the header
        plane = Plane(64, 64, 0.4, distance, 1, (7.8, 15.8))
        assert_same(ran.image, 2500 * (plane.omega() * plane.polar())[..., 0])
        assert ran.header("DISTANCE") == distance
    assert corrected.corrections == ["D22"]
    assert_stored(command(CASES["img_header_nanobragg"], "c"), "img_header_nanobragg")


def test_D22_distance_is_not_close_distance(command, tmp_path):
    entries = "SIZE1=16;\nSIZE2=16;\nPIXEL_SIZE=0.4;\nDISTANCE=120;\nCLOSE_DISTANCE=100;\n"
    (tmp_path / "a.img").write_bytes(f"{{\nHEADER_BYTES=512;\n{entries}}}\f".encode().ljust(1024))
    text = read_smv_image(tmp_path / "a.img")[0]
    assert (text.real("DISTANCE"), text.exact_real("DISTANCE")) == (100, 120)
    for mode in MODES:  # CLOSE_DISTANCE decides, as long as no flag speaks
        assert command(f"{FLAT} -img a.img -oversample 1", mode).header("DISTANCE") == 100


def test_D27_comments_are_skipped(command, tmp_path):
    text = (DATA / "inputs" / "p1_comment.hkl").read_text()
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    before = text.split("#")[0].splitlines()
    assert len(before) == 3 < len(rows)
    (tmp_path / "all.hkl").write_text("\n".join(rows) + "\n")
    (tmp_path / "before.hkl").write_text("\n".join(before) + "\n")
    line = CASES["hkl_comment_stops"]
    corrected, in_c = command(line), command(line, "c")
    assert_same(corrected.image, command(line.replace("p1_comment", "all")).image)
    assert_same(in_c.image, command(line.replace("p1_comment", "before")).image)
    assert np.abs(corrected.image - in_c.image).max() > 0.01 * in_c.image.max()
    assert corrected.corrections == ["D27"]
    assert_stored(in_c, "hkl_comment_stops")


@pytest.mark.parametrize(("second", "read"), [("0 0 2 5 9", "0 0 2 5"), ("h k l F", "")])
def test_D27_titles_and_further_columns_are_skipped(command, tmp_path, second, read):
    (tmp_path / "a.hkl").write_text(f"0 0 1 5\n{second}\n0 0 3 7\n")
    (tmp_path / "plain.hkl").write_text(f"0 0 1 5\n{read}\n0 0 3 7\n")
    found, in_c = command(f"{BOX} -N 3 {SMALL} -hkl a.hkl"), command(f"{BOX} -N 3 {SMALL} -hkl a.hkl", "c")
    assert_same(found.image, command(f"{BOX} -N 3 {SMALL} -hkl plain.hkl").image)
    assert in_c.code == 0 and in_c.corrections == []


@pytest.mark.parametrize("second", ["1.0 0 0 5", "0 0 2"])
def test_D27_other_text_is_an_error_that_names_the_line(command, tmp_path, second):
    (tmp_path / "a.hkl").write_text(f"0 0 1 5\n{second}\n0 0 3 7\n")
    refused, in_c = command(f"{BOX} -N 3 {SMALL} -hkl a.hkl"), command(f"{BOX} -N 3 {SMALL} -hkl a.hkl", "c")
    assert refused.code == 2 and "a.hkl line 2" in refused.complaint
    assert in_c.code == 0 and in_c.corrections == []


@pytest.mark.parametrize("layers", [2, 4, 9])
def test_D28_layers_span_the_thickness(layers):
    def share(compat: Compat) -> np.ndarray:
        plain = DetectorConfig(spixels=16, fpixels=16, pixel_size_mm=0.4, distance_mm=20, oversample=1)
        sensor = {"detector_abs_um": ABS, "detector_thick_um": THICK, "detector_thicksteps": layers}
        crystal = Crystal(CrystalConfig(cell_a=60, default_F=50), dtype=torch.float64)
        detectors = (DetectorConfig(**{**vars(plain), **sensor}), plain)
        thick, thin = (
            Simulator(crystal, Detector(d), compat=compat, dtype=torch.float64, kernel="reference") for d in detectors
        )
        return (thick.run() / thin.run()).numpy()

    cosine = Plane(16, 16, 0.4, 20).directions()[:, :, 0, 0]
    assert_same(share(Compat()), 1 - np.exp(-THICK / ABS / cosine), 1e-6)
    overshoot = THICK * layers / (layers - 1)
    assert_same(share(Compat(layers_overshoot=True)), 1 - np.exp(-overshoot / ABS / cosine), 1e-6)


def test_D28_the_printed_sensor_is_what_was_asked_for(command):
    line = f"{FLAT} {SMALL} -detector_abs 250 -detector_thick 450 -detector_thicksteps 4"
    corrected, in_c = command(line), command(line, "c")
    assert corrected.numbers("sensor is ")[:3] == pytest.approx([450e-6, 4, 4000])
    assert in_c.numbers("sensor is ")[:3] == pytest.approx([600e-6, 4, 4000])
    assert corrected.numbers("thick3 = ") == [337.5] and in_c.numbers("thick3 = ") == [450]
    assert_stored(command(CASES["thick_detector"], "c"), "thick_detector")


def test_D36_the_printed_solid_angle_is_the_detectors(command):
    line = f"{SPOTS} -detpixels 40 -pixel 0.4 -distance 20 -oversample 2 -phi 5 -osc 1 -phisteps 3"
    corrected, in_c = command(line), command(line, "c")
    low, high = -(20 * 0.4 + 0.4), 20 * 0.4 - 0.4  # the beam is one pixel beyond the middle
    corners = [(x, y, sx * sy) for x, sx in ((low, -1), (high, 1)) for y, sy in ((low, -1), (high, 1))]
    exact = sum(sign * math.atan(x * y / (20 * math.hypot(x, y, 20))) for x, y, sign in corners)
    assert corrected.numbers("solid angle subtended by detector = ")[:2] == pytest.approx(
        [exact, 100 * exact / (4 * math.pi)], rel=1e-4
    )
    fine = Plane(40, 40, 0.4, 20, 2).omega()[..., 0].sum()  # cached from the first sub-pixel, counted for each
    assert in_c.numbers("solid angle subtended by detector = ")[0] == pytest.approx(fine * 4 / (3 * 4), rel=1e-5)
    assert np.array_equal(corrected.image, in_c.image) and corrected.corrections == []


def test_D52_a_two_theta_axis_of_any_length_turns(command):
    line = f"{SPOTS} {SMALL} -twotheta_axis 0 0 2 -twotheta 5"
    corrected, in_c = command(line), command(line, "c")
    for ran, axis in ((corrected, [0.0, 0, 1]), (in_c, [0.0, 0, 2])):
        for name, vector in (("X", [0.0, 0, 1]), ("Y", [0.0, -1, 0]), ("Z", [1.0, 0, 0])):
            printed = ran.numbers(f"DIRECTION_OF_DETECTOR_{name}-AXIS= ")
            assert printed == pytest.approx(rodrigues(np.array(vector), np.array(axis), 5), abs=1e-5)
    unit = line.replace("0 0 2", "0 0 1")
    assert_same(corrected.image, command(unit).image)
    assert np.array_equal(command(unit, "c").image, command(unit).image)
    assert corrected.corrections == ["D52"] and command(unit).corrections == []
