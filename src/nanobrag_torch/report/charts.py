"""Charts as data: one description, drawn by Bokeh for pages and by matplotlib for PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.io.picture import DOTS_PER_INCH, save_figure
from nanobrag_torch.report.page import plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

BLUE, RED, GREY, ORANGE, GREEN = "#2060b0", "#c02020", "#b0b0b0", "#d08000", "#208040"
WIDTH, HEIGHT = 380, 300  # screen pixels
_SHORT = "return tick >= 1e5 ? tick.toExponential().replace('+', '') : String(Number(tick.toPrecision(6)))"
STEPS = [1, 2, 2.5, 5, 10]
LOG_STEPS = (1,), (1, 3), (1, 2, 5)
NARROW = 10.0  # highest over lowest of a logarithmic axis, below which its numbers are those of a linear one
MOST_LABELS, MOST_POWERS = 6, 4
LEAST_BAR = 0.5  # where a bar of a count begins on a logarithmic axis


@dataclass(frozen=True, eq=False)
class Series:
    """Points, a line, or bars between edges (one x more than y); `says` has words for the pointer, one a point."""

    x: ArrayLike
    y: ArrayLike
    kind: str = "points"
    name: str = ""
    colour: str = BLUE
    says: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Chart:
    """Series on one pair of axes. marks: values of y with a thin line across. equal: both axes in one scale."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_log: bool = False
    y_log: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    marks: Sequence[float] = ()
    equal: bool = False


def histogram(values: ArrayLike, edges: int | NDArray[Any] = 30, **options: Any) -> Series:
    """Bars that count the finite values between edges, or in so many equal bins."""
    found = np.asarray(values, np.float64)
    counts, at = np.histogram(found[np.isfinite(found)], edges)
    return Series(at, counts, "bars", **options)


def chart_model(chart: Chart, width: int = WIDTH, height: int = HEIGHT) -> Any:
    """The chart as a figure of Bokeh, with zoom and with words under the pointer."""
    from bokeh.models.annotations import Span
    from bokeh.models.axes import LogAxis
    from bokeh.models.formatters import CustomJSTickFormatter
    from bokeh.models.labeling import NoOverlap

    given = ("x_range", chart.x_range), ("y_range", chart.y_range)
    ranges = {name: ends for name, ends in given if ends is not None}
    scales = ["log" if log else "linear" for log in (chart.x_log, chart.y_log)]
    drawn = plot(
        title=chart.title, x_axis_label=chart.x_label, y_axis_label=chart.y_label, width=width, height=height,
        x_axis_type=scales[0], y_axis_type=scales[1], **ranges, match_aspect=chart.equal,
        toolbar_location="above",
    )  # fmt: skip
    axes: list[Any] = [drawn.xaxis[0], drawn.yaxis[0]]
    for axis in axes:
        if isinstance(axis, LogAxis):
            axis.update(formatter=CustomJSTickFormatter(code=_SHORT), major_label_policy=NoOverlap(min_distance=8))
    for series in chart.series:
        _add(drawn, series, chart)
    for mark in chart.marks:
        drawn.add_layout(Span(location=mark, dimension="width", line_color="#888888", line_dash="dashed"))
    if any(series.name for series in chart.series):
        _lay_legend(drawn)
    if all(series.kind == "bars" for series in chart.series) and not chart.y_log:
        drawn.yaxis[0].ticker.update(min_interval=1, num_minor_ticks=0)  # counts are whole
    return drawn


def _lay_legend(drawn: Any) -> None:
    """Above the axes, in a line: nothing is drawn there that it could cover."""
    legend = drawn.legend[0]
    drawn.center.remove(legend)
    drawn.add_layout(legend, "above")
    legend.update(
        orientation="horizontal", label_text_font_size="11px", border_line_alpha=0, padding=0, margin=0, spacing=12,
        glyph_height=14, click_policy="hide",
    )  # fmt: skip


def _add(drawn: Any, series: Series, chart: Chart) -> None:
    from bokeh.models.sources import ColumnDataSource
    from bokeh.models.tools import HoverTool

    x, y = np.asarray(series.x), np.asarray(series.y)
    named = {"legend_label": series.name} if series.name else {}
    tips = [(chart.x_label or "x", "@x"), (chart.y_label or "y", "@y")]
    if series.kind == "line":
        drawn.line(x, y, color=series.colour, line_width=2, **named)
        return
    if series.kind == "bars":
        source = ColumnDataSource({"left": x[:-1], "right": x[1:], "y": y})
        bottom = LEAST_BAR * float(np.min(y[y > 0], initial=1.0)) if chart.y_log else 0
        glyph = drawn.quad(
            left="left", right="right", top="y", bottom=bottom, source=source, color=series.colour, line_color="white",
            fill_alpha=0.8, **named,
        )  # fmt: skip
        tips = [(chart.x_label, "@left to @right"), (chart.y_label, "@y")]
    else:
        source = ColumnDataSource({"x": x, "y": y, "says": list(series.says) or [""] * len(x)})
        glyph = drawn.scatter("x", "y", source=source, color=series.colour, size=5, alpha=0.6, **named)
        tips = [("", "@says")] * bool(series.says) + tips
    drawn.add_tools(HoverTool(renderers=[glyph], tooltips=tips))


