"""Measure the response and the backgrounds, and count 1e8 photons a mean: `python -m benchmarks.response [--draws N]`.

Counting is timed on one thread beside torch.poisson, taking turns; its distribution is held against Poisson's by a
chi-square over all counts of a hundred expected or more. The frame is an EIGER2 16M with water, air, spread, noise and
gaps: what is printed is what these add to the crystal alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy import stats

from nanobrag_torch.background.materials import material_of
from nanobrag_torch.experiment import Experiment
from nanobrag_torch.records.experiment import BeamData, CrystalData, ExperimentData
from nanobrag_torch.response.config import SpreadConfig
from nanobrag_torch.response.photons import poisson_counts
from nanobrag_torch.response.presets import detector_preset

MEANS = (0.1, 2.0, 10.0, 100.0, 65000.0)
TIMED = 1 << 20
AT_ONCE = 10**7
REPEATS = 7


def best(work: Callable[[], object]) -> float:
    """CPU seconds of the quickest of a few calls."""
    seconds = []
    for _ in range(REPEATS):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return min(seconds)


def counting() -> None:
    """Nanoseconds a pixel, beside torch.poisson."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for mean in MEANS:
        means = torch.full((1, TIMED), mean)
        ours, theirs = best(partial(poisson_counts, means, 1, validate=False)), best(partial(torch.poisson, means))
        print(
            f"mean {mean:g}: {1e9 * ours / TIMED:.1f} ns, torch.poisson {1e9 * theirs / TIMED:.1f}, {ours / theirs:.2f}"
        )
    torch.set_num_threads(threads)


def distribution(draws: int) -> None:
    """Chi-square of counts, by mean."""
    for mean in MEANS:
        law = stats.poisson(float(np.float32(mean)))
        edges = np.arange(int(law.ppf(1e-12)), int(law.isf(1e-12)) + 2)
        observed = np.zeros(len(edges) - 1, np.int64)
        means = torch.full((1, min(draws, AT_ONCE)), mean)
        for image in range(max(1, draws // AT_ONCE)):
            counts = poisson_counts(means, 11, first_image=image)[0].numpy()
            observed += np.bincount(counts - edges[0], minlength=len(observed))[: len(observed)]
        expected = np.diff(law.cdf(edges - 1)) * observed.sum()
        common = expected >= 100
        chi_square = ((observed - expected)[common] ** 2 / expected[common]).sum()
        chance = stats.chi2(common.sum() - 1).sf(chi_square)
        print(
            f"mean {mean:g}: {observed.sum():.0e} counts, {common.sum()} cells, chance of this chi-square {chance:.3f}"
        )


def frame() -> None:
    """Seconds that water, air, spread, noise and gaps add to an EIGER2 16M frame."""
    preset, beam = detector_preset("eiger2_16m"), BeamData(wavelength_A=1.0)
    crystal = CrystalData(real_space=np.diag([60.0, 70.0, 80.0]))
    data = ExperimentData(beam=beam, detector=preset.detector(beam, 200.0), crystal=crystal)
    options = {"N_cells": (20, 20, 20), "oversample": 1, "flux": 1e11, "exposure": 0.1, "beamsize_mm": 0.05}
    experiment = Experiment(data=data, options=options)
    response = preset.response(1.0, frame_time_s=0.1, spread=SpreadConfig(fwhm_um=75.0))
    materials = [material_of("water:0.1mm"), material_of("air:5mm")]
    whole = partial(experiment.record, seed=1, background=materials, response=response)
    works: dict[str, Callable[[], object]] = {"crystal alone": experiment.simulate, "all": whole}
    for name, work in works.items():
        work()
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        print(f"{name}: {time.perf_counter() - wall:.2f} s, {time.process_time() - cpu:.2f} s of CPU")


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10**8)
    draws = parser.parse_args().draws
    counting()
    distribution(draws)
    frame()


if __name__ == "__main__":
    main()
