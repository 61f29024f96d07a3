"""Shots that share intensities and geometry, against their truth: `python -m benchmarks many-shots [row ...]`.

Rows are kept in results/many-shots.json as they come, and docs/scale.md is written from them; --count is how many shots
a row takes.
"""

from __future__ import annotations

import copy
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.rows import ROOT, Found, measure_rows

from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.ensemble import Ensemble, merge_intensities, refine_intensities
from nanobrag_torch.refinement.geometry import refine_geometry, start_panels
from nanobrag_torch.refinement.group_moves import GroupMoves
from nanobrag_torch.refinement.kept import kept_shot, packed
from nanobrag_torch.refinement.merged import Merged
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.reducers import Distributed
from nanobrag_torch.refinement.result import StillResult, moved_detector
from nanobrag_torch.refinement.shared_prior import SharedPrior
from nanobrag_torch.refinement.shared_shot import SharedShot
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import Start, wrong_factors, wrong_start
from nanobrag_torch.refinement.synthetic_shots import Series, misplaced, misplacement, small_series, tiled

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "many-shots.json", ROOT / "docs" / "scale.md"
OPTIONS: dict[str, Any] = {"readout_noise": 0.7, "shape": "gauss_hkl", "sampling": Sampling(25, 2)}
ALONE = 15
OTHER_SUMS = 12
"""Vectors of the list's length in a step beside the products of its two solutions, about."""
SIZES = (50, 100, 200, 400, 800)


def series(seed: int = 0, **options: Any) -> Series:
    """The stills of these rows: P 43 21 2, 56 56 44, 60 boxes each in any orientation."""
    return small_series(fluence=4e25, mosaic_spread_deg=0.12, seed=seed, **options)


def refined(shots: Series, count: int, factors: Reflections, **options: Any) -> Iterator[tuple[int, StillResult]]:
    """Shots refined alone from small errors of their start."""
    for number, truth, exposure in shots.exposures(range(count)):
        begin = wrong_start(truth, Start(rotation_deg=0.02, cell=0.0005, distance_mm=0.02), number)
        yield number, refine_still(list(begin), exposure.table, exposure.counts, factors, **OPTIONS, **options)


def shared_shots(shots: Series, count: int, factors: Reflections, shared: Asymmetric) -> list[SharedShot]:
    """Those of the shots that converged alone."""
    found = []
    for number, result in refined(shots, count, factors):
        if result.fit is not None and result.status == "converged":
            fit = result.fit
            found.append(SharedShot(f"shot_{number:05d}", fit.problem, fit.slots, fit.state, shared))
    return found


def against(merged: Merged, truth: Reflections) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """ln I less that of the truth, the common factor taken out, and its sigma, of what is above 5 sigma."""
    seen = merged.seen & (merged.intensity > 5 * merged.sigma)
    true = Asymmetric.of(truth, anomalous=merged.shared.anomalous).intensity.numpy()
    off, sigma = np.log(merged.intensity[seen] / true[seen]), (merged.sigma / merged.intensity)[seen]
    return off - np.average(off, weights=sigma**-2), sigma


def joint(count: int) -> Found:
    """Rms of ln I against its sigma, steps, and the same of a merge."""
    shots = series()
    wrong = wrong_factors(shots.base.factors, 0.2, 5)
    shared = Asymmetric.of(wrong)
    own = shared_shots(shots, count, wrong, shared)
    found = refine_intensities(own, shared)
    off, sigma = against(found, shots.base.factors)
    ratio = float(np.sqrt((off**2).mean() / (sigma**2).mean()))
    said = f"{ratio:.3f} in {len(found.history)} steps, pulls {float((off / sigma).std()):.3f}, {found.status}"
    return Found(
        "rms ln I within 1.2 sigma in 6 steps, F wrong by 20%", said, ratio <= 1.2 and len(found.history) <= 6, count
    )


def pulls(count: int) -> Found:
    """Pulls of all intensities of ten seeds, pooled."""
    pooled = []
    for seed in range(10):
        shots = series(seed + 1)
        wrong = wrong_factors(shots.base.factors, 0.2, seed)
        shared = Asymmetric.of(wrong)
        off, sigma = against(refine_intensities(shared_shots(shots, count, wrong, shared), shared), shots.base.factors)
        pooled.append(off / sigma)
    rms = float(np.concatenate(pooled).std())
    return Found(
        "pulls of ten seeds 0.9 to 1.2", f"{rms:.3f} of {sum(map(len, pooled))}", 0.9 <= rms <= 1.2, 10 * count
    )


