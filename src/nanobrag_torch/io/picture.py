"""A picture that people look at: dark spots on white, beam centre, and rings of resolution in Angstrom (-pngfile)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLAG = "-pngfile"
LONGEST_SIDE = 1000  # screen pixels of the longer side of the image
DECADES = 4.0  # darkest to lightest grey, at most
FLATTEST = 3.0  # black over white, at least: a smooth background stays pale
DOTS_PER_INCH = 100
MAP_NODES = 400  # of each side of the resolution map, so that rings look round
EDGE = 0.03  # a ring fits if its label stays this share of the image's side away from the border
MARGINS = (75, 125, 60, 50)  # screen pixels left, right, bottom, top
NO_PIXEL = "#dfe8f2"
RING_COLOUR, BEAM_COLOUR = "#2060b0", "#c02020"

Real = NDArray[np.float64]
_NICE = np.array([1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9])
_NICE_SPACINGS = np.concatenate([_NICE * 10.0**power for power in range(-2, 6)])


@dataclass(frozen=True)
class ResolutionMap:
    """Scattering vector length 1/d on a grid of detector points; rings are its contours."""

    fast: Real  # [F] positions in pixels, 0 at the outer edge of the first pixel
    slow: Real  # [S]
    inverse_d: Real  # [S, F] 1/Angstrom

    @classmethod
    def from_positions(
        cls, fast: ArrayLike, slow: ArrayLike, positions: ArrayLike, incident: ArrayLike, wavelength_A: float
    ) -> ResolutionMap:
        """The map of detector points at positions [S, F, 3] seen from the sample, for a beam along incident (3,).

        1/d = |unit(position) - unit(incident)| / wavelength, whatever the tilt. Between the points given, which lie at
        fast [F] and slow [S] pixels, positions are linear: exact on a flat detector, close on a curved one.
        """
        fine_fast, fast_weights = _refined(np.asarray(fast, np.float64))
        fine_slow, slow_weights = _refined(np.asarray(slow, np.float64))
        beam, given = np.asarray(incident, np.float64), np.asarray(positions, np.float64)
        points = np.einsum("ys,xf,sfc->yxc", slow_weights, fast_weights, given, optimize=True)
        directions = points / np.linalg.norm(points, axis=-1, keepdims=True)
        length = np.linalg.norm(directions - beam / np.linalg.norm(beam), axis=-1)
        return cls(fine_fast, fine_slow, length / wavelength_A)

    def ring(self, d: float) -> Real:
        """Points [n, 2] (fast, slow) of resolution d (Angstrom), a row of NaN around each piece."""
        from contourpy import contour_generator

        lines = contour_generator(self.fast, self.slow, self.inverse_d).lines(1 / d)
        gap = np.full((1, 2), np.nan)
        return np.concatenate([gap, *(piece for line in lines for piece in (np.asarray(line), gap))])


def _refined(nodes: Real) -> tuple[Real, Real]:
    """About 400 nodes between those given, and the weights [fine, given] that interpolate linearly to them."""
    pieces = -(-MAP_NODES // max(len(nodes) - 1, 1))
    at = np.linspace(0, len(nodes) - 1, pieces * (len(nodes) - 1) + 1)
    weights = np.clip(1 - np.abs(at[:, None] - np.arange(len(nodes))), 0, None)
    return weights @ nodes, weights


def write_picture(
    target: Target,
    image: NDArray[np.floating],
    *,
    title: str = "",
    beam_pixel: tuple[float, float] | None = None,
    resolution: ResolutionMap | None = None,
    units: str = "photons / pixel",
    longest_side: int = LONGEST_SIDE,
    flag: str = FLAG,
) -> None:
    """Write an image (slow, fast) as PNG, or SVG by the name: logarithmic grey, axes in pixels, slow axis downwards.

    beam_pixel: fast and slow position of the beam in pixels, marked if it is on the image; resolution: where rings are.
    An image of more than `longest_side` pixels shows the highest pixel of each block.
    Raises InputError if the file cannot be written.
    """
    if image.ndim != 2 or image.size == 0:
        raise InputError("image", image.shape, "an image (slow, fast)")
    with open_output(target, flag) as file:
        figure, axes = image_figure(image, title, units, longest_side)
        if resolution is not None:
            _draw_rings(axes, resolution, image.shape, beam_pixel)
        if beam_pixel is not None:
            _draw_beam(axes, beam_pixel, image.shape)
        save_figure(figure, file, target)


def save_figure(figure: Figure, file: IO[bytes], target: Target) -> None:
    """Write a figure as PNG, or SVG by the name of the target; PNG with little effort: it is larger by a tenth."""
    kind = picture_format(target)
    quickly: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}
    figure.savefig(file, format=kind, dpi=DOTS_PER_INCH, **quickly)


def picture_format(target: Target) -> str:
    """svg for a file with that ending, else png."""
    name = target if isinstance(target, str | os.PathLike) else getattr(target, "path", "")
    return "svg" if os.fspath(name).lower().endswith(".svg") else "png"


def block_maximum(image: NDArray[Any], block: int) -> NDArray[Any]:
    """The highest pixel of every block x block square; blocks at the far edges may be smaller."""
    if block == 1:
        return image
    rows = np.maximum.reduceat(image, np.arange(0, image.shape[0], block), axis=0)
    return np.asarray(np.maximum.reduceat(rows, np.arange(0, image.shape[1], block), axis=1))


def ring_spacings(lowest: float, highest: float, rings: int = 5) -> list[float]:
    """Round numbers of Angstrom, coarsest first, for rings evenly spread between two values of 1/d (1/Angstrom)."""
    wanted = lowest + (highest - lowest) * (np.arange(rings) + 0.7) / rings
    nearest = [_NICE_SPACINGS[np.abs(1 / _NICE_SPACINGS - inverse).argmin()] for inverse in wanted]
    return [float(d) for d in dict.fromkeys(nearest) if lowest < 1 / d < highest]


def grey_range(image: NDArray[Any]) -> tuple[float, float]:
    """The values shown white and black: black are the brightest pixels, white the dimmer half or 4 decades below."""
    lit = image[image > 0]
    if lit.size == 0:
        return 0.1, 1.0
    black = max(float(np.quantile(lit, 0.999)), float(lit.max()) / 10)
    white = max(float(np.median(lit)), black / 10**DECADES)
    return white, max(black, FLATTEST * white)


def image_figure(image: NDArray[Any], title: str, units: str, longest_side: int = LONGEST_SIDE) -> tuple[Figure, Axes]:
    """A figure on which every block of pixels is a whole number of screen pixels; its first image is that of the axes.

    Raises InputError for pixels that are not finite.
    """
    from matplotlib.colors import LogNorm

    block = -(-max(image.shape) // longest_side)
    blocks = block_maximum(image, block)
    if not np.isfinite(blocks).all():
        raise InputError("image", "pixels that are not finite", "finite pixels")
    zoom = max(longest_side * 8 // 10 // max(blocks.shape), 1)
    height, width = (max(side * zoom, 120) for side in blocks.shape)
    figure, axes, beside = blank_figure(width, height)
    white, black = grey_range(blocks)
    drawn = axes.imshow(
        np.maximum(blocks, white * 1e-3),
        norm=LogNorm(white, black),
        cmap="gray_r",
        interpolation="nearest",
        extent=(0, blocks.shape[1] * block, blocks.shape[0] * block, 0),
        aspect="auto",
    )
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), xlabel="fast (pixels)", ylabel="slow (pixels)")
    axes.set_title(title, fontsize=10, parse_math=False)
    figure.colorbar(drawn, cax=beside, label=units)
    return figure, axes


def blank_figure(width: int, height: int) -> tuple[Figure, Axes, Axes]:
    """A figure, its axes of so many screen pixels, and axes for a bar of greys beside them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    left, right, bottom, top = MARGINS
    full_width, full_height = width + left + right, height + bottom + top
    figure = Figure(figsize=(full_width / DOTS_PER_INCH, full_height / DOTS_PER_INCH))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((left / full_width, bottom / full_height, width / full_width, height / full_height))
    beside = ((left + width + 15) / full_width, bottom / full_height, 14 / full_width, height / full_height)
    return figure, axes, figure.add_axes(beside)


