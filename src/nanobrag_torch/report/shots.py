"""The page of a refinement: of its one shot, or of all of them together with links to those that have pages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.report.charts import BLUE, GREEN, GREY, ORANGE, RED, Chart, Series, chart_model, histogram
from nanobrag_torch.report.page import banner, counted, grid, heading, table_html, words, write_page
from nanobrag_torch.report.shot import PAGE, write_shot_page
from nanobrag_torch.report.shot_data import RECORD
from nanobrag_torch.report.shot_words import judgement

SUMMARY = "summary.json"
MOST_PAGES = 20
MOST_ROWS = 2000
MOST_CHARTS = 9
ENOUGH, HALF = 0.9, 0.5
_KNOWN = ("name", "frame", "status", "reason", "sigma_z", "steps", "shape", "reflections", "seconds_in_all")


def write_pages(folder: str | Path, target: Path | None = None) -> str:
    """Write report.html, or another target, of a folder that `nb refine` filled; what was written, in words.

    Of one shot it is the page of that shot; of several an overview, with pages for at most 20 of them: those that did
    not converge, then those that fit worst. Raises InputError for another folder.
    """
    place = Path(folder)
    page = place / PAGE if target is None else target
    rows = _rows(place)
    recorded = [row for row in rows if (place / row["name"] / RECORD).is_file()]
    if len(rows) == 1 and recorded:
        write_shot_page(place / rows[0]["name"], page)
        return page.name
    chosen = sorted(recorded, key=_trouble, reverse=True)[:MOST_PAGES]
    for row in chosen:
        write_shot_page(place / row["name"])
    linked = {row["name"] for row in chosen}
    charts = grid([chart_model(chart) for chart in _charts(rows, _units(place, recorded))])
    parts = [_verdict(rows, linked), charts, heading("Shots")]
    write_page(page, f"Refinement of {len(rows)} shots", [*parts, words(_table(rows, linked))])
    return f"{page.name} with pages of {len(chosen)} shots (nb view {place}/SHOT makes another)"


def _rows(place: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads((place / SUMMARY).read_text())
    except (OSError, ValueError) as error:
        raise InputError("folder", str(place), f"one that nb refine wrote, with {SUMMARY} ({error})") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and "name" in r for r in rows):
        raise InputError("folder", str(place), f"one that nb refine wrote, with shots in {SUMMARY}")
    return rows


def _trouble(row: dict[str, Any]) -> tuple[bool, float]:
    return row["status"] != "converged", row.get("sigma_z") or 0.0


def _verdict(rows: Sequence[dict[str, Any]], linked: set[str]) -> Any:
    counts = Counter(row["status"] for row in rows)
    share = counts["converged"] / len(rows)
    colour = GREEN if share >= ENOUGH else ORANGE if share >= HALF else RED
    said = ", ".join(f"{count} {_status(status)}" for status, count in counts.most_common())
    return banner(colour, f"{counts['converged']} of {len(rows)} shots converged", list(_sentences(rows, said, linked)))


def _status(status: str) -> str:
    return "not refined" if status == "input" else status


def _sentences(rows: Sequence[dict[str, Any]], said: str, linked: set[str]) -> Iterator[str]:
    yield f"Of {len(rows)} shots: {said}."
    z = [row["sigma_z"] for row in rows if row["status"] == "converged" and row.get("sigma_z") is not None]
    if z:
        low, middle, high = np.quantile(z, (0.1, 0.5, 0.9))
        yield (
            f"How good: the median sigma-Z of those that converged is {middle:.3f} (nine in ten between {low:.3f} and "
            f"{high:.3f}, about): differences between data and model over the expected noise; 1 is perfect."
        )
    reasons = Counter(row["reason"] for row in rows if row["status"] != "converged")
    for reason, count in reasons.most_common(3):
        yield f"Why not: {reason} ({counted(count, 'shot')})."
    yield f"The table has those that did not converge first; {len(linked)} shots have a page of their own."


def _units(place: Path, recorded: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Names of parameters with their units, as the first shot that has a record says them."""
    if not recorded:
        return {}
    parameters = json.loads((place / recorded[0]["name"] / RECORD).read_text())["parameters"]
    return {p["name"]: f"{p['name']} ({p['unit']})" for p in parameters if p.get("unit")}


def _charts(rows: Sequence[dict[str, Any]], units: dict[str, str]) -> Iterator[Chart]:
    good = [row for row in rows if row["status"] == "converged"]
    z = [row["sigma_z"] for row in good if row.get("sigma_z") is not None]
    if not z:
        return
    yield Chart("How well shots fit", "sigma-Z", "shots", [histogram(z, colour=GREY)])
    numbers = np.arange(len(rows))
    points = [(n, r["sigma_z"], r["name"]) for n, r in zip(numbers, rows, strict=True) if r.get("sigma_z") is not None]
    x, y, says = zip(*points, strict=True)
    yield Chart("In the order of the shots", "shot", "sigma-Z", [Series(x, y, says=says)], marks=(1.0,))
    names = [n for n in good[0] if n not in _KNOWN and not n.endswith(("_sigma", "_start"))]
    for name in names[: MOST_CHARTS - 2]:
        values = [row[name] for row in good if isinstance(row.get(name), int | float)]
        if len(set(values)) > 1:
            yield Chart(name, units.get(name, name), "shots", [histogram(values, colour=BLUE)])


def _table(rows: Sequence[dict[str, Any]], linked: set[str]) -> str:
    shown = sorted(rows, key=_trouble, reverse=True)[:MOST_ROWS]
    heads = ("shot", "verdict", "sigma-Z", "steps", "reflections", "seconds")
    left = f"<br>and {len(rows) - len(shown)} more in {SUMMARY}" if len(rows) > len(shown) else ""
    return table_html(heads, [_cells(row, linked) for row in shown], left=2) + left


def _cells(row: dict[str, Any], linked: set[str]) -> list[str]:
    name = escape(str(row["name"]))
    colour, says = judgement(row)
    z, seconds = row.get("sigma_z"), row.get("seconds_in_all")
    return [
        f"<a href='{name}/{PAGE}'>{name}</a>" if row["name"] in linked else name,
        f"<span style='color:{colour}'>{escape(says)}</span>",
        "" if z is None else f"{z:.3f}",
        *(escape(str(row[key])) if row.get(key) is not None else "" for key in ("steps", "reflections")),
        "" if seconds is None else f"{seconds:.1f}",
    ]
