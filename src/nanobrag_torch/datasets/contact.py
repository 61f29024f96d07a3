"""A contact sheet: thumbnails of a few images with what is true of them, and a recipe's time and size from a sample."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.datasets.labels import Labels, labels_of
from nanobrag_torch.datasets.recipe import Recipe
from nanobrag_torch.datasets.render import Frame, Renderer
from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.io.nxmx_write import compress_frame
from nanobrag_torch.io.picture import block_maximum, grey_range
from nanobrag_torch.report.page import counted

Array = NDArray[Any]

SAMPLES = 9
THUMBNAIL = 320  # pixels along the longer side, at most
SPOT_BYTES = 90  # of a row of the table of spots, compressed
BOX_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a sample."""

    frame: Frame
    image: Array  # stacked (slow, fast)
    labels: Labels | None
    seconds: float
    size: int  # bytes on disk, about


@dataclass(frozen=True)
class Estimate:
    """What a recipe would make, judged by a sample."""

    images: int
    shards: int
    seconds_an_image: float  # on one core
    bytes_an_image: float
    steps_an_image: float  # pixels times sub-pixels, wavelengths, steps of the rotation, mosaic domains

    def hours(self, cores: int) -> float:
        """Time on so many cores like this one."""
        return self.images * self.seconds_an_image / cores / 3600


def sample(renderer: Renderer, images: list[int]) -> list[Sample]:
    """Images of a recipe with their labels, timed; the first is made twice, so that compiling does not count."""
    return [_one(renderer, image) for image in (images[0], *images)][1:]


def sample_numbers(recipe: Recipe, count: int = SAMPLES) -> list[int]:
    """Numbers of images, evenly through a data set."""
    return [int(x) for x in np.unique(np.linspace(0, recipe.dataset.images - 1, count).astype(int))]


def _one(renderer: Renderer, image: int) -> Sample:
    detector, output = renderer.data.detector, renderer.recipe.output
    assert detector is not None
    start = time.perf_counter()
    frame = renderer.frame(image)
    recorded = renderer.record(frame)
    labels = labels_of(renderer, frame, recorded) if renderer.recipe.labels.spots else None
    kept = [recorded] * output.recorded + [frame.expected] * output.expected
    if labels is not None and labels.classes is not None and labels.spot_of_pixel is not None:
        kept += [labels.classes, labels.spot_of_pixel]
    stacked = [detector.stack(part.reshape(renderer.image_shape)) for part in kept]
    size = sum(len(compress_frame(np.ascontiguousarray(part))) for part in stacked)
    seconds = time.perf_counter() - start
    size += 0 if labels is None else SPOT_BYTES * len(labels.spots["h"])
    return Sample(frame, detector.stack(recorded.reshape(renderer.image_shape)), labels, seconds, size)


def estimate(renderer: Renderer, samples: list[Sample]) -> Estimate:
    """What the whole data set would take."""
    recipe = renderer.recipe
    pixels = int(np.prod(renderer.image_shape))
    steps = [
        sum(
            pixels
            * renderer.oversample(s.frame.plan, lattice.plan) ** 2
            * len(lattice.stack)
            * len(s.frame.plan.weights)
            for lattice in s.frame.lattices
        )
        for s in samples
    ]
    return Estimate(
        images=recipe.dataset.images,
        shards=recipe.shards,
        seconds_an_image=float(np.median([s.seconds for s in samples])),
        bytes_an_image=float(np.mean([s.size for s in samples])),
        steps_an_image=float(np.mean(steps)),
    )


def write_contact_sheet(target: Target, samples: list[Sample], *, title: str = "") -> None:
    """A PNG of thumbnails, three in a row, boxes of spots coloured by lattice. Raises InputError for a full disk."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(samples))
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.9 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, one in zip(grid.flat, samples, strict=False):
        _draw(axes, one)
    for axes in grid.flat[len(samples) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=10, parse_math=False)
    with open_output(target) as file:
        figure.savefig(file, format="png", dpi=110)


def _draw(axes: Any, one: Sample) -> None:
    from matplotlib.colors import LogNorm

    block = -(-max(one.image.shape) // THUMBNAIL)
    blocks = block_maximum(one.image, block).astype(np.float64)
    white, black = grey_range(blocks)
    extent = (0, blocks.shape[1] * block, blocks.shape[0] * block, 0)
    axes.imshow(np.maximum(blocks, white * 1e-3), norm=LogNorm(white, black), cmap="gray_r", extent=extent)
    axes.set(xticks=[], yticks=[], xlim=(0, one.image.shape[1]), ylim=(one.image.shape[0], 0))
    lattices = len({lattice.plan.number for lattice in one.frame.lattices})
    words = f"image {one.frame.plan.image}: {counted(lattices, 'lattice')}"
    if one.labels is not None:
        reach = one.labels.resolution_A
        words += f", {len(one.labels.spots['h'])} spots" + (f", {reach:.2f} Å" if reach == reach else "")
        _draw_boxes(axes, one.labels)
    axes.set_title(words, fontsize=8, parse_math=False)


def _draw_boxes(axes: Any, labels: Labels) -> None:
    """Boxes of the spots on the first panel, in one collection a lattice."""
    from matplotlib.collections import LineCollection

    spots = labels.spots
    for lattice in np.unique(spots["lattice"]):
        own = (spots["lattice"] == lattice) & (spots["panel"] == 0)
        left, right, top, bottom = (spots[name][own] for name in ("fast0", "fast1", "slow0", "slow1"))
        corners = np.stack([left, top, right, top, right, bottom, left, bottom, left, top], 1).reshape(-1, 5, 2)
        colour = BOX_COLOURS[int(lattice) % len(BOX_COLOURS)]
        axes.add_collection(LineCollection(list(corners), colors=colour, linewidths=0.4, alpha=0.7))


def sheet_of(path: Path, renderer: Renderer, images: list[int]) -> list[Sample]:
    """Make a sample and its contact sheet."""
    samples = sample(renderer, images)
    write_contact_sheet(path, samples, title=f"{len(samples)} of {renderer.recipe.dataset.images} images")
    return samples
