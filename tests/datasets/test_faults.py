"""Processes that die, disks that fill, runs that meet: every image is there in the end, once, with the bytes it has."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from dataset_recipes import STILLS, changed, toml

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.datasets import engine
from nanobrag_torch.datasets.claims import claimed, is_alive, own_mark
from nanobrag_torch.datasets.store import checksum, open_folder

PARTS = {"dataset": {"images": 16, "shard_images": 2, "seed": 5}, "render": {"oversample": 6}}
TREE = {**STILLS, **PARTS}
COMMAND = [sys.executable, "-c", "import sys; from nanobrag_torch.cli.nb.app import main; sys.exit(main())", "dataset"]


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


def start(recipe, folder, *words):
    """The command, as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, str(recipe), "-o", str(folder), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(folder):
    """Shards with a record."""
    return len(list((Path(folder) / "shards").glob("*.json"))) if (Path(folder) / "shards").is_dir() else 0


def until(condition, seconds=120.0):
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def makers(folder):
    """Processes that claim a shard of the folder now."""
    found = []
    for path in (Path(folder) / ".claims").glob("0*"):
        with suppress(OSError, ValueError):
            found.append(int(json.loads(path.read_text())["process"]))
    return found


def test_killed_workers_are_replaced_and_nothing_is_lost(whole, tmp_path):
    recipe, expected = whole
    chance = random.Random(4)
    run = start(recipe, tmp_path / "set", "--workers", "2", "-q")
    killed = 0
    while run.poll() is None and killed < 3:
        victims = [process for process in makers(tmp_path / "set") if process != run.pid]
        if victims:
            time.sleep(chance.uniform(0, 0.2))
            with suppress(ProcessLookupError):
                os.kill(chance.choice(victims), signal.SIGKILL)
                killed += 1
            time.sleep(chance.uniform(0.2, 0.6))
    _, errors = run.communicate(timeout=200)
    assert killed == 3 and run.returncode == 0, errors
    assert sums(tmp_path / "set") == expected and (tmp_path / "set" / "manifest.json").exists()


def test_a_killed_head_and_a_killed_group_go_on_by_resume(whole, tmp_path):
    recipe, expected = whole
    head = start(recipe, tmp_path / "set", "--workers", "2", "-q")
    until(lambda: done(tmp_path / "set") >= 1)
    children = psutil.Process(head.pid).children(recursive=True)
    head.kill()
    head.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive  # workers do not outlive their head
    alone = start(recipe, tmp_path / "set", "--workers", "1", "--resume", "-q")
    before = done(tmp_path / "set")
    until(lambda: done(tmp_path / "set") > before or alone.poll() is not None)
    alone.kill()
    alone.communicate()
    assert done(tmp_path / "set") >= 1
    last = start(recipe, tmp_path / "set", "--workers", "1", "--resume", "-q")
    _, errors = last.communicate(timeout=200)
    assert last.returncode == 0 and errors == ""
    assert sums(tmp_path / "set") == expected
    assert not list((tmp_path / "set" / "shards").glob(".*"))


def test_a_full_disk_is_one_line_and_keeps_what_is_whole(whole, tmp_path):
    """Files of this process may grow to 20 kB only: the first shard's images do not fit."""
    recipe, expected = whole
    limited = [sys.executable, "-c", LIMITED, str(recipe), "-o", str(tmp_path / "set"), "--workers", "1"]
    run = subprocess.run(limited, capture_output=True, text=True, timeout=200)
    assert run.returncode == 2
    lines = [line for line in run.stderr.splitlines() if "error" in line]
    assert len(lines) == 1 and "file too large" in lines[0] and "Traceback" not in run.stderr
    assert done(tmp_path / "set") == 0 and not list((tmp_path / "set" / "shards").iterdir())
    last = start(recipe, tmp_path / "set", "--workers", "1", "--resume", "-q")
    last.communicate(timeout=200)
    assert last.returncode == 0 and sums(tmp_path / "set") == expected


LIMITED = f"""
import resource, sys
from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.datasets import store

create = store._create
def limited(*words):
    create(*words)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, {resource.RLIM_INFINITY}))
store._create = limited
sys.exit(main(["dataset", *sys.argv[1:]]))
"""


def test_two_runs_of_one_recipe_share_the_work(whole, tmp_path):
    recipe, expected = whole
    runs = [start(recipe, tmp_path / "set", "--workers", "1", "-q") for _ in range(2)]
    workers: set[int] = set()
    while any(run.poll() is None for run in runs):
        workers |= set(makers(tmp_path / "set"))
        time.sleep(0.02)
    said = [run.communicate(timeout=200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert workers == {run.pid for run in runs}
    assert sums(tmp_path / "set") == expected


def test_a_second_recipe_is_refused_while_the_first_is_at_work(whole, tmp_path, capsys):
    recipe, expected = whole
    other = tmp_path / "other.toml"
    other.write_text(toml({**TREE, "background": {"constant": 3.0}}))
    first = start(recipe, tmp_path / "set", "--workers", "1", "-q")
    until(lambda: done(tmp_path / "set") >= 1)
    for words in ([], ["--resume"], ["--shard", "3"]):
        assert main(["dataset", str(other), "-o", str(tmp_path / "set"), *words]) == 2
        errors = capsys.readouterr().err
        assert "background.constant 3.0" in errors and errors.count("\n") == 1
    first.communicate(timeout=200)
    assert first.returncode == 0 and sums(tmp_path / "set") == expected


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
