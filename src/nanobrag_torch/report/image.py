"""The page of an image: zoom, contrast, values and resolution under the pointer, panels where they stand."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.io.atomic import Target
from nanobrag_torch.io.picture import BEAM_COLOUR, NO_PIXEL, RING_COLOUR, grey_range
from nanobrag_torch.io.plane import Panels, Plane, beam_place, laboratory_plane, pixel_plane, ring_label, rings
from nanobrag_torch.records.experiment import BeamData, DetectorData, ExperimentData
from nanobrag_torch.records.frames import incident
from nanobrag_torch.report.page import WIDTH, plot, words, write_page
from nanobrag_torch.report.pyramid import Level, compact, levels

FRAME = 600  # screen pixels of the longer side of the image
NEVER = 2**32 - 1  # what 32-bit files write where there is no pixel

# Finer images appear when each of their cells has a screen pixel of its own; a browser drops some before.
_SHOW_LEVELS = """
const width = range.end - range.start;
let finest = 0;
for (let i = 1; i < cells.length; i++) if (Math.abs(width) / cells[i] <= frame) finest = i;
const tiles = whole.length > 1 && !whole[whole.length - 1];
const base = tiles && finest == cells.length - 1 ? finest - 1 : finest;
for (let i = 0; i < cells.length; i++) shown[i].visible = i == base || i == finest;
"""
_CONTRAST = """
const [low, high] = slider.value.map(v => 10 ** v);
for (const mapper of mappers) { mapper.low = low; mapper.high = high; }
for (const glyph of glyphs) glyph.color_mapper = mappers[scale.active];
bar.color_mapper = mappers[scale.active];
text.text = `white below ${low.toPrecision(3)}, black above ${high.toPrecision(3)}`;
"""
# Under the pointer: the panel, its pixel and the resolution there.
_WHERE = """
const x = special_vars.x, y = special_vars.y;
for (const p of panels) {
    const u = x - p.corner[0], v = y - p.corner[1];
    const fast = u * p.inverse[0] + v * p.inverse[2], slow = u * p.inverse[1] + v * p.inverse[3];
    if (fast < 0 || slow < 0 || fast >= p.size[1] || slow >= p.size[0]) continue;
    let said = `${p.name} fast ${Math.floor(fast)}, slow ${Math.floor(slow)}`;
    if (p.origin) {
        const at = p.origin.map((o, i) => o + fast * p.fast[i] + slow * p.slow[i]);
        const length = Math.hypot(...at);
        const inverse_d = Math.hypot(...at.map((a, i) => a / length - beam[i])) / wavelength;
        said += `, ${(1 / inverse_d).toFixed(3)} \\u00c5`;
    }
    return said;
}
return "between panels";
"""


def write_image_page(
    target: Target,
    image: NDArray[Any],
    experiment: ExperimentData | None = None,
    *,
    title: str = "image",
    full: bool = False,
) -> int:
    """Write the page of an image (slow, fast) or (panel, slow, fast); the number of its bytes.

    Several panels stand as seen along the beam where their geometry is known, else one below the other. `full` carries
    every pixel, however large the page. Raises InputError if the file cannot be written.
    """
    panels, plane, detector, beam = _arranged(image, experiment)
    images = levels(plane, panels, full=full)
    figure, renderers, mappers, bar = _figure(plane, images)
    _add_hover(figure, plane, images, renderers, detector, beam)
    marks = _add_rings(figure, plane, detector, beam)
    controls = _controls(images[0], renderers, mappers, bar, marks)
    text = _says(panels, plane, images, detector, beam)
    return write_page(target, title, [text, controls, figure], full=full)


def _arranged(
    image: NDArray[Any], experiment: ExperimentData | None
) -> tuple[Panels, Plane, DetectorData | None, BeamData | None]:
    detector = None if experiment is None else experiment.detector
    beam = None if experiment is None else experiment.beam
    if image.ndim == 3 and (detector is None or beam is None):
        image, detector = image.reshape(-1, image.shape[-1]), None
    panels = [_measured(part) for part in (image if image.ndim == 3 else [image])]
    if detector is not None:
        for part, panel in zip(panels, detector.panels, strict=True):
            part[~panel.good_pixels()] = np.nan
    if image.ndim == 3 and detector is not None and beam is not None:
        return panels, laboratory_plane(detector, beam), detector, beam
    return panels, pixel_plane((image.shape[0], image.shape[1])), detector, beam


def _measured(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Pixels as the page shows them; NaN for what is no number, and for marks of 32-bit files."""
    found = np.array(pixels, np.float32)
    found[~np.isfinite(found)] = np.nan
    if pixels.dtype.kind == "u":
        found[pixels == NEVER] = np.nan
    return found


