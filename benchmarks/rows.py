"""Rows of measurements: each shows one claim, is kept as JSON and stands in a table of a page, between two marks."""

from __future__ import annotations

import argparse
import fcntl
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
USUAL = 10
MARKS = "<!-- results -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Found:
    """One row: what was asked of it, what it gave, whether that is enough, and of how many."""

    bar: str
    found: str
    met: bool
    count: int


Rows = Mapping[str, tuple[str, Callable[[int], Found]]]
"""Name -> what it shows, and its measurement."""


def measure_rows(
    words: list[str] | None,
    rows: Rows,
    results: Path,
    page: Path,
    *,
    about: str,
    of: str,
    counts: Mapping[str, int] | None = None,
) -> None:
    """Measure the rows that the words of a command ask for, keep each as it comes, and write the table.

    of: what is counted; counts: how many a row takes where that is not ten.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"of {', '.join(rows)}; default all")
    parser.add_argument("--count", type=int, help=f"{of} of a row")
    given = parser.parse_args(words)
    unknown = set(given.rows) - set(rows)
    if unknown:
        parser.error(f"unknown rows {', '.join(sorted(unknown))}; known: {', '.join(rows)}")
    for name in given.rows or rows:
        found = rows[name][1](given.count or (counts or {}).get(name, USUAL))
        print(f"{name}: {found.found} ({'met' if found.met else 'not met'}: {found.bar})", flush=True)
        keep(name, found, rows, results, page, of=of, counts=counts)


def keep(
    name: str,
    found: Found,
    rows: Rows,
    results: Path,
    page: Path,
    *,
    of: str,
    counts: Mapping[str, int] | None = None,
) -> None:
    """Put a row among those that are kept by now, other processes' too, and write the table of all."""
    with results.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = {**json.loads(file.read() or "{}"), name: {**asdict(found), "met": bool(found.met)}}
        text = json.dumps(known, indent=1) + "\n"
        file.truncate(0)
        file.write(text)
        page.write_text(with_table(page.read_text(), known, rows, of, counts))


def with_table(page: str, known: dict[str, Any], rows: Rows, of: str, counts: Mapping[str, int] | None = None) -> str:
    """The page with the table of results between its marks; a bar met with fewer than `counts` is met so far."""
    lines = []
    for name, (title, _) in rows.items():
        if name in known:
            row = known[name]
            wanted = (counts or {}).get(name, 0)
            few = row["count"] < wanted
            met = "**no**" if not row["met"] else "so far" if few else "yes"
            count = f"{row['count']} of {wanted}" if few else f"{row['count']}"
            lines.append(f"| {title} | {row['bar']} | {row['found']} | {met} | {count} |")
    return between_marks(page, lines, of)


def between_marks(page: str, lines: list[str], of: str) -> str:
    """The page with these lines as its table: what, bar, found, met, and how many of what is counted."""
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    whole = [f"| what | bar | found | met | {of} |", "|---|---|---|---|---|", *lines]
    return f"{before}{MARKS[0]}\n" + "\n".join(whole) + f"\n{MARKS[1]}{after}"
