"""Data sets for torch: the same images by every way of reading, split without loss, and a network that learns."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
import torch
from dataset_recipes import STILLS, changed
from torch.utils.data import DataLoader

from nanobrag_torch.datasets import ShardDataset, SimulatedDataset, collate
from nanobrag_torch.errors import InputError
from nanobrag_torch.workers import Place

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from spot_finder import WANTED, score, train  # noqa: E402

assert hdf5plugin


def test_samples_are_what_the_shards_hold(stills):
    data = ShardDataset(stills.path, ("recorded", "classes", "spots", "row"))
    assert len(data) == 6
    sample = data[3]
    with h5py.File(stills.shard(1, "h5"), "r") as file:
        assert np.array_equal(sample["recorded"].numpy(), file["recorded"][1])
        assert np.array_equal(sample["classes"].numpy(), file["classes"][1])
    assert sample["row"]["image"] == 3 and len(sample["spots"]["h"]) == sample["row"]["spots"] > 0
    with pytest.raises(IndexError):
        data[6]


def test_rendered_samples_are_the_stored_ones(stills):
    stored = ShardDataset(stills.path, ("recorded", "classes"))
    batches = list(SimulatedDataset(stills.recipe, ("recorded", "classes"), batch=4, images=6, place=Place()))
    assert [len(batch["image"]) for batch in batches] == [4, 2]
    for name in ("recorded", "classes"):
        rendered = torch.cat([batch[name] for batch in batches])
        assert torch.equal(rendered, torch.stack([stored[i][name] for i in range(6)]))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_comes_once_whatever_reads(stills, workers):
    data = ShardDataset(stills.path)
    data[0]  # a file is open when the workers fork
    loaders = [
        DataLoader(data, batch_size=2, num_workers=workers, collate_fn=collate),
        DataLoader(data.stream(), batch_size=2, num_workers=workers, collate_fn=collate),
        DataLoader(
            SimulatedDataset(stills.recipe, batch=2, images=6, place=Place()), batch_size=None, num_workers=workers
        ),
    ]
    for loader in loaders:
        batches = list(loader)
        images = torch.cat([batch["image"] for batch in batches])
        assert sorted(images.tolist()) == list(range(6))
        for batch in batches:
            for image, recorded in zip(batch["image"], batch["recorded"], strict=True):
                assert torch.equal(recorded, data[int(image)]["recorded"])


def test_ranks_share_the_images(stills):
    by_rank = [ShardDataset(stills.path, place=Place(rank, 2)) for rank in range(2)]
    numbers = [int(data[i]["image"]) for data in by_rank for i in range(len(data))]
    assert sorted(numbers) == list(range(6))
    streamed = [int(sample["image"]) for data in by_rank for sample in data.stream()]
    assert sorted(streamed) == list(range(6))
    made = [
        int(x)
        for rank in range(2)
        for b in SimulatedDataset(stills.recipe, batch=2, images=6, place=Place(rank, 2))
        for x in b["image"]
    ]
    assert sorted(made) == list(range(6))


def test_a_stream_is_shuffled_anew_every_epoch(stills):
    stream = ShardDataset(stills.path).stream(shuffle_seed=4)
    orders = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        orders.append([int(sample["image"]) for sample in stream])
    assert all(sorted(order) == list(range(6)) for order in orders) and len({tuple(order) for order in orders}) > 1
    stream.set_epoch(0)
    assert [int(sample["image"]) for sample in stream] == orders[0]


def _first(data, queue):
    queue.put(int(data[5]["recorded"].sum()))


def test_a_data_set_can_be_sent_to_a_process_that_is_spawned(stills):
    data = ShardDataset(stills.path)
    expected = int(data[5]["recorded"].sum())
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_first, args=(data, queue))
    process.start()
    assert queue.get(timeout=120) == expected
    process.join()


def test_what_is_not_there_is_refused(stills, scan):
    with pytest.raises(InputError, match="wanted"):
        ShardDataset(stills.path, ("recorderd",))
    with pytest.raises(InputError, match="recorded, spots, row"):
        ShardDataset(scan.path, ("classes",))
    with pytest.raises(InputError, match="batch"):
        SimulatedDataset(stills.recipe, batch=0)


def test_a_network_learns_to_find_spots():
    recipe = changed(STILLS, detector={"pixels": [64, 64]}, crystal={"N_cells": {"uniform": [4, 7]}})
    model = train(DataLoader(SimulatedDataset(recipe, WANTED, batch=6, place=Place()), batch_size=None), 60, most=40)
    unseen = SimulatedDataset(recipe, WANTED, batch=6, first=10**6, images=18, place=Place())
    precision, recall = score(model, DataLoader(unseen, batch_size=None))
    assert precision > 0.9 and recall > 0.6
