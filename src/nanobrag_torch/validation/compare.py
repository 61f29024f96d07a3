"""Two images held against each other: numbers that say how alike they are, and pictures that show where not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import open_output
from nanobrag_torch.validation.images import Image
from nanobrag_torch.validation.peaks import Match, find_peaks, match_peaks

GATE_PX = 2.0
TOLERANCE = 1e-6
THRESHOLD = 0.999


@dataclass(frozen=True)
class Metrics:
    """How alike two images are; pixel places are (slow, fast)."""

    pixels: int
    correlation: float
    sum_a: float
    sum_b: float
    sum_ratio: float | None  # b over a
    rmse: float
    largest_difference: float  # b - a
    largest_difference_at: tuple[int, int]
    largest_difference_of_max: float | None  # over the highest pixel of a
    tolerance: float
    share_beyond_tolerance: float
    peaks: Match

    def plain(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {**asdict(self), "largest_difference_at": list(self.largest_difference_at), "peaks": self.peaks.plain()}


def compare_images(
    a: Image, b: Image, *, tolerance: float = TOLERANCE, gate_px: float = GATE_PX, origin: tuple[int, int] = (0, 0)
) -> Metrics:
    """Metrics of two images of one shape. A pixel is beyond tolerance when |b - a| > tolerance * highest |a|.

    origin: slow and fast index of the first pixel, for regions of larger images. Raises InputError for images of
    different shape.
    """
    if a.shape != b.shape:
        raise InputError("images", f"{a.shape} and {b.shape}", "images of one shape, or --resample")
    difference = b - a
    highest = float(np.abs(a).max())
    place = np.unravel_index(int(np.abs(difference).argmax()), a.shape)
    return Metrics(
        pixels=a.size,
        correlation=correlation(a, b),
        sum_a=float(a.sum()),
        sum_b=float(b.sum()),
        sum_ratio=float(b.sum() / a.sum()) if a.sum() != 0 else None,
        rmse=float(np.sqrt((difference**2).mean())),
        largest_difference=float(difference[place]),
        largest_difference_at=(int(place[0]) + origin[0], int(place[1]) + origin[1]),
        largest_difference_of_max=float(abs(difference[place])) / highest if highest > 0 else None,
        tolerance=tolerance,
        share_beyond_tolerance=float((np.abs(difference) > tolerance * highest).mean()),
        peaks=match_peaks(find_peaks(a), find_peaks(b), gate_px),
    )


def correlation(a: Image, b: Image) -> float:
    """Pearson's correlation; images that are constant correlate when they are equal and not otherwise."""
    x, y = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    if norm == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float((x * y).sum()) / norm


def metric_lines(metrics: Metrics) -> Iterator[str]:
    """The metrics as text."""
    peaks = metrics.peaks.plain()
    yield f"pixels                 {metrics.pixels}"
    yield f"correlation            {metrics.correlation:.9f}"
    yield f"sums a, b              {metrics.sum_a:.9g} {metrics.sum_b:.9g}"
    yield f"sum ratio b/a          {_text(metrics.sum_ratio)}"
    yield f"rmse                   {metrics.rmse:.6g}"
    slow, fast = metrics.largest_difference_at
    share = _text(metrics.largest_difference_of_max)
    yield f"largest difference     {metrics.largest_difference:.6g} at slow {slow} fast {fast}, {share} of the maximum"
    beyond = 100 * metrics.share_beyond_tolerance
    yield f"beyond tolerance       {beyond:.6g} % of pixels (tolerance {metrics.tolerance:g} of the maximum)"
    yield f"peaks a, b, matched    {peaks['in_a']} {peaks['in_b']} {peaks['matched']}"
    yield f"peak errors (px)       mean {_text(peaks['mean_error_px'])}, largest {_text(peaks['largest_error_px'])}"


def _text(number: float | None) -> str:
    return "none" if number is None else f"{number:.9g}"


def write_pictures(folder: Path, a: Image, b: Image, names: tuple[str, str]) -> list[str]:
    """Both images, their difference and its histogram as PNG; the names of the files in the folder."""
    from nanobrag_torch.io.picture import write_picture

    for name, image, title in (("a.png", a, names[0]), ("b.png", b, names[1])):
        write_picture(folder / name, image, title=title, flag="--outdir")
    _draw_difference(folder / "difference.png", b - a)
    _draw_histogram(folder / "histogram.png", b - a)
    return ["a.png", "b.png", "difference.png", "histogram.png"]


LONGEST_SIDE = 400
DECADES = 3


def _draw_difference(path: Path, difference: Image) -> None:
    """Blocks of pixels that are large enough to be seen, coloured by their strongest difference on a log scale."""
    from matplotlib.colors import SymLogNorm
    from matplotlib.figure import Figure

    from nanobrag_torch.io.picture import block_maximum

    block = max(1, -(-max(difference.shape) // LONGEST_SIDE))
    above, below = block_maximum(difference, block), -block_maximum(-difference, block)
    strongest = np.where(above > -below, above, below)
    limit = float(np.abs(strongest).max()) or 1.0
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    extent = (0.0, float(difference.shape[1]), float(difference.shape[0]), 0.0)
    norm = SymLogNorm(limit / 10**DECADES, vmin=-limit, vmax=limit)
    drawn = axes.imshow(strongest, cmap="RdBu_r", norm=norm, extent=extent, interpolation="nearest")
    axes.set(title="difference b - a", xlabel="fast (pixels)", ylabel="slow (pixels)")
    figure.colorbar(drawn, label="photons / pixel")
    _save(figure, path)


def _draw_histogram(path: Path, difference: Image) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    limit = float(np.abs(difference).max()) or 1.0
    axes.hist(difference.ravel(), bins=101, range=(-limit, limit), color="#2060b0")
    axes.set(title="difference b - a", xlabel="photons / pixel", ylabel="pixels", yscale="log")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with open_output(path, "--outdir") as file:
        figure.savefig(file, format="png", dpi=100)
