"""nb evidence: a bundle is whole, says where it came from, and shows when it was touched."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.cli.nb.flags import simulator_of
from nanobrag_torch.tracing.log import read_trace
from nanobrag_torch.validation.evidence import brightest_pixel

NB = Path(sysconfig.get_path("scripts")) / "nb"
CELL = ["-cell", "50", "60", "70", "90", "90", "90"]
FLAGS = [*CELL, "-default_F", "10", "-N", "5", "-detpixels", "32", "-pixel", "0.5"]
FILES = {
    "README.md", "commands.txt", "env.json", "git_sha.txt", "git_status.txt", "metrics.json", "report.html",
    "sha256.txt", "summary.md", "trace.json", "trace.log", "trace_per_phi.log",
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(name, *words, flags=FLAGS, code=0):
        assert main(["evidence", "--outdir", name, *words, "--", *flags]) == code
        return tmp_path / name

    return make


def test_supervisor_bundle_as_a_user_makes_it(tmp_path, data):
    """Against the C program's values; the checksums are those of the command sha256sum."""
    stored = data / "supervisor" / "trace_pixel_685_1039.json"
    words = ["--config", "supervisor", "--phi-mode", "c-parity", "--c", str(stored)]
    command = [NB, "evidence", "--outdir", "reports/parity", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "reports" / "parity"
    assert {path.name for path in folder.iterdir()} == FILES | {"comparison.md"}
    assert [path.name for path in folder.parent.iterdir()] == ["parity"]
    subprocess.run(["sha256sum", "-c", "--strict", "sha256.txt"], cwd=folder, check=True, capture_output=True)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["pixel_slow_fast"] == [685, 1039] and metrics["phi_steps"] == 10
    assert (metrics["comparison"]["paired"], metrics["comparison"]["departing"]) == (40, 0)
    assert metrics["values"]["I_before_scaling"] == pytest.approx(663122.701658461, rel=1e-9)
    commands = (folder / "commands.txt").read_text()
    assert f"cd {tmp_path}\n" in commands and "export OMP_NUM_THREADS=2\n" in commands
    by_hand = "nb trace --pixel 685 1039 --emit-rot-stars --out trace.log --config supervisor --phi-mode c-parity\n"
    assert by_hand in commands
    assert f"nb evidence --outdir reports/parity --config supervisor --phi-mode c-parity --c {stored}\n" in commands
    phi = (folder / "trace_per_phi.log").read_text().splitlines()
    assert len(phi) == 10 and all(line.startswith("TRACE_PY_PHI: phi_tic=") and "a_star_y=" in line for line in phi)
    readme = (folder / "README.md").read_text()
    assert "every value of the trace is within tolerance of the reference trace (--c): holds" in readme
    assert "I_before_scaling: 663122.7016584" in readme


def test_where_it_came_from(bundle):
    folder = bundle("one", "--pixel", "3", "4")
    env = json.loads((folder / "env.json").read_text())
    assert {"python", "torch", "numba", "platform", "device"} <= env.keys() and env["device"] == "cpu"
    checkout = subprocess.run(["git", "-C", env["git_folder"], "rev-parse", "HEAD"], capture_output=True, text=True)
    commands = (folder / "commands.txt").read_text()
    assert f"\nnb evidence --outdir one --pixel 3 4 -- {' '.join(FLAGS)}\n" in commands
    sha = (folder / "git_sha.txt").read_text().strip()
    assert sha == (checkout.stdout.strip() if checkout.returncode == 0 else "none")
    assert (folder / "git_status.txt").read_text().split("\n")[0] in ("clean", "dirty", "unknown: no git checkout")
    trace, plain = read_trace(folder / "trace.log", "--py"), read_trace(folder / "trace.json", "--py")
    assert trace.values.keys() == plain.values.keys() and len(trace.phi_steps) == 1


def test_before_and_after(bundle):
    bundle("before", "--pixel", "3", "4")
    flags = ["20" if word == "10" else word for word in FLAGS]
    rows = (bundle("after", "--pixel", "3", "4", "--baseline", "before", flags=flags) / "summary.md").read_text()
    assert "| value | before | after | change | relative |" in rows
    assert "| values.F_cell | 10 | 20 | 10 | 1 |" in rows
    before, after = (
        json.loads(Path(name, "metrics.json").read_text())["values"]["I_pixel_final"] for name in ("before", "after")
    )
    assert after / before == pytest.approx(4, rel=1e-12), "four times the photons"


def test_tests_are_run_and_kept(bundle, tmp_path):
    (tmp_path / "test_them.py").write_text("def test_good(): pass\ndef test_bad(): assert 0, 'as planted'\n")
    good = bundle("good", "--pixel", "3", "4", "--pytest", "test_them.py -k good -p no:cacheprovider")
    assert "1 passed" in (good / "pytest.log").read_text()
    assert json.loads((good / "metrics.json").read_text())["tests"]["passed"] is True
    bad = bundle("bad", "--pixel", "3", "4", "--pytest", "test_them.py -p no:cacheprovider", code=1)
    assert "as planted" in (bad / "pytest.log").read_text()
    assert "the tests pass (--pytest): FAILS" in (bad / "README.md").read_text()


def test_a_departure_is_a_failed_criterion(bundle, tmp_path):
    log = bundle("one", "--pixel", "3", "4") / "trace.log"
    text = log.read_text().replace("TRACE_PY: polar 0.", "TRACE_PY: polar 0.5")
    (tmp_path / "c.log").write_text(text)
    folder = bundle("two", "--pixel", "3", "4", "--c", "c.log", code=1)
    assert "first departure: polar (factors of the pixel)" in (folder / "summary.md").read_text()
    assert (folder / "comparison.md").exists()


def test_input_files_are_named_with_their_checksums(bundle, tmp_path):
    (tmp_path / "A.mat").write_text("0.02 0 0\n0 0.016 0\n0 0 0.0142857\n")
    folder = bundle("one", "--pixel", "3", "4", flags=["-mat", "A.mat", *FLAGS[7:], "-default_F", "3"])
    named = json.loads((folder / "env.json").read_text())["inputs"]
    done = subprocess.run(["sha256sum", "A.mat"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert named == {"A.mat": done.stdout.split()[0]}


def test_brightest_pixel_is_found(bundle):
    simulator = simulator_of(FLAGS)
    image = simulator.run()
    assert brightest_pixel(simulator) == divmod(int(image.argmax()), 32)
    metrics = json.loads((bundle("one") / "metrics.json").read_text())
    assert metrics["values"]["I_pixel_final"] == pytest.approx(float(image.max()), rel=1e-12)


def test_verification_sees_every_change(bundle, capsys):
    folder = bundle("one", "--pixel", "3", "4")
    capsys.readouterr()
    assert main(["evidence", "--verify", "one"]) == 0
    assert capsys.readouterr().out == "11 files as written, 0 problems\n"
    (folder / "metrics.json").write_text((folder / "metrics.json").read_text().replace("3", "4", 1))
    (folder / "trace.log").unlink()
    (folder / "more.txt").write_text("later")
    assert main(["evidence", "--verify", "one"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "missing: trace.log", "not listed: more.txt", "changed: metrics.json", "9 files as written, 3 problems",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", *FLAGS], "--outdir"),
        (["--outdir", "new"], "flags of nanoBragg after --"),
        (["--outdir", "full", "--", *FLAGS], "--outdir: got 'full'; accepted: a folder that is new or empty"),
        (["--outdir", "new", "--pixel", "32", "0", "--", *FLAGS], "--pixel"),
        (["--outdir", "new", "--baseline", "full", "--", *FLAGS], "--baseline"),
        (["--outdir", "new", "--c", "none.log", "--", *FLAGS], "--c: got 'none.log'"),
        (["--outdir", "full/file/new", "--", *FLAGS], "--outdir"),
        (["--verify", "none"], "--verify: got 'none'"),
        (["--verify", "full"], "--verify"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("here")
    assert main(["evidence", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("nb: error: ") and said in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
