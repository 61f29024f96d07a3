"""Data sets for torch: shards from the disk, or images rendered when they are asked for.

    loader = DataLoader(ShardDataset("out/"), batch_size=32, shuffle=True, num_workers=4, collate_fn=collate)
    loader = DataLoader(ShardDataset("out/").stream(shuffle_seed=1), batch_size=32, num_workers=4, collate_fn=collate)
    loader = DataLoader(SimulatedDataset("recipe.toml", batch=32), batch_size=None, num_workers=4)

A sample is a dictionary of tensors: image (its number), recorded (slow, fast), and whatever else is asked for.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from nanobrag_torch.datasets.labels import labels_of
from nanobrag_torch.datasets.reader import ShardReader
from nanobrag_torch.datasets.recipe import Recipe, read_recipe
from nanobrag_torch.datasets.render import Renderer
from nanobrag_torch.datasets.store import open_folder
from nanobrag_torch.errors import InputError
from nanobrag_torch.workers import Place, place_of_process

Sample = dict[str, Any]

OPEN_SHARDS = 8
"""Files that a process keeps open."""
IMAGES = ("recorded", "expected", "classes", "spot_of_pixel")
FIELDS = (*IMAGES, "spots", "row")


class ShardDataset(Dataset[Sample]):
    """The images of a data set by number, for a DataLoader with a sampler.

    wanted: which of recorded, expected, classes, spot_of_pixel, spots (a dictionary of columns) and row (what was
    drawn) a sample holds. place: this process among others that read the same data set, each of which gets every
    size-th image; None: all of them. Files are opened by the process that reads, after any fork. Raises InputError for
    a data set that is not finished, or does not hold what is wanted.
    """

    def __init__(
        self, folder: str | Path, wanted: Sequence[str] = ("recorded",), *, place: Place | None = None
    ) -> None:
        self.folder, self.wanted = open_folder(folder), tuple(wanted)
        self.place = Place() if place is None else place
        if missing := self.folder.missing():
            raise InputError("folder", f"{folder}, without shard {missing[0]}", "a finished data set")
        for name in self.wanted:
            if name not in FIELDS:
                raise InputError("wanted", name, ", ".join(FIELDS))
        _require_held(self.folder.recipe, self.wanted)
        self._images = self.place.share(self.folder.recipe.dataset.images)
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._process = os.getpid()

    def __len__(self) -> int:
        """Images of this process."""
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        """One image. Raises IndexError beyond the last."""
        image = self._images[index]
        size = self.folder.recipe.dataset.shard_images
        return _sample(self._reader(image // size), image, self.wanted)

    def stream(self, *, shuffle_seed: int | None = None) -> ShardStream:
        """The same images shard by shard, which disks like better than any order."""
        return ShardStream(self, shuffle_seed)

    def _reader(self, shard: int) -> ShardReader:
        if self._process != os.getpid():  # a handle that was open before a fork is the parent's
            self._readers, self._process = OrderedDict(), os.getpid()
        if shard not in self._readers:
            self._readers[shard] = ShardReader(self.folder, shard)
        self._readers.move_to_end(shard)
        if len(self._readers) > OPEN_SHARDS:
            self._readers.popitem(last=False)[1].close()
        return self._readers[shard]

    def __getstate__(self) -> dict[str, Any]:
        """Without open files."""
        return {**self.__dict__, "_readers": OrderedDict(), "_process": -1}


class ShardStream(IterableDataset[Sample]):
    """The images of a ShardDataset in the order of its shards, split over ranks and workers by shards.

    shuffle_seed: shards, and images within each, come in another order every epoch (`set_epoch`).
    """

    def __init__(self, dataset: ShardDataset, shuffle_seed: int | None) -> None:
        self.dataset, self.shuffle_seed, self.epoch = dataset, shuffle_seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Another order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Sample]:
        """The samples of this rank and worker."""
        data, order = self.dataset, self._order()
        shards = order(data.folder.recipe.shards, 0)
        place = _place_of_worker(data.place)
        for position in place.share(len(shards)):
            shard = shards[position]
            images = data.folder.recipe.images_of(shard)
            with ShardReader(data.folder, shard) as reader:
                for inside in order(len(images), shard + 1):
                    yield _sample(reader, images[inside], data.wanted)

    def _order(self) -> Any:
        def order(count: int, stream: int) -> list[int]:
            if self.shuffle_seed is None:
                return list(range(count))
            generator = np.random.default_rng((self.shuffle_seed, self.epoch, stream))
            return [int(x) for x in generator.permutation(count)]

        return order


class SimulatedDataset(IterableDataset[Sample]):
    """Batches of a recipe's images, rendered when they are asked for; nothing is written.

    Image i is the one that `nb dataset` stores. images: how many; None: without end. Batches are split over ranks and
    workers. place: this process among others; None: as srun or torchrun say. Give a DataLoader batch_size=None.
    """

    def __init__(
        self,
        recipe: Recipe | str | Path,
        wanted: Sequence[str] = ("recorded",),
        *,
        batch: int = 32,
        images: int | None = None,
        first: int = 0,
        place: Place | None = None,
    ) -> None:
        if batch < 1:
            raise InputError("batch", batch, "a number from 1 up")
        self.recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
        self.wanted, self.batch, self.images, self.first = tuple(wanted), batch, images, first
        self.place = place_of_process() if place is None else place
        for name in self.wanted:
            if name not in IMAGES:
                raise InputError("wanted", name, ", ".join(IMAGES))
        self._renderer: Renderer | None = None

    def __iter__(self) -> Iterator[Sample]:
        """Batches {image [B], recorded [B, slow, fast], ...} of this rank and worker."""
        place, batch = _place_of_worker(self.place), 0
        end = None if self.images is None else self.first + self.images
        while True:
            start = self.first + (batch * place.size + place.rank) * self.batch
            if end is not None and start >= end:
                return
            yield self._rendered(range(start, start + self.batch if end is None else min(start + self.batch, end)))
            batch += 1

    def _rendered(self, images: range) -> Sample:
        if self._renderer is None:
            self._renderer = Renderer(self.recipe)
        made = [rendered_sample(self._renderer, image, self.wanted) for image in images]
        return {name: torch.stack([one[name] for one in made]) for name in made[0]}

    def __getstate__(self) -> dict[str, Any]:
        """Without what a process prepares for itself."""
        return {**self.__dict__, "_renderer": None}


def rendered_sample(renderer: Renderer, image: int, wanted: Sequence[str]) -> dict[str, Tensor]:
    """One image of a recipe as a sample, rendered now."""
    frame = renderer.frame(image)
    recorded = renderer.record(frame)
    found = {"recorded": recorded, "expected": frame.expected}
    if {"classes", "spot_of_pixel"} & set(wanted):
        labels = labels_of(renderer, frame, recorded, pixels=True)
        assert labels.classes is not None and labels.spot_of_pixel is not None
        found |= {"classes": labels.classes, "spot_of_pixel": labels.spot_of_pixel}
    detector = renderer.data.detector
    assert detector is not None
    images = {name: _tensor(detector.stack(found[name].reshape(renderer.image_shape))) for name in wanted}
    return {"image": torch.tensor(image), **images}


def collate(samples: Sequence[Sample]) -> Sample:
    """A batch: tensors stacked, tables of spots and rows as lists, for their lengths differ."""
    first = samples[0]
    return {
        name: torch.stack([one[name] for one in samples])
        if isinstance(first[name], Tensor)
        else [one[name] for one in samples]
        for name in first
    }


def _sample(reader: ShardReader, image: int, wanted: Sequence[str]) -> Sample:
    place = image - reader.images.start
    sample: Sample = {"image": torch.tensor(image)}
    for name in wanted:
        if name == "spots":
            sample[name] = {column: torch.from_numpy(values.copy()) for column, values in reader.spots(image).items()}
        elif name == "row":
            sample[name] = reader.row(place)
        else:
            sample[name] = _tensor(reader.image(place, name))
    return sample


def _tensor(image: Any) -> Tensor:
    """An image as a tensor of a type that torch computes with: counts as int32."""
    whole = {"uint16": np.int32, "uint32": np.int64}.get(str(image.dtype))
    return torch.from_numpy(np.ascontiguousarray(image if whole is None else image.astype(whole)))


def _place_of_worker(place: Place) -> Place:
    """This worker of a DataLoader among all workers of all ranks."""
    info = get_worker_info()
    if info is None:
        return place
    return Place(place.rank * info.num_workers + info.id, place.size * info.num_workers, place.launcher)


def _require_held(recipe: Recipe, wanted: Sequence[str]) -> None:
    held = {
        "recorded": recipe.output.recorded,
        "expected": recipe.output.expected,
        "classes": recipe.labels.spots and recipe.labels.pixels,
        "spot_of_pixel": recipe.labels.spots and recipe.labels.pixels,
        "spots": recipe.labels.spots,
        "row": True,
    }
    for name in wanted:
        if not held[name]:
            raise InputError("wanted", name, ", ".join(key for key, there in held.items() if there))
