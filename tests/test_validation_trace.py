"""nb trace: what it prints is what the image holds, for one pixel alone."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.cli.nb.flags import simulator_of
from nanobrag_torch.errors import InputError
from nanobrag_torch.tracing.log import log_lines, read_trace
from nanobrag_torch.tracing.pixel import Step, trace_pixel

ROOT = Path(__file__).parents[1]
SMALL = ["-cell", "60", "75", "90", "90", "90", "90", "-default_F", "50", "-N", "5", "-detpixels", "16", "-pixel", "1"]

CASES = [
    "curved_detector", "denzo_twotheta", "divergence_square_dispersion", "gauss_xtal", "interpolate_forced",
    "mosaic_seeded", "nopolar_point_pixel", "oversample_polar_omega", "phi_zero_leak", "phi_zero_mid_leak_mosaic",
    "polar_cached_first_source", "round_xtal_fudge", "sourcefile_full", "thick_detector", "thick_oversample_thick",
    "tophat_spots", "triclinic_cell_defect", "water_background",
]  # fmt: skip


@pytest.fixture
def case(data, monkeypatch):
    """The command line of a reference case and the C program's float image (slow, fast)."""
    monkeypatch.chdir(data / "inputs")
    lines = dict(line.split("\t") for line in (data / "cases.tsv").read_text().splitlines())

    def load(name):
        return lines[name].split(), np.load(data / "reference" / f"{name}.npz")["float"]

    return load


