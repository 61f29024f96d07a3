"""The files of a project that others join agree with each other and with the tree."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from nanobrag_torch import __version__
from nanobrag_torch.cli.nanobragg import main as nanobragg
from nanobrag_torch.cli.nb.app import main as nb

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_licence_and_version_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    licence = (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == citation["license"] == "BSD-3-Clause"
    assert licence.startswith("BSD 3-Clause License") and "the nanobrag_torch developers" in licence
    assert citation["version"] == __version__
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_every_path_that_the_guide_names_is_there():
    named = re.findall(r"`((?:src|tests|docs)/[^`\s]+|constraints\.txt)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 20
    missing = [name for name in named if not (ROOT / name).exists() and not name.startswith("docs/_build")]
    assert not missing


def test_hooks_run_the_tools_of_the_environment():
    """The same ruff and mypy as in `make lint`, so nothing else is fetched."""
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    assert {repository["repo"] for repository in repositories} == {"local"}
    lint = (ROOT / "Makefile").read_text()
    for tool in ("ruff check", "ruff format", "mypy"):
        assert any(hook["entry"].startswith(f".venv/bin/{tool}") for hook in hooks)
        assert f"$(BIN)/{tool}" in lint


@pytest.mark.parametrize(("command", "name"), [(nanobragg, "nanoBragg"), (nb, "nb")])
def test_commands_say_their_version(command, name, capsys):
    assert command(["--version"]) == 0
    assert capsys.readouterr().out == f"{name} (nanobrag-torch {__version__})\n"


def test_the_package_runs_as_a_module(tmp_path):
    words = "-cell 78 78 38 90 90 90 -default_F 100 -detpixels 16 -kernel reference -floatfile f.bin -nopgm -nonoise"
    run = [sys.executable, "-m", "nanobrag_torch"]
    done = subprocess.run([*run, *words.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f.bin").stat().st_size == 4 * 16 * 16
    bad = subprocess.run([*run, "-cell", "78"], cwd=tmp_path, capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.startswith("nanoBragg: error:") and bad.stderr.count("\n") == 1
