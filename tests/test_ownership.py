"""Runs that meet, die or find damage: an output is of one job, whole, with the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import fault_runs
from nanobrag_torch.errors import InputError
from nanobrag_torch.io import ownership
from nanobrag_torch.io.atomic import open_output
from nanobrag_torch.io.ledger import Ledger
from nanobrag_torch.io.leftovers import part_of, remove_leftovers
from nanobrag_torch.io.ownership import is_alive, owned, owned_folder, read_claim
from nanobrag_torch.io.processes import this_process


@pytest.fixture
def gone():
    """A process that was, as claims name it."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    mark = {**this_process()._asdict(), "process": process.pid}
    process.wait()
    return mark


def test_an_output_has_one_owner(tmp_path):
    output = tmp_path / "a.nxs"
    with owned(output, "job") as waited:
        assert waited is False
        with pytest.raises(InputError, match=r"a\.nxs.*no other run is writing"), owned(output, "other"):
            raise AssertionError("never entered")
        with pytest.raises(InputError, match="in this process already"), owned(output, "job"):
            raise AssertionError("never entered")
        assert is_alive(tmp_path / ".a.nxs.lock")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("has", "asks"), [(None, 0), (None, 3), (0, None), (0, 3), (3, 3)])
def test_a_folder_is_of_one_job_whoever_of_its_processes_comes_first(has, asks, tmp_path):
    words = ["60"] if has is None else ["60", str(has)]
    with fault_runs.owner(tmp_path / "out", "job", *words) as other:
        with (
            pytest.raises(InputError, match="no other run is writing"),
            owned_folder(tmp_path / "out", "another", rank=asks),
        ):
            raise AssertionError("never entered")
        if asks != has:
            with owned_folder(tmp_path / "out", "job", rank=asks) as waited:
                assert waited is False
        other.kill()
    with owned_folder(tmp_path / "out", "another", rank=asks) as waited:  # it is dead
        assert waited is False


def test_the_same_job_waits(tmp_path, monkeypatch):
    output, claim = tmp_path / "a.nxs", tmp_path / ".a.nxs.lock"
    monkeypatch.setattr(os, "getpid", os.getppid)  # the parent lives as long as this test
    parent = this_process()._asdict()
    monkeypatch.undo()
    claim.write_text(json.dumps({**parent, "fingerprint": "job", "token": "t"}))
    monkeypatch.setattr(ownership, "WAIT_SECONDS", 0.05)
    threading.Timer(0.3, claim.unlink).start()
    began = time.monotonic()
    with owned(output, "job") as waited:
        assert waited is True and time.monotonic() - began > 0.25


def test_a_claim_of_the_dead_is_taken_over_by_one(tmp_path, gone):
    """Eight at once, twenty times: one of them has it, whoever finds the dead first."""
    claim = tmp_path / ".a.lock"
    for _ in range(20):
        claim.write_text(json.dumps({**gone, "fingerprint": "x", "token": "dead"}))
        owners, start = [], threading.Barrier(8)

        def take(owners=owners, start=start):
            start.wait()
            found = ownership._taken(claim, {"fingerprint": "x"}, 3600)
            if found is not None:
                owners.append(found)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(owners) == 1 and owners[0].is_ours()
        claim.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_another_took_is_left_alone(tmp_path):
    path = tmp_path / "claim"
    mine = ownership._taken(path, {"fingerprint": "x"}, 60)
    path.write_text(json.dumps({"token": "theirs"}))
    mine.beat()
    with ownership._kept(mine):
        pass
    assert read_claim(path) == {"token": "theirs"}


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="place that can be written"), owned(tmp_path / "file" / "a", "job"):
        raise AssertionError("never entered")


def test_what_the_dead_left_is_removed_and_nothing_else(tmp_path, gone, monkeypatch):
    mine, other = part_of(tmp_path / "a.img"), ".b.img.00000000-1-1-00000000.part"
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{gone['process']}-"))
    folder = dead.with_name(dead.name.replace("a.img", "c"))
    reused = mine.with_name(mine.name.replace(f"-{this_process().started}-", "-1-"))  # this number, another process
    for path in (mine, dead, reused, tmp_path / other, tmp_path / ".x.part", tmp_path / "a.part"):
        path.write_text("x")
    folder.mkdir()
    (folder / "inside").write_text("x")
    with open_output(tmp_path / "a.img") as file:
        file.write(b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, other, ".x.part", "a.part", "a.img"}
    old = time.time() - 3700
    os.utime(tmp_path / other, (old, old))
    monkeypatch.setattr("nanobrag_torch.io.leftovers._LOOKED_AT", set())
    remove_leftovers(tmp_path)
    assert not (tmp_path / other).exists() and mine.exists()


def test_a_ledger_knows_what_is_finished(tmp_path):
    ledger, files = Ledger(tmp_path / "ledger", {"a": "1"}), {str(i): tmp_path / f"f{i}" for i in range(5)}
    assert ledger.finished(files) == set()
    ledger.begin()
    for piece, path in files.items():
        path.write_text(f"content {piece}")
        ledger.note(piece, path)
    assert ledger.finished(files) == set(files)
    files["0"].write_text("content")  # cut short
    files["1"].write_text("CONTENT 1")  # as long
    files["2"].unlink()
    with ledger.path.open("a") as file:
        file.write("3 9 half a")  # a process was killed here: the line before counts
    assert ledger.finished(files) == {"3", "4"}
    ledger.note("0", files["0"])
    assert ledger.finished(files) == {"0", "3", "4"}
    assert Ledger(ledger.path, {"a": "2"}).finished(files) == set()
    ledger.path.write_bytes(b"\xff\x00 damaged")
    assert ledger.recorded() is None and ledger.finished(files) == set()


@pytest.mark.parametrize("name", fault_runs.OUTPUTS)
def test_killed_runs_resume_to_the_bytes_of_an_undisturbed_one(name, tmp_path):
    assert fault_runs.kill_and_resume(tmp_path, name, kills=1, seed=1) == 1


def test_runs_that_start_together(tmp_path):
    """Two of one job and two of others: the same end alike, the others are refused, nothing is mixed."""
    fault_runs.start_together(tmp_path, fault_runs.OUTPUTS[0], jobs=[1, 1, 2])


def test_damaged_frames_are_made_again(tmp_path):
    fault_runs.damage_and_resume(tmp_path, "s_####.npy")
    assert np.load(tmp_path / "damaged" / "s_0001.npy").size