@pytest.mark.parametrize("name", CASES)
def test_final_value_is_that_of_the_c_program(case, name):
    words, image = case(name)
    simulator = simulator_of([*words, "-compat", "c"])
    image = image.reshape(simulator.detector.image_shape)
    rendered = simulator.wanted_pixels().numpy()
    brightest = rendered[image.reshape(-1)[rendered].argmax()]
    for flat in (rendered[0], brightest, rendered[len(rendered) // 2]):
        slow, fast = divmod(int(flat), image.shape[1])
        value = trace_pixel(simulator, slow, fast).scalar("I_pixel_final")
        assert value == pytest.approx(float(image[slow, fast]), rel=1e-6, abs=1e-9 * float(image.max())), (slow, fast)


@pytest.mark.parametrize("name", ["phi_zero_leak", "thick_oversample_thick", "water_background", "saxs_interpolate"])
def test_final_value_is_that_of_the_image(case, name):
    simulator = simulator_of(case(name)[0])
    image = simulator.run()
    for slow, fast in ((0, 0), (3, 5), divmod(int(image.argmax()), image.shape[1])):
        value = trace_pixel(simulator, slow, fast).scalar("I_pixel_final")
        assert value == pytest.approx(float(image[slow, fast]), rel=1e-12)


def test_factors_of_the_trace_multiply_to_the_pixel(case):
    trace = trace_pixel(simulator_of(case("mosaic_seeded")[0]), 20, 30)
    scale = trace.scalar("r_e_sqr") * trace.scalar("fluence_photons_per_m2") / trace.scalar("steps")
    factors = trace.scalar("polar") * trace.scalar("omega_pixel") * trace.scalar("capture_fraction")
    assert scale * factors * trace.scalar("I_before_scaling") == pytest.approx(trace.scalar("I_pixel_final"), rel=1e-13)


def test_chosen_step_is_shown():
    words = [*SMALL, "-mosaic", "1", "-mosaic_domains", "4", "-dispersion", "2", "-dispsteps", "3", "-oversample", "2"]
    simulator = simulator_of([*words, "-detector_thick", "300", "-detector_abs", "200"])
    first, last = trace_pixel(simulator, 3, 4, step=Step(0, 0, 0, 0)), trace_pixel(simulator, 3, 4)
    assert first.scalar("lambda_angstroms") == pytest.approx(0.99)
    assert last.scalar("lambda_angstroms") == pytest.approx(1.01)
    assert last["pixel_pos_meters"][0] - first["pixel_pos_meters"][0] == pytest.approx(150e-6)  # the second layer
    assert last["pixel_pos_meters"][2] - first["pixel_pos_meters"][2] == pytest.approx(0.5e-3)  # half a pixel
    assert first["rot_a_angstroms"] == pytest.approx((60, 0, 0), abs=1e-12), "the first domain is not turned"
    assert last["rot_a_angstroms"] != pytest.approx((60, 0, 0), abs=1e-3)
    assert first.scalar("I_pixel_final") == last.scalar("I_pixel_final")


def test_neighbourhood_of_an_interpolation_gives_the_amplitude(case):
    trace = trace_pixel(simulator_of(case("interpolate_forced")[0]), 30, 34)
    assert trace.scalar("interpolated") == 1
    values = np.reshape(trace["tricubic_F"], (4, 4, 4))
    weights = [np.array(trace[f"tricubic_weights_{axis}"]) for axis in "hkl"]
    assert np.einsum("abc,a,b,c", values, *weights) == pytest.approx(trace.scalar("F_cell"), rel=1e-12)
    for axis, h, first in zip(weights, trace["hkl_frac"], trace["tricubic_first_hkl"], strict=True):
        assert axis @ (first + np.arange(4)) == pytest.approx(h, abs=1e-12), "a line is interpolated exactly"


def test_log_and_json_keep_15_digits(tmp_path):
    words = ["trace", "--pixel", "3", "4", "--emit-rot-stars"]
    flags = ["--", *SMALL, "-osc", "1", "-phisteps", "3"]
    assert main([*words, "--out", str(tmp_path / "t.log"), *flags]) == 0
    assert main([*words, "--out", str(tmp_path / "t.json"), "--json", *flags]) == 0
    log, plain = read_trace(tmp_path / "t.log", "--py"), read_trace(tmp_path / "t.json", "--py")
    assert list(log.values) == list(plain.values)
    assert [list(step) for step in log.phi_steps] == [list(step) for step in plain.phi_steps]
    for name, numbers in plain.values.items():
        assert log[name] == pytest.approx(numbers, rel=1e-14), name
    assert json.loads((tmp_path / "t.json").read_text())["phi_steps"][2]["phi_tic"] == 2
    lines = (tmp_path / "t.log").read_text().splitlines()
    assert lines == list(log_lines(log))
    phi = [line for line in lines if line.startswith("TRACE_PY_PHI: ")]
    keys = [pair.split("=")[0] for pair in phi[0].split()[1:]]
    stars = [f"{name}_star_{axis}" for name in "abc" for axis in "xyz"]
    assert keys == [
        "phi_tic", "phi_deg", *stars, "h_frac", "k_frac", "l_frac", "F_latt_a", "F_latt_b", "F_latt_c", "F_latt",
        "F_cell",
    ]  # fmt: skip
    assert len(phi) == 3


def test_one_pixel_alone_is_computed(monkeypatch):
    simulator = simulator_of(SMALL)
    monkeypatch.setattr("nanobrag_torch.kernels.operation.intensity", None)
    monkeypatch.setattr("nanobrag_torch.kernels.reference.intensity", None)
    assert trace_pixel(simulator, 3, 4).scalar("I_pixel_final") > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pixel", "16", "0", "--", *SMALL], "--pixel: got (16, 0); accepted: slow 0 to 15, fast 0 to 15"),
        (["--pixel", "0", "-1", "--", *SMALL], "--pixel"),
        (["--pixel", "0", "0"], "--config supervisor"),
        (["--pixel", "0", "0", "--config", "sup"], "--config: got 'sup'; accepted: supervisor"),
        (["--pixel", "0", "0", "--phi-mode", "fresh", "--", *SMALL], "spec, c-parity"),
        (["--pixel", "0", "0", "--dtype", "float16", "--", *SMALL], "float32, float64"),
        (["--pixel", "0", "0", "--device", "abacus", "--", *SMALL], "-device"),
        (["--pixel", "0", "0", "--", *SMALL, "-oversample", "2500"], "steps in one pixel'; accepted: 5000000 at most"),
        (["--pixel", "0", "0", "--source", "3", "--", *SMALL], "--source: got 3; accepted: 0 to 0"),
        (["--pixel", "0", "0", "--", *SMALL, "-hkl", "none.hkl"], "-hkl: got 'none.hkl'"),
        (["--pixel", "0", "0", "--out", "no/folder/t.log", "--", *SMALL], "--out"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["trace", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nb: error: ") and said in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_unknown_flags_are_named(capsys):
    assert main(["trace", "--pixel", "0", "0", "--", *SMALL, "-lamda", "1.2"]) == 0
    assert "nb: warning: unknown flag '-lamda'" in capsys.readouterr().err


def test_step_is_checked_in_the_library():
    with pytest.raises(InputError, match="--domain"):
        trace_pixel(simulator_of(SMALL), 0, 0, step=Step(domain=-2))


def test_as_a_user_runs_it_within_five_seconds(tmp_path):
    """The supervisor pixel, imports included; seconds of this process's processors, since others may be busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ["--pixel", "685", "1039", "--config", "supervisor", "--phi-mode", "c-parity", "--device", "cpu"]
    harness = ROOT / "scripts" / "validation" / "trace_harness.py"
    command = [sys.executable, str(harness), *words, "--dtype", "float64", "--emit-rot-stars", "--out", "t.log"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert read_trace(tmp_path / "t.log", "--py").scalar("I_pixel_final") == pytest.approx(2.02480684811104e-07)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    assert [path.name for path in tmp_path.iterdir()] == ["t.log"]


def test_every_panel_can_be_traced():
    from nanobrag_torch import CrystalConfig, DetectorConfig, Simulator
    from nanobrag_torch.config import PanelConfig
    from nanobrag_torch.models.crystal import Crystal
    from nanobrag_torch.models.detector import Detector

    axes = {"fast_axis": (0, 0, 1), "slow_axis": (0, -1, 0), "fpixels": 8, "spixels": 6, "pixel_size_mm": 1.0}
    panels = [PanelConfig(origin_mm=(100.0, 10.0 * i, -4.0), **axes) for i in range(2)]
    crystal = Crystal(CrystalConfig(cell_a=50.0, N_cells=(5, 5, 5), default_F=10.0))
    detector = Detector(DetectorConfig(panels=panels))
    simulator = Simulator(crystal, detector, dtype=torch.float64)
    image = simulator.run()
    for panel in range(2):
        trace = trace_pixel(simulator, 2, 5, panel=panel)
        assert trace.scalar("I_pixel_final") == pytest.approx(float(image[panel, 2, 5]), rel=1e-12)
        assert trace["pix0_vector_meters"] == pytest.approx((0.1, 0.01 * panel, -0.004))
    with pytest.raises(InputError, match="panel"):
        trace_pixel(simulator, 2, 5, panel=2)
