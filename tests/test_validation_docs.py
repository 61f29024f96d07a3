"""The pages: generated ones are as they would be generated, examples show what they say, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nanobrag_torch.cli.nanobragg import main as nanobragg
from nanobrag_torch.cli.nanobragg.corrections import correction_lines, scene_of
from nanobrag_torch.cli.nanobragg.prepare import build, prepare
from nanobrag_torch.cli.nanobragg.solid_angle import reported_solid_angle
from nanobrag_torch.cli.nb.app import main as nb
from nanobrag_torch.compat import ROWS, Compat

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BUGS = DOCS / "bugs" / "verified_c_bugs.md"
PAGES = [
    "index.md", "validation-walkthrough.md", "specs/spec-a-core.md", "development/c_to_pytorch_config_map.md",
    "development/testing_strategy.md", "bugs/verified_c_bugs.md",
]  # fmt: skip
ANNOUNCED = [row for row in ROWS if row.switch and row.switch != "solid_angle_over_steps"]
REFUSED = {"D15": "-detector_abs", "D31": "-osc, -phistep", "D42": "-mat"}
RENDERED = [row.id for row in ROWS if not row.switch and row.id not in (*REFUSED, "D25", "D41")]


def commands():
    """The command of every defect, from the page."""
    return dict(re.findall(r"^## (D\d+)\n.*?^```sh\n(.*?)\n```", BUGS.read_text(), re.MULTILINE | re.DOTALL))


def words_of(name):
    program, *words = shlex.split(commands()[name])
    assert program == "nanoBragg"
    return words


@pytest.fixture
def inputs(data, tmp_path, monkeypatch):
    """A folder with links to the files that the examples name."""
    for source in (data / "inputs").iterdir():
        (tmp_path / source.name).symlink_to(source)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_generated_pages_are_as_they_would_be_written(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "generate_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_defect_has_a_command():
    assert list(commands()) == [row.id for row in ROWS]
    assert all(row.example in commands()[row.id] for row in ROWS)


@pytest.mark.parametrize("row", ANNOUNCED, ids=lambda row: row.id)
def test_example_of_a_switch_shows_its_defect(inputs, row):
    prepared = prepare(words_of(row.id))
    lines = list(correction_lines(scene_of(prepared, build(prepared))))
    assert any(line.startswith(f"correction {row.id} changed the ") for line in lines)
    prepared = prepare([*words_of(row.id), "-compat", "c"])
    assert not list(correction_lines(scene_of(prepared, build(prepared)))), "nothing is corrected under -compat c"


def test_example_of_the_printed_solid_angle(inputs):
    right, wrong = (
        reported_solid_angle(build(prepare([*words_of("D36"), *words]))) for words in ([], ["-compat", "c"])
    )
    simulator = build(prepare(words_of("D36")))
    assert simulator.steps > 1
    per_pixel = wrong * simulator.steps / simulator.oversample**2  # with the angle of the first sub-pixel for all
    assert right == pytest.approx(per_pixel, rel=1e-3)


@pytest.mark.parametrize("name", REFUSED)
def test_example_that_is_refused(inputs, capsys, name):
    assert nanobragg(words_of(name)) == 2
    assert f"error: {REFUSED[name]}: got " in capsys.readouterr().err


@pytest.mark.parametrize("name", RENDERED)
def test_example_that_renders(inputs, name):
    words = words_of(name)
    assert nanobragg(["-detpixels", "8", *[word if word != "64" else "8" for word in words]]) == 0
    image = (inputs / "intimage.img").read_bytes()
    assert image.startswith(b"{\nHEADER_BYTES=1024;" if name == "D8" else b"{\nHEADER_BYTES=512;")
    assert (inputs / "noise.img").exists() == (name == "D34")


def test_example_of_byte_order(inputs, capsys):
    assert nb(shlex.split(commands()["D25"])[1:]) == 0
    assert "largest difference     0 at" in capsys.readouterr().out


def test_example_of_steps_beyond_32_bits(inputs):
    """Rendering it takes minutes; its number of steps is what overflows in the C program."""
    assert build(prepare(words_of("D41"))).steps > 2**31 - 1


def test_every_switch_is_a_row():
    assert {row.switch for row in ROWS if row.switch} == set(Compat.__dataclass_fields__)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_lead_somewhere(page):
    path = DOCS / page
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target
    for name in re.findall(r"`((?:tests|docs|scripts)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).exists(), name
    titles = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    places = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for place in re.findall(r"\]\(#([^)]+)\)", text):
        assert place in places, place


def test_code_on_the_page_of_physics_runs():
    text = (DOCS / "specs" / "spec-a-core.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    for block in blocks:
        exec(compile(block, "spec-a-core.md", "exec"), {})


def test_every_traced_value_is_explained():
    """The last section of the page of physics names every value that a trace prints."""
    from nanobrag_torch.cli.nb.flags import simulator_of
    from nanobrag_torch.tracing.pixel import trace_pixel

    text = (DOCS / "specs" / "spec-a-core.md").read_text().split("## 15 ")[-1]
    cell = ["-cell", "50", "60", "70", "90", "90", "90", "-default_F", "10", "-detpixels", "8", "-water", "5"]
    for name in trace_pixel(simulator_of(cell), 0, 0).values:
        assert re.sub(r"^rot_[abc]_", "rot_a_", name) in text, name
