"""Automatic choices of a whole command line: conventions, centres, pivots, headers, warnings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.cli.nanobragg import settings
from nanobrag_torch.cli.nanobragg.ingest import ingest
from nanobrag_torch.cli.nanobragg.prepare import build, misset_deg, prepare
from nanobrag_torch.cli.nanobragg.prepared import Prepared
from nanobrag_torch.cli.nanobragg.warnings import ineffective
from nanobrag_torch.config import CrystalShape, DetectorConvention, DetectorPivot
from nanobrag_torch.errors import InputError
from nanobrag_torch.units import DEFAULT_FLUENCE

BASE = "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -detpixels_f 80 -detpixels_s 60 -pixel 0.5"
DF, DS, P = 40.0, 30.0, 0.5  # mm


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def prepared(line: str) -> Prepared:
    return prepare(f"{BASE} {line}".split())


@pytest.mark.parametrize(
    ("flags", "fast", "slow", "xbeam", "ybeam", "pivot"),
    [
        ("", (DF + P) / 2, (DS + P) / 2, (DS + P) / 2, (DF + P) / 2, "beam"),
        ("-denzo", (DF + P) / 2, (DS + P) / 2, (DS + P) / 2, (DF + P) / 2, "beam"),
        ("-adxv", (DF + P) / 2, (DS - P) / 2, (DF + P) / 2, (DS - P) / 2, "beam"),
        ("-xds", DF / 2, DS / 2, DF / 2, DS / 2, "sample"),
        ("-dials", DF / 2, DS / 2, DF / 2, DS / 2, "sample"),
        ("-beam_vector 1 0 0", DF / 2, DS / 2, DF / 2, DS / 2, "beam"),
        ("-Xbeam 3 -Ybeam 4", 4, 3, 3, 4, "beam"),
        ("-adxv -Xbeam 3 -Ybeam 4", 3, 4, 3, 4, "beam"),
        ("-xds -Xbeam 3 -Ybeam 4", DF / 2, DS / 2, 3, 4, "sample"),
        ("-xds -ORGX 10 -ORGY 20", 9.5 * P, 19.5 * P, 9.5 * P, 19.5 * P, "sample"),
        ("-ORGX 10 -Xclose 3", (DF + P) / 2, (DS + P) / 2, (DS + P) / 2, (DF + P) / 2, "beam"),
        ("-beam_vector 1 0 0 -Xclose 3 -Yclose 4", 3, 4, 3, 4, "sample"),
        ("-beam_vector 1 0 0 -pivot sample", DF / 2, DS / 2, DF / 2, DS / 2, "sample"),
        ("-pivot sample", (DF + P) / 2, (DS + P) / 2, (DS + P) / 2, (DF + P) / 2, "beam"),
    ],
)
def test_centre_and_pivot_of_each_convention(flags, fast, slow, xbeam, ybeam, pivot):
    run = prepared(flags)
    assert run.detector.beam_center_f == pytest.approx(fast, rel=1e-14)
    assert run.detector.beam_center_s == pytest.approx(slow, rel=1e-14)
    assert (run.plane.Xbeam, run.plane.Ybeam) == pytest.approx((xbeam / 1000, ybeam / 1000), rel=1e-14)
    assert run.detector.detector_pivot is DetectorPivot(pivot)


def test_adxv_counts_from_the_far_edge_of_a_size_that_is_no_whole_pixel():
    words = "-cell 60 75 90 90 90 90 -default_F 50 -adxv -detsize_f 25.7 -detsize_s 19.33 -pixel 0.37 -Ybeam 9 -Xbeam 8"
    run = prepare(words.split())
    sbeam = build(run).geometry.Sbeam.item()
    assert sbeam == pytest.approx((19.33 - 9) / 1000, rel=1e-12)


def test_custom_vectors_count_only_while_custom_is_selected():
    assert prepared("-fdet_vector 0 0 1 -twotheta_axis 0 0 1").detector.twotheta_axis == (0, 0, 1)
    plain = prepared("-spindle_axis 0 1 1 -twotheta_axis 0 0 1 -xds")
    assert plain.detector.custom_spindle_axis is None and plain.detector.twotheta_axis is None
    assert plain.detector.detector_convention is DetectorConvention.XDS


def test_beam_direction_is_a_unit_vector_of_the_convention():
    assert settings.beam_direction(prepared("-adxv").request) == (0, 0, 1)
    assert settings.beam_direction(prepared("-beam_vector 0 3 4").request) == pytest.approx((0, 0.6, 0.8))


def test_scans_reach_the_configurations():
    run = prepared("-phi 3 -osc 1 -phistep 0.3 -hdivrange 8 -hdivsteps 5 -dispersion 2 -mosaic 0.5")
    crystal, beam = run.crystal, run.beam
    assert (crystal.phi_start_deg, crystal.osc_range_deg, crystal.phi_steps, crystal.phi_step_deg) == (3, 1, 4, 0.3)
    assert (beam.hdiv_steps, beam.vdiv_steps, beam.dispersion_steps) == (5, 1, 2)
    assert beam.hdiv_step_mrad == pytest.approx(2) and beam.dispersion_pct == pytest.approx(2)
    assert crystal.mosaic_domains == 10 and crystal.mosaic_seed == -12345678
    assert prepared("-mosaic_seed 5").crystal.mosaic_seed == -5


def test_fluence_of_a_flux():
    assert prepared("").beam.fluence == DEFAULT_FLUENCE
    assert prepared("-flux 1e12 -exposure 0.1 -beamsize 0.1 -fluence 5").beam.fluence == pytest.approx(1e19)
    with pytest.raises(InputError, match="-beamsize"):
        prepared("-flux 1e12 -beamsize 0")


def test_sizes_count_cells_from_the_last_edge_and_are_clipped_by_the_beam():
    run = prepared("-xtalsize 0.00004 -sample_x 0.00002 -beamsize 0.000032")
    assert build(run).cells.tolist() == [4, 5, 4]  # ceil(200/60), ceil(320/75), ceil(320/90)
    assert build(prepared("-sample_x 0.00002")).cells.tolist() == [4, 5, 5]


def test_interpolation_goes_by_the_cells_before_the_sample_size(tmp_path):
    (tmp_path / "a.hkl").write_text("0 0 1 5\n3 3 3 7\n")
    assert prepared("-hkl a.hkl -N 2 -xtalsize 0.001").crystal.interpolate is True
    assert prepared("-hkl a.hkl").crystal.interpolate is False
    assert prepared("-N 1").crystal.interpolate is False  # nothing to interpolate in


def test_structure_factors_come_from_the_dump_of_an_earlier_run_and_it_is_said(tmp_path):
    from nanobrag_torch.io.dump import write_dump_file

    limits = dict(zip(("h_min", "h_max", "k_min", "k_max", "l_min", "l_max"), (0, 1, 0, 1, 0, 1), strict=True))
    write_dump_file("Fdump.bin", np.full((2, 2, 2), 3.0), limits)
    run = prepared("")
    assert run.structure.from_dump and run.structure.count == 8
    assert any("Fdump.bin" in w and "earlier run" in w for w in run.request.warnings)
    named = prepared("-dump Fdump.bin")
    assert named.structure.from_dump and named.request.warnings == []
    assert prepared("-dump other.bin").structure.grid is None


def test_shapes_and_cells():
    assert prepared("-gauss_star_xtal").crystal.shape is CrystalShape.GAUSS_STAR
    assert prepared("-Na 0 -Nb -3").crystal.N_cells == (1, 1, 5)
    assert prepared("-cell 50").crystal.cell_c == 50
    assert prepared("-cell 50 60 0 80").crystal.cell_alpha == 80


def test_random_orientations_are_those_of_their_seed():
    run = prepared("-misset random -misset_seed 987")
    assert misset_deg(run) == misset_deg(prepared("-seed 987 -misset random"))
    assert misset_deg(run) != misset_deg(prepared("-misset random -misset_seed 988"))
    uniform = misset_deg(prepared("-misset_uniform -misset_seed 987"))
    assert uniform != misset_deg(run) and all(abs(x) <= 180 for x in uniform)
    assert misset_deg(prepared("-misset 1 2 3")) == (1, 2, 3)


class TestHeaders:
    """-img and -mask."""

    def test_adsc_header(self, data):
        got = ingest(["-img", str(data / "inputs/adsc_80x48.img")], as_c_finds=True).request
        assert (got.detpixels_f, got.detpixels_s, got.pixel_mm, got.distance_mm) == (80, 48, 0.3, 95.5)
        assert (got.lambda_A, got.Xbeam_mm, got.Ybeam_mm, got.phi_deg, got.osc_deg) == (0.9795, 7.1, 12.3, 10, 1)

    def test_mask_flips_the_beam_centre_and_brings_pixels(self, data):
        got = ingest(["-mask", str(data / "inputs/mask64.img")], as_c_finds=False)
        assert got.request.Ybeam_mm == pytest.approx(64 * 0.4 - 11.5)
        assert got.mask.shape == (64, 64) and 0 < np.count_nonzero(got.mask) < 64 * 64
        assert got.request.header_twotheta_deg == 7

    def test_img_overrides_mask_and_flags_override_both(self, data):
        files = f"-mask {data}/inputs/mask64.img -img {data}/inputs/nb_xds_64.img"
        run = prepare(f"-cell 60 60 60 90 90 90 -default_F 1 {files} -lambda 2".split())
        assert run.request.phi_deg == 3 and run.request.lambda_A == 2 and run.detector.mask_array.shape == (64, 64)

    def test_a_distance_on_the_line_beats_the_close_distance_of_a_header(self, data):
        line = f"-xds -img {data}/inputs/nb_xds_64.img -distance 200"
        assert prepared(line).detector.close_distance_mm is None
        assert prepared(f"{line} -compat c").detector.close_distance_mm == 88
        assert prepared(line.replace(" -distance 200", "")).detector.close_distance_mm == 88
        assert prepared(f"{line} -close_distance 77").detector.close_distance_mm == 77

    def test_c_finds_distance_in_close_distance_and_both_find_the_xds_origin(self, data):
        words = ["-img", str(data / "inputs/nb_xds_64.img")]
        in_c, exact = (ingest(words, as_c_finds=c).request for c in (True, False))
        assert (in_c.distance_mm, exact.distance_mm) == (88, 88.3361)
        assert in_c.ORGX == exact.ORGX == 20 and in_c.ORGY == exact.ORGY == 40

    def test_a_mask_in_the_other_byte_order_is_the_same_mask(self, data, tmp_path):
        raw = (data / "inputs/mask64.img").read_bytes()
        swapped = np.frombuffer(raw[512:], "<u2").astype(">u2").tobytes()
        header = raw[:512].replace(b"little_endian", b"big_endian;").replace(b"big_endian;;", b"big_endian;   ")
        (tmp_path / "big.img").write_bytes(header[:512] + swapped)
        masks = [ingest(["-mask", str(f)], as_c_finds=True).mask for f in (data / "inputs/mask64.img", "big.img")]
        assert np.array_equal(*masks)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("-coherent", "-coherent has no effect"),
        ("-density 1.2", "-density has no effect"),
        ("-MW 18", "-MW has no effect"),
        ("-pivot sample", "-pivot has no effect: the MOSFLM convention"),
        ("-Xclose 3", "-Xclose has no effect"),
        ("-ORGX 3", "-ORGX has no effect"),
        ("-xds -Xbeam 3", "-Xbeam has no effect"),
        ("-spindle_axis 0 1 0 -xds", "-spindle_axis has no effect: a later flag"),
        ("-pix0_vector_mm 1 2 3", "-pix0_vector only selects"),
        ("-fdet_vector 0 0.1 1", "not orthogonal"),
        ("-detector_thick 300", "without -detector_abs"),
        ("-detector_abs inf -detector_thick 300", "captures nothing"),
        ("-hdivsteps 3", "1000 mrad"),
        ("-phisteps 4", "1 deg"),
        ("-phisteps 4 -phistep 0.1", "-phisteps 4 has no effect"),
        ("-mosaic_domains 5", "-mosaic_domains has no effect"),
        ("-dispsteps 5", "-dispsteps has no effect"),
    ],
)
def test_flags_without_effect_are_named_in_one_line(flags, says):
    (warning,) = ineffective(prepared(flags))
    assert says in warning and "\n" not in warning


def test_plain_lines_warn_of_nothing():
    flags = "-misset 1 2 3 -osc 1 -phisteps 3 -xds -ORGX 3 -detector_thick 9 -detector_abs 9"
    assert ineffective(prepared(flags)) == []


def test_twotheta_of_a_header_is_named(data):
    run = prepare(f"-cell 60 60 60 90 90 90 -default_F 1 -mask {data}/inputs/mask64.img".split())
    assert any("TWOTHETA=7" in w for w in ineffective(run))


def test_a_sensor_that_never_absorbs_captures_nothing():
    simulator = build(prepared("-detector_abs inf -detector_thick 300 -roi 0 4 0 4"))
    assert simulator.run().abs().max() == 0


def test_sources_take_their_defaults(tmp_path):
    Path("s.txt").write_text("-5 0.005 -0.004 1 1.0e-10\n-10 0.01\n")
    beam = prepared("-sourcefile s.txt -lambda 1.5").beam
    assert beam.source_directions[1].tolist() == [-10, 0.01, 0]
    assert beam.source_wavelengths.tolist() == pytest.approx([1.0, 1.5])
    assert beam.source_weights.tolist() == [1, 1]


def test_everything_is_ready_before_torch_is_needed():
    import subprocess
    import sys

    code = (
        "import sys; from nanobrag_torch.cli.nanobragg.prepare import prepare;"
        f"prepare('{BASE}'.split()); assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_infinite_depth_is_kept():
    assert prepared("-detector_abs inf").detector.detector_abs_um == math.inf
