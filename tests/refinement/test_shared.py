"""Shots that share intensities: the eliminated equations against the whole matrix, however the shots are divided."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import fault_runs
import shared_shots
from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.intensities import reducer_for
from nanobrag_torch.refinement.reducers import Files, Local
from nanobrag_torch.refinement.shared import Shared
from nanobrag_torch.workers import Place
from shared_shots import BOXES, REFLECTIONS, SHOTS, gauge, prior, shot


def whole(shots, constrained):
    """The dense matrix of every parameter and intensity, bordered by the gauge, and its right side."""
    counts = [len(s.A) for s in shots]
    size = sum(counts) + REFLECTIONS
    matrix, right = np.zeros((size, size)), np.zeros(size)
    start = 0
    shared = slice(sum(counts), size)
    for s, count in zip(shots, counts, strict=True):
        own = slice(start, start + count)
        pick = np.zeros((BOXES, REFLECTIONS))
        pick[np.arange(BOXES), s.reflections.numpy()] = 1
        D = np.diag(s.D.numpy())
        D[s.pairs[0].numpy(), s.pairs[1].numpy()] = s.cross.numpy()
        A = s.A.numpy() + s.damping * np.diag(np.diag(s.A.numpy()))
        matrix[own, own] = s.weight * A
        matrix[shared, own] = s.weight * pick.T @ s.B.numpy()
        matrix[own, shared] = matrix[shared, own].T
        matrix[shared, shared] += s.weight * pick.T @ D @ pick
        right[own], right[shared] = s.weight * s.g.numpy(), right[shared] + s.weight * pick.T @ s.h.numpy()
        start += count
    given = prior()
    matrix[shared, shared] += given.product(torch.eye(REFLECTIONS, dtype=torch.float64)).numpy()
    right[shared] += given.pull.numpy()
    if not constrained:
        return matrix, right
    rows, gap = (gauge()[name].numpy() for name in ("constraint", "gap"))
    rows = np.pad(rows, ((0, 0), (size - REFLECTIONS, 0)))
    return np.block([[matrix, rows.T], [rows, np.zeros((2, 2))]]), np.concatenate([right, gap])


@pytest.fixture(scope="module")
def shots():
    return [shot(number) for number in range(SHOTS)]


@pytest.mark.parametrize("constrained", [False, True])
def test_eliminated_equations_are_the_whole_matrix(shots, constrained):
    dense = np.linalg.solve(*whole(shots, constrained))
    answer = Shared(shots, prior(), Local(), **(gauge() if constrained else {})).solve()
    start = sum(len(s.A) for s in shots)
    assert np.allclose(answer.change, dense[start : start + REFLECTIONS], rtol=1e-8, atol=1e-10)
    steps = np.concatenate([s.follow(answer.change) for s in shots])
    assert np.allclose(steps, dense[:start], rtol=1e-8, atol=1e-10)
    assert answer.products < 100


def test_rows_of_the_inverse_are_those_of_the_whole_matrix(shots):
    matrix, _ = whole(shots, constrained=True)
    start = sum(len(s.A) for s in shots)
    block = np.linalg.inv(matrix)[start : start + REFLECTIONS, start : start + REFLECTIONS]
    columns = torch.eye(REFLECTIONS, dtype=torch.float64)[:, :5]
    found = Shared(shots, prior(), Local(), **gauge()).inverse_rows(columns)
    assert np.allclose(found, block[:, :5], rtol=1e-8, atol=1e-10)


def numbers(values):
    return ",".join(map(str, values))


SPLITS = {
    2: [numbers(range(13)), numbers(range(13, SHOTS))],
    3: [numbers(range(0, SHOTS, 2)), "", numbers(reversed(range(1, SHOTS, 2)))],
}


def environment(**more):
    source = str(Path(shared_shots.__file__).parents[1] / "src")
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def alone(shots):
    generator = np.random.default_rng(0)
    found = shared_shots.solved(shots, Local()).numpy()
    shuffled = shared_shots.solved([shots[i] for i in generator.permutation(SHOTS)], Local()).numpy()
    assert np.abs(found - shuffled).max() < 1e-9
    return found


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_of_torchrun_find_what_one_finds(tmp_path, alone, processes):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [shared_shots.__file__, str(tmp_path / "found"), "/".join(SPLITS[processes]), "-"]
    subprocess.run(command, env=environment(), check=True, timeout=600, capture_output=True)
    for rank in range(processes):
        assert np.abs(np.load(tmp_path / f"found_{rank}.npy") - alone).max() < 1e-9


def test_workers_with_files_find_what_one_finds_though_one_is_killed(tmp_path, alone):
    split = "/".join(SPLITS[2])

    def worker(rank):
        command = [sys.executable, shared_shots.__file__, str(tmp_path / "found"), split, str(tmp_path / "sums")]
        return subprocess.Popen(command, env=environment(RANK=str(rank), WORLD_SIZE="2"))

    first, killed = worker(0), worker(1)
    while not (tmp_path / "sums" / "sum_000020_00000.npy").is_file() and first.poll() is None:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    again = worker(1)
    assert first.wait(600) == 0 and again.wait(600) == 0
    found = [np.load(tmp_path / f"found_{rank}.npy") for rank in (0, 1)]
    assert (found[0] == found[1]).all() and np.abs(found[0] - alone).max() < 1e-9


def test_sums_are_removed_when_nobody_needs_them(tmp_path):
    """Not while one has still to read them; those of jobs that died, never those of a living one."""
    reducers = [Files(tmp_path / "sums" / "job-2", Place(rank, 2)) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda each: float(each.total(torch.ones(1, dtype=torch.float64))), reducers))
    assert found == [2.0, 2.0] and not any(each.has_finished() for each in reducers)
    reducers[1].finish()
    assert reducers[1].has_finished() and (tmp_path / "sums" / "job-2" / "sum_000000_00000.npy").is_file()
    reducers[0].finish()
    assert list((tmp_path / "sums").iterdir()) == []
    (tmp_path / "sums" / "dead-2").mkdir()
    with fault_runs.owner(tmp_path, "another", "60", "1") as other:
        reducer_for("files", tmp_path, "job", Place(0, 2))
        assert (tmp_path / "sums" / "dead-2").is_dir()
        other.kill()
    reducer_for("files", tmp_path, "job", Place(0, 2))
    assert list((tmp_path / "sums").iterdir()) == []


def test_a_worker_that_never_comes_is_named(tmp_path, caplog):
    reducer = Files(tmp_path, Place(0, 2), patience_s=0.05, silence_s=0.01)
    with caplog.at_level("INFO", "nanobrag_torch"), pytest.raises(InputError, match=r"no sum 0 of \[1\]"):
        reducer.total(torch.zeros(3, dtype=torch.float64))
    assert [record.getMessage() for record in caplog.records] == ["waiting for sum 0 of process 2/2, at most 0.05 s"]
