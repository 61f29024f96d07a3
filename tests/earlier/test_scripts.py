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
    "two_theta": "r factor True\ndistance True\nkept False True\nstraight True 1.0",
    "pixel_positions": "shapes (21, 21, 3) (21, 21)\nnearest True\nsolid angle True\nspot True",
    "rotation": "vectors (4, 3, 3) (4, 3, 3)\ndual True\nlengths True\nimages (16, 12) True True",
    "fdump": "cache True 5 -4\nnothing (None, None)\nimages True True",
    "smv_mask": "mask True 30 24\ndark 0.0 True\nN True\ncounts (24, 30) 1040 1.0",
    "divergence": "sources 10 (10, 3) {1.0}\nimages True True",
    "noise": "counts torch.int32 (32, 32) True\noverloads True True\noffset True\npicture True True",
    "misset_gradient": "better True True\ngradient True",
    "command": "code 0 (32, 32) True\ntrace True",
    "parser": "words 1.2 10.0 80.0\nconfigurations 80.0 (5, 5, 5) 16 1.2\nimage (16, 16) True",
    "experiment_model": "frozen 0\nparameters 15 True\nedge 60.24\nbetter True True",
    "random_orientation": "draws True 3\nrotation (3, 3) True\nangles True\ncrystal True\nlength 70.0 70.0\n"
                          "half a turn True",
}  # fmt: skip
REFUSED = {
    "sources": "source_wavelengths: got .*; accepted: Angstrom; these look like metres: times 1e10",
    "moved_corner": "pix0_override_m: got .*; accepted: pix0_vector_mm, in millimetres",
}


def test_there_are_two_dozen():
    assert len(SCRIPTS) >= 24 and {path.stem for path in SCRIPTS} == {*SAYS, *REFUSED, "trace"}


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
