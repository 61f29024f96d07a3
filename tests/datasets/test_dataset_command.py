"""The command: examples, checks, packs, lines, clusters."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import zarr
from dataset_recipes import STILLS, changed, toml

from nanobrag_torch.cli.nb import dataset_view
from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.cli.nb.dataset_view import Failures, Lines, watching
from nanobrag_torch.datasets import ShardDataset
from nanobrag_torch.datasets.clusters import cluster_options, job_cluster
from nanobrag_torch.datasets.engine import FAILED, Outcome, configure_dask
from nanobrag_torch.datasets.examples import EXAMPLES, example
from nanobrag_torch.datasets.recipe import read_recipe
from nanobrag_torch.errors import InputError


@pytest.fixture
def recipe(tmp_path):
    """A file with the recipe of small stills."""
    path = tmp_path / "recipe.toml"
    path.write_text(toml(STILLS))
    return path


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_recipes(name, tmp_path, capsys):
    assert main(["dataset", "--example", name]) == 0
    text = capsys.readouterr().out
    assert text == example(name)
    (tmp_path / "recipe.toml").write_text(text)
    assert read_recipe(tmp_path / "recipe.toml").dataset.images >= 100


def test_check_says_how_much_and_shows_nine(recipe, tmp_path, capsys):
    import matplotlib.image

    assert main(["dataset", "--check", str(recipe), "--images", "40", "-o", str(tmp_path / "sheet.png")]) == 0
    out = capsys.readouterr().out
    assert "40 images of 64 x 80 pixels (stills) in 20 shards" in out and "P 21 21 21" in out and "core(s)" in out
    picture = matplotlib.image.imread(tmp_path / "sheet.png")
    assert picture.shape[0] > 900 and picture[..., :3].std() > 0.05
    assert not (tmp_path / "sheet.png").with_suffix("").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dataset"], "recipe"),
        (["dataset", "nowhere.toml", "-o", "x"], "nowhere.toml"),
        (["dataset", "RECIPE"], "-o"),
        (["dataset", "RECIPE", "-o", "x", "--images", "0"], "--images"),
        (["dataset", "RECIPE", "-o", "x", "--workers", "0"], "--workers"),
        (["dataset", "RECIPE", "-o", "x", "--shard", "0", "--workers", "2"], "--workers"),
        (["dataset", "RECIPE", "-o", "x", "--cluster", "slrum:jobs=2"], "slurm"),
        (["dataset", "--example", "movie"], "rotation, stills, serial, ml"),
        (["dataset", "pack", "x", "--to", "tar", "-o", "y"], "dataset.json"),
        (["dataset", "pack"], "pack"),
    ],
)
def test_bad_words_have_their_line(words, says, recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(recipe) if word == "RECIPE" else word for word in words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and says in err


def test_a_pack_of_tars_holds_the_images(stills, tmp_path):
    assert main(["dataset", "pack", str(stills.path), "--to", "webdataset", "-o", str(tmp_path / "tars"), "-q"]) == 0
    stored = ShardDataset(stills.path, ("recorded", "spots", "row"))
    seen = []
    for path in sorted((tmp_path / "tars").iterdir()):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name in [name for name in files if name.endswith(".recorded.npy")]:
            image = int(name.partition(".")[0])
            sample, words = stored[image], json.loads(files[f"{image:08d}.json"])
            assert np.array_equal(np.load(io.BytesIO(files[name])), sample["recorded"].numpy())
            assert (
                words["fluence"] == sample["row"]["fluence"]
                and words["spot_table"]["h"] == sample["spots"]["h"].tolist()
            )
            seen.append(image)
    assert seen == list(range(6))


READS = """
import sys, webdataset
for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False).decode():
    print(sample["__key__"], *sample["recorded.npy"].shape, sample["json"]["image"])
