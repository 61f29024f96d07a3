"""nb compare-traces and nb diff-json: what parts is named, and named first where it began."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.tracing.log import Trace, log_lines, read_trace
from nanobrag_torch.validation.tracediff import compare_traces, scattering

SCRIPTS = Path(__file__).parents[1] / "scripts" / "validation"

TRACE = Trace(
    {
        "pix0_vector_meters": (0.1, -0.2, 1e-12),
        "scattering_vec_A_inv": (1e9, -2e9, 3e8),
        "rot_a_angstroms": (50.0, 1.0, 2.0),
        "F_latt": (-3.25,),
        "I_before_scaling": (1234.5,),
        "I_pixel_final": (2e-7,),
        "own_value": (7.0,),
    },
    [
        {"phi_tic": 0.0, "phi_deg": 0.0, "h_frac": 1.25, "F_latt": 2.0, "F_cell": 100.0},
        {"phi_tic": 1.0, "phi_deg": 0.5, "h_frac": 1.5, "F_latt": 1e-11, "F_cell": 100.0},
    ],
)


def write(path, trace, prefix="TRACE_PY"):
    path.write_text("\n".join(["unrelated output", *log_lines(trace, prefix), "TRACE_C: mat_file A.mat"]) + "\n")
    return str(path)


def changed(**values):
    return replace(TRACE, values={**TRACE.values, **values})


@pytest.fixture
def py(tmp_path):
    return write(tmp_path / "py.log", TRACE)


def test_what_a_log_holds_is_read_back(tmp_path, py):
    assert read_trace(py, "--py") == TRACE
    assert read_trace(write(tmp_path / "c.log", TRACE, "TRACE_C"), "--c") == TRACE


def test_lines_as_the_c_program_prints_them(tmp_path):
    (tmp_path / "c.log").write_text(
        "TRACE: not this\nTRACE_C: hkl_frac -6.8 -0.6 -13.7\n"
        "TRACE_C_PHI phi_tic=3 phi_deg=0.03 k_frac=-0.59 F_latt_b=1.05e+00\n"
        "  TRACE_C: polar 0.5\nTRACE_C: polar 0.75\nTRACE_C: no_number none\n"
    )
    trace = read_trace(tmp_path / "c.log", "--c")
    assert trace.values == {"hkl_frac": (-6.8, -0.6, -13.7), "polar": (0.75,)}
    assert trace.phi_steps == [{"phi_tic": 3.0, "phi_deg": 0.03, "k_frac": -0.59, "F_latt_b": 1.05}]


def test_equal_traces_agree(tmp_path, py, capsys):
    c = write(tmp_path / "c.log", TRACE, "TRACE_C")
    assert main(["compare-traces", "--py", py, "--c", c]) == 0
    out = capsys.readouterr().out
    assert "15 values paired, 0 beyond tolerance" in out and out.endswith("no value departs\n")
    assert main(["compare-traces", "--py", py, "--c", c, "--quiet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_first_departure_is_the_first_computed(tmp_path, py, capsys):
    """Everything after the wrong phi step is wrong too; only the phi step is named."""
    wrong = changed(I_before_scaling=(1300.0,), I_pixel_final=(3e-7,), F_latt=(3.25,))
    steps = [dict(step) for step in TRACE.phi_steps]
    steps[1]["h_frac"] = 1.5 + 1e-6
    c = write(tmp_path / "c.log", replace(wrong, phi_steps=steps), "TRACE_C")
    outputs = [str(tmp_path / name) for name in ("metrics.json", "summary.md", "scattering.json")]
    options = ["--json", outputs[0], "--summary", outputs[1], "--dump-scattering", outputs[2]]
    assert main(["compare-traces", "--py", py, "--c", c, *options]) == 1
    out = capsys.readouterr().out
    assert "first departure: h_frac at phi_tic 1 (lattice times scattering vector)" in out
    metrics = json.loads(Path(outputs[0]).read_text())
    assert metrics["departing"] == 4 and metrics["paired"] == 15
    first = metrics["first_departure"]
    assert (first["name"], first["phi_tic"], first["within"]) == ("h_frac", 1, False)
    assert first["absolute"] == pytest.approx(1e-6, rel=1e-6)
    assert first["relative"] == pytest.approx(1e-6 / 1.5, rel=1e-5)
    assert [value["name"] for value in metrics["values"]][:2] == ["pix0_vector_meters", "scattering_vec_A_inv"]
    assert "first departure: h_frac at phi_tic 1" in Path(outputs[1]).read_text()
    assert "| I_pixel_final | 2e-07 | 3e-07 | 1e-07 | 0.333 | DEPARTS |" in Path(outputs[1]).read_text()
    assert json.loads(Path(outputs[2]).read_text())["difference"] == [0, 0, 0]


def test_scattering_vector_by_component():
    found = scattering(TRACE, changed(scattering_vec_A_inv=(1e9, -2e9 * (1 + 1e-6), 3e8)))
    assert found["relative"] == pytest.approx([0, 1e-6, 0], rel=1e-5)
    assert scattering(TRACE, Trace())["difference"] is None


def test_small_components_count_against_the_whole_vector():
    """1e-12 m beside 0.2 m is noise, though it is all of that component."""
    assert not compare_traces(TRACE, changed(pix0_vector_meters=(0.1, -0.2, 2e-12))).departures
    assert compare_traces(TRACE, changed(pix0_vector_meters=(0.1, -0.2, 2e-9))).departures


def test_value_near_zero_has_an_absolute_tolerance():
    steps = [TRACE.phi_steps[0], {**TRACE.phi_steps[1], "F_latt": -2e-11}]
    assert not compare_traces(TRACE, replace(TRACE, phi_steps=steps)).departures


@pytest.mark.parametrize(("rtol", "code"), [(None, 1), ("1e-3", 0), ("1e-5", 1)])
def test_tolerance_can_be_given(tmp_path, py, rtol, code):
    c = write(tmp_path / "c.log", changed(I_before_scaling=(1234.6,)))
    options = [] if rtol is None else ["--rtol", rtol]
    assert main(["compare-traces", "--py", py, "--c", c, *options]) == code


def test_not_a_number_departs_from_a_number():
    nan = float("nan")
    assert [pair.name for pair in compare_traces(changed(polar=(nan,)), changed(polar=(1.0,))).departures] == ["polar"]
    assert not compare_traces(changed(polar=(nan,)), changed(polar=(nan,))).departures
    assert compare_traces(changed(F_latt=(1.0, 2.0)), TRACE).departures, "another number of components"


def test_json_of_what_is_not_finite(tmp_path, py):
    c = write(tmp_path / "c.log", changed(scattering_vec_A_inv=(float("nan"), float("inf"), 3e8)))
    files = ["--json", str(tmp_path / "m.json"), "--dump-scattering", str(tmp_path / "s.json")]
    assert main(["compare-traces", "--py", py, "--c", c, *files]) == 1
    metrics = json.loads((tmp_path / "m.json").read_text(), parse_constant=pytest.fail)
    assert metrics["first_departure"]["c"] == [None, None, 3e8]
    assert json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)["difference"] == [None, None, 0]


def test_what_one_side_lacks_is_listed(tmp_path, py, capsys):
    values = {name: value for name, value in TRACE.values.items() if name != "F_latt"}
    c = write(tmp_path / "c.log", Trace({**values, "c_only": (1.0,)}, TRACE.phi_steps[:1]))
    assert main(["compare-traces", "--py", py, "--c", c]) == 0
    out = capsys.readouterr().out
    assert "only in py: F_latt, phi steps 1" in out and "only in c: c_only" in out


def test_stored_values_of_the_c_program_are_a_trace(data, tmp_path):
    """As a user runs it: the script's name, a JSON of the C program's numbers."""
    stored = data / "supervisor" / "trace_pixel_685_1039.json"
    trace = read_trace(stored, "--c")
    wrong = replace(trace, values={**trace.values, "hkl_frac": (-6.8795206024501, 0.607255839576692, -13.766298525469)})
    log = write(tmp_path / "py.log", wrong)
    command = [sys.executable, str(SCRIPTS / "compare_scaling_traces.py"), "--py", log, "--c", str(stored)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "first departure: hkl_frac (reflection index of the last step)" in done.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("", "empty"),
        ("nothing to see\nTRACE_C: name only\n", "a log with TRACE_PY or TRACE_C lines"),
        ('{"a": "text"}', "a trace as JSON"),
        ("{broken", "a trace as JSON"),
        ("TRACE_C: another_name 1\n", "a trace that shares a name with"),
    ],
)
def test_a_log_without_a_trace_is_one_line(tmp_path, py, capsys, content, said):
    if content is not None:
        (tmp_path / "c.log").write_text(content)
    assert main(["compare-traces", "--py", py, "--c", str(tmp_path / "c.log"), "--json", str(tmp_path / "m.json")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("nb: error: --c: got ") and said in err and err.count("\n") == 1
    assert not (tmp_path / "m.json").exists()


A = {"same": [1, 2.5, "x", None], "number": 1.0, "list": [1, 2, 3], "deep": {"kind": 1, "gone": True}, "text": "a"}
B = {"same": [1, 2.5, "x", None], "number": 1.001, "list": [1, 2], "deep": {"kind": "1", "new": {}}, "text": "b"}


def test_json_differences_as_a_user_sees_them(tmp_path):
    for name, document in (("a.json", A), ("b.json", B)):
        (tmp_path / name).write_text(json.dumps(document))
    command = [sys.executable, str(SCRIPTS / "diff_json.py"), "a.json", "b.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        "number: 1.0 in A, 1.001 in B (difference 0.001, relative 0.001)",
        "list: 3 elements in A, 2 in B",
        'deep.kind: number 1 in A, text "1" in B',
        "deep.gone: only in A: true",
        "deep.new: only in B: {}",
        'text: "a" in A, "b" in B',
        "6 differences",
    ]


def test_json_tolerance(tmp_path, capsys):
    (tmp_path / "a.json").write_text('[{"x": [1.0, 0.0, 3]}]')
    (tmp_path / "b.json").write_text('[{"x": [1.000001, 1e-9, 3.0]}]')
    names = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(["diff-json", *names, "--rtol", "1e-5", "--atol", "1e-8"]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert main(["diff-json", *names, "--rtol", "1e-5"]) == 1
    assert capsys.readouterr().out.startswith("[0].x[1]: 0.0 in A, 1e-09 in B")


@pytest.mark.parametrize("content", [None, "", "{"])
def test_json_that_is_none_is_one_line(tmp_path, capsys, content):
    (tmp_path / "a.json").write_text("1")
    if content is not None:
        (tmp_path / "b.json").write_text(content)
    assert main(["diff-json", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("nb: error: B: got ") and err.count("\n") == 1
