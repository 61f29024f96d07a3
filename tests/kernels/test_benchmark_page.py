"""The page of benchmarks is the one that its results give."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    sys.modules.pop("benchmarks", None)


def test_the_page_is_up_to_date():
    from benchmarks.page import PAGE, page

    assert PAGE.read_text() == page(), "python -m benchmarks writes it"


def test_results_name_machine_and_versions():
    found = sorted((ROOT / "benchmarks" / "results").glob("cpu-*.json"))
    assert found
    for path in found:
        results = json.loads(path.read_text())
        assert results["machine"]
        assert {"python", "torch", "numba", "nanobrag_torch"} <= results["versions"].keys()
        assert {scene["scene"][0] for scene in results["scenes"]} == set("abcde")


def test_a_small_scene_can_be_measured():
    from benchmarks.measure import Timer, timers_of, times_the_value
    from benchmarks.scenes import build

    case = build("x", "small", side=24, pixel_mm=0.5, domains=2, wavelengths=2, table=True)
    timers = timers_of(case, {"value": Timer(lambda: None, 1, seconds=[1.0])})
    for timer in timers.values():
        timer.once()
    assert case.steps == 24 * 24 * 4
    assert times_the_value(timers, "value") == 1.0 and times_the_value(timers, "loss") > 0
    found: Any = timers["loss"].run()
    through: Any = timers["backward"].run()
    assert float(found.loss) > 0
    assert all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(found.gradients, through, strict=True))
    assert timers["value"].report()["million_steps_per_s"] > 0
    assert "ratio_to_yardstick" in timers["value"].report()


def test_a_loss_has_its_rate_and_what_it_costs_beside_the_value():
    from benchmarks.page import COLUMNS, _before, _row

    timed = {"million_steps_per_s": 300.0, "times_the_value": 2.5, "peak_MB": None}
    row = _row({"scene": "c", "title": "still", **dict.fromkeys(COLUMNS, timed)})
    assert row == "| c | still | 300 | 300 | 300 | 300, 2.50 x | 300 | 300 |  |  |"
    kinds = {name: {"ratio": 1.25, "ratios": [1.0, 1.25, 1.5]} for name in COLUMNS if name != "loss"}
    lines = list(_before({"c": kinds}))
    assert lines[-2] == "| c" + 3 * " | 1.25 (1.00 to 1.50)" + " | " + 2 * " | 1.25 (1.00 to 1.50)" + " |"


def test_the_table_of_data_sets_is_up_to_date():
    from benchmarks.dataset import PAGE, RESULTS, ROWS
    from benchmarks.rows import with_table

    known = json.loads(RESULTS.read_text())
    assert set(known) <= set(ROWS) and with_table(PAGE.read_text(), known, ROWS, "images or kills") == PAGE.read_text()


def test_the_table_of_many_shots_is_up_to_date():
    from benchmarks.many_shots import COUNTS, PAGE, RESULTS, ROWS
    from benchmarks.rows import with_table

    known = json.loads(RESULTS.read_text())
    assert set(known) <= set(ROWS) == set(COUNTS)
    assert with_table(PAGE.read_text(), known, ROWS, "shots", COUNTS) == PAGE.read_text()


def test_rows_that_are_measured_at_once_are_all_kept(tmp_path):
    """The second row is kept, as by another process, while the first is being measured."""
    from benchmarks.rows import MARKS, Found, measure_rows

    results, page = tmp_path / "found.json", tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\n{MARKS[1]}\nafter\n")

    def slow(count):
        measure_rows(["quick"], rows, results, page, about="", of="images")
        return Found("none", "one", True, count)

    rows = {"slow": ("the slow one", slow), "quick": ("the quick one", lambda count: Found("1", "two", False, count))}
    measure_rows(["slow", "--count", "3"], rows, results, page, about="", of="images")
    assert json.loads(results.read_text()).keys() == {"slow", "quick"}
    table = ["| what | bar | found | met | images |", "|---|---|---|---|---|"]
    table += ["| the slow one | none | one | yes | 3 |", "| the quick one | 1 | two | **no** | 10 |"]
    assert page.read_text().splitlines() == ["before", MARKS[0], *table, MARKS[1], "after"]
