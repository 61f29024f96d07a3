"""Boxes of a fit as data, model and residual: the worst, the middle and the best, and all of them where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.io.picture import NO_PIXEL, grey_range
from nanobrag_torch.io.plane import Plane, laboratory_plane, pixel_plane
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.report.charts import BLUE, RED
from nanobrag_torch.report.page import WIDTH, plot, words
from nanobrag_torch.report.shot_data import Boxes
from nanobrag_torch.report.shot_words import BAD_BOX

EACH = 10  # boxes shown of the worst, the middle and the best
CELL = 92  # screen pixels of a box
GAP = 0.06
SIZE = 0.92 - GAP
LIMIT = 5.0  # of residuals, in sigma
VIEW = 372  # screen pixels of each of the three linked views
BUDGET = 2_400_000  # bytes of pixels in the linked views
KINDS = ("data", "model", "residual / sigma")
VIEWS = (
    "One zoom for all three. Data and model are photons in the same greys; the residual is red where the model has too "
    "little, blue where it has too much, at 5 sigma in full colour."
)
_CHOOSE = """
if (slider.value == 0) {
    x_range.setv({start: whole[0], end: whole[1]});
    y_range.setv({start: whole[2], end: whole[3]});
    text.text = all;
    return;
}
const i = order[slider.value - 1], [x, y] = centres[i];
x_range.setv({start: x - reach, end: x + reach});
y_range.setv({start: y + down * reach, end: y - down * reach});
text.text = says[i];
"""


def extremes(boxes: Boxes) -> dict[str, NDArray[np.int64]]:
    """Numbers of the boxes with the highest, the middle and the lowest sigma-Z."""
    order = boxes.worst_first
    middle = max(0, len(order) // 2 - EACH // 2)
    return {"worst": order[:EACH], "middle": order[middle : middle + EACH], "best": order[::-1][:EACH]}


def montage_blocks(boxes: Boxes) -> list[tuple[str, NDArray[np.int64], float]]:
    """Name, boxes and upper edge of the worst, the middle and the best, in units of a box."""
    return [(name, chosen, 3 * block + 0.22) for block, (name, chosen) in enumerate(extremes(boxes).items())]


def shown_pictures(boxes: Boxes, box: int) -> list[NDArray[np.float32]]:
    """Data and model as greys from 0 to 1, and the residual over sigma; NaN where there is no pixel.

    Greys are 0 where the model is lowest and 1 at its highest pixel, or that of the data; square roots show the tails.
    """
    data, model, residual = boxes.pictures(box)
    low, high = float(np.nanmin(model)), float(max(np.nanmax(model), np.nanmax(data)))
    shares = [np.sqrt(np.clip((values - low) / max(high - low, 1e-9), 0, None)) for values in (data, model)]
    return [np.asarray(values, np.float32) for values in (*shares, residual)]


def box_label(boxes: Boxes, box: int) -> str:
    """h k l of a box, and its sigma-Z."""
    return f"{_hkl(boxes, box)}   {boxes.sigma_z[box]:.2f}"


def montage(boxes: Boxes) -> Any:
    """Ten boxes each of the worst, the middle and the best; greys of each box by its own model."""
    from bokeh.models.mappers import LinearColorMapper
    from bokeh.palettes import Greys256

    drawn = plot(
        x_range=(-1.25, EACH), y_range=(9.0, -0.3), frame_width=int(CELL * (EACH + 1.25)),
        frame_height=int(CELL * 9.3), background_fill_color="white",
    )  # fmt: skip
    drawn.axis.visible = drawn.grid.visible = False
    greys = LinearColorMapper(palette=Greys256[::-1], low=0, high=1, nan_color=NO_PIXEL)
    for name, chosen, top in montage_blocks(boxes):
        for kind in range(len(KINDS)):
            mapper = _residual_mapper() if kind == 2 else greys
            _montage_row(drawn, boxes, chosen, kind, top + 0.92 * kind, mapper)
        labels = [box_label(boxes, i) for i in chosen]
        at = np.arange(len(chosen)) + 0.45
        drawn.text(at, top - 0.04, labels, text_font_size="11px", text_align="center", text_baseline="bottom")
        heights = [top + 0.45, top + 1.37, top + 2.29]
        drawn.text(-0.08, heights, list(KINDS), text_font_size="12px", text_align="right", text_baseline="middle")
        drawn.text(-1.2, [top - 0.04], [name], text_font_size="14px", text_font_style="bold", text_baseline="bottom")
    return drawn


def _montage_row(drawn: Any, boxes: Boxes, chosen: NDArray[np.int64], kind: int, top: float, mapper: Any) -> None:
    from bokeh.models.sources import ColumnDataSource
    from bokeh.models.tools import HoverTool

    columns = {
        "image": [shown_pictures(boxes, int(i))[kind] for i in chosen],
        "value": [boxes.pictures(int(i))[kind] for i in chosen], "hkl": [_hkl(boxes, i) for i in chosen],
        "x": np.arange(len(chosen)) + GAP / 2, "sigma_z": boxes.sigma_z[chosen],
    }  # fmt: skip
    glyph = drawn.image("image", "x", top, SIZE, SIZE, source=ColumnDataSource(columns), color_mapper=mapper)
    middle = np.arange(len(chosen)) + (GAP + SIZE) / 2
    drawn.rect(middle, top + SIZE / 2, SIZE, SIZE, fill_color=None, line_color="#c8c8c8")
    unit = "photons" if kind < 2 else "sigma"
    tips = [("hkl", "@hkl"), (KINDS[kind], f"@value{{0.[00]}} {unit}"), ("sigma-Z of the box", "@sigma_z{0.00}")]
    drawn.add_tools(HoverTool(renderers=[glyph], tooltips=tips, visible=False))


def linked_views(boxes: Boxes, experiment: ExperimentData) -> list[Any]:
    """Data, model and residual side by side with one zoom, panels where they stand; a slider goes from box to box."""
    from bokeh.layouts import row

    several = int(boxes.image_shape[0]) > 1
    slow, fast = map(int, boxes.image_shape[1:])
    assert experiment.detector is not None and experiment.beam is not None
    plane = laboratory_plane(experiment.detector, experiment.beam) if several else pixel_plane((slow, fast))
    order = boxes.worst_first
    chosen = _affordable(boxes, order)
    figures = _views(boxes, plane, chosen)
    says = words("", 800)
    whole = f"{len(chosen)} boxes of {len(order)}: blue ones, and red ones whose sigma-Z is above {BAD_BOX:g}."
    slider = _slider(boxes, plane, order, figures[0], says, whole)
    return [words(VIEWS), row(slider, says, width=WIDTH), row(*figures, width=WIDTH)]


def _affordable(boxes: Boxes, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """All boxes, or as many as the page has room for, from the worst on evenly to the best."""
    size = boxes.corners[0]
    most = max(BUDGET // int((size[1] - size[0]) * (size[3] - size[2]) * 12), 1)
    if len(order) <= most:
        return order
    return order[np.linspace(0, len(order) - 1, most).astype(np.int64)]


def _views(boxes: Boxes, plane: Plane, chosen: NDArray[np.int64]) -> list[Any]:
    from bokeh.models.mappers import LogColorMapper
    from bokeh.models.ranges import Range1d
    from bokeh.palettes import Greys256

    low, high = plane.bounds
    middle, half = (low + high) / 2, (high - low).max() / 2
    ends = (middle[1] + half, middle[1] - half) if plane.in_pixels else (middle[1] - half, middle[1] + half)
    white, black = grey_range(boxes.data)
    greys = LogColorMapper(palette=Greys256[::-1], low=white, high=black, nan_color=NO_PIXEL)
    ranges = {"x_range": Range1d(middle[0] - half, middle[0] + half), "y_range": Range1d(*ends)}
    pictures = [boxes.pictures(int(i)) for i in chosen]
    found = []
    for kind, title in enumerate(KINDS):
        drawn = plot(
            title=title, frame_width=VIEW - 50, frame_height=VIEW - 50, tools="pan,wheel_zoom,box_zoom,reset",
            active_scroll="wheel_zoom", background_fill_color=NO_PIXEL, **ranges,
        )  # fmt: skip
        drawn.grid.visible = False
        drawn.xaxis.axis_label = "fast (pixels)" if plane.in_pixels else "x (mm)"
        drawn.yaxis.axis_label = "slow (pixels)" if plane.in_pixels else "y (mm)"
        mapper = _residual_mapper() if kind == 2 else greys
        _draw_tiles(drawn, boxes, plane, chosen, [p[kind] for p in pictures], mapper, KINDS[kind])
        found.append(drawn)
    return found


def _draw_tiles(
    drawn: Any, boxes: Boxes, plane: Plane, chosen: NDArray[np.int64], values: Sequence[NDArray[np.float32]],
    mapper: Any, what: str,
) -> None:  # fmt: skip
    from bokeh.models.sources import ColumnDataSource
    from bokeh.models.tools import HoverTool

    tiles = [plane.tile(v, int(boxes.panel[i]), *_corner(boxes, i)) for i, v in zip(chosen, values, strict=True)]
    z = boxes.sigma_z[chosen]
    centres = _centres(boxes, plane)[chosen]
    columns = {
        "image": [t.values for t in tiles], "x": [t.low[0] for t in tiles], "y": [t.low[1] for t in tiles],
        "w": [t.size[0] for t in tiles], "h": [t.size[1] for t in tiles], "sigma_z": z,
        "hkl": [_hkl(boxes, i) for i in chosen], "cx": centres[:, 0], "cy": centres[:, 1],
        "colour": np.where(z > BAD_BOX, RED, BLUE),
    }  # fmt: skip
    source = ColumnDataSource(columns)
    glyph = drawn.image("image", "x", "y", "w", "h", source=source, color_mapper=mapper, level="image")
    drawn.scatter("cx", "cy", source=source, marker="square", size=9, fill_color=None, line_color="colour", alpha=0.8)
    tips = [("hkl", "@hkl"), (what, "@image{0.[00]}"), ("sigma-Z of the box", "@sigma_z{0.00}")]
    drawn.add_tools(HoverTool(renderers=[glyph], tooltips=tips))


def _slider(boxes: Boxes, plane: Plane, order: NDArray[np.int64], figure: Any, text: Any, every: str) -> Any:
    """A slider from box to box, which begins at the worst; at 0 all boxes are in the view."""
    from bokeh.models.callbacks import CustomJS
    from bokeh.models.widgets.sliders import Slider

    slider = Slider(
        start=0, end=max(len(order), 2), value=1, step=1, title="box, from the worst on (0: all)", width=320
    )
    photons = np.bincount(boxes.box, boxes.spot, minlength=len(boxes))
    reach = 1.2 * float(boxes.corners[0][1] - boxes.corners[0][0]) * plane.pixel / 2
    says = [
        f"{_hkl(boxes, i)}: sigma-Z {boxes.sigma_z[i]:.2f}, {photons[i]:.0f} photons by the model"
        for i in range(len(boxes))
    ]
    x_range, y_range, down = figure.x_range, figure.y_range, 1 if plane.in_pixels else -1
    whole = [x_range.start, x_range.end, y_range.start, y_range.end]
    centres = _centres(boxes, plane)
    if len(order):
        x, y = centres[order[0]]
        x_range.update(start=x - reach, end=x + reach)
        y_range.update(start=y + down * reach, end=y - down * reach)
        text.text = says[order[0]]
    arguments = {
        "slider": slider, "whole": whole, "all": every, "order": order.tolist(), "centres": centres.tolist(),
        "says": says, "x_range": x_range, "y_range": y_range, "reach": reach, "down": down, "text": text,
    }  # fmt: skip
    slider.js_on_change("value", CustomJS(args=arguments, code=_CHOOSE))
    return slider


def _centres(boxes: Boxes, plane: Plane) -> NDArray[np.float64]:
    return np.stack([plane.place(int(p), c) for p, c in zip(boxes.panel, boxes.centre, strict=True)])


def _corner(boxes: Boxes, box: int) -> tuple[int, int]:
    fast0, _, slow0, _ = boxes.corners[box]
    return int(slow0), int(fast0)


def _residual_mapper() -> Any:
    from bokeh.models.mappers import LinearColorMapper
    from bokeh.palettes import RdBu11, interp_palette

    return LinearColorMapper(palette=interp_palette(RdBu11, 255), low=-LIMIT, high=LIMIT, nan_color=NO_PIXEL)


def _hkl(boxes: Boxes, box: int) -> str:
    return " ".join(map(str, boxes.hkl[box]))
