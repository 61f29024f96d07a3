"""Processes that die, disks that fill, runs that meet: every image is there in the end, once, with the bytes it has.

Runs are forked from the tests, slowed down so that they can be caught at work, and really killed. Full counts, with
commands of their own, are measured by `python -m benchmarks.dataset faults`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from dataset_recipes import STILLS, changed, toml

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.datasets import engine
from nanobrag_torch.datasets.shards import make_shard
from nanobrag_torch.datasets.store import checksum, open_folder
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.leftovers import part_of
from nanobrag_torch.io.ownership import claimed, is_alive, own_mark

TREE = {**STILLS, "dataset": {"images": 8, "shard_images": 2, "seed": 5}}
FORK = multiprocessing.get_context("fork")
SECONDS_AN_IMAGE = 0.2
PATIENCE = 300.0


def sums(folder):
    """Checksum of every file of the shards."""
    return {path.name: checksum(path) for path in sorted((Path(folder) / "shards").iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A recipe and the checksums of its data set, made without trouble."""
    home = tmp_path_factory.mktemp("whole")
    (home / "recipe.toml").write_text(toml(TREE))
    folder = open_folder(home / "set", changed(TREE))
    engine.run(folder, engine.in_this_process).raise_failures()
    return home / "recipe.toml", sums(folder.path)


def slowly(folder, number, renderer, report):
    """A shard, with time for others to interfere."""

    def rest(done):
        time.sleep(SECONDS_AN_IMAGE * done)
        report(done)

    make_shard(folder, number, renderer, rest)


def command(log, recipe, folder, *words):
    """What a forked process does: the command, its words on standard error into a file."""
    vars(engine)["make_shard"] = slowly
    with Path(log).open("w") as sys.stderr:
        code = main(["dataset", str(recipe), "-o", str(folder), "--workers", "1", *words])
    os._exit(code)


@pytest.fixture
def start(tmp_path):
    """Starts commands; ends those that a test has left."""
    running = []

    def begin(recipe, folder, *words, work=command):
        log = tmp_path / f"log-{len(running)}"
        process = FORK.Process(target=work, args=(log, recipe, folder, *words), name=str(log))
        process.start()
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.join()


def words_of(process):
    """What it said on standard error."""
    return Path(process.name).read_text()


def ended(process):
    """Exit code, when it is done."""
    process.join(PATIENCE)
    return process.exitcode


def done(folder):
    """Shards with a record."""
    return len(list((Path(folder) / "shards").glob("*.json"))) if (Path(folder) / "shards").is_dir() else 0


def until(condition):
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def makers(folder):
    """Processes that claim a shard of the folder now."""
    found = []
    for path in (Path(folder) / ".claims").glob("0*"):
        with suppress(OSError, ValueError):
            found.append(int(json.loads(path.read_text())["process"]))
    return found


def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path):
    """By Dask: the shard of a worker that died is made by another, and the folder has the bytes of one process."""
    slow = {"dataset": {"images": 12, "shard_images": 2, "seed": 5}, "render": {"oversample": 24}}
    recipe = changed({**TREE, **slow})  # takes long enough for one to be caught at work
    alone, shared = open_folder(tmp_path / "alone", recipe), open_folder(tmp_path / "shared", recipe)
    engine.run(alone, engine.in_this_process).raise_failures()
    with engine.local_cluster(2) as client:
        deal = engine.by_dask(client)

        def killing(folder, shards, run):
            outcomes = deal(folder, shards, run)
            yield next(outcomes)  # one shard is done: both workers are up, and at their next
            until(lambda: makers(folder.path) or done(folder.path) == recipe.shards)
            for victim in makers(folder.path)[:1]:
                killed.append(victim)
                os.kill(victim, signal.SIGKILL)
            yield from outcomes

        killed: list[int] = []
        engine.run(shared, killing).raise_failures()
    assert len(killed) == 1 and os.getpid() not in killed
    assert sums(shared.path) == sums(alone.path)


def test_what_a_writer_left_that_died_after_its_record_is_removed(tmp_path):
    folder = open_folder(tmp_path / "set", changed(TREE))
    engine.run(folder, engine.in_this_process, [0]).raise_failures()
    expected = sums(folder.path)
    gone = part_of(folder.path / "shards" / "00000")
    gone.mkdir()
    part_of(folder.path / "shards" / "00000.json").write_text("half")
    engine.run(folder, engine.in_this_process, [0]).raise_failures()
    assert sums(folder.path) == expected


def test_killed_runs_go_on_by_resume(whole, start, tmp_path):
    """Three times, each a little further; what a killed writer had half written is gone in the end."""
    recipe, expected = whole
    for kills in range(3):
        run = start(recipe, tmp_path / "set", "--resume", "-q")
        before = done(tmp_path / "set")
        until(lambda before=before, run=run: done(tmp_path / "set") > before or run.exitcode is not None)
        time.sleep(SECONDS_AN_IMAGE * kills / 2)
        run.kill()
        run.join()
    assert done(tmp_path / "set") >= 1
    last = start(recipe, tmp_path / "set", "--resume", "-q")
    assert ended(last) == 0 and words_of(last) == ""
    assert sums(tmp_path / "set") == expected
    assert not list((tmp_path / "set" / "shards").glob(".*"))