def _draw_beam(axes: Axes, beam_pixel: tuple[float, float], shape: tuple[int, ...]) -> None:
    fast, slow = beam_pixel
    if 0 <= fast <= shape[1] and 0 <= slow <= shape[0]:
        mark_beam(axes, fast, slow)


def mark_beam(axes: Axes, x: float, y: float) -> None:
    """A red cross with a white rim, for dark ground."""
    for colour, size, width in (("white", 20, 3.5), (BEAM_COLOUR, 18, 1.3)):
        axes.plot([x], [y], marker="+", markersize=size, markeredgewidth=width, color=colour)


def _draw_rings(
    axes: Axes, resolution: ResolutionMap, shape: tuple[int, ...], beam_pixel: tuple[float, float] | None
) -> None:
    inverse_d = resolution.inverse_d
    lowest = 0.0 if _has_minimum_inside(inverse_d) else float(inverse_d.min())
    for d in ring_spacings(lowest, float(inverse_d.max())):
        points = resolution.ring(d)
        label = _label_place(points, shape, beam_pixel)
        if label is not None:
            draw_ring(axes, points, label, f"{d:g} Å")


def _has_minimum_inside(inverse_d: Real) -> bool:
    """Whether the direct beam hits the grid: its lowest point is not on the border."""
    row, column = np.unravel_index(inverse_d.argmin(), inverse_d.shape)
    return bool(0 < row < inverse_d.shape[0] - 1 and 0 < column < inverse_d.shape[1] - 1)


def _label_place(points: Real, shape: tuple[int, ...], beam_pixel: tuple[float, float] | None) -> Real | None:
    """Where a ring is closest to the line from the beam to the farthest corner; None if that is too near the border."""
    size = np.array([shape[1], shape[0]], np.float64)
    if not np.isfinite(points).any():
        return None
    centre = np.nanmean(points, axis=0) if beam_pixel is None else np.array(beam_pixel)
    corners = size * [[0, 0], [0, 1], [1, 0], [1, 1]]
    along = corners[np.linalg.norm(corners - centre, axis=1).argmax()] - centre
    offsets = points - centre
    across = np.abs(offsets[:, 0] * along[1] - offsets[:, 1] * along[0])
    across[~(offsets @ along > 0)] = np.inf
    place = points[across.argmin()]
    return place if bool(np.all((place > EDGE * size) & (place < (1 - EDGE) * size))) else None


def draw_ring(axes: Axes, points: Real, label: Real, text: str) -> None:
    """A ring with its label."""
    axes.plot(points[:, 0], points[:, 1], color=RING_COLOUR, linewidth=0.9, alpha=0.85)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(label[0], label[1], text, color=RING_COLOUR, fontsize=9, ha="center", va="center", bbox=box)
