"""docs/validation-walkthrough.md, run as it stands: every command, and what the page says that it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "validation-walkthrough.md"
BLOCK = re.compile(r"^```(python|console)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def steps():
    """Commands of the page in order, each with the lines that should follow and the exit code."""
    found = []
    for kind, _, text in BLOCK.findall(PAGE.read_text()):
        if kind != "console":
            continue
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, *lines = part.splitlines()
            code = int(lines.pop()[len("(exit code ") : -1]) if lines and lines[-1].startswith("(exit code") else 0
            found.append((command, lines, code))
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, data):
    """What every command printed and how it ended, run one after the other in one folder."""
    folder = tmp_path_factory.mktemp("walkthrough")
    (folder / "c.json").write_text((data / "supervisor" / "trace_pixel_685_1039.json").read_text())
    for kind, name, text in BLOCK.findall(PAGE.read_text()):
        if kind == "python":
            (folder / name).write_text(text)
    here = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(here)}
    how = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "check": False}
    return [subprocess.run(["bash", "-c", command], **how) for command, _, _ in steps()]


def alike(said, printed):
    """Whether two lines agree word by word; numbers to the six digits that any machine keeps."""
    words = [re.split(r"[\s=,()]+", line) for line in (said, printed)]
    return len(words[0]) == len(words[1]) and all(map(same_word, *words))


def same_word(a, b):
    try:
        return float(a) == pytest.approx(float(b), rel=1e-6)
    except ValueError:
        return a == b


@pytest.mark.parametrize("place", range(len(steps())), ids=lambda place: f"{place}")
def test_command_does_what_the_page_says(outcomes, place):
    command, said, code = steps()[place]
    done = outcomes[place]
    assert (done.returncode, done.stderr) == (code, ""), command
    printed, at = done.stdout.splitlines(), 0
    for i, line in enumerate(said):
        if line == "...":
            continue
        if i and said[i - 1] == "...":
            while at < len(printed) and not alike(line, printed[at]):
                at += 1
        assert at < len(printed) and alike(line, printed[at]), (command, line, printed[at : at + 1])
        at += 1
    assert at == len(printed) or said[-1:] == ["..."], (command, printed[at:])


def test_the_error_is_found(outcomes):
    text = "".join(done.stdout for done in outcomes)
    assert "first departure: a_star_y at phi_tic 6 (rotation of the lattice by phi)" in text
    assert len(steps()) >= 10
