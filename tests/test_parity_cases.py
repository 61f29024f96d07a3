"""The reference cases: what the C program wrote for each, against what the command writes."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.cli.nanobragg import main
from nanobrag_torch.testing import PARITY, PARITY_ROUND, SINGLE

DATA = Path(__file__).parent / "data"
CASES = dict(line.split("\t", 1) for line in (DATA / "cases.tsv").read_text().splitlines() if line.strip())

FLOAT64_OF_MAXIMUM = PARITY.of_maximum
FLOAT32_OF_MAXIMUM = SINGLE.of_maximum
ROUND_XTAL_OF_MAXIMUM = PARITY_ROUND.of_maximum  # the C program loses digits there (D32)
COUNTS_APART, SHARE_APART = 1, 0.01


@dataclass(frozen=True)
class Run:
    """What one command left: exit code, images by kind, header texts, and what it printed."""

    code: int
    printed: str
    images: dict[str, np.ndarray] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@functools.cache
def run(name: str, extra: str) -> Run:
    """Run a case in a folder of its own that holds links to the input files."""
    printed, before = io.StringIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for source in (DATA / "inputs").iterdir():
            (Path(folder) / source.name).symlink_to(source)
        try:
            os.chdir(folder)
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                code = main(shlex.split(CASES[name]) + shlex.split(extra))
            images, headers = collect(Path())
        finally:
            os.chdir(before)
    return Run(code, printed.getvalue(), images, headers)


def collect(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    images, headers = {}, {}
    for path in folder.iterdir():
        if path.is_symlink() or path.name == "Fdump.bin":
            continue
        raw = path.read_bytes()
        if path.suffix == ".bin":
            images["float"] = np.frombuffer(raw, "<f4")
        elif path.suffix == ".pgm":
            start = raw.index(b"255\n") + 4
            images["pgm"], headers["pgm"] = np.frombuffer(raw[start:], np.uint8), raw[:start].decode()
        elif path.suffix == ".img":
            kind = "noise" if "noise" in path.name else "int"
            headers[kind] = raw[: raw.index(b"\f") + 1].decode()
            size = int(re.search(r"HEADER_BYTES=(\d+);", headers[kind])[1])
            images[kind] = np.frombuffer(raw[size:], "<u2")
    return images, headers


@functools.cache
def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / "reference" / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored.files}


def off_by(image: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the maximum of the expected image."""
    return float(np.abs(image.astype(np.float64) - expected).max() / np.abs(expected).max())


def limit(name: str, otherwise: float) -> float:
    return ROUND_XTAL_OF_MAXIMUM if "-round_xtal" in CASES[name] else otherwise


def without_size(header: str) -> list[str]:
    """A header may be larger than the C program's, when that overflows (D8)."""
    return [line for line in header.splitlines() if not line.startswith("HEADER_BYTES")]


def test_all_reference_cases_are_here():
    assert len(CASES) == 52 and all((DATA / "reference" / f"{name}.npz").exists() for name in CASES)


@pytest.mark.parametrize("name", CASES)
def test_c_mode_writes_what_the_c_program_wrote(name):
    got, expected = run(name, "-compat c -dtype float64"), reference(name)
    assert got.code == 0
    assert {k for k in ("float", "int", "noise", "pgm") if k in expected} <= set(got.images)
    assert off_by(got.images["float"], expected["float"]) <= limit(name, FLOAT64_OF_MAXIMUM)
    for kind in ("int", "noise"):
        if kind in expected:
            assert without_size(got.headers[kind]) == without_size(str(expected[f"{kind}_header"]))
    for kind in {"int", "pgm"} & set(expected):
        apart = np.abs(got.images[kind].astype(int) - expected[kind].astype(int))
        assert apart.max() <= COUNTS_APART and (apart > 0).mean() <= SHARE_APART
    if "noise" in expected and np.array_equal(got.images["float"], expected["float"]):
        assert np.array_equal(got.images["noise"], expected["noise"])


@pytest.mark.parametrize("name", CASES)
def test_single_precision_stays_close(name):
    got = run(name, "-compat c -dtype float32")
    assert off_by(got.images["float"], reference(name)["float"]) <= limit(name, FLOAT32_OF_MAXIMUM)


@pytest.mark.parametrize("name", CASES)
def test_modes_differ_exactly_where_a_correction_is_named(name):
    in_c, corrected = run(name, "-compat c -dtype float64"), run(name, "-dtype float64")
    named = re.findall(r"^correction (D\d+) changed the image", corrected.printed, re.MULTILINE)
    assert corrected.code == 0 and "correction" not in in_c.printed
    same = np.array_equal(in_c.images["float"], corrected.images["float"])
    wide_hat = name == "tophat_spots" and named == ["D38"]  # both hats cover every pixel: another width, the same image
    assert same == (not named) or wide_hat, named


NUMBER = r"([-+0-9.einfa]+)"
PRINTED = {
    "unit_cell": rf"^Unit Cell: {' '.join([NUMBER] * 6)}$",
    "volume_A3": rf"^volume = {NUMBER} A\^3$",
    "max_I": rf"^max_I = {NUMBER}  at {NUMBER} {NUMBER}$",
    "mean_rms_rmsd": rf"^mean= {NUMBER} rms= {NUMBER} rmsd= {NUMBER}$",
    "intfile_scale": rf"^intfile_scale = {NUMBER}$",
    "pgm_scale": rf"^pgm_scale = {NUMBER}$",
    "photons_overloads": rf"^{NUMBER} photons on noise image \({NUMBER} overloads\)$",
    "sources": rf"^  created a total of {NUMBER} sources:$",
}


@pytest.mark.parametrize("name", CASES)
def test_the_lines_that_people_scrape_hold_the_c_programs_numbers(name):
    printed, expected = run(name, "-compat c -dtype float64").printed, reference(name)
    for key, pattern in PRINTED.items():
        if key in expected:
            found = re.search(pattern, printed, re.MULTILINE)
            assert found is not None, key
            numbers = [float(text) for text in found.groups()]
            assert numbers == pytest.approx(np.atleast_1d(expected[key]).tolist(), rel=2e-5), key
    chosen = re.search(r"^auto-selected (\d+)-fold oversampling$", printed, re.MULTILINE)
    if chosen is not None and "oversample" in expected:
        assert int(chosen[1]) == int(expected["oversample"][0])