@pytest.mark.parametrize("size", [0, 500])
def test_a_disk_that_fills_at_once_leaves_no_part_of_a_header(size, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(InputError, match="file too large"):
            open_folder(tmp_path / "set", changed(TREE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["shards"]


def on_a_full_disk(log, recipe, folder, *words):
    """The command, whose files may grow to 20 kB only once the folder is there: the images of a shard do not fit."""
    open_folder(folder, changed(TREE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    command(log, recipe, folder, *words)


def test_a_full_disk_is_one_line_and_keeps_what_is_whole(whole, start, tmp_path):
    recipe, expected = whole
    run = start(recipe, tmp_path / "set", "-q", work=on_a_full_disk)
    assert ended(run) == 2
    lines = [line for line in words_of(run).splitlines() if "error" in line]
    assert len(lines) == 1 and "file too large" in lines[0] and "Traceback" not in words_of(run)
    assert done(tmp_path / "set") == 0 and not list((tmp_path / "set" / "shards").iterdir())
    last = start(recipe, tmp_path / "set", "--resume", "-q")
    assert ended(last) == 0 and sums(tmp_path / "set") == expected


def test_a_damaged_shard_is_found_and_made_again(whole, start, tmp_path):
    """One bit of the images, a table that is cut short, a record that is no JSON."""
    recipe, expected = whole
    first = start(recipe, tmp_path / "set", "-q")
    assert ended(first) == 0
    shards = tmp_path / "set" / "shards"
    content = bytearray((shards / "00001.h5").read_bytes())
    content[len(content) // 2] ^= 1
    (shards / "00001.h5").write_bytes(content)
    (shards / "00002.spots.parquet").write_bytes((shards / "00002.spots.parquet").read_bytes()[:-7])
    (shards / "00003.json").write_text("{")
    again = start(recipe, tmp_path / "set", "--resume", "-q")
    assert ended(again) == 0 and sums(tmp_path / "set") == expected
    assert "00001.h5" in words_of(again) and "00002" in words_of(again)


def test_two_runs_of_one_recipe_share_the_work(whole, start, tmp_path):
    recipe, expected = whole
    runs = [start(recipe, tmp_path / "set", "-q")]
    until(lambda: makers(tmp_path / "set"))
    runs.append(start(recipe, tmp_path / "set"))
    workers: set[int] = set()
    while any(run.exitcode is None for run in runs):
        workers |= set(makers(tmp_path / "set"))
        time.sleep(0.01)
    assert [run.exitcode for run in runs] == [0, 0], [words_of(run) for run in runs]
    assert workers == {run.pid for run in runs} and "sharing it" in words_of(runs[1])
    assert sums(tmp_path / "set") == expected


def test_a_second_recipe_is_refused_while_the_first_is_at_work(whole, start, tmp_path, capsys):
    recipe, expected = whole
    other = tmp_path / "other.toml"
    other.write_text(toml({**TREE, "background": {"constant": 3.0}}))
    first = start(recipe, tmp_path / "set", "-q")
    until(lambda: done(tmp_path / "set") >= 1)
    for words in ([], ["--resume"], ["--shard", "3"]):
        assert main(["dataset", str(other), "-o", str(tmp_path / "set"), *words]) == 2
        errors = capsys.readouterr().err
        assert "background.constant 3.0" in errors and errors.count("\n") == 1
    assert ended(first) == 0 and sums(tmp_path / "set") == expected


def test_a_finished_folder_is_not_begun_again_without_resume(whole, tmp_path, capsys):
    recipe, _ = whole
    for words, code in (([], 0), ([], 2), (["--resume"], 0)):
        assert main(["dataset", str(recipe), "-o", str(tmp_path / "set"), "--workers", "1", *words]) == code
        errors = capsys.readouterr().err
        assert code == 0 or ("--resume" in errors and errors.count("\n") == 1)


def test_a_claim_dies_with_its_process(tmp_path):
    path = tmp_path / "claims" / "00001"
    with claimed(path, run="a", fingerprint="f") as mine:
        assert mine is not None and is_alive(path)
        with claimed(path, run="b", fingerprint="f") as other:
            assert other is None
        with claimed(tmp_path / "claims" / "00002", run="b", fingerprint="f") as beside:
            assert beside is not None
    assert not path.exists()
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    path.write_text(json.dumps({**own_mark(), "process": gone.pid, "run": "a"}))
    assert not is_alive(path)
    with claimed(path, run="b", fingerprint="f") as taken:
        assert taken is not None


def test_a_claim_of_another_host_dies_when_its_heart_stops(tmp_path):
    path = tmp_path / "00001"
    path.write_text(json.dumps({**own_mark(), "host": "elsewhere", "run": "a"}))
    assert is_alive(path)
    old = time.time() - 100
    os.utime(path, (old, old))
    assert not is_alive(path)
