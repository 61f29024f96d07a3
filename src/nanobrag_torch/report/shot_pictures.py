"""What the page of a shot shows, as pictures: the same charts and the same boxes, by matplotlib, PNG or SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.io.picture import NO_PIXEL, picture_format
from nanobrag_torch.report.charts import DOTS_PER_INCH, write_charts
from nanobrag_torch.report.shoeboxes import EACH, KINDS, LIMIT, SIZE, box_label, montage_blocks, shown_pictures
from nanobrag_torch.report.shot_charts import shot_charts
from nanobrag_torch.report.shot_data import Boxes, Shot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

INCHES_A_BOX = 0.9


def write_shot_charts(target: Target, shot: Shot, *, flag: str = "--output") -> None:
    """What a fit left over, as a picture. Raises InputError for a shot without a fit, or a file that fails."""
    if shot.boxes is None:
        raise InputError(flag, shot.name, "a shot whose fit left boxes of pixels")
    write_charts(target, list(shot_charts(shot)), flag=flag)


def write_montage(target: Target, boxes: Boxes, *, flag: str = "--output") -> None:
    """The worst, the middle and the best boxes: data, model and residual over sigma. Raises InputError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = EACH + 1.25, 9.3
    figure = Figure(figsize=(INCHES_A_BOX * width, INCHES_A_BOX * height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(-1.25, EACH), ylim=(9.0, -0.3))
    axes.set_axis_off()
    for name, chosen, top in montage_blocks(boxes):
        axes.text(-1.2, top - 0.06, name, fontsize=10, fontweight="bold")
        for place, box in enumerate(chosen):
            axes.text(place + SIZE / 2, top - 0.06, box_label(boxes, int(box)), fontsize=7, ha="center")
            for kind, picture in enumerate(shown_pictures(boxes, int(box))):
                _draw(axes, picture, kind, place, top + 0.92 * kind)
        for kind, said in enumerate(KINDS):
            axes.text(-0.08, top + 0.92 * kind + SIZE / 2, said, fontsize=8, ha="right", va="center")
    axes.set(xlim=(-1.25, EACH), ylim=(9.0, -0.3))
    axes.set_aspect("auto")
    with open_output(target, flag) as file:
        figure.savefig(file, format=picture_format(target), dpi=DOTS_PER_INCH)


def _draw(
    axes: Axes, picture: np.ndarray[tuple[int, ...], np.dtype[np.float32]], kind: int, x: float, y: float
) -> None:
    from matplotlib import colormaps

    colours = colormaps["RdBu_r" if kind == 2 else "gray_r"].with_extremes(bad=NO_PIXEL)
    ends = (-LIMIT, LIMIT) if kind == 2 else (0.0, 1.0)
    extent = (x, x + SIZE, y + SIZE, y)
    axes.imshow(picture, cmap=colours, vmin=ends[0], vmax=ends[1], extent=extent, interpolation="nearest")
    axes.add_patch(_frame(x, y))


def _frame(x: float, y: float) -> Patch:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), SIZE, SIZE, fill=False, edgecolor="#c8c8c8", linewidth=0.6)
