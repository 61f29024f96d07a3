"""Making one shard: its images rendered, recorded and labelled, and put into files. A function of recipe and number."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.datasets.backdrop import rings_of
from nanobrag_torch.datasets.labels import Labels, labels_of
from nanobrag_torch.datasets.render import Frame, Renderer
from nanobrag_torch.datasets.stills import StillsTruth
from nanobrag_torch.datasets.store import FLAG, Folder
from nanobrag_torch.io.hdf5_frames import frame_dataset, hdf5_output

Array = NDArray[Any]


def make_shard(folder: Folder, number: int, renderer: Renderer, report: Callable[[int], None] = lambda _: None) -> None:
    """Write shard `number` of a data set. report is called with the images done. Raises InputError."""
    images = folder.recipe.images_of(number)
    with folder.writing(number) as place, _spared():
        with hdf5_output(place / "h5", FLAG) as (content, under):
            file = _ImageFile(content, renderer, len(images))
            rows, spots, truth = [], [], StillsTruth(renderer)
            for first in range(0, len(images), renderer.at_once):
                made = _made(renderer, images[first : first + renderer.at_once])
                file.put(first, made)
                for one in made:
                    rows.append(image_row(renderer, *one))
                    if one.labels is not None:
                        image = np.full(len(one.labels.spots["h"]), one.frame.plan.image, np.int64)
                        spots.append({"image": image, **one.labels.spots})
                        if not folder.recipe.is_scan:
                            truth.add(one.frame.plan, one.labels.spots)
                under.require_whole()
                report(first + len(made))
        write_rows(place / "images.parquet", rows)
        if spots:
            write_columns(place / "spots.parquet", spots)
            if not folder.recipe.is_scan:
                truth.write(place)


@contextmanager
def _spared() -> Iterator[None]:
    """What is there already is not searched for garbage meanwhile: torch alone has half a million objects."""
    if gc.get_freeze_count():  # somebody else's doing, and theirs to undo
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Made(NamedTuple):
    """One image and what is known of it, as far as the recipe wants it."""

    frame: Frame
    recorded: Array | None
    labels: Labels | None


def _made(renderer: Renderer, images: range) -> list[_Made]:
    """Images, recorded and labelled, the same as one by one."""
    found, recipe = [], renderer.recipe
    for frame in renderer.frames(images):
        recorded = renderer.record(frame) if recipe.output.recorded else None
        found.append(_Made(frame, recorded, labels_of(renderer, frame, recorded) if recipe.labels.spots else None))
    return found


class _ImageFile:
    """The HDF5 file of a shard."""

    def __init__(self, file: Any, renderer: Renderer, count: int) -> None:
        detector, output, labels = renderer.data.detector, renderer.recipe.output, renderer.recipe.labels
        assert detector is not None
        self._detector, self._shape = detector, renderer.image_shape
        kinds: dict[str, Any] = {
            "recorded": output.pixel_type if output.recorded else None,
            "expected": "float32" if output.expected else None,
            "classes": "uint8" if labels.spots and labels.pixels else None,
            "spot_of_pixel": "int32" if labels.spots and labels.pixels else None,
        }
        stacked = detector.stacked_shape
        self._sets = {name: frame_dataset(file, name, count, stacked, kind) for name, kind in kinds.items() if kind}

    def put(self, first: int, made: Sequence[_Made]) -> None:
        """Store images from a place on: all of a kind in one call, though each is a chunk of its own."""
        kinds: dict[str, list[Array | None]] = {
            "recorded": [one.recorded for one in made],
            "expected": [one.frame.expected for one in made],
            "classes": [None if one.labels is None else one.labels.classes for one in made],
            "spot_of_pixel": [None if one.labels is None else one.labels.spot_of_pixel for one in made],
        }
        for name, dataset in self._sets.items():
            images = [image for image in kinds[name] if image is not None]
            stacked = [self._detector.stack(image.reshape(self._shape)) for image in images]
            dataset[first : first + len(made)] = np.stack(stacked)


def image_row(renderer: Renderer, frame: Frame, recorded: Array | None, labels: Labels | None) -> dict[str, Any]:
    """Everything that was drawn for an image, and what it came to; lists have an entry a lattice."""
    plan, lattices = frame.plan, frame.plan.lattices
    spread = float(np.sqrt(plan.weights @ (plan.wavelengths_A - plan.wavelength_A) ** 2))
    row: dict[str, Any] = {
        "image": plan.image,
        "series": plan.series,
        "frame": plan.frame,
        "phi_deg": float(plan.phi_deg.mean()),
        "wavelength_A": plan.wavelength_A,
        "wavelength_spread_A": spread,
        "fluence": plan.fluence,
        "incident": [float(x) for x in frame.incident],
        "shift_mm": [float(x) for x in plan.shift_mm],
        "tilt_deg": [float(x) for x in plan.tilt_deg],
        "constant": plan.constant,
        **{f"{name}_mm": thickness for name, thickness in plan.thicknesses_mm.items()},
        "rings_A": rings_of(plan, renderer.finest_A),
        "lattices": len({lattice.number for lattice in lattices}),
        "pieces": len(lattices),
        "crystal": [lattice.crystal for lattice in lattices],
        "lattice": [lattice.number for lattice in lattices],
        "piece": [lattice.piece for lattice in lattices],
        "cell": [list(lattice.cell) for lattice in lattices],
        "abc_A": [[float(x) for x in lattice.rows.ravel()] for lattice in lattices],
        "N_cells": [[float(x) for x in lattice.cells] for lattice in lattices],
        "mosaic_spread_deg": [lattice.spread_deg for lattice in lattices],
        "scale": [lattice.scale for lattice in lattices],
        "photons": float(frame.expected.sum(dtype=np.float64)),
        "background_photons": float(frame.background.sum(dtype=np.float64)),
    }
    if recorded is not None:
        row["saturated"] = int((recorded >= renderer.saturation).sum())
    if labels is not None:
        row |= {"spots": len(labels.spots["h"]), "resolution_A": labels.resolution_A}
    return row


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A Parquet file of rows."""
    import pyarrow

    _write_table(path, pyarrow.Table.from_pylist(rows))


def write_columns(path: Path, parts: list[dict[str, Array]]) -> None:
    """A Parquet file of columns, given in parts that follow each other."""
    import pyarrow

    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    whole = [name for name, column in columns.items() if column.dtype.kind in "iu"]
    _write_table(path, pyarrow.table(columns), use_dictionary=whole)  # others seldom repeat, and pack better without


def _write_table(path: Path, table: Any, **options: Any) -> None:
    from pyarrow import parquet

    parquet.write_table(table, path, compression="zstd", **options)
