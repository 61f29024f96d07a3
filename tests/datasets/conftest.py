"""A data set that several tests look at, made once."""

from __future__ import annotations

import pytest
from dataset_recipes import SCAN, STILLS, changed

from nanobrag_torch.datasets import engine
from nanobrag_torch.datasets.store import open_folder


@pytest.fixture(scope="session")
def stills(tmp_path_factory):
    """A finished folder of six stills in three shards."""
    folder = open_folder(tmp_path_factory.mktemp("stills") / "set", changed(STILLS))
    engine.run(folder, engine.in_this_process).raise_failures()
    assert engine.finish(folder)
    return folder


@pytest.fixture(scope="session")
def scan(tmp_path_factory):
    """A finished folder of a scan of six frames in two shards."""
    folder = open_folder(tmp_path_factory.mktemp("scan") / "set", changed(SCAN))
    engine.run(folder, engine.in_this_process).raise_failures()
    assert engine.finish(folder)
    return folder
