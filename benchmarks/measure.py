"""Times and memory of the scenes, round by round with the yardstick, so that a machine's moods cancel in the ratio."""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.scenes import CASES, Case
from torch import Tensor

from nanobrag_torch import loss_and_gradient
from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import Scene

SLOW_SECONDS = 4.0
"""Scenes whose gradients take longer than this are repeated SLOW_REPEATS times."""
SLOW_REPEATS = 3
PAUSE_SECONDS = 0.02
SHORT_SECONDS = 0.05
"""Shorter runs follow one another for so long, as in the loop of a refinement."""


@dataclass
class Timer:
    """One thing to time, and the seconds it took, the yardstick's of the same round beside them."""

    run: Callable[[], object]
    steps: int
    beside: Timer | None = None
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def once(self) -> None:
        """Take the time once more, when threads of what ran before no longer spin; of short runs the mean of many."""
        time.sleep(PAUSE_SECONDS)
        start, elapsed, runs = time.perf_counter(), 0.0, 0
        while elapsed < SHORT_SECONDS:
            self.run()
            runs, elapsed = runs + 1, time.perf_counter() - start
        self.seconds.append(elapsed / runs)
        if self.beside is not None:
            other = self.beside
            self.ratios.append((self.steps / self.seconds[-1]) / (other.steps / other.seconds[-1]))

    def report(self) -> dict[str, float]:
        """Medians; rates in million pixel-steps a second."""
        middle = statistics.median(self.seconds)
        found = {
            "median_s": middle,
            "best_s": min(self.seconds),
            "repeats": len(self.seconds),
            "million_steps_per_s": self.steps / middle / 1e6,
        }
        return found | ({"ratio_to_yardstick": statistics.median(self.ratios)} if self.ratios else {})


def yardstick(path: Path) -> dict[str, Timer]:
    """Value and gradients of the measurement sketch at this path, compiled."""
    spec = importlib.util.spec_from_file_location("yardstick", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--yardstick: no Python file at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    d, incident, inverse, lattice, cells, squares, low = module.problem()
    pixels = d.shape[1]
    out, of_d = np.zeros(pixels, np.float32), np.zeros((3, pixels), np.float32)
    of_a = np.zeros((16, len(lattice), 3, 3))
    upstream = np.ones(pixels, np.float32)

    def render(gradients: bool) -> None:
        of_a[:] = 0
        zero = np.float32(0)
        module.render(
            d, incident, inverse, lattice, cells, squares, low, zero, upstream, out, of_d, of_a, gradients
        )  # fmt: skip

    steps = pixels * inverse.size * len(lattice)
    for gradients in (False, True):
        render(gradients)
    return {"value": Timer(lambda: render(False), steps), "gradients": Timer(lambda: render(True), steps)}


def measure(names: list[str], repeats: int, sketch: dict[str, Timer] | None) -> list[dict[str, Any]]:
    """Every scene's figures."""
    return [_measure(name, CASES[name](), repeats, sketch) for name in names]


def _measure(name_of_case: str, case: Case, repeats: int, sketch: dict[str, Timer] | None) -> dict[str, Any]:
    print(f"{case.name:12s}{case.title}", flush=True)
    timers = timers_of(case, sketch)
    memory = {}
    for name, timer in timers.items():
        timer.run()
        memory[name] = _peak_megabytes(name_of_case, name) if name in ("value", "backward") else None
    started = time.perf_counter()
    for number in range(repeats):
        if number >= SLOW_REPEATS and time.perf_counter() - started > SLOW_SECONDS * repeats:
            break
        for mark in sketch.values() if sketch else ():
            mark.once()
        for timer in timers.values():
            timer.once()
    found: dict[str, Any] = {name: {**timer.report(), "peak_MB": memory[name]} for name, timer in timers.items()}
    for name in found:
        found[name]["times_the_value"] = times_the_value(timers, name)
    return {"scene": case.name, "title": case.title, "pixels": case.count, "steps": case.steps, **found}


def times_the_value(timers: dict[str, Timer], name: str) -> float:
    """How many times as long as the value of the same round, in the middle of all rounds."""
    pairs = zip(timers[name].seconds, timers["value"].seconds, strict=True)
    return statistics.median(one / value for one, value in pairs)


def timers_of(case: Case, sketch: dict[str, Timer] | None) -> dict[str, Timer]:
    """value: the operation; gradients: value and gradients by the scene's tensors for a given upstream gradient, in one
    pass; one pass: the same from the parameters and back to them; loss: `loss_and_gradient` of squares; backward: the
    same through autograd; program: the image from the configuration, all included."""
    with torch.no_grad():
        fixed = case.scene
    options, upstream = case.options, torch.ones(case.count)

    def value() -> object:
        return operation.intensity(case.pixels, fixed, options, kernel="fused")

    def adjoint(scene: Scene, wanted: Collection[str]) -> dict[str, Tensor]:
        return operation.gradients(upstream, case.pixels, scene, options, wanted, value=True)[1]

    moves = [name for name, tensor in case.scene.named().items() if tensor.requires_grad]

    def one_pass() -> object:
        scene = case.scene
        flowing = adjoint(scene, moves)
        moving = [getattr(scene, name) for name in flowing]
        return torch.autograd.grad(moving, list(case.parameters.values()), list(flowing.values()))

    data = torch.rand(case.count, generator=torch.Generator().manual_seed(0))
    listed = torch.arange(case.count) if case.pixels is None else case.pixels
    place = torch.zeros(int(listed.max()) + 1, dtype=torch.int64).index_put((listed,), torch.arange(case.count))

    def squares(photons: Tensor, at: Tensor) -> Tensor:
        return ((photons - data[place[at]]) ** 2).sum()

    def loss() -> object:
        return loss_and_gradient(case.simulator, squares, list(case.parameters.values()), pixels=case.pixels)

    def backward() -> object:
        image = operation.intensity(case.pixels, case.scene, options, kernel="fused")
        return torch.autograd.grad(squares(image, listed), list(case.parameters.values()))

    def program() -> object:
        with torch.no_grad():
            return case.simulator.pixel_values(case.pixels)

    beside = sketch or {}
    return {
        "value": Timer(value, case.steps, beside.get("value")),
        "gradients": Timer(lambda: adjoint(fixed, moves), case.steps, beside.get("gradients")),
        "one_pass": Timer(one_pass, case.steps, beside.get("gradients")),
        "loss": Timer(loss, case.steps, beside.get("gradients")),
        "backward": Timer(backward, case.steps, beside.get("gradients")),
        "program": Timer(program, case.steps, beside.get("value")),
    }


def _peak_megabytes(name: str, what: str) -> float:
    """The most memory that a process of its own held in which the scene was rendered once."""
    words = [sys.executable, "-m", "benchmarks.memory", name, what]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
