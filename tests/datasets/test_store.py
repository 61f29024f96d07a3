"""Shards on disk: equal bytes by every way of making them, records, checksums, folders of other recipes."""

from __future__ import annotations

import json
import shutil

import h5py
import hdf5plugin
import numpy as np
import pytest
from dataset_recipes import STILLS, changed, toml
from pyarrow import parquet

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.datasets import engine
from nanobrag_torch.datasets.render import Renderer
from nanobrag_torch.datasets.store import checksum, open_folder
from nanobrag_torch.errors import InputError
from nanobrag_torch.workers import Place, place_of_process

assert hdf5plugin


def sums(folder):
    """Checksum of every file of the shards."""
    return {path.name: checksum(path) for path in sorted((folder / "shards").iterdir())}


def test_what_is_stored_is_what_is_rendered(stills):
    renderer = Renderer(stills.recipe)
    frame = renderer.frame(3)
    with h5py.File(stills.shard(1, "h5"), "r") as file:
        assert np.array_equal(file["recorded"][1].ravel(), renderer.record(frame))
        assert np.array_equal(file["expected"][1].ravel(), frame.expected)
        assert file["recorded"].chunks == (1, 64, 80) and file["classes"][1].max() >= 1
    rows = parquet.read_table(stills.shard(1, "images.parquet")).to_pylist()
    assert [row["image"] for row in rows] == [2, 3] and rows[1]["fluence"] == frame.plan.fluence
    assert np.allclose(np.reshape(rows[1]["abc_A"][0], (3, 3)), frame.plan.lattices[0].rows)
    spots = parquet.read_table(stills.shard(1, "spots.parquet"))
    assert set(spots.column("image").to_pylist()) == {2, 3} and len(spots) == sum(row["spots"] for row in rows)


def test_shards_made_alone_and_by_ranks_have_the_same_bytes(stills, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml(STILLS))
    for shard in (2, 0, 1):
        assert main(["dataset", str(recipe), "-o", str(tmp_path / "alone"), "--shard", str(shard), "-q"]) == 0
    assert sums(tmp_path / "alone") == sums(stills.path)
    assert (tmp_path / "alone" / "manifest.json").read_bytes() == (stills.path / "manifest.json").read_bytes()
    for rank in ("1", "0"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
        assert main(["dataset", str(recipe), "-o", str(tmp_path / "ranks"), "-q"]) == 0
    assert sums(tmp_path / "ranks") == sums(stills.path)


def test_shards_of_two_hosts_make_one_data_set(stills, tmp_path):
    """Each host writes into a folder of its own; put together they are what one would have made."""
    for host, shards in (("first", [0, 2]), ("second", [1])):
        folder = open_folder(tmp_path / host, changed(STILLS))
        engine.run(folder, engine.in_this_process, shards).raise_failures()
    for path in (tmp_path / "second" / "shards").iterdir():
        shutil.copy(path, tmp_path / "first" / "shards")
    first = open_folder(tmp_path / "first")
    assert first.missing() == []
    assert engine.finish(first)
    assert (tmp_path / "first" / "manifest.json").read_bytes() == (stills.path / "manifest.json").read_bytes()


def test_a_damaged_shard_is_found_and_made_again(stills, tmp_path, capsys):
    shutil.copytree(stills.path, tmp_path / "set")
    victim = tmp_path / "set" / "shards" / "00001.h5"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    (tmp_path / "set" / "shards" / "00002.spots.parquet").unlink()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml(STILLS))
    assert main(["dataset", str(recipe), "-o", str(tmp_path / "set"), "--workers", "1", "--resume"]) == 0
    assert "00001.h5" in capsys.readouterr().err
    assert sums(tmp_path / "set") == sums(stills.path)


def test_a_folder_of_another_recipe_is_refused_with_the_keys_that_differ(stills, capsys, tmp_path):
    recipe = tmp_path / "recipe.toml"
    other = {**STILLS, "beam": {"fluence": 1e27}, "dataset": {"images": 6, "seed": 6, "shard_images": 2}}
    recipe.write_text(toml(other))
    before = sums(stills.path)
    assert main(["dataset", str(recipe), "-o", str(stills.path), "--resume"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "dataset.seed 6" in line and "beam.fluence" in line and "N_cells" not in line
    assert sums(stills.path) == before


def test_a_folder_with_images_goes_on_only_when_asked(stills, tmp_path, capsys):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml(STILLS))
    assert main(["dataset", str(recipe), "-o", str(stills.path)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["dataset", str(recipe), "-o", str(stills.path), "--shard", "3"]) == 2
    assert "0 to 2" in capsys.readouterr().err


def test_the_manifest_says_what_every_file_is(stills):
    manifest = json.loads((stills.path / "manifest.json").read_text())
    assert manifest["fingerprint"] == stills.fingerprint and len(manifest["shards"]) == 3
    for shard in manifest["shards"]:
        for name, entry in shard["files"].items():
            path = stills.path / "shards" / name
            assert path.stat().st_size == entry["bytes"] and checksum(path) == entry["sha256"]


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json"):
        open_folder(tmp_path)


def test_ranks_come_from_whatever_launched_the_process():
    assert place_of_process({"RANK": "3", "WORLD_SIZE": "4"}) == Place(3, 4, "torchrun")
    assert place_of_process({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}) == Place(1, 2, "srun")
    assert place_of_process({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == Place()
    assert [list(Place(rank, 3).share(7)) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    for wrong in ({"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "one", "WORLD_SIZE": "4"}):
        with pytest.raises(InputError, match="RANK, WORLD_SIZE"):
            place_of_process(wrong)
