"""Scripts as users of the earlier package of this name write them run unchanged, or end in one clear line."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))
SAYS = {
    "render": "max True", "cell_gradient": "gradient True", "distance_gradient": "gradient True",
    "custom_vectors": "image (20, 24)", "mask": "mask_array: got (5, 5); accepted: an array of shape (32, 32)",
    "roi": "N 60", "sources_in_angstrom": "equal True", "hkl": "max True", "statistics": "mean True",
    "leaves": "gradient (3,)",
}  # fmt: skip
REFUSED = {"sources": "source_wavelengths: got .*; accepted: Angstrom; these look like metres: times 1e10"}


def test_there_are_twelve():
    assert len(SCRIPTS) >= 12 and {path.stem for path in SCRIPTS} == {*SAYS, *REFUSED, "trace"}


@pytest.mark.parametrize("path", [p for p in SCRIPTS if p.stem in SAYS], ids=lambda p: p.stem)
def test_a_script_runs_unchanged(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path))
    assert capsys.readouterr().out.strip() == SAYS[path.stem]


@pytest.mark.parametrize("path", [p for p in SCRIPTS if p.stem in REFUSED], ids=lambda p: p.stem)
def test_a_script_that_would_get_other_numbers_ends_in_one_line(path):
    with pytest.raises(ValueError, match=REFUSED[path.stem]) as caught:
        runpy.run_path(str(path))
    assert "\n" not in str(caught.value)


def test_the_trace_ends_with_the_pixel_of_the_image(capsys):
    runpy.run_path(str(next(p for p in SCRIPTS if p.stem == "trace")))
    *lines, last = capsys.readouterr().out.splitlines()
    values = {line.split()[1]: line.split()[2:] for line in lines if line.startswith("TRACE_PY: ")}
    wanted = "steps polar capture_fraction omega_pixel F_cell F_latt I_before_scaling hkl_frac rot_a_angstroms"
    for name in wanted.split():
        assert name in values
    assert float(values["I_pixel_final"][0]) == pytest.approx(float(last.split()[1]), rel=1e-5)
