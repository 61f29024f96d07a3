"""Shots that share intensities and geometry, against their truth: `python -m benchmarks many-shots [row ...]`.

Rows are kept in results/many-shots.json as they come, and docs/scale.md is written from them; --count is how many shots
a row takes. Shots are made and refined alone once, and kept in a folder (see shot_pool.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from benchmarks.rows import ROOT, Found, measure_rows
from benchmarks.shared_agreement import brute_force, processes
from benchmarks.shared_costs import model_of_cost, scale
from benchmarks.shared_differences import anomalous, summation
from benchmarks.shot_pool import Pool, gathered, on_panels, wrong_by_a_fifth
from numpy.typing import NDArray

from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.ensemble import Ensemble, merge_intensities, refine_intensities
from nanobrag_torch.refinement.geometry import refine_geometry, start_panels
from nanobrag_torch.refinement.group_moves import GroupMoves
from nanobrag_torch.refinement.merged import Merged
from nanobrag_torch.refinement.problem import Problem
from nanobrag_torch.refinement.reducers import Local
from nanobrag_torch.refinement.result import moved_detector
from nanobrag_torch.refinement.shared_prior import SharedPrior
from nanobrag_torch.refinement.shared_shot import SharedShot
from nanobrag_torch.refinement.synthetic_shots import misplacement

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "many-shots.json", ROOT / "docs" / "scale.md"
SEEDS = 10
Floats = NDArray[np.float64]


def off_truth(intensity: Floats, merged: Merged, truth: Reflections) -> tuple[Floats, Floats]:
    """ln I less that of the truth, the common factor taken out, and its sigma, of what is above 5 sigma in `merged`."""
    seen = merged.seen & (merged.intensity > 5 * merged.sigma)
    true = Asymmetric.of(truth, anomalous=merged.shared.anomalous).intensity.numpy()
    off, sigma = np.log(intensity[seen] / true[seen]), (merged.sigma / merged.intensity)[seen]
    return off - np.average(off, weights=sigma**-2), sigma


def _refined(pool: Pool, count: int) -> tuple[Merged, Floats, Floats]:
    """Shots of a pool refined together, and ln I off the truth with its sigma."""
    found = refine_intensities(*gathered(pool, count))
    return found, *off_truth(found.intensity, found, pool.shots.base.factors)


def joint(count: int) -> Found:
    """Rms of ln I against its sigma, and steps."""
    found, off, sigma = _refined(wrong_by_a_fifth(), count)
    ratio = float(np.sqrt((off**2).mean() / (sigma**2).mean()))
    said = f"{ratio:.3f} in {len(found.history)} steps, pulls {_rms(off / sigma):.3f} of {len(off)}, {found.status}"
    met = ratio <= 1.2 and len(found.history) <= 6
    return Found("rms ln I within 1.2 sigma in 6 steps, F wrong by 20%", said, met, count)


def pulls(count: int) -> Found:
    """Pulls of all intensities of ten seeds, pooled; count: shots of all seeds together."""
    own = count // SEEDS
    pooled = [off / sigma for seed in range(SEEDS) for _, off, sigma in [_refined(wrong_by_a_fifth(seed + 1), own)]]
    rms, each = _rms(np.concatenate(pooled)), [_rms(p) for p in pooled]
    said = f"{rms:.3f} of {sum(map(len, pooled))}, {min(each):.2f} to {max(each):.2f} seed by seed"
    return Found("pulls of ten seeds 0.9 to 1.2", said, 0.9 <= rms <= 1.2, SEEDS * own)


def _rms(values: Floats) -> float:
    return float(np.sqrt((values**2).mean()))


def alternating(count: int) -> Found:
    """Joint steps against as many renderings of shots and intensities in turns, from the same start."""
    pool = wrong_by_a_fifth()
    own, shared = gathered(pool, count)
    steps = 0
    with renderings() as spent:
        together = refine_intensities([copy.copy(shot) for shot in own], shared)
        steps = len(together.history)
    turns = Ensemble([copy.copy(shot) for shot in own], shared, Local(), SharedPrior())
    with renderings() as begun:
        turns.begin()
    rounds = -(-(spent[0] - begun[0]) // (2 * len(own)))  # one of the slopes and one of the step, each
    for _ in range(rounds):
        _in_turns(turns)
    rms = [
        _rms(off_truth(intensity, together, pool.shots.base.factors)[0])
        for intensity in (together.intensity, (turns.x * shared.intensity).numpy())
    ]
    said = f"rms ln I {rms[0]:.4f} joint ({steps} steps), {rms[1]:.4f} in turns ({rounds} rounds)"
    return Found("joint better than alternating at equal renders", said, rms[0] < rms[1], count)


def _in_turns(turns: Ensemble) -> None:
    """One step of every shot with the intensities held, then the intensities with the shots held."""
    shots: dict[str, SharedShot] = {shot.name: shot for shot in turns.shots}
    for e in turns.equations():
        shots[e.name].move(e, torch.zeros_like(turns.x), turns.x)
    turns.x = turns.x + turns.system([e.held() for e in turns.equations()]).solve().change
    for shot in turns.shots:
        shot.hold(turns.x)


@contextmanager
def renderings() -> Iterator[list[int]]:
    """Counts values and slopes of shots within it."""
    count, kept = [0], (Problem.render, Problem.jacobian)

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            count[0] += 1
            return work(*given)

        return call

    setattr(Problem, "render", counted(kept[0]))  # noqa: B010  (methods)
    setattr(Problem, "jacobian", counted(kept[1]))  # noqa: B010
    try:
        yield count
    finally:
        setattr(Problem, "render", kept[0])  # noqa: B010
        setattr(Problem, "jacobian", kept[1])  # noqa: B010


def geometry(count: int) -> Found:
    """32 panels misplaced by up to 3 pixels and 0.3 degrees."""
    pool = on_panels()
    named, true = pool.believed, pool.shots.base.experiments[0].detector
    assert named is not None and true is not None
    kept = list(pool.kept(count))
    start = start_panels(kept[0].experiments[0])
    groups = GroupMoves.of(named, "panel", ("shift", "tilt"))
    rough, found = (refine_geometry(kept, groups, start, pixels=p) for p in (False, True))
    left = [misplacement(moved_detector(named, g.panels.numpy()), true) for g in (rough, found)]
    said = f"{misplacement(named, true):.2f} -> {left[0]:.4f} by centroids -> {left[1]:.4f} by pixels, {found.status}"
    return Found("32 panels within 0.02 pixel (rms)", said, left[1] <= 0.02, len(kept))


def merge(count: int) -> Found:
    """How far the quick look is from the truth."""
    pool = wrong_by_a_fifth()
    found = merge_intensities(*gathered(pool, count))
    off, sigma = off_truth(found.intensity, found, pool.shots.base.factors)
    return Found("no bar", f"rms ln I {_rms(off):.4f}, pulls {_rms(off / sigma):.2f}", True, count)


ROWS: dict[str, tuple[str, Callable[[int], Found]]] = {
    "dense": ("elimination against brute force", brute_force),
    "processes": ("one process, or several, or files", processes),
    "joint": ("shared intensities of 200 shots", joint),
    "pulls": ("pulls, ten seeds", pulls),
    "alternating": ("joint against alternating", alternating),
    "merge": ("the quick look", merge),
    "anomalous": ("anomalous differences of 3%", anomalous),
    "summation": ("against summation and scaling", summation),
    "geometry": ("32 misplaced panels", geometry),
    "scale": ("cost", scale),
    "model": ("model of the cost of a step", model_of_cost),
}
"""Name -> what it shows, and its measurement."""
COUNTS = {
    "dense": 40, "processes": 40, "joint": 200, "pulls": 400, "alternating": 40, "merge": 40, "anomalous": 500,
    "summation": 500, "geometry": 100, "scale": 800, "model": 16,
}  # fmt: skip
"""How many shots the bars ask for."""


def main(words: list[str] | None = None) -> None:
    """Measure the rows that were asked for, keep each as it comes, and write the table."""
    torch.set_num_threads(1)
    measure_rows(words, ROWS, RESULTS, PAGE, about=__doc__ or "", of="shots", counts=COUNTS)


if __name__ == "__main__":
    main()