def alternating(count: int) -> Found:
    """Two joint steps against as many renders of shots and intensities in turns."""
    shots = series()
    wrong = wrong_factors(shots.base.factors, 0.2, 5)
    shared = Asymmetric.of(wrong)
    own = shared_shots(shots, count, wrong, shared)
    together = refine_intensities([copy.copy(shot) for shot in own], shared, most_steps=2)
    turns = Ensemble([copy.copy(shot) for shot in own], shared, together_reducer(), SharedPrior())
    turns.begin()
    for _ in range(2):
        for e in turns.equations():
            shot = next(s for s in turns.shots if s.name == e.name)
            shot.move(e, torch.zeros_like(turns.x), turns.x)
        turns.x = turns.x + turns.system([e.held() for e in turns.equations()]).solve().change
        for shot in turns.shots:
            shot.hold(turns.x)
    alternate = replace(together, intensity=(turns.x * shared.intensity).numpy())
    rms = [float(np.sqrt((against(m, shots.base.factors)[0] ** 2).mean())) for m in (together, alternate)]
    said = f"rms ln I {rms[0]:.4f} joint, {rms[1]:.4f} in turns"
    return Found("joint better than alternating at equal renders", said, rms[0] < rms[1], count)


def together_reducer() -> Any:
    """Of one process."""
    from nanobrag_torch.refinement.reducers import Local

    return Local()


def anomalous_truth(factors: Reflections, relative: float, seed: int) -> Reflections:
    """Mates whose F differ by a normal part of this width of themselves."""
    whole = Asymmetric.of(factors, anomalous=True)
    amplitude = np.sqrt(whole.intensity.numpy())
    plus, minus = whole.pairs.numpy()
    part = 1 + relative * np.random.default_rng(seed).normal(size=len(plus)) / 2
    amplitude[plus], amplitude[minus] = amplitude[plus] * part, amplitude[minus] * (2 - part)
    return replace(whole.reflections(), amplitude=amplitude)


def anomalous(count: int) -> Found:
    """Differences of mates against those that were planted: correlation, what sigmas allow, and the slope."""
    shots = series()
    truth = anomalous_truth(shots.base.factors, 0.03, 9)
    shots = replace(shots, base=replace(shots.base, factors=truth))
    begin = Asymmetric.of(truth).reflections()  # mates alike
    shared = Asymmetric.of(begin, anomalous=True)
    found = refine_intensities(
        shared_shots(shots, count, begin, shared), shared, prior=SharedPrior(sigma_F=float("inf"))
    )
    plus, minus = shared.pairs.numpy()
    both = found.seen[plus] & found.seen[minus]
    F = np.sqrt(np.maximum(found.intensity, 1e-9))
    sigma_F = found.sigma / (2 * F)
    true_F = np.sqrt(Asymmetric.of(truth, anomalous=True).intensity.numpy())
    measured, true = (f[plus][both] - f[minus][both] for f in (F, true_F))
    variance = (sigma_F[plus] ** 2 + sigma_F[minus] ** 2)[both]
    cc = float(np.corrcoef(measured, true)[0, 1])
    allowed = float(np.sqrt(true.var() / (true.var() + variance.mean())))
    weight = 1 / variance
    slope, error = (
        float((weight * measured * true).sum() / (weight * true**2).sum()),
        float((weight * true**2).sum() ** -0.5),
    )
    met = cc >= 0.9 * allowed and abs(slope - 1) < 3 * error and error <= 0.02
    said = f"{cc:.3f} of {allowed:.3f}; slope {slope:.4f} +- {error:.4f}; {int(both.sum())} pairs"
    return Found("correlation 0.9 of what sigmas allow, slope 1 within 3 of at most 0.02", said, met, count)


def geometry(count: int) -> Found:
    """32 panels misplaced by up to 3 pixels and 0.3 degrees."""
    shots = series()
    data = shots.base.experiments[0]
    assert data.detector is not None
    named = tiled(data.detector, 8, 4)
    true = misplaced(named, 3.0, 0.3, 3)
    shots = replace(shots, base=replace(shots.base, experiments=(replace(data, detector=true),)))
    kept = []
    for number, exact, exposure in shots.exposures(range(count)):
        begin = replace(
            wrong_start(exact, Start(rotation_deg=0.02, cell=0.0005, distance_mm=0.0), number)[0], detector=named
        )
        result = refine_still([begin], exposure.table, exposure.counts, shots.base.factors, **OPTIONS)
        if result.fit is not None:
            kept.append(kept_shot(f"shot_{number:05d}", result, OPTIONS))
    start = start_panels(replace(data, detector=named))
    groups = GroupMoves.of(named, "panel", ("shift", "tilt"))
    rough, found = (refine_geometry(kept, groups, start, pixels=p) for p in (False, True))
    left = [misplacement(moved_detector(named, g.panels.numpy()), true) for g in (rough, found)]
    said = f"{misplacement(named, true):.2f} -> {left[0]:.4f} by centroids -> {left[1]:.4f} by pixels, {found.status}"
    return Found("32 panels within 0.02 pixel (rms)", said, left[1] <= 0.02, len(kept))


