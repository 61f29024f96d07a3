"""A data set in the forms that learners stream: WebDataset tar files, or one zarr group."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.datasets.reader import ShardReader
from nanobrag_torch.datasets.store import FLAG, Folder, disk_errors
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import open_output
from nanobrag_torch.io.leftovers import part_of, remove_leftovers

FORMS = ("webdataset", "zarr")


def pack(folder: Folder, form: str, target: Path) -> list[Path]:
    """Write a finished data set as `form` and say where: a tar a shard in a folder, or one zarr group.

    Raises InputError for another form, a data set that is not finished, or a target that is there already.
    """
    if form not in FORMS:
        raise InputError("--to", form, ", ".join(FORMS))
    if missing := folder.missing():
        raise InputError("data set", f"{len(missing)} shards missing", "a finished one; --resume finishes it")
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise InputError(FLAG, str(target), "a place where nothing is yet")
    with disk_errors(target):
        return _tars(folder, target) if form == "webdataset" else _zarr(folder, target)


def _tars(folder: Folder, target: Path) -> list[Path]:
    """Per image NNNNNNNN.recorded.npy and the like, and NNNNNNNN.json with its row and the columns of its spots."""
    import webdataset

    target.mkdir(parents=True, exist_ok=True)
    written = []
    for shard in range(folder.recipe.shards):
        path = target / f"{shard:05d}.tar"
        with open_output(path, FLAG) as file, webdataset.TarWriter(file, mtime=0, user="", group="") as writer:
            for sample in _samples(folder, shard):
                writer.write(sample)
        written.append(path)
    return written


def _samples(folder: Folder, shard: int) -> Iterator[dict[str, Any]]:
    with ShardReader(folder, shard) as reader:
        for place, image in enumerate(folder.recipe.images_of(shard)):
            arrays = {f"{name}.npy": _npy(reader.image(place, name)) for name in reader.names}
            spots = {name: column.tolist() for name, column in reader.spots(image).items()}
            words = json.dumps({**_without_nan(reader.row(place)), "spot_table": spots})
            yield {"__key__": f"{image:08d}", **arrays, "json": words.encode()}


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _npy(array: NDArray[Any]) -> bytes:
    memory = io.BytesIO()
    np.save(memory, array, allow_pickle=False)
    return memory.getvalue()


def _zarr(folder: Folder, target: Path) -> list[Path]:
    """Arrays of images, one chunk an image; groups `images` and `spots` with a column an array; lists stay away."""
    import zarr

    remove_leftovers(target.parent)
    beside = part_of(target)
    root = zarr.open_group(beside, mode="w")
    rows: dict[str, list[NDArray[Any]]] = {}
    spots: dict[str, list[NDArray[Any]]] = {}
    for shard in range(folder.recipe.shards):
        with ShardReader(folder, shard) as reader:
            _put_images(root, folder, shard, reader)
            for name, column in reader.image_columns().items():
                rows.setdefault(name, []).append(column)
            for name, column in reader.spot_columns().items():
                spots.setdefault(name, []).append(column)
    for group, columns in (("images", rows), ("spots", spots)):
        made = root.create_group(group)
        for name, parts in columns.items():
            made.create_array(name, data=np.concatenate(parts))
    root.attrs.update({"fingerprint": folder.fingerprint, "recipe": folder.recipe.tree()})
    beside.replace(target)
    return [target]


def _put_images(root: Any, folder: Folder, shard: int, reader: ShardReader) -> None:
    images = folder.recipe.images_of(shard)
    for name in reader.names:
        first = reader.image(0, name)
        if name not in root:
            shape = (folder.recipe.dataset.images, *first.shape)
            root.create_array(name, shape=shape, chunks=(1, *first.shape), dtype=first.dtype)
        for place, image in enumerate(images):
            root[name][image] = reader.image(place, name)
