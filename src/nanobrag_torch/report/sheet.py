"""Thumbnails of images with the boxes of their spots, each to zoom into by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.io.picture import NO_PIXEL, grey_range
from nanobrag_torch.io.plane import pixel_plane
from nanobrag_torch.report.page import plot
from nanobrag_torch.report.pyramid import compact

FRAME = 330  # screen pixels of a thumbnail, and cells of its image
COLOURS = ("#2060b0", "#d08000", "#208040", "#c02020", "#7040a0")


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """An image (slow, fast) and its spots: columns fast0 fast1 slow0 slow1 lattice, and what the pointer says."""

    title: str
    image: NDArray[Any]
    spots: Mapping[str, NDArray[Any]]
    says: Sequence[str] = ()


def sheet(thumbnails: Sequence[Thumbnail]) -> tuple[list[Any], list[Any]]:
    """Figures of thumbnails, and the boxes in them, which a switch may hide."""
    drawn = [_thumbnail(one) for one in thumbnails]
    return [figure for figure, _ in drawn], [boxes for _, boxes in drawn if boxes is not None]


def _thumbnail(one: Thumbnail) -> tuple[Any, Any | None]:
    from bokeh.models.mappers import LogColorMapper
    from bokeh.models.tools import HoverTool
    from bokeh.palettes import Greys256

    slow, fast = one.image.shape
    pixels = one.image.astype(np.float32)
    block = max(1, -(-max(slow, fast) // FRAME))
    raster = pixel_plane((slow, fast)).raster([pixels], block)
    side = max(slow, fast)
    drawn = plot(
        title=one.title, frame_width=FRAME, frame_height=FRAME, x_range=((fast - side) / 2, (fast + side) / 2),
        y_range=((slow + side) / 2, (slow - side) / 2), background_fill_color=NO_PIXEL, active_scroll="wheel_zoom",
        toolbar_location="above",
    )  # fmt: skip
    drawn.axis.visible = drawn.grid.visible = False
    white, black = grey_range(np.nan_to_num(raster.values))
    greys = LogColorMapper(palette=Greys256[::-1], low=white, high=black, nan_color=NO_PIXEL)
    glyph = drawn.image([compact(raster.values)], 0, 0, *raster.size, color_mapper=greys, level="image")
    highest = "photons" if block == 1 else f"highest of {block} x {block}"
    tips = [("fast, slow", "$x{0}, $y{0}"), (highest, "@image{0.[00]}")]
    drawn.add_tools(HoverTool(renderers=[glyph], tooltips=tips, visible=False))
    return drawn, _boxes(drawn, one) if len(one.spots.get("fast0", ())) else None


def _boxes(drawn: Any, one: Thumbnail) -> Any:
    from bokeh.models.sources import ColumnDataSource
    from bokeh.models.tools import HoverTool

    lattice = np.asarray(one.spots["lattice"]).astype(np.int64)
    columns = {name: np.asarray(one.spots[name]) for name in ("fast0", "fast1", "slow0", "slow1")}
    source = ColumnDataSource(
        {**columns, "says": list(one.says), "colour": [COLOURS[i % len(COLOURS)] for i in lattice]}
    )
    boxes = drawn.quad(
        left="fast0", right="fast1", top="slow0", bottom="slow1", source=source, line_color="colour", fill_alpha=0,
        line_alpha=0.8,
    )  # fmt: skip
    drawn.add_tools(HoverTool(renderers=[boxes], tooltips=[("spot", "@says")], visible=False))
    return boxes