"""


def test_webdataset_reads_its_tars(stills, tmp_path):
    """In a process of its own: the reader leaves files open."""
    main(["dataset", "pack", str(stills.path), "--to", "webdataset", "-o", str(tmp_path / "tars"), "-q"])
    tars = sorted(str(path) for path in (tmp_path / "tars").iterdir())
    read = subprocess.run([sys.executable, "-c", READS, *tars], capture_output=True, text=True, check=True)
    assert read.stdout.splitlines() == [f"{image:08d} 64 80 {image}" for image in range(6)]


def test_a_pack_of_zarr_holds_the_images(stills, tmp_path, capsys):
    assert main(["dataset", "pack", str(stills.path), "--to", "zarr", "-o", str(tmp_path / "set.zarr"), "-q"]) == 0
    root, stored = zarr.open_group(tmp_path / "set.zarr", mode="r"), ShardDataset(stills.path)
    assert root["recorded"].shape == (6, 64, 80) and root["recorded"].chunks == (1, 64, 80)
    for image in range(6):
        assert np.array_equal(root["recorded"][image], stored[image]["recorded"].numpy())
    assert (
        root["images/image"][:].tolist() == list(range(6)) and root["spots/h"].shape[0] == root["images/spots"][:].sum()
    )
    assert main(["dataset", "pack", str(stills.path), "--to", "zarr", "-o", str(tmp_path / "set.zarr")]) == 2
    assert "nothing is yet" in capsys.readouterr().err


def test_a_line_a_minute_has_rate_time_and_failures(monkeypatch):
    stream, now = io.StringIO(), [0.0]
    failures = Failures(stream)
    lines = Lines(stream, 100, failures, clock=lambda: now[0])
    lines.show(10)
    for seconds, done in ((30, 20), (61, 40), (90, 60), (122, 100)):
        now[0] = seconds
        if seconds == 90:
            failures(Outcome(3, FAILED, "image: got nan; accepted: finite"))
            failures(Outcome(4, FAILED, "image: got nan; accepted: finite"))
        lines.show(done)
    said = stream.getvalue().splitlines()
    assert said[0] == "40 of 100 images, 0.492/s, 2 min left"
    assert said[1].startswith("shard 3 failed: image: got nan")
    assert said[2] == "100 of 100 images, 0.738/s, 0 s left, 2 shards failed in 1 ways"


def test_quiet_says_only_what_went_wrong():
    class Still:
        def progress(self):
            return 0

    stream = io.StringIO()
    with watching(Still(), 5, quiet=True, stream=stream, dashboard="http://here") as notice:
        notice(Outcome(1, FAILED, "why"))
    assert stream.getvalue() == "shard 1 failed: why\n"
    monitored = io.StringIO()
    with watching(Still(), 5, stream=monitored, dashboard="http://here"):
        assert dataset_view.SECONDS_BETWEEN_LINES == 60
    assert monitored.getvalue() == "dashboard: http://here\n"


def test_a_word_becomes_a_job_of_slurm():
    cluster, jobs = job_cluster("slurm:partition=short,jobs=50,cores=8,walltime=2:00:00,extra=--exclusive,account=me")
    with cluster:
        script = cluster.job_script()
    assert jobs == 50
    for line in (
        "#SBATCH -p short",
        "#SBATCH -A me",
        "#SBATCH -t 2:00:00",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --exclusive",
    ):
        assert line in script
    assert "--nworkers 8" in script and "--nthreads 1" in script and "OMP_NUM_THREADS=1" in script


@pytest.mark.parametrize("system", ["pbs", "lsf", "sge"])
def test_other_batch_systems_get_their_scripts(system):
    cluster, _ = job_cluster(f"{system}:queue=short,cores=2,walltime=1:00")
    with cluster:
        assert "short" in cluster.job_script() and "dask" in cluster.job_script()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("slurm:jobbs=3", "jobs=... (nearest)"),
        ("slurm:jobs=none", "whole number"),
        ("slurm:jobs", "jobs"),
        ("condor:jobs=2", "slurm:..."),
    ],
)
def test_a_word_that_is_no_cluster_has_its_line(word, says):
    with pytest.raises(InputError) as caught:
        cluster_options(word)
    assert says in str(caught.value)


def test_what_is_left_out_is_said(tmp_path, capsys):
    (tmp_path / "recipe.toml").write_text(toml({**STILLS, "render": {"oversample": 1, "tolerance": 0.5}}))
    words = ["dataset", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "set"), "--shard", "0"]
    assert main(words) == 0
    assert "up to 0.5 photons of a pixel and lattice are left out (render.tolerance)" in capsys.readouterr().err
    assert main([*words, "-q"]) == 0 and "left out" not in capsys.readouterr().err


def test_a_recipe_of_two_crystals_reads(tmp_path):
    mixed = changed({**STILLS, "crystal": {}}, crystal={"cell": [40, 50, 60, 90, 90, 90]})
    assert len(mixed.crystal) == 1 and len(read_recipe_of("serial", tmp_path).crystal) == 2


def read_recipe_of(name, folder):
    """An example as a recipe."""
    path = folder / f"{name}.toml"
    path.write_text(example(name))
    return read_recipe(path)


def test_workers_that_come_back_slowly_are_waited_for():
    """Dask forgets a local worker that is not back in 15 seconds, and a run whose workers are all forgotten hangs."""
    import dask

    configure_dask()
    assert dask.config.get("distributed.deploy.lost-worker-timeout") == "1 hour"
    assert dask.config.get("distributed.scheduler.allowed-failures") >= 10


SBATCH = """#!/bin/sh
cp "$1" {home}/script
setsid sh {home}/script > {home}/log 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
echo "$1" >> {home}/cancelled
kill -- "-$1"
"""


def test_a_batch_system_makes_the_same_bytes(stills, tmp_path, monkeypatch):
    """Slurm's commands as they are called; what stands for them runs the job on this machine."""
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / "bin" / name).write_text(text.format(home=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(toml(STILLS))
    word = "slurm:partition=short,jobs=1,walltime=0:10:00,interface=lo"
    assert main(["dataset", "recipe.toml", "-o", "set", "--cluster", word, "-q"]) == 0
    for path in sorted((stills.path / "shards").iterdir()):
        assert (tmp_path / "set" / "shards" / path.name).read_bytes() == path.read_bytes()
    script = (tmp_path / "script").read_text()
    assert "#SBATCH -p short" in script and "#SBATCH -t 0:10:00" in script
    assert (tmp_path / "cancelled").read_text().strip().isdigit()
