"""From the folder of `nb refine` to merged intensities: files alone, in one process or several, with bad shots."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import psutil
import pyarrow.parquet
import pytest

import fault_runs
from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.amplitudes import read_reflections
from nanobrag_torch.refinement import company
from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.intensities import Request, run
from nanobrag_torch.refinement.kept import read_kept
from nanobrag_torch.refinement.reducers import Local
from nanobrag_torch.refinement.synthetic_shots import small_series
from nanobrag_torch.workers import Place
from shot_series import refined, write_series

GOOD, BAD = 4, ("blank", "not a number", "saturated", "other indices")
ALONE = Place()
SOURCE = str(Path(company.__file__).parents[2])
ENVIRONMENT = {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def spoilt(number, data, counts, table):
    """Shots after the good ones, each bad in its own way."""
    kind = BAD[number - GOOD] if number >= GOOD else ""
    if kind == "blank":
        counts = np.random.default_rng(1).poisson(3.0, counts.shape).astype(float)
    if kind == "not a number":
        counts = np.where(np.random.default_rng(2).random(counts.shape) < 0.3, np.nan, counts)
    if kind == "saturated":
        counts = np.minimum(counts, np.quantile(counts, 0.9985))
    if kind == "other indices":  # a and b are as long: nothing in the shot itself tells them apart
        exchange = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
        table.columns["miller_index"] = table.columns["miller_index"] @ exchange
        data = replace(data, crystal=replace(data.crystal, real_space=exchange @ data.crystal.real_space))
    return data, counts, table


@pytest.fixture(scope="module")
def series():
    return small_series(
        group="P 21 21 21", cell=(56.0, 56.0, 44.0, 90.0, 90.0, 90.0),
        fluence=4e25, mosaic_spread_deg=0.12, most_spots=40, turn_deg=0.4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, series):
    """Four good shots and four bad ones, refined alone; the images are gone."""
    place = tmp_path_factory.mktemp("series")
    write_series(place, series, GOOD + len(BAD), spoil=spoilt)
    out, records = refined(place)
    assert [r["status"] for r in records[:GOOD]] == ["converged"] * GOOD
    for image in place.glob("*.npy"):
        image.unlink()
    return place


def request(folder, name="merged", **options):
    return Request(folder=folder / "out", structure_factors=folder / "start.mtz", output=folder / name, **options)


@pytest.fixture(scope="module")
def alone(folder):
    """All of it in one process."""
    return run(request(folder), ALONE, Local())


def test_a_kept_shot_is_the_fit_that_it_was(folder):
    path = folder / "out" / "shot_00000"
    kept = read_kept(path / "shot.npz")
    factors = read_reflections(folder / "start.mtz")
    problem, slots, state = kept.problem(factors)
    told = json.loads((path / "parameters.json").read_text())
    assert float(problem.sigma_z(state).std()) == pytest.approx(told["sigma_z"], abs=1e-4)
    assert kept.status == "converged" and len(slots.hkl) >= told["reflections"]
    at_rest = problem.equations(state).projected()
    sigma = at_rest.covariance().diagonal().sqrt()
    assert float((at_rest.step().parameters / sigma).abs().max()) < 1.0  # sums and prior differ a little from the fit's
    with pytest.raises(InputError, match="nb refine"):
        read_kept(path / "parameters.json")


def test_bad_shots_are_named_and_spoil_nothing(folder, alone, tmp_path):
    rows = {row["name"]: row for row in alone.shots}
    assert alone.status == "converged", alone.reason
    assert len(rows) == len(list((folder / "out").glob("*/shot.npz"))) >= GOOD + 2
    good = [rows[f"shot_{n:05d}"] for n in range(GOOD)]
    assert [(row["weight"], row["reason"]) for row in good] == [(1.0, "")] * GOOD
    bad = [row for name, row in rows.items() if int(name[-5:]) >= GOOD]
    assert [row["name"] for row in bad if row["weight"] or not row["reason"]] == []
    (tmp_path / "good").mkdir()
    for n in range(GOOD):
        (tmp_path / "good" / f"shot_{n:05d}").symlink_to(folder / "out" / f"shot_{n:05d}")
    only = Request(folder=tmp_path / "good", structure_factors=folder / "start.mtz", output=tmp_path / "merged")
    without = run(only, ALONE, Local())
    seen = without.seen
    assert (seen == alone.seen).all()
    assert (np.abs(without.intensity - alone.intensity)[seen] < 0.1 * without.sigma[seen]).all()


def test_intensities_are_those_of_the_truth(series, alone):
    true = Asymmetric.of(series.base.factors).intensity.numpy()
    seen = alone.seen & (alone.intensity > 5 * alone.sigma)
    ratio = np.log(alone.intensity[seen] / true[seen])
    sigma = (alone.sigma / alone.intensity)[seen]
    pull = (ratio - np.average(ratio, weights=sigma**-2)) / sigma
    assert seen.sum() > 30 and 0.7 < pull.std() < 1.3


def test_the_command_leaves_files_and_reads_no_image(folder, capsys, alone):
    code = main(["refine-intensities", str(folder / "out"), "-F", str(folder / "start.mtz"), "-o", str(folder / "m")])
    said = capsys.readouterr().out
    assert code == 0 and "converged" in said and "left out: shot_" in said
    mtz = gemmi.read_mtz_file(str(folder / "m" / "merged.mtz"))
    assert [c.label for c in mtz.columns] == ["H", "K", "L", "I", "SIGI", "F", "SIGF", "N"]
    assert len(mtz.make_miller_array()) == alone.seen.sum()
    table = pyarrow.parquet.read_table(folder / "m" / "shots.parquet").to_pylist()
    assert [row["name"] for row in table] == [row["name"] for row in alone.shots]
    assert (folder / "out" / "shards" / "shard_00000_of_00001.zip").is_file()
    with pytest.raises(InputError, match="shots with shot.npz"):
        company.kept_paths(folder)
    assert main(["merge", str(folder / "out"), "-F", str(folder / "start.mtz"), "-o", str(folder / "quick")]) == 0
    assert main(["merge", str(folder), "-F", str(folder / "start.mtz"), "-o", str(folder / "none")]) == 2
    assert not (folder / "none").exists()
    capsys.readouterr()
    before = sorted(path.name for path in (folder / "m").iterdir())
    with fault_runs.owner(folder / "m", "another", "60") as other:
        for verb in ("merge", "refine-intensities", "refine-geometry"):
            words = [verb, str(folder / "out"), "-o", str(folder / "m"), "-F", str(folder / "start.mtz")]
            for more in ([], ["--workers", "2"], ["--reducer", "files", "--part", "2/2"]):
                assert main([*words[: 4 if verb == "refine-geometry" else 6], *more]) == 2
                said = capsys.readouterr().err
                assert "no other run is writing" in said and len(said.splitlines()) == 1
        other.kill()
    assert sorted(path.name for path in (folder / "m").iterdir() if path.name != ".lock") == before


def test_a_run_is_of_the_content_of_its_structure_factors(folder, tmp_path):
    factors = tmp_path / "f.mtz"
    factors.write_bytes(b"before")
    request = Request(folder=folder / "out", structure_factors=factors, output=tmp_path / "a")
    first, elsewhere = request.job(), replace(request, output=tmp_path / "b").job()
    factors.write_bytes(b"after!")
    assert first == elsewhere != request.job()


def test_a_killed_worker_is_started_again_and_finds_the_same(folder, alone):
    words = ["refine-intensities", "out", "-F", "start.mtz", "-o", "shared", "--workers", "2"]
    command = [sys.executable, "-m", "nanobrag_torch.cli.nb", *words]
    launcher = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not list((folder / "shared").glob("sums/*/sum_000020_00001.npy")) and launcher.poll() is None:
        time.sleep(0.01)
    (second,) = [p for p in psutil.Process(launcher.pid).children() if "2/2" in p.cmdline()]
    second.kill()
    _, said = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, said
    assert b"process 2 was killed (signal 9) and is started again" in said
    assert list((folder / "shared" / "sums").iterdir()) == []  # nobody needs them any more
    mtz = gemmi.read_mtz_file(str(folder / "shared" / "merged.mtz"))
    found = np.array(mtz.column_with_label("I"))
    assert np.allclose(np.sort(found), np.sort(alone.intensity[alone.seen].astype(np.float32)), rtol=1e-6)


def test_workers_end_with_a_launcher_that_is_killed(folder):
    words = ["refine-intensities", "out", "-F", "start.mtz", "-o", "orphans", "--workers", "2"]
    command = [sys.executable, "-m", "nanobrag_torch.cli.nb", *words]
    launcher = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    while not list((folder / "orphans").glob("sums/*/*")) and launcher.poll() is None:
        time.sleep(0.01)
    workers = psutil.Process(launcher.pid).children()
    assert len(workers) == 2
    workers[1].suspend()  # the first one would wait for its sums for ever
    launcher.kill()
    launcher.wait()
    ended = [has_ended(workers[0], 20)]
    workers[1].resume()
    ended.append(has_ended(workers[1], 20))
    for process in workers:
        if process.is_running():
            process.kill()
    assert ended == [True, True]


def has_ended(process, seconds):
    """Whether it does so in time; one that nobody waits for is a zombie then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_run_that_was_stopped_goes_on_from_its_last_step(folder, alone, monkeypatch):
    wanted = request(folder, "stopped")
    keep, begun = company.StateFiles.keep, []

    def stop(self, ensemble, history):
        keep(self, ensemble, history)
        raise KeyboardInterrupt

    monkeypatch.setattr(company.StateFiles, "keep", stop)
    with pytest.raises(KeyboardInterrupt):
        run(wanted, ALONE, Local())
    monkeypatch.setattr(company.StateFiles, "keep", keep)
    monkeypatch.setattr("nanobrag_torch.refinement.ensemble.Ensemble.begin", lambda self: begun.append(1))
    found = run(wanted, ALONE, Local())
    assert not begun and len(found.history) == len(alone.history)
    assert np.nanmax(np.abs(found.intensity / alone.intensity - 1)) < 1e-9


def test_torchrun_goes_on_from_the_last_step_after_a_kill(folder, alone):
    script = Path(__file__).parents[1] / "interrupted_run.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    ended = subprocess.run([*command, str(script), str(folder)], env=ENVIRONMENT, timeout=600, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    assert (folder / "killed").exists() and b"exitcode: -9" in ended.stderr
    told = [(folder / f"torchrun_{rank}.txt").read_text() for rank in (0, 1)]
    assert told == [f"converged {len(alone.history)} 0"] * 2  # neither began anew
    last = sorted((folder / "torchrun" / "states").glob("step_*_00000.npz"))[-1]
    with np.load(last) as state:
        found = state["x"] * alone.shared.intensity.numpy()
    assert np.abs(found / alone.intensity - 1)[alone.seen].max() < 1e-9
