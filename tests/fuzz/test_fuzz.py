"""Damaged files of every format are read or refused in a line: nothing else happens. `make fuzz` reads more of them."""

import time
from pathlib import Path

import fuzz_run
import fuzz_worker
import numpy as np
import pytest
from fuzz_run import fuzz, table
from fuzz_seeds import seeds
from fuzz_worker import KINDS, damaged, outcome

COUNT = 100
LONG = 30_000


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind):
    result = fuzz(kind, COUNT)
    assert not result.faults, "\n".join(map(str, result.faults))
    assert result.counts.total() == COUNT and result.counts["refused"] > 0, table([result])


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_that_are_damaged_were_sound(kind, tmp_path):
    for seed in seeds(kind):
        path = tmp_path / "x"
        path.write_bytes(seed)
        assert outcome(kind, path) == ("accepted", "")


def test_a_number_makes_the_same_file_again():
    for kind in KINDS:
        assert [damaged(kind, index) for index in range(20)] == [damaged(kind, index) for index in range(20)]
        assert len({damaged(kind, index) for index in range(100)}) > 80


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "nxmx"])
def test_a_long_run_of_one_character_takes_no_time(kind, tmp_path):
    """Patterns that try again at every character, or for every split, take minutes over what is a hundred lines."""
    seed, path = seeds(kind)[0], tmp_path / "x"
    places = sorted({0, seed.find(b"\n") + 1, seed.find(b"=") + 1, seed.find(b":") + 1, seed.find(b" ") + 1, len(seed)})
    for unit in (b" ", b"\n", b"1", b"a", b"(", b"= ", b";\n"):
        for place in places:
            path.write_bytes(seed[:place] + unit * (LONG // len(unit)) + seed[place:])
            began = time.process_time()
            assert outcome(kind, path)[0] in ("accepted", "refused"), (unit, place)
            assert time.process_time() - began < 2, (unit, place)


WORKER = """
import os, sys, time
first, count = int(sys.argv[2]), int(sys.argv[3])
for index in range(first, first + count):
    if index == 1:
        os.abort()
    while index == 3:
        pass
    print(index, 5000, "traceback" if index == 4 else "accepted", "why", sep="\\t", flush=True)
"""


def test_a_reader_that_dies_or_hangs_is_counted_and_reading_goes_on(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    monkeypatch.setattr(fuzz_run, "CPU_SECONDS", 0.5)
    result = fuzz("mtz", 6, worker=worker)
    assert [(index, what) for index, what, _ in result.faults] == [(1, "crash"), (3, "hang"), (4, "traceback")]
    assert result.counts["accepted"] == 3 and result.peak_kb == 5000


def test_what_is_accepted_must_be_finite(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(seeds("refl")[0])
    monkeypatch.setattr(fuzz_worker, "read", lambda kind, path: {"a": [np.array([1.0, np.nan])]})
    assert outcome("refl", path) == ("not finite", "['a']")


def test_the_table_of_the_documentation_is_that_of_the_campaign():
    root = Path(__file__).parents[2]
    entries = fuzz_run.recorded(root / "benchmarks" / "results" / "fuzz.jsonl")
    assert fuzz_run.page(entries) in (root / "docs" / "security.md").read_text()


def test_a_campaign_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    path, asked = tmp_path / "fuzz.jsonl", []
    monkeypatch.setattr(fuzz_run, "CHUNK", 2)
    monkeypatch.setattr(fuzz_run, "STAGES", (2,))

    def counted(kind, count, first):
        asked.append((kind, first, count))
        result = fuzz_run.Result(kind)
        for index in range(first, first + count):
            result.count(index, "refused", "")
        return result

    monkeypatch.setattr(fuzz_run, "fuzz", counted)
    fuzz_run.campaign(("mat", "hkl"), 2, path)
    fuzz_run.campaign(("mat", "hkl"), 5, path)
    assert asked == [("mat", 0, 2), ("hkl", 0, 2), ("mat", 2, 2), ("mat", 4, 1), ("hkl", 2, 2), ("hkl", 4, 1)]
    assert [each["refused"] for each in fuzz_run.recorded(path)] == [2, 2, 2, 1, 2, 1]
