"""What a step of shots that share intensities costs: seconds, bytes and memory by their number, and by their size."""

from __future__ import annotations

import copy
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from benchmarks.rows import Found
from benchmarks.shot_pool import OFF, OPTIONS, gathered, wrong_by_a_fifth
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.company import shared_shots
from nanobrag_torch.refinement.ensemble import Ensemble
from nanobrag_torch.refinement.kept import KeptShot, packed
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.reducers import Distributed
from nanobrag_torch.refinement.shared_prior import SharedPrior
from nanobrag_torch.refinement.shared_shot import SharedShot
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import wrong_start

SIZES = (50, 100, 200, 400, 800)
DISTINCT = 25
"""Shots that are different; larger numbers have copies of them under other names, each with memory of its own."""
OTHER_SUMS = 12
"""Vectors of the list's length in a step beside the products of its two solutions, about."""
BEFORE, REPEATS = 2, 3
"""Steps that bring a few shots to their end, so that none is tried twice; and those after it, the quickest counts."""
KNOWN = ((1.0, 25, 1), (1.0, 25, 3), (0.4, 25, 1))
ASKED = ((1.0, 25, 2), (0.5, 25, 2), (0.7, 75, 2))
"""Shares of the boxes, mosaic domains and samples across a pixel: what the model is made from, and tried on."""


@dataclass(frozen=True)
class Spent:
    """Of one step of so many shots: CPU seconds, bytes and vectors sent, and memory (kB) while it stood."""

    shots: int
    seconds: float
    sent: int
    products: int
    memory_kB: float


def scale(count: int) -> Found:
    """CPU seconds a shot alone and a step together, bytes and memory, by the number of shots."""
    alone = _alone(4)
    pool = wrong_by_a_fifth()
    own, shared = gathered(pool, DISTINCT)
    x = _begun(own, shared)
    sizes = [len(packed(kept)) for kept in pool.kept(DISTINCT)]
    more: list[SharedShot] = []
    lines = []
    for size in [size for size in SIZES if size <= count]:
        while len(more) < size:
            more.append(_copied(own[len(more) % len(own)], len(more)))
        lines.append(_step(more, shared, x))
    shots, seconds, memory = (np.array([getattr(x, n) for x in lines]) for n in ("shots", "seconds", "memory_kB"))
    slope, fixed = np.polyfit(shots, seconds, 1, w=1 / seconds)
    worst = float(np.abs(seconds / (fixed + slope * shots) - 1).max())
    each = [line.sent / (2 * line.products + OTHER_SUMS) for line in lines]
    grown = np.diff(memory) / np.diff(shots)
    said = (
        f"{alone:.2f} core-seconds a shot alone; a step {fixed:.2f} s + {1000 * slope:.1f} ms a shot (within "
        f"{100 * worst:.0f}% from {shots[0]} to {shots[-1]}); {each[0]:.0f} to {each[-1]:.0f} bytes a product and "
        f"process; {np.mean(sizes) / 1000:.0f} kB kept, {grown.min():.0f} to {grown.max():.0f} kB of memory a shot more"
    )
    flat = abs(each[-1] / each[0] - 1) < 0.1  # the number of products depends on the data alone
    met = worst < 0.1 and flat and alone <= 1 and bool(grown[-1] < 1.2 * np.median(grown))
    bar = "proportional within 10%, bytes constant, memory flat a shot, 1 core-second a shot alone"
    return Found(bar, said, met and count >= SIZES[-1], count)


def _alone(count: int) -> float:
    """Core-seconds a shot of a whole refinement alone, the first left out, which compiles."""
    pool, begun = wrong_by_a_fifth(), 0.0
    for number, truth, exposure in pool.shots.exposures(range(count + 1)):
        start = list(wrong_start(truth, OFF, number))
        before = time.process_time()
        refine_still(start, exposure.table, exposure.counts, pool.start, **OPTIONS)
        begun += (time.process_time() - before) * (number > 0)
    return begun / count


def _copied(shot: SharedShot, number: int) -> SharedShot:
    """The shot under another name; the model, whose table is one for all, stays where it is."""
    found = copy.copy(shot)
    found.name = f"shot_{number:05d}"
    found.problem = replace(copy.deepcopy(shot.problem), model=shot.problem.model)
    found.state = copy.deepcopy(shot.state)
    return found


def _begun(shots: Sequence[SharedShot], shared: Asymmetric) -> Tensor:
    """The intensities [N] that shots are held at before their first step."""
    ensemble = Ensemble(shots, shared, Distributed(), SharedPrior())
    ensemble.begin()
    return ensemble.x


def _step(shots: Sequence[SharedShot], shared: Asymmetric, x: Tensor) -> Spent:
    """One step of these shots from x [N]."""
    memory, reducer = _memory_kB(), Distributed()
    ensemble = Ensemble([copy.copy(shot) for shot in shots], shared, reducer, SharedPrior())
    ensemble.x = x
    ensemble.weigh(10.0)
    sent, begun = reducer.bytes_sent, time.process_time()
    step = ensemble.step(ensemble.outlook())
    spent = time.process_time() - begun
    assert step is not None and all(shot.weight for shot in ensemble.shots)
    return Spent(len(shots), spent, reducer.bytes_sent - sent, step.products, memory)


def _memory_kB() -> float:
    text = Path(f"/proc/{os.getpid()}/statm").read_text().split()
    return int(text[1]) * resource.getpagesize() / 1000


def model_of_cost(count: int) -> Found:
    """Seconds of a step by the sums within pixels, from three kinds of shots, tried on three others."""
    pool = wrong_by_a_fifth()
    shared = Asymmetric.of(pool.start)
    kept = list(pool.kept(count))
    _of_size(kept, shared, *KNOWN[0])  # what is loaded and compiled once
    known = [_of_size(kept, shared, *size) for size in KNOWN]
    asked = [_of_size(kept, shared, *size) for size in ASKED]
    columns = np.array([work for work, _ in known])
    fitted = np.linalg.lstsq(columns, np.array([seconds for _, seconds in known]), rcond=None)[0]
    off = [float(work @ fitted / seconds - 1) for work, seconds in asked]
    said = (
        f"a shot and step {1000 * fitted[0]:.1f} ms + {1e9 * fitted[1]:.1f} ns a pixel, domain and sample; others "
        f"({', '.join(f'{1000 * seconds:.0f}' for _, seconds in asked)} ms) predicted within "
        f"{100 * max(map(abs, off)):.0f}%"
    )
    return Found("predicts other sizes within 20%", said, max(map(abs, off)) <= 0.2, count)


def _of_size(
    kept: Sequence[KeptShot], shared: Asymmetric, boxes: float, domains: int, samples: int
) -> tuple[NDArray[np.float64], float]:
    """What such shots are made of (one, and sums of the kernel), and seconds of a step, both a shot."""
    chosen = []
    for shot in kept:
        wanted = np.arange(len(shot.boxes)) < boxes * len(shot.boxes)
        part = shot.only(wanted, np.ones(len(shot.neighbours), bool))
        chosen.append(replace(part, sampling=Sampling(domains, samples)))
    own, _ = shared_shots(chosen, shared)
    ensemble = Ensemble(own, shared, Distributed(), SharedPrior())
    ensemble.begin()
    spent = []
    for _ in range(BEFORE + REPEATS):
        begun = time.process_time()
        ensemble.step(ensemble.outlook())
        spent.append(time.process_time() - begun)
    pixels = np.mean([len(one.problem.boxes.pixels) for one in own])
    return np.array([1, pixels * domains * samples**2]), min(spent[BEFORE:]) / len(own)
