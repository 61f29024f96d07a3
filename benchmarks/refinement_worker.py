"""A worker process of `nb refine`: what it takes in memory, and in seconds from files to files."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.refinement_cases import LARGE, Case, pink_scene, triclinic_frame

from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.images import write_image
from nanobrag_torch.io.mtz import write_mtz
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.shots import Run, fingerprint, refine_one, tasks_of
from nanobrag_torch.refinement.synthetic import Exposure, Start, Truth, counted, wrong_factors, wrong_start


def memory(seed: int) -> Case:
    """500 boxes, 100 channels, 150 domains, 17 million pixels: the most memory of a worker (GB), with all libraries."""
    truth, exposure = pink_scene(LARGE)
    options = {
        "boxes": 500,
        "half_box": 7,
        "spectrum_channels": 100,
        "sampling": Sampling(150, 1),
        "shape": "gauss_hkl",
    }
    more = replace(truth, most_spots=500)
    return _in_a_process(more, counted(exposure, more, seed), seed, options, threads=1)


def files(seed: int) -> Case:
    """The triclinic frame from files to files with two threads: seconds of the first shot of a worker and the next."""
    truth, exposure = triclinic_frame()
    return _in_a_process(truth, counted(exposure, truth, seed), seed, {"threads": 2}, threads=2)


def _in_a_process(truth: Truth, noisy: Exposure, seed: int, options: dict[str, Any], threads: int) -> Case:
    with tempfile.TemporaryDirectory() as name:
        run = written(Path(name), truth, noisy, seed, options)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(worked, run, threads).result()


def written(folder: Path, truth: Truth, noisy: Exposure, seed: int, options: dict[str, Any]) -> Run:
    """The files of a shot, and the run that refines it."""
    (begin,) = wrong_start(truth, Start(), seed)
    counts = noisy.counts.clip(0, 65535).astype("u2")
    write_image(folder / "image_001.img", counts, truth.experiments[0], allow_loss=True)  # SMV knows no spectrum
    write_expt(folder / "shot.expt", replace(begin, image_template="image_001.img"))
    write_refl(folder / "shot.refl", noisy.table)
    write_mtz(folder / "model.mtz", wrong_factors(truth.factors, 0.15, seed + 1000))
    places = [str(folder / name) for name in ("shot.expt", "shot.refl", "model.mtz", "out")]
    return Run(
        experiments=places[0], reflections=places[1], structure_factors=places[2], folder=places[3], options=options
    )


def largest_memory() -> float:
    """The most memory of this process (GB); what getrusage says starts from that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) * 1024 / 1e9


def worked(run: Run, threads: int) -> Case:
    """Refine the shot twice in this process: its record, seconds of both, and the largest memory."""
    import numba
    import torch

    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.get_num_threads()))
    (task,) = tasks_of(run)
    took: list[float] = []
    record: dict[str, Any] = {}
    for _ in range(2):
        begun = time.perf_counter()
        record = refine_one(run, task, fingerprint(run, task))
        took.append(time.perf_counter() - begun)
    peak = largest_memory()
    kept = {name: record[name] for name in ("status", "reason", "sigma_z", "steps", "seconds")}
    size = int(np.sum([1 for p in record["parameters"] if p["free"]]))
    return {**kept, "first_s": took[0], "next_s": took[1], "peak_gb": peak, "free_parameters": size}
