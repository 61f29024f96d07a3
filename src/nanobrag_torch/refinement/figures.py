"""Two pictures of a fit: boxes as data, model and residual, and the figures of the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nanobrag_torch.refinement.result import StillResult

EACH = 8  # boxes shown of the worst, the middle and the best
LIMIT = 5.0


def draw_boxes(result: StillResult, target: BinaryIO) -> None:
    """The worst, the median and the best boxes: data, model and (data - model) / sigma of each, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = np.argsort(-result.box_sigma_z)
    order = order[np.isfinite(result.box_sigma_z[order])]  # a box that was left out has no pixel to show
    middle = max(0, len(order) // 2 - EACH // 2)
    rows = {"worst": order[:EACH], "median": order[middle : middle + EACH], "best": order[::-1][:EACH]}
    figure = Figure(figsize=(1.3 * EACH, 12), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(9, EACH, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for block, (name, boxes) in enumerate(rows.items()):
        for place, box in enumerate(boxes):
            pictures = box_pictures(result, int(box))
            top = max(float(np.nanmax(pictures[0])), 1.0)
            for line, picture in enumerate(pictures):
                limits = {"vmin": -LIMIT, "vmax": LIMIT, "cmap": "RdBu_r"} if line == 2 else {"vmin": 0, "vmax": top}
                axes[3 * block + line, place].imshow(picture, interpolation="nearest", **limits)
            axes[3 * block, place].set_title(_label(result, int(box)), fontsize=6)
        axes[3 * block, 0].text(-0.1, 1.3, name, transform=axes[3 * block, 0].transAxes, fontsize=8)
    figure.savefig(target, dpi=90, format="png")


def box_pictures(result: StillResult, box: int) -> list[NDArray[np.float64]]:
    """Data, model and residual over sigma of one box (slow, fast); NaN where it has no pixel of its own."""
    assert result.fit is not None
    problem, state = result.fit.problem, result.fit.state
    boxes = problem.boxes
    mine = (boxes.box == box).nonzero()[:, 0]
    fast0, fast1, slow0, slow1 = boxes.corners()[box]
    slow_size, fast_size = problem.model.options.image_shape
    flat = boxes.pixels[mine]
    place = ((flat // fast_size) % slow_size - slow0).numpy(), (flat % fast_size - fast0).numpy()
    found = []
    for values in (boxes.data, problem.expected(state), problem.sigma_z(state)):
        picture = np.full((slow1 - slow0, fast1 - fast0), np.nan)
        picture[place] = values[mine].numpy()
        found.append(picture)
    return found


def _label(result: StillResult, box: int) -> str:
    assert result.fit is not None
    h, k, l = result.fit.problem.boxes.spots.hkl[box]
    return f"{h} {k} {l}  {result.box_sigma_z[box]:.2f}"


def draw_fit(result: StillResult, target: BinaryIO) -> None:
    """Histogram of the residuals against the normal law, residuals by position, and the path of the fit, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert result.fit is not None
    problem, state = result.fit.problem, result.fit.state
    z = problem.sigma_z(state).numpy()
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    first, second, third = figure.subplots(1, 3)
    edges = np.linspace(-6, 6, 61)
    first.hist(z.clip(-6, 6), edges, density=True, color="0.7")
    x = np.linspace(-6, 6, 200)
    first.plot(x, np.exp(-x * x / 2) / np.sqrt(2 * np.pi), color="tab:red")
    first.set(yscale="log", ylim=(1e-6, 1), xlabel="(data - model) / sigma", title=f"sigma-Z {result.sigma_z:.3f}")
    _draw_positions(result, second)
    third.plot([p.sigma_z for p in result.history], marker="o", ms=3)
    third.set(yscale="log", xlabel="step", ylabel="sigma-Z", title=result.status)
    figure.savefig(target, dpi=90, format="png")


def _draw_positions(result: StillResult, axes: Any) -> None:
    from nanobrag_torch.refinement.centroids import predicted

    assert result.fit is not None
    problem, state = result.fit.problem, result.fit.state
    spots = problem.boxes.spots
    with torch.no_grad():
        centre = predicted(problem.model, problem.parameters.unpack(state.raw), spots).centre.numpy()
    off = spots.centre - centre
    axes.plot(off[:, 0], off[:, 1], ".", ms=3)
    axes.set(xlabel="observed - predicted, fast (pixels)", ylabel="slow (pixels)", title="centroids", aspect="equal")
