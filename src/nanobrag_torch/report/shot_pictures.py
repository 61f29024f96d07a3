"""What the page of a shot shows, as pictures: the same charts and the same boxes, by matplotlib, PNG or SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.io.picture import DOTS_PER_INCH, NO_PIXEL, save_figure
from nanobrag_torch.report.charts import write_charts
from nanobrag_torch.report.shoeboxes import EACH, KINDS, LIMIT, SIZE, box_label, montage_blocks, shown_pictures
from nanobrag_torch.report.shot_charts import shot_charts
from nanobrag_torch.report.shot_data import Boxes, Shot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOX, SIDE = 90, round(90 * SIZE)
"""Screen pixels from box to box, and of a box."""
LEFT, ABOVE = 1.3, 0.3  # of a box, beside and above the first
WIDE, HIGH = EACH + LEFT, 9.3


def write_shot_charts(target: Target, shot: Shot, *, flag: str = "--output") -> None:
    """What a fit left over, as a picture. Raises InputError for a shot without a fit, or a file that fails."""
    if shot.boxes is None:
        raise InputError(flag, shot.name, "a shot whose fit left boxes of pixels")
    write_charts(target, list(shot_charts(shot)), flag=flag)


def write_montage(target: Target, boxes: Boxes, *, flag: str = "--output") -> None:
    """The worst, the middle and the best boxes: data, model and residual over sigma. Raises InputError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE * BOX / DOTS_PER_INCH, HIGH * BOX / DOTS_PER_INCH))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(-LEFT, EACH), ylim=(HIGH - ABOVE, -ABOVE))
    axes.set_axis_off()
    pictures = []
    for name, chosen, top in montage_blocks(boxes):
        axes.text(-1.2, top - 0.06, name, fontsize=10, fontweight="bold")
        for place, box in enumerate(chosen):
            axes.text(place + SIZE / 2, top - 0.06, box_label(boxes, int(box)), fontsize=7, ha="center")
            found = enumerate(shown_pictures(boxes, int(box)))
            pictures += [Placed(picture, kind == 2, place, top + 0.92 * kind) for kind, picture in found]
        for kind, said in enumerate(KINDS):
            axes.text(-0.08, top + 0.92 * kind + SIZE / 2, said, fontsize=8, ha="right", va="center")
    _draw(axes, pictures)
    with open_output(target, flag) as file:
        save_figure(figure, file, target)


class Placed(NamedTuple):
    """A box's picture (slow, fast) and its corner in units of a box; residuals have colours of their own."""

    values: NDArray[np.float32]
    is_residual: bool
    x: float
    y: float


def _draw(axes: Axes, pictures: Sequence[Placed]) -> None:
    """All of them as one image in screen pixels, and their frames as one artist: as many images take a second."""
    from matplotlib import colormaps
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    raster = np.full((round(HIGH * BOX), round(WIDE * BOX), 4), 255, np.uint8)
    for values, is_residual, x, y in pictures:
        shares = (values / LIMIT + 1) / 2 if is_residual else values
        colours = colormaps["RdBu_r" if is_residual else "gray_r"].with_extremes(bad=NO_PIXEL)(shares, bytes=True)
        rows, columns = (np.arange(SIDE) * count // SIDE for count in values.shape)
        down, right = round((y + ABOVE) * BOX), round((x + LEFT) * BOX)
        raster[down : down + SIDE, right : right + SIDE] = colours[rows[:, None], columns]
    axes.imshow(raster, extent=(*axes.get_xlim(), *axes.get_ylim()), interpolation="nearest", aspect="auto")
    frames = [Rectangle((p.x, p.y), SIZE, SIZE) for p in pictures]
    axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor="#c8c8c8", linewidth=0.6))
