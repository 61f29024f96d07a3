"""Beyond one crystal on one flat panel: spread, several crystals, groups, spectra, shared pixels, many shots."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.records.experiment import DetectorData
from nanobrag_torch.records.tables import ReflectionData
from nanobrag_torch.refinement import refine_still
from nanobrag_torch.refinement.groups import panel_groups
from nanobrag_torch.refinement.shots import Run, exit_code, fingerprint, finished, refine_many, tasks_of
from nanobrag_torch.refinement.spectra import read_spectrum, rebin
from nanobrag_torch.refinement.synthetic import (
    Start,
    counted,
    errors,
    oriented_crystal,
    rendered,
    still_truth,
    wrong_factors,
    wrong_start,
)
from nanobrag_torch.response.config import SpreadConfig
from nanobrag_torch.response.spread import Spread

QUICK = {"shape": "gauss_hkl", "boxes": 30, "check_sampling": False}


def test_the_width_of_a_spread_is_found(still):
    truth, _ = still
    exposure = rendered(truth)
    spread = Spread(SpreadConfig(shape="gauss", fwhm_um=75.0), (75e-6, 75e-6))
    blurred = spread(torch.from_numpy(exposure.expected)).numpy()
    recorded = replace(exposure, counts=exposure.counts - exposure.expected + blurred, expected=blurred)
    noisy = counted(recorded, truth, 1)
    start = list(wrong_start(truth, Start(), 3))
    result = refine_still(
        start, noisy.table, noisy.counts, truth.factors, psf=1.3, free=("psf",), readout_noise=0.7, **QUICK
    )
    assert result.status == "converged" and result.sigma_z < 1.05
    assert result.parameters["psf_width"].value == pytest.approx(1.0, abs=0.03)
    assert errors(truth.experiments[0], result.experiment).rotation_deg < 0.002


def test_what_cannot_be_freed_says_why(still):
    truth, exposure = still
    for word, why in (("psf", "width of the spread"), ("phi", "still")):
        with pytest.raises(InputError, match=why):
            refine_still(list(truth.experiments), exposure.table, exposure.counts, truth.factors, free=(word,))


def test_two_crystals_on_one_shot():
    one = still_truth(
        size=900, distance_mm=110.0, domains=60, mosaic_sampling="quadrature", oversample=4, whole_pixels=True
    )
    data = one.experiments[0]
    second = oriented_crystal(data.crystal.cell, 77, hall=data.crystal.space_group_hall)
    truth = replace(one, experiments=(data, replace(data, crystal=second)))
    noisy = counted(rendered(truth), truth, 1)
    assert set(noisy.table.columns["id"].tolist()) == {0, 1}
    start = list(wrong_start(truth, Start(), 3))
    factors = wrong_factors(truth.factors, 0.15, 5)
    result = refine_still(start, noisy.table, noisy.counts, factors, readout_noise=0.7, **{**QUICK, "boxes": 80})
    assert result.status == "converged" and len(result.experiments) == 2
    for true, found in zip(truth.experiments, result.experiments, strict=True):
        assert errors(true, found).rotation_deg < 0.005


def test_groups_of_panels(still):
    truth, _ = still
    detector = truth.experiments[0].detector
    panel = detector.panels[0]
    fast, slow = panel.image_size
    parts = tuple(
        replace(
            panel,
            origin_mm=panel.origin_mm + panel.positions_mm(i * fast // 2, j * slow // 2) - panel.positions_mm(0, 0),
            image_size=(fast // 2, slow // 2),
            name=f"part {i} {j}",
        )
        for i in (0, 1)
        for j in (0, 1)
    )
    split = DetectorData(panels=parts)
    whole, left, right = panel_groups(split, {0: 0, 1: 0, 2: 1, 3: 1})
    assert whole.panels == (0, 1, 2, 3) and left.panels == (0, 1) and right.name == "group 1"
    vectors = torch.from_numpy(np.stack([np.stack([p.origin_mm * 1e-3, p.fast, p.slow, p.normal]) for p in parts]))
    turned = right.moved(vectors, {"group 1:tilt_normal": torch.tensor(1.0), "group 1:shift_fast": torch.tensor(0.5)})
    assert torch.equal(turned[:2], vectors[:2])
    cosine = float(turned[2, 1] @ vectors[2, 1])
    assert cosine == pytest.approx(np.cos(np.radians(1)), abs=1e-12)
    centre = (turned[2:, 0] + 0.5 * (fast // 2 * turned[2:, 1] + slow // 2 * turned[2:, 2]) * 75e-6).mean(0)
    assert torch.allclose(centre - right.centre, 0.5e-3 * right.axes[0], atol=1e-12)
    with pytest.raises(InputError, match="level of the hierarchy"):
        panel_groups(split, "2")


def test_spectra_keep_mean_and_variance(tmp_path):
    energies = torch.linspace(9000, 9100, 100, dtype=torch.float64)
    weights = torch.exp(-(((energies - 9040) / 20) ** 2)) + 0.1
    few, heavy = rebin(energies, weights, 7)
    assert len(few) == 7 and float(heavy.sum()) == pytest.approx(1)
    mean = float((weights * energies).sum() / weights.sum())
    assert float((few * heavy).sum()) == pytest.approx(mean)
    variance = float((weights * (energies - mean) ** 2).sum() / weights.sum())
    assert float((heavy * (few - mean) ** 2).sum()) == pytest.approx(variance)
    (tmp_path / "beam.lam").write_text("wavelength weight\n1.30, 0.5\n# gap\n1.31 1.0\n")
    wavelengths, read = read_spectrum(tmp_path / "beam.lam")
    assert wavelengths.tolist() == [1.30, 1.31] and read.tolist() == [0.5, 1.0]
    (tmp_path / "bad.lam").write_text("1.30 0.5\n1.31 x\n")
    with pytest.raises(InputError, match="line 2"):
        read_spectrum(tmp_path / "bad.lam")


def test_reflections_that_share_pixels():
    options = {"N_cells": (22.0, 22.0, 18.0), "mosaic_spread_deg": 0.15, "mosaic_sampling": "quadrature"}
    large = (150.0, 150.0, 190.0, 90.0, 90.0, 90.0)
    truth = still_truth(cell=large, size=500, distance_mm=150.0, domains=30, oversample=2, fluence=1e26, **options)
    noisy = counted(rendered(truth), truth, 1)
    result = refine_still(
        list(wrong_start(truth, Start(rotation_deg=0.05), 3)), noisy.table, noisy.counts, truth.factors,
        readout_noise=0.7, shape="gauss_hkl", boxes=30, half_box=7, check_sampling=False,
    )  # fmt: skip
    boxes = result.fit.problem.boxes
    assert len(set(boxes.pixels.tolist())) == len(boxes.pixels)  # a pixel counts once
    assert len(result.fit.problem.passes) > 1 or int(torch.bincount(boxes.block).max()) == 1
    assert result.status == "converged" and result.sigma_z < 1.3


@pytest.fixture
def two_shots(still, tmp_path):
    """Two draws of the same still as one experiment list, the second with reflections of the wrong index."""
    truth, exposure = still
    experiments, tables = [], []
    for number, shift in enumerate(((0, 0, 0), (1, 0, 0))):
        np.save(tmp_path / f"image_{number}.npy", exposure.counts.astype(np.float32))
        begin = wrong_start(truth, Start(), 3 + number)[0]
        experiments.append(replace(begin, images=(f"image_{number}.npy",), identifier=f"shot {number}"))
        columns = dict(exposure.table.columns)
        columns["miller_index"] = columns["miller_index"] + np.array(shift, np.int32)
        tables.append({**columns, "id": columns["id"] + number})
    write_expt(tmp_path / "two.expt", experiments)
    joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    write_refl(tmp_path / "two.refl", ReflectionData(rows=len(joined["id"]), identifiers={}, columns=joined))
    return truth, tmp_path


def test_many_shots_in_processes_that_can_be_gone_on_with(two_shots):
    truth, folder = two_shots
    from nanobrag_torch.io.mtz import write_mtz

    write_mtz(folder / "model.mtz", truth.factors)
    run = Run(
        experiments=str(folder / "two.expt"),
        reflections=str(folder / "two.refl"),
        structure_factors=str(folder / "model.mtz"),
        folder=str(folder / "out"),
        options=QUICK,
        figures=False,
    )
    tasks = tasks_of(run)
    records = refine_many(run, tasks, workers=2)
    assert [record["status"] for record in records] == ["converged", "failed"]
    assert exit_code(records) == 0 and exit_code(records[1:]) == 4
    assert finished(tasks[0], fingerprint(run, tasks[0])) is not None
    assert finished(tasks[0], fingerprint(replace(run, options={**QUICK, "boxes": 31}), tasks[0])) is None
    for name in ("shot.npz", "refined.expt", "parameters.json"):
        path, mark = folder / "out" / tasks[0].name / name, fingerprint(run, tasks[0])
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"?")
        assert finished(tasks[0], mark) is None, name
        path.write_bytes(whole)
    again = refine_many(run, tasks, resume=True)
    assert [r["seconds_in_all"] for r in again] == [r["seconds_in_all"] for r in records]
    rows = json.loads((folder / "out" / "summary.json").read_text())
    assert rows[0]["rot_x_sigma"] > 0 and rows[1]["reason"].startswith("centroids")


POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from nanobrag_torch.refinement import shots

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=shots._begin_worker)
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 60).result()
"""