def _figure(plane: Plane, images: tuple[Level, ...]) -> tuple[Any, list[Any], list[Any], Any]:
    from bokeh.models.annotations.legends import ColorBar
    from bokeh.models.mappers import LinearColorMapper, LogColorMapper
    from bokeh.models.ranges import Range1d
    from bokeh.models.tools import BoxZoomTool
    from bokeh.palettes import Greys256

    low, high = plane.bounds
    unit = "pixels" if plane.in_pixels else "mm"
    ends = (high[1], low[1]) if plane.in_pixels else (low[1], high[1])
    share = (high - low) / (high - low).max()
    drawn = plot(
        x_range=Range1d(low[0], high[0]),
        y_range=Range1d(*ends),
        frame_width=max(int(FRAME * share[0]), 200),
        frame_height=max(int(FRAME * share[1]), 200),
        active_scroll="wheel_zoom",
        x_axis_label=f"fast ({unit})" if plane.in_pixels else f"x, seen along the beam ({unit})",
        y_axis_label=f"slow ({unit})" if plane.in_pixels else f"y ({unit})",
        background_fill_color=NO_PIXEL,
    )
    drawn.grid.visible = False
    for tool in drawn.tools:
        if isinstance(tool, BoxZoomTool):
            tool.match_aspect = True
    white, black = grey_range(np.nan_to_num(images[0].rasters[0].values))
    options: dict[str, Any] = {"palette": Greys256[::-1], "low": white, "high": black, "nan_color": NO_PIXEL}
    mappers = [LogColorMapper(**options), LinearColorMapper(**options)]
    renderers = add_levels(drawn, plane, images, mappers[0])
    bar = ColorBar(color_mapper=mappers[0], title="pixel value")
    drawn.add_layout(bar, "right")
    return drawn, renderers, mappers, bar


def add_levels(drawn: Any, plane: Plane, images: tuple[Level, ...], mapper: Any) -> list[Any]:
    """Draw images from coarse to fine, each shown when a screen has the pixels for it; a renderer each."""
    from bokeh.models.callbacks import CustomJS

    renderers = [_draw(drawn, level, mapper) for level in images]
    for renderer in renderers[1:]:
        renderer.visible = False
    cells = [level.block * plane.pixel for level in images]
    whole = [len(level.rasters) == 1 for level in images]
    arguments = {"range": drawn.x_range, "cells": cells, "whole": whole, "shown": renderers, "frame": drawn.frame_width}
    show = CustomJS(args=arguments, code=_SHOW_LEVELS)
    drawn.x_range.js_on_change("start", show)
    drawn.x_range.js_on_change("end", show)
    return renderers


def _draw(figure: Any, level: Level, mapper: Any) -> Any:
    rasters = level.rasters
    return figure.image(
        image=[compact(r.values) for r in rasters],
        x=[r.low[0] for r in rasters],
        y=[r.low[1] for r in rasters],
        dw=[r.size[0] for r in rasters],
        dh=[r.size[1] for r in rasters],
        color_mapper=mapper,
        level="image",
    )


def _add_hover(
    figure: Any,
    plane: Plane,
    images: tuple[Level, ...],
    renderers: list[Any],
    detector: DetectorData | None,
    beam: BeamData | None,
) -> None:
    from bokeh.models.tools import CustomJSHover, HoverTool

    known = detector if beam is not None else None
    arguments: dict[str, Any] = {"panels": _panels_of_script(plane, known), "beam": None, "wavelength": None}
    if beam is not None:
        arguments |= {"beam": incident(beam).tolist(), "wavelength": beam.wavelength_A}
    where = CustomJSHover(args=arguments, code=_WHERE)
    for number, (level, renderer) in enumerate(zip(images, renderers, strict=True)):
        tips = [("at", "$x{custom}"), (level.says, "@image{0.[0000]}")]
        figure.add_tools(HoverTool(renderers=[renderer], tooltips=tips, formatters={"$x": where}, visible=number == 0))


