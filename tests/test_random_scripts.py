"""Random scripts under -compat c against a C program: NANOBRAGG_C=./nanoBragg, plain -O2 or -O3 without -march.

NANOBRAGG_C_COUNT says how many, 1000 by default; NANOBRAGG_C_FIRST where their numbers begin.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from compat_scenes import DATA, commands
from nanobrag_torch.validation.cprogram import run_c_program
from random_scripts import script

BINARY = os.environ.get("NANOBRAGG_C", "")
COUNT, FIRST = int(os.environ.get("NANOBRAGG_C_COUNT", "1000")), int(os.environ.get("NANOBRAGG_C_FIRST", "0"))
WITHIN, ROUND = 1e-6, 1e-4  # of the maximum; the C program's ball loses digits (D32)
GARBAGE = ("a range that holds a phi step", "a grid that keeps a source", "not finite")
"""Why a line is refused whose image is not finite in the C program (D31)."""
RUN = "-seed 1 -nonoise -nopgm -noprogress"


def difference(seed: int, command, folder: Path) -> str:
    """Empty where both agree, or where the C program's image is none; else what differs, and the line to try again."""
    line = f"{script(seed)} {RUN}"
    ours = command(line, "c")
    for source in (DATA / "inputs").iterdir():
        shutil.copy(source, folder)
    words = [*line.split(), "-floatfile", "float.bin"]
    if ours.image is None:
        garbage = any(reason in ours.complaint for reason in GARBAGE)
        return "" if garbage else f"{seed}: refused ({ours.complaint.strip()}): {line}"
    theirs = run_c_program(Path(BINARY), words, folder, folder / "float.bin", ours.image.shape).image
    (folder / "Fdump.bin").unlink(missing_ok=True)
    if not np.isfinite(theirs).all():
        return ""
    top, within = np.abs(theirs).max(), ROUND if "-round_xtal" in line else WITHIN
    off = np.abs(ours.image - theirs).max()
    return "" if off <= within * top else f"{seed}: off by {off / (top or 1):.1e} of {top:.3g}: {line}"


@pytest.mark.skipif(not BINARY, reason="NANOBRAGG_C names no compiled C program to hold the images against")
def test_random_scripts_give_the_c_programs_images(tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    for command in commands(tmp_path):
        found = [text for seed in range(FIRST, FIRST + COUNT) if (text := difference(seed, command, folder))]
        assert not found, "\n".join(found)


def test_random_scripts_are_scripts(tmp_path):
    """They render, and are no two alike; what the C program gives garbage for is refused in a line."""
    lines = [script(seed) for seed in range(40)]
    assert len(set(lines)) == 40
    for command in commands(tmp_path):
        rendered = [command(f"{line} {RUN} -dtype float32", "c") for line in lines[:25]]
        assert sum(ran.image is not None for ran in rendered) >= 22
        assert all(ran.code == 0 or ran.complaint.startswith("nanoBragg: error: ") for ran in rendered)