def test_workers_end_with_the_run_that_is_killed(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    process = subprocess.Popen([sys.executable, str(tmp_path / "pool.py")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 20
    while is_running(worker) and time.monotonic() < until:
        time.sleep(0.05)
    left = is_running(worker)
    if left:
        os.kill(worker, signal.SIGKILL)
    assert not left


def is_running(number):
    """Whether a process is there and has not ended: one that nobody has waited for yet is a zombie."""
    try:
        return "\nState:\tZ" not in (Path("/proc") / str(number) / "status").read_text()
    except OSError:
        return False


def test_the_frame_of_a_scan_is_found_in_the_table(frame):
    truth, exposure = frame
    data = truth.experiments[0]
    scan = replace(data.scan, image_range=(5, 7), oscillation_start_deg=-0.1)  # frame 1 is image 6, from 0 to 0.1
    inside = replace(data, scan=scan)
    columns = dict(exposure.table.columns)
    centre = columns["xyzobs.px.value"].copy()
    centre[:, 2] = 5.5
    elsewhere = centre + np.array([200.0, 0, 1.0])  # the same reflections on the next image, somewhere else
    table = {name: np.concatenate([values, values]) for name, values in columns.items()}
    table["xyzobs.px.value"] = np.concatenate([elsewhere, centre])
    joined = ReflectionData(rows=len(table["id"]), identifiers={}, columns=table)
    result = refine_still(inside, joined, exposure.counts, truth.factors, frame=1, **QUICK)
    assert result.status == "converged" and errors(data, result.experiment).rotation_deg < 0.005
    assert len(result.experiments) == 1 and result.experiment.scan.frames == 3
