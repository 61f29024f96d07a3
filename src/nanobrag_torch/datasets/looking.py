"""The page of a data set: nine images with the boxes of their spots, and how everything is distributed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanobrag_torch.datasets.contact import sample_numbers
from nanobrag_torch.datasets.materials import setting
from nanobrag_torch.datasets.reader import Columns, ShardReader
from nanobrag_torch.datasets.store import FLAG, Folder
from nanobrag_torch.io.atomic import Target
from nanobrag_torch.report.charts import BLUE, GREEN, GREY, ORANGE, Chart, chart_model, histogram
from nanobrag_torch.report.page import banner, counted, grid, heading, words, write_page
from nanobrag_torch.report.sheet import Thumbnail, sheet

PAGE = "report.html"
MOST_SHARDS = 20  # whose tables are read
MOST_CHARTS = 18
MANY = 1e3  # highest over lowest, from which on a chart is of logarithms
SPOTS = {
    "d_A": "resolution of a spot (Å)",
    "photons": "photons of a spot in its box",
    "background": "photons of the background in the box",
    "partiality": "partiality",
    "overlap": "share of photons of other spots",
    "peak": "photons of the brightest pixel",
}
IMAGES = {
    "wavelength_A": "wavelength (Å)",
    "fluence": "fluence (photons / m²)",
    "constant": "constant background (photons a pixel)",
    "lattices": "lattices",
    "photons": "photons of the image",
    "background_photons": "photons of its background",
    "saturated": "saturated pixels",
    "spots": "spots of an image",
    "resolution_A": "resolution of an image (Å)",
}
_NUMBERS = ("image", "series", "seed", "shard", "frame", "scan")


def write_dataset_page(folder: Folder, target: Target | None = None) -> int:
    """Write report.html, or another target, of a data set; the number of its bytes.

    Tables of at most 20 shards are read, evenly through the set. Raises InputError where no shard is finished.
    """
    shards = _some_shards(folder)
    images, spots = _tables(folder, shards)
    thumbnails = list(_thumbnails(folder, shards))
    figures, boxes = sheet(thumbnails)
    parts = [
        banner(*_judgement(folder), list(_sentences(folder, shards, images, spots, thumbnails))),
        heading("Images, evenly through the set"),
        words("Every box is a label: blue ones are spots of the first lattice, orange and green ones of others."),
        *_switch(boxes),
        grid(figures),
        heading("How everything is distributed"),
        grid([chart_model(chart) for chart in _charts(images, spots)]),
    ]
    return write_page(
        folder.path / PAGE if target is None else target, f"Data set {folder.path.name}", parts, flag=FLAG
    )


def _some_shards(folder: Folder) -> list[int]:
    there = [number for number in range(folder.recipe.shards) if folder.record(number) is not None]
    places = np.unique(np.linspace(0, max(len(there) - 1, 0), MOST_SHARDS).astype(int))
    return [there[place] for place in places] if there else [0]  # the reader says that shard 0 is missing


def _tables(folder: Folder, shards: Sequence[int]) -> tuple[Columns, Columns]:
    """Columns of the images and of the spots of some shards."""
    images, spots = [], []
    for number in shards:
        with ShardReader(folder, number) as reader:
            images.append(reader.image_columns())
            spots.append(reader.spot_columns())
    return _joined(images), _joined([table for table in spots if table])


def _joined(tables: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([t[name] for t in tables if name in t]) for name in (tables[0] if tables else ())}


def _thumbnails(folder: Folder, shards: Sequence[int]) -> Iterator[Thumbnail]:
    recipe = folder.recipe
    detector = setting(recipe).detector
    starts = [0] if detector is None else detector.stack_starts()
    wanted = [i for i in sample_numbers(recipe) if any(i in recipe.images_of(n) for n in shards)]
    for image in wanted or list(recipe.images_of(shards[0]))[:9]:
        number = next(n for n in shards if image in recipe.images_of(n))
        with ShardReader(folder, number) as reader:
            name = "recorded" if "recorded" in reader.names else "expected"
            spots = reader.spots(image)
            pixels = reader.image(image - reader.images.start, name)
        count = len(spots.get("h", ()))
        title = f"image {image}" + (
            f": {counted(count, 'spot')} of {counted(len(set(spots['lattice'].tolist())), 'lattice')}" if count else ""
        )
        yield Thumbnail(title, pixels, _stacked(spots, starts), list(_spot_words(spots)))


def _stacked(spots: Columns, starts: Sequence[int]) -> Columns:
    """Boxes where panels lie one below the other."""
    if not spots:
        return spots
    down = np.asarray(starts)[spots["panel"]]
    return {**spots, "slow0": spots["slow0"] + down, "slow1": spots["slow1"] + down}


def _spot_words(spots: Columns) -> Iterator[str]:
    for place in range(len(spots.get("h", ()))):
        h, k, l = (int(spots[name][place]) for name in "hkl")
        yield (
            f"{h} {k} {l}, {spots['d_A'][place]:.2f} Å, {spots['photons'][place]:.0f} photons, "
            f"overlap {100 * spots['overlap'][place]:.0f}%"
        )


def _switch(boxes: Sequence[Any]) -> list[Any]:
    from bokeh.models.widgets.buttons import Toggle

    if not boxes:
        return []
    switch = Toggle(label="boxes of spots", active=True, width=160)
    for drawn in boxes:
        switch.js_link("active", drawn, "visible")
    return [switch]


def _judgement(folder: Folder) -> tuple[str, str]:
    done, every = folder.progress(), folder.recipe.dataset.images
    return (
        (GREEN, f"{every} images, all made") if done >= every else (ORANGE, f"{done} of {every} images are made so far")
    )


def _sentences(
    folder: Folder, shards: Sequence[int], images: Columns, spots: Columns, thumbnails: Sequence[Thumbnail]
) -> Iterator[str]:
    recipe = folder.recipe
    slow, fast = thumbnails[0].image.shape
    kind = f"scans of {recipe.scan.frames} frames" if recipe.is_scan else "stills"
    size = f"{fast} x {slow} pixels, in {counted(recipe.shards, 'shard')}"
    yield f"What: {kind}, {size}; the same recipe gives the same bytes."
    if len(spots.get("image", ())):
        _, per_image = np.unique(spots["image"], return_counts=True)
        count = len(next(iter(images.values())))
        middle, dark = np.median(per_image), count - len(per_image)
        yield f"Labels: {per_image.sum()} spots, {middle:.0f} in the median image; {dark} of {count} images have none."
    else:
        yield "Labels: what was drawn for each image; there are no spots."
    if len(shards) < recipe.shards:
        yield f"Distributions are those of {len(shards)} shards, evenly through the set."
    yield "Files: recipe.toml made it, shards/ has images and labels, nanobrag_torch.datasets.ShardDataset reads them."


def _charts(images: Columns, spots: Columns) -> Iterator[Chart]:
    """A histogram of everything that varies."""
    found = 0
    for table, names, of, colour in (
        (spots, [n for n in SPOTS if n in spots], "spots", GREY),
        (images, [n for n in images if n not in _NUMBERS], "images", BLUE),
    ):
        for name in names:
            values = table[name][np.isfinite(table[name])].astype(np.float64)
            if found < MOST_CHARTS and len(np.unique(values)) > 1:
                found += 1
                yield _histogram((SPOTS if table is spots else IMAGES).get(name, name), values, of, colour)


def _histogram(name: str, values: Any, of: str, colour: str) -> Chart:
    positive = values[values > 0]
    wide = len(positive) > 0.9 * len(values) and positive.max() > MANY * positive.min()
    if wide:
        edges = np.geomspace(positive.min(), positive.max() * 1.0001, 31)
        return Chart(name, "", of, [histogram(positive, edges, colour=colour)], x_log=True)
    return Chart(name, "", of, [histogram(values, colour=colour)])


def dataset_of(path: Path) -> Folder | None:
    """The data set of a folder; None where there is none."""
    from nanobrag_torch.datasets.store import open_folder

    return open_folder(path) if (path / "dataset.json").is_file() else None