def _panels_of_script(plane: Plane, detector: DetectorData | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, size in enumerate(plane.sizes):
        one: dict[str, Any] = {
            "name": "" if len(plane.sizes) == 1 else f"panel {number}",
            "corner": plane.corners[number].tolist(),
            "inverse": np.linalg.pinv(plane.steps[number]).reshape(-1).tolist(),
            "size": [0, 0] if plane.is_edge_on(number) else list(size),
            "origin": None,
        }
        if detector is not None:
            panel = detector.panels[number]
            one["origin"] = panel.origin_mm.tolist()
            one["fast"] = (panel.fast * panel.pixel_size_mm[0]).tolist()
            one["slow"] = (panel.slow * panel.pixel_size_mm[1]).tolist()
        found.append(one)
    return found


def _add_rings(figure: Any, plane: Plane, detector: DetectorData | None, beam: BeamData | None) -> list[Any]:
    """Rings of resolution with their labels, and the beam; what was drawn."""
    if detector is None or beam is None:
        return []
    centre, found = beam_place(plane, detector, beam), rings(plane, detector, beam)
    lines = [points for _, points in found]
    labels = [(*ring_label(plane, points), label) for label, points in found]
    drawn = [figure.multi_line([p[:, 0] for p in lines], [p[:, 1] for p in lines], color=RING_COLOUR, alpha=0.7)]
    x, y, text = zip(*labels, strict=True) if labels else ((), (), ())
    drawn.append(
        figure.text(
            x, y, text, color=RING_COLOUR, text_font_size="13px", text_align="right", background_fill_color="white"
        )
    )
    if centre is not None:
        drawn.append(figure.scatter([centre[0]], [centre[1]], marker="cross", size=20, color=BEAM_COLOUR, line_width=2))
    return drawn


def _controls(overview: Level, renderers: list[Any], mappers: list[Any], bar: Any, marks: list[Any]) -> Any:
    from bokeh.layouts import row
    from bokeh.models.callbacks import CustomJS
    from bokeh.models.widgets.buttons import Toggle
    from bokeh.models.widgets.groups import RadioButtonGroup
    from bokeh.models.widgets.sliders import RangeSlider

    white, black = np.log10([mappers[0].low, mappers[0].high])
    top = max(float(np.nan_to_num(overview.rasters[0].values).max()), 10**black)
    bottom = min(white - 1, black - 4)
    slider = RangeSlider(
        start=bottom, end=np.log10(top) + 0.01, value=(white, black), step=0.01, show_value=False, title="contrast"
    )
    scale = RadioButtonGroup(labels=["logarithmic", "linear"], active=0)
    text = words(f"white below {10**white:.3g}, black above {10**black:.3g}", 320)
    arguments = {"slider": slider, "mappers": mappers, "glyphs": [r.glyph for r in renderers], "scale": scale}
    change = CustomJS(args={**arguments, "bar": bar, "text": text}, code=_CONTRAST)
    slider.js_on_change("value", change)
    scale.js_on_change("active", change)
    parts = [slider, scale, text]
    if marks:
        switch = Toggle(label="rings and beam", active=True)
        for drawn in marks:
            switch.js_link("active", drawn, "visible")
        parts.append(switch)
    return row(*parts, width=WIDTH)


def _says(
    panels: Panels, plane: Plane, images: tuple[Level, ...], detector: DetectorData | None, beam: BeamData | None
) -> Any:
    """In two lines what the image is and how it is shown."""
    measured = [part[np.isfinite(part)] for part in panels]
    count, every = sum(part.size for part in measured), sum(part.size for part in panels)
    slow, fast = plane.sizes[0]
    said = [f"{len(panels)} panels of" if len(panels) > 1 else "", f"{fast} x {slow} pixels (fast x slow)"]
    if count:
        ends = min(part.min() for part in measured if part.size), max(part.max() for part in measured if part.size)
        said.append(f"from {ends[0]:g} to {ends[1]:g}")
    said.append(f"{every - count} without a measurement" if count < every else "")
    said.append(f"{beam.wavelength_A:.5g} Å" if beam is not None else "no geometry: no rings")
    facts = " · ".join(part for part in said if part).replace("of · ", "of ")
    shown = [f"{level.says} {'around the brightest' if len(level.rasters) > 1 else ''}".strip() for level in images]
    return words(f"{escape(facts)}<br>Shown from far to near: {escape(', then '.join(shown))}.")
