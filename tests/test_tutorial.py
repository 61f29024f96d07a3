"""The tutorial recovers what it hid, whatever the noise and the start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.append(str(EXAMPLES))

import refine_still  # noqa: E402


@pytest.mark.parametrize("seed", range(1, 11))
def test_orientation_and_cell_come_back(seed):
    data, start = refine_still.noisy_image(seed), refine_still.wrong_start(seed)
    degrees, percent = start.errors()
    assert abs(degrees - 0.3) < 1e-9 and abs(percent - 0.5) < 1e-9
    for method in (refine_still.lbfgs, refine_still.gauss_newton):
        degrees, percent = method(data, start).errors()
        assert degrees <= 0.01 and percent <= 0.05, f"{method.__name__}: {degrees:.4f} deg, {percent:.4f} %"


def test_the_example_runs_as_a_program_and_draws(tmp_path):
    picture = tmp_path / "refinement.png"
    command = [sys.executable, str(EXAMPLES / "refine_still.py"), "--seed", "3", "--out", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"})
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert float(lines["start"][1]) == 0.3 and float(lines["L-BFGS"][1]) <= 0.01
    assert float(lines["Gauss-Newton"][1]) <= 0.01
    assert picture.read_bytes().startswith(b"\x89PNG")
