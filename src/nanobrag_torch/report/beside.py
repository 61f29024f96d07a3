"""Two images and their difference beside each other, with one zoom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.io.picture import NO_PIXEL, grey_range
from nanobrag_torch.io.plane import Plane, pixel_plane
from nanobrag_torch.report.image import add_levels
from nanobrag_torch.report.page import plot
from nanobrag_torch.report.pyramid import TILE, Level

FRAME = 316  # screen pixels, and cells of the overview
MOST_TILES = 100
DECADES = 3.0  # of differences that are shown
Image = NDArray[np.float32]


def beside(a: Image, b: Image, names: tuple[str, str]) -> list[Any]:
    """Figures of a, b and b - a (slow, fast): overviews that keep the strongest pixel, single pixels where they differ.

    The difference is shown as the logarithm of its size with its sign, three decades below the largest.
    """
    from bokeh.models.mappers import LogColorMapper
    from bokeh.palettes import Greys256

    plane, difference = pixel_plane((a.shape[0], a.shape[1])), b - a
    white, black = grey_range(np.nan_to_num(a))
    greys = LogColorMapper(palette=Greys256[::-1], low=white, high=black, nan_color=NO_PIXEL)
    places = _places(np.where(np.any(difference != 0), np.abs(difference), a))
    found: list[Any] = []
    for name, image in (*zip(names, (a, b), strict=True), ("difference b - a", difference)):
        shared = {"x_range": found[0].x_range, "y_range": found[0].y_range} if found else _ranges(plane)
        drawn = plot(
            title=name, frame_width=FRAME, frame_height=FRAME, active_scroll="wheel_zoom", x_axis_label="fast (pixels)",
            y_axis_label="slow (pixels)", background_fill_color=NO_PIXEL, **shared,
        )  # fmt: skip
        drawn.grid.visible = False
        images = _levels(plane, image, places)
        _draw(drawn, plane, images, greys if image is not difference else None, difference)
        found.append(drawn)
    return found


def _ranges(plane: Plane) -> dict[str, Any]:
    slow, fast = plane.sizes[0]
    side = max(slow, fast)
    return {
        "x_range": ((fast - side) / 2, (fast + side) / 2),
        "y_range": ((slow + side) / 2, (slow - side) / 2),
    }


def _places(weight: Image) -> list[tuple[int, int]]:
    """First pixels of the squares with the strongest pixels."""
    slow, fast = (np.arange(0, size, TILE) for size in weight.shape)
    tops = np.maximum.reduceat(np.maximum.reduceat(np.nan_to_num(weight), slow, axis=0), fast, axis=1)
    best = np.argsort(-tops, axis=None, kind="stable")[:MOST_TILES]
    rows, columns = np.unravel_index(best, tops.shape)
    return [(int(slow[r]), int(fast[c])) for r, c in zip(rows, columns, strict=True)]


def _levels(plane: Plane, image: Image, places: list[tuple[int, int]]) -> tuple[Level, ...]:
    block = max(1, -(-max(image.shape) // FRAME))
    overview = Level((plane.strongest([image], block),), block)
    if block == 1:
        return (overview,)
    tiles = tuple(plane.tile(image[s : s + TILE, f : f + TILE], 0, s, f) for s, f in places)
    return overview, Level(tiles, 1)


def _draw(drawn: Any, plane: Plane, images: tuple[Level, ...], mapper: Any, difference: Image) -> None:
    from bokeh.models.tools import HoverTool

    largest = float(np.nanmax(np.abs(difference), initial=0.0)) or 1.0
    shown = images if mapper is not None else tuple(_signed_levels(level, largest) for level in images)
    column = "value" if mapper is None else "image"
    renderers = add_levels(drawn, plane, shown, _signed_mapper() if mapper is None else mapper)
    for number, (level, renderer) in enumerate(zip(images, renderers, strict=True)):
        if mapper is None:
            renderer.data_source.data["value"] = [raster.values for raster in level.rasters]
        says = "strongest" if level.block > 1 else "pixel value"
        tips = [("fast, slow", "$x{0}, $y{0}"), (says, f"@{column}{{0.[000000]}}")]
        drawn.add_tools(HoverTool(renderers=[renderer], tooltips=tips, visible=number == 0))


def _signed_levels(level: Level, largest: float) -> Level:
    return Level(tuple(replace(r, values=signed_decades(r.values, largest)) for r in level.rasters), level.block)


def signed_decades(values: Image, largest: float) -> Image:
    """The sign times the decades above a thousandth of the largest, over the decades there are: from -1 to 1."""
    above = 1 + np.log10(np.maximum(np.abs(values) / largest, 10**-DECADES)) / DECADES
    return np.asarray(np.sign(values) * above, np.float32)


def _signed_mapper() -> Any:
    from bokeh.models.mappers import LinearColorMapper
    from bokeh.palettes import RdBu11, interp_palette

    return LinearColorMapper(palette=interp_palette(RdBu11, 255), low=-1, high=1, nan_color=NO_PIXEL)
