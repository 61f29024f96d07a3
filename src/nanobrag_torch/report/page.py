"""One HTML file with data and program inside: what it shows is built by Bokeh, and it asks nothing of a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output

_NAMES = r'"p\d{4,}"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b'
MOST_BYTES = 8_000_000  # of a page, if not asked for in full
WIDTH = 1180  # screen pixels, so that a window of 1280 shows the page without scrolling sideways


def write_page(target: Target, title: str, parts: Sequence[Any], *, full: bool = False, flag: str = "--html") -> int:
    """Write models of Bokeh one below the other as a page; the number of its bytes.

    Raises InputError if the file cannot be written, or the page has more than 8 MB and `full` does not allow it.
    """
    from bokeh.embed import file_html
    from bokeh.layouts import column
    from bokeh.resources import INLINE

    heading = words(f"<h1 style='margin:0;font-size:20px'>{escape(title)}</h1>")
    text = _named_alike(file_html(column(heading, *parts, width=WIDTH), resources=INLINE, title=title)).encode()
    if len(text) > MOST_BYTES and not full:
        raise InputError(flag, f"{len(text)} bytes", f"a page of at most {MOST_BYTES}, or --full")
    with open_output(target, flag) as file:
        file.write(text)
    return len(text)


def _named_alike(text: str) -> str:
    """Names of models numbered as they come, so that the same content is the same bytes."""
    names: dict[str, str] = {}
    return re.sub(_NAMES, lambda found: names.setdefault(found[0], _name(found[0], len(names))), text)


def _name(old: str, number: int) -> str:
    return f'"p{number + 1000}"' if old.startswith('"') else f"00000000-0000-4000-8000-{number:012d}"


def words(html: str, width: int = WIDTH) -> Any:
    """Text between figures, as HTML: what comes from a file must be escaped."""
    from bokeh.models.widgets.markups import Div

    return Div(text=html, width=width, styles={"font-family": "sans-serif", "font-size": "14px"})


def plot(**options: Any) -> Any:
    """A figure of Bokeh with the tools that every figure of a page has."""
    from bokeh.plotting import figure

    drawn = figure(**{"tools": "pan,wheel_zoom,box_zoom,reset,save", **options})
    drawn.toolbar.logo, drawn.toolbar.autohide = None, True
    return drawn


def grid(figures: Sequence[Any], columns: int = 3) -> Any:
    """Figures side by side, each with its own tools."""
    from bokeh.layouts import gridplot

    rows = [list(figures[i : i + columns]) for i in range(0, len(figures), columns)]
    return gridplot(rows, merge_tools=False, toolbar_location=None)


def heading(text: str) -> Any:
    """The title of a part of a page."""
    return words(f"<h2 style='margin:14px 0 0;font-size:16px'>{escape(text)}</h2>")


def counted(count: int, noun: str) -> str:
    """So many of something, with an s where there is not one."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def banner(colour: str, headline: str, sentences: Sequence[str]) -> Any:
    """What a reader sees first: a line on a colour, and what it rests on, a sentence a line. All are plain text."""
    said = "".join(f"<div style='margin-top:4px'>{escape(one)}</div>" for one in sentences)
    first = f"<b style='font-size:16px;color:{colour}'>{escape(headline)}.</b>"
    return words(f"<div style='border-left:8px solid {colour};padding:6px 12px;background:#f6f6f6'>{first}{said}</div>")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Any:
    """A table of words; the first columns to the left, all others to the right."""
    return words(table_html(heads, [[escape(cell) for cell in row] for row in rows], left=left))


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """The same as HTML, of cells that are HTML."""
    cell = "padding:2px 10px;border-bottom:1px solid #ddd;text-align:"
    sides = ["left" if i < left else "right" for i in range(len(heads))]
    top = "".join(f"<th style='{cell}{side}'>{escape(head)}</th>" for side, head in zip(sides, heads, strict=True))
    lines = (
        "".join(f"<td style='{cell}{side}'>{one}</td>" for side, one in zip(sides, row, strict=True)) for row in rows
    )
    return (
        f"<table style='border-collapse:collapse'><tr>{top}</tr>{''.join(f'<tr>{one}</tr>' for one in lines)}</table>"
    )
