"""`nb warm`: compile every kernel of the CPU beforehand, in as many processes as there are cores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Annotated, Any

import typer

from nanobrag_torch.cli.messages import say

KERNELS = ("images", "gradients", "slopes", "counts")
TYPES = ("float32", "float64")
KINDS = ("common", "every")
"""Scenes of most runs, and those with the rare parts: curved detectors, resolution limits, other shapes, tricubic F."""


def warm(
    processes: Annotated[int | None, typer.Option(help="compile in so many processes at once [cores]")] = None,
) -> None:
    """Compile everything now, so that no later run of this version waits for it."""
    from nanobrag_torch.compilation import available, cache_folder
    from nanobrag_torch.errors import InputError

    if processes is not None and processes < 1:
        raise InputError("--processes", processes, "a whole number from 1 up")
    if not available().usable:
        raise InputError("nb warm", available().reason, "numba")
    folder = cache_folder()
    if folder is None:
        raise InputError("nb warm", "no folder that can be written", "a cache folder: set NUMBA_CACHE_DIR")
    begun, tasks = time.perf_counter(), [f"{k}-{t}-{s}" for s in KINDS for k in KERNELS for t in TYPES]
    tasks += [f"losses-{t}-common" for t in TYPES]  # a scene with rare parts takes the kernels of gradients
    count = min(processes or os.cpu_count() or 1, len(tasks))
    say(f"compiling {len(tasks)} kernels in {count} processes, into {folder}")
    _together(tasks, count)
    say(f"done in {time.perf_counter() - begun:.0f} s")


def _together(tasks: list[str], count: int) -> None:
    """Every task in an interpreter of its own, `count` at a time. Raises InputError where one fails."""
    left, running = list(tasks), dict[str, subprocess.Popen[str]]()
    while left or running:
        while left and len(running) < count:
            task = left.pop(0)
            running[task] = _start(task)
        task, process = next(iter(running.items()))
        for name, other in running.items():
            if other.poll() is not None:
                task, process = name, other
        _finish(task, process)
        del running[task]


def _start(task: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", f"from nanobrag_torch.cli.nb.warm import compile_task; compile_task({task!r})"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _finish(task: str, process: subprocess.Popen[str]) -> None:
    from nanobrag_torch.errors import InputError

    _, said = process.communicate()
    if process.returncode != 0:
        raise InputError("nb warm", task, f"a kernel that compiles ({said.strip().splitlines()[-1] if said else ''})")
    say(f"  {task.replace('-', ', ')}")


def compile_task(task: str) -> None:
    """Use one kernel once, on a scene that needs all of it; runs in a process of its own."""
    import torch

    from nanobrag_torch.config import CrystalConfig, DetectorConfig
    from nanobrag_torch.models.crystal import Crystal
    from nanobrag_torch.models.detector import Detector
    from nanobrag_torch.refinement.losses import FEWEST_LATTICES, loss_and_gradient
    from nanobrag_torch.simulator import Simulator

    kernel, dtype, kind = task.split("-")
    shape = "square" if kind == "common" else "gauss"
    size = torch.tensor(50.0, dtype=torch.float64, requires_grad=kernel in ("gradients", "losses"))
    mosaic: dict[str, Any] = {"mosaic_spread_deg": 0.1, "mosaic_domains": FEWEST_LATTICES} if kernel == "losses" else {}
    crystal = Crystal(CrystalConfig(cell_a=size, N_cells=(5, 5, 5), default_F=1.0, shape=shape, **mosaic))  # type: ignore[arg-type]
    detector = Detector(DetectorConfig(spixels=40, fpixels=40, oversample=1))
    simulator = Simulator(crystal, detector, dtype=getattr(torch, dtype), kernel="fused", threads=1)
    if kernel == "slopes":
        _slopes(simulator)
    elif kernel == "counts":
        _counts(simulator)
    elif kernel == "gradients":
        torch.autograd.backward(simulator.run().sum())
    elif kernel == "losses":
        loss_and_gradient(simulator, lambda photons, _: photons.sum(), [size])
    else:
        simulator.run()


def _slopes(simulator: object) -> None:
    """Slopes along one direction, of everything that may move."""
    import torch

    from nanobrag_torch.kernels import operation
    from nanobrag_torch.simulator import Simulator

    assert isinstance(simulator, Simulator)
    scene, options = simulator.scene(), simulator.options()
    directions = {
        name: torch.ones((1, *t.shape), dtype=torch.float64) for name, t in scene.named().items() if t.numel()
    }
    operation.tangents(None, scene, directions, options)


def _counts(simulator: object) -> None:
    """Photon counts, the C program's among them."""
    import numpy as np

    from nanobrag_torch.c_random import Streams, random_rotations
    from nanobrag_torch.simulator import Simulator

    assert isinstance(simulator, Simulator)
    simulator.counts(1)
    random_rotations(Streams(), -1, 0.1, 2)
    Streams().poisson(np.ones(2, np.float32), -1)