def draw_chart(axes: Axes, chart: Chart) -> None:
    """The chart on axes of matplotlib."""
    from matplotlib.ticker import MaxNLocator

    for series in chart.series:
        named: dict[str, Any] = {"label": series.name} if series.name else {}
        x, y = np.asarray(series.x), np.asarray(series.y)
        if series.kind == "bars":
            axes.stairs(y, x, fill=True, color=series.colour, alpha=0.8, **named)
        else:
            style: dict[str, Any] = (
                {"linewidth": 1.5} if series.kind == "line" else {"linestyle": "", "marker": ".", "markersize": 4}
            )
            axes.plot(x, y, color=series.colour, **style, **named)
    for mark in chart.marks:
        axes.axhline(mark, color="#888888", linestyle="--", linewidth=0.8)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.xaxis.set_label_coords(0.5, -0.13)  # what has its place is not laid out by that of the numbers
    axes.yaxis.set_label_coords(-0.19, 0.5)
    has_legend = any(series.name for series in chart.series)
    axes.set_title(chart.title, fontsize=10, parse_math=False, y=1.0, pad=20 if has_legend else 6)
    for log, ends, axis, set_scale, set_range in (
        (chart.x_log, chart.x_range, axes.xaxis, axes.set_xscale, axes.set_xlim),
        (chart.y_log, chart.y_range, axes.yaxis, axes.set_yscale, axes.set_ylim),
    ):
        if log:
            set_scale("log")
        if ends is not None:
            set_range(*ends)
        if log:
            _say_few(axes, axis)
        else:
            axis.set_major_locator(MaxNLocator(MOST_LABELS - 1, steps=STEPS))
    if chart.equal:
        axes.set_aspect("equal", adjustable="datalim")
    if has_legend:
        axes.legend(fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 0.99), borderpad=0, frameon=False)


def _say_few(axes: Axes, axis: Axis) -> None:
    """Plain numbers on a logarithmic axis, no more than there is room for, and short ticks between, as one artist."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = sorted(map(float, axis.get_view_interval()))
    named, between = log_ticks(low, high)
    axis.set_major_locator(FixedLocator(named.tolist()))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    across = axis is axes.xaxis
    zeros = np.zeros(len(between))
    axes.plot(
        *((between, zeros) if across else (zeros, between)),
        transform=axes.get_xaxis_transform() if across else axes.get_yaxis_transform(),
        linestyle="", marker="|" if across else "_", markersize=4, markeredgewidth=0.6, color="black",
        clip_on=False, scalex=False, scaley=False,
    )  # fmt: skip


def log_ticks(low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers to write on a logarithmic axis from low to high, and places of ticks without one."""
    from matplotlib.ticker import MaxNLocator

    if high < NARROW * low:
        every = np.asarray(MaxNLocator(MOST_LABELS - 1, steps=STEPS).tick_values(low, high))
        return _within(every, low, high), every[:0]
    decades = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    named = [_within(np.outer(decades, steps).ravel(), low, high) for steps in LOG_STEPS]
    few = [found for found in named if len(found) <= MOST_POWERS]
    chosen = few[-1] if few else named[0][:: -(-len(named[0]) // MOST_POWERS)]
    return chosen, np.setdiff1d(_within(np.outer(decades, np.arange(1, 10)).ravel(), low, high), chosen)


def _within(places: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return places[(places >= low) & (places <= high)]


def _margins(columns: int, rows: int) -> dict[str, float]:
    """Room for titles, legends and labels around every chart, as matplotlib's subplots_adjust takes it."""
    left, right, bottom, top = 74, 14, 46, 44
    wide, high = WIDTH - left - right, HEIGHT - bottom - top
    return {
        "left": left / (WIDTH * columns),
        "right": 1 - right / (WIDTH * columns),
        "bottom": bottom / (HEIGHT * rows),
        "top": 1 - top / (HEIGHT * rows),
        "wspace": (left + right) / wide,
        "hspace": (bottom + top) / high,
    }


def write_charts(target: Target, charts: Sequence[Chart], *, columns: int = 3, flag: str = "--output") -> None:
    """Charts side by side as PNG or SVG, by the name of the file. Raises InputError if it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(charts))
    rows = -(-len(charts) // columns)
    size = (WIDTH * columns / DOTS_PER_INCH, HEIGHT * rows / DOTS_PER_INCH)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(**_margins(columns, rows))  # to lay out by what is drawn takes longer than to draw it
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, chart in zip(grid, charts, strict=False):
        draw_chart(axes, chart)
    for axes in list(figure.axes)[len(charts) :]:
        axes.set_axis_off()
    with open_output(target, flag) as file:
        save_figure(figure, file, target)