def scale(count: int) -> Found:
    """CPU seconds a shot alone and a step together, bytes and memory, by the number of shots."""
    shots = series()
    wrong = wrong_factors(shots.base.factors, 0.2, 5)
    shared = Asymmetric.of(wrong)
    exposures = list(shots.exposures(range(ALONE)))
    begun = time.process_time()
    alone = []
    for number, truth, exposure in exposures:
        start = wrong_start(truth, Start(rotation_deg=0.02, cell=0.0005, distance_mm=0.02), number)
        alone.append(refine_still(list(start), exposure.table, exposure.counts, wrong, **OPTIONS))
    stage_one = (time.process_time() - begun) / len(alone)
    sizes = [len(packed(kept_shot("a", r, OPTIONS))) for r in alone if r.fit is not None]
    lines = [_one_step(alone, shared, size) for size in SIZES if size <= count]
    seconds, shots_of = (np.array([line[name] for line in lines]) for name in ("cpu_s", "shots"))
    slope, fixed = np.polyfit(shots_of, seconds, 1)
    worst = float(np.abs(seconds / (fixed + slope * shots_of) - 1).max())
    each = [line["bytes"] / (2 * line["products"] + OTHER_SUMS) for line in lines]
    said = (
        f"{stage_one:.2f} core-seconds a shot alone; a step {fixed:.2f} s + {1000 * slope:.0f} ms a shot (within "
        f"{100 * worst:.0f}%); {each[0]:.0f} to {each[-1]:.0f} bytes a product and process; "
        f"{np.mean(sizes) / 1000:.0f} kB kept, {lines[-1]['memory_kB']:.0f} kB of memory a shot"
    )
    flat = abs(each[-1] / each[0] - 1) < 0.1  # the number of products depends on the data alone
    bar = "proportional within 10%, bytes constant, 1 core-second a shot"
    return Found(bar, said, worst < 0.1 and flat and stage_one <= 1, count)


def _one_step(alone: Sequence[StillResult], shared: Asymmetric, size: int) -> dict[str, float]:
    """CPU seconds and bytes of one step of so many shots; results serve again under other names."""
    before = _memory_kB()
    own = []
    for number in range(size):
        fit = alone[number % len(alone)].fit
        assert fit is not None
        problem = replace(copy.deepcopy(fit.problem), model=fit.problem.model)  # the model's table is one for all
        own.append(SharedShot(f"shot_{number:05d}", problem, fit.slots, fit.state, shared))
    reducer = Distributed()
    ensemble = Ensemble(own, shared, reducer, SharedPrior())
    for shot in own:
        shot.start(ensemble.x)
    ensemble.weigh(10.0)
    sent, begun = reducer.bytes_sent, time.process_time()
    outlook = ensemble.outlook()
    step = ensemble.step(outlook)
    spent, whole = time.process_time() - begun, reducer.bytes_sent - sent
    assert step is not None
    return {
        "shots": size, "cpu_s": spent, "bytes": whole, "products": step.products,
        "memory_kB": (_memory_kB() - before) / size,
    }  # fmt: skip


def _memory_kB() -> float:
    text = Path(f"/proc/{os.getpid()}/statm").read_text().split()
    return int(text[1]) * resource.getpagesize() / 1000


def merge(count: int) -> Found:
    """How far the quick look is from the truth."""
    shots = series()
    wrong = wrong_factors(shots.base.factors, 0.2, 5)
    shared = Asymmetric.of(wrong)
    off, sigma = against(merge_intensities(shared_shots(shots, count, wrong, shared), shared), shots.base.factors)
    return Found("no bar", f"rms ln I {np.sqrt((off**2).mean()):.4f}, pulls {(off / sigma).std():.2f}", True, count)


ROWS: dict[str, tuple[str, Callable[[int], Found]]] = {
    "joint": ("shared intensities of 200 shots", joint),
    "pulls": ("pulls, ten seeds", pulls),
    "alternating": ("joint against alternating", alternating),
    "merge": ("the quick look", merge),
    "anomalous": ("anomalous differences of 3%", anomalous),
    "geometry": ("32 misplaced panels", geometry),
    "scale": ("cost", scale),
}
"""Name -> what it shows, and its measurement."""
COUNTS = {"joint": 200, "pulls": 40, "alternating": 40, "merge": 40, "anomalous": 500, "geometry": 100, "scale": 800}
"""How many shots the bars ask for."""


def main(words: list[str] | None = None) -> None:
    """Measure the rows that were asked for, keep each as it comes, and write the table."""
    torch.set_num_threads(1)
    measure_rows(words, ROWS, RESULTS, PAGE, about=__doc__ or "", of="shots", counts=COUNTS)


if __name__ == "__main__":
    main()
