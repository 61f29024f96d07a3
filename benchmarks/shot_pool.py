"""Made-up shots refined alone, made once and kept in a folder, so that rows can be measured again and add up.

Files are named by what decides them; NANOBRAG_SHOTS is the folder, one of the temporary ones if not given. Several
processes may fill it side by side.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.summation import summed
from numpy.typing import NDArray

from nanobrag_torch.io.atomic import open_output
from nanobrag_torch.records.experiment import DetectorData, ExperimentData
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.refinement.asymmetric import Asymmetric
from nanobrag_torch.refinement.company import shared_shots
from nanobrag_torch.refinement.inputs import read_shot
from nanobrag_torch.refinement.kept import KeptShot, kept_shot, packed, unpacked
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.options import Options
from nanobrag_torch.refinement.problem import Problem, State
from nanobrag_torch.refinement.result import StillResult
from nanobrag_torch.refinement.shared_shot import SharedShot
from nanobrag_torch.refinement.stages import first_columns, with_scale
from nanobrag_torch.refinement.still import Clock, Refinement
from nanobrag_torch.refinement.synthetic import Exposure, Start, wrong_factors, wrong_start
from nanobrag_torch.refinement.synthetic_shots import Series, misplaced, small_series, tiled

FOLDER = Path(os.environ.get("NANOBRAG_SHOTS", Path(tempfile.gettempdir()) / "nanobrag-many-shots"))
OPTIONS: dict[str, Any] = {"readout_noise": 0.7, "shape": "gauss_hkl", "sampling": Sampling(25, 2)}
OFF = Start(rotation_deg=0.02, cell=0.0005, distance_mm=0.02)
SIZE = {"N_a": 42.0, "N_b": 42.0, "N_c": 55.0, "spread": 0.12}
"""Where refinements start, and priors are: the middle of what the shots are made with."""
WRONG_F, ANOMALOUS = 0.2, 0.03
PANELS, PIXELS, DEGREES = (8, 4), 3.0, 0.3


@dataclass(frozen=True, eq=False)
class Pool:
    """Shots of one truth, the structure factors that refinements of them start from, and the detector they believe."""

    name: str
    shots: Series
    start: Reflections
    off: Start = OFF
    believed: DetectorData | None = None
    most_steps: int = 30

    def kept(self, count: int, first: int = 0) -> Iterator[KeptShot]:
        """Shots that have a fit, made where they are not there yet."""
        for number in range(first, first + count):
            path = self._made(number)
            if path.stat().st_size:
                yield unpacked(path.read_bytes(), str(path))

    def sums(self, count: int, first: int = 0) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Indices [b, 3] and sums [b] of every reflection that lights the detector, shot by shot."""
        for number in range(first, first + count):
            with np.load(self._made(number).with_suffix(".sums")) as file:
                yield file["hkl"].astype(np.int64), file["sums"].astype(np.float64)

    def _made(self, number: int) -> Path:
        """The file of a shot, empty where it has no fit."""
        path = FOLDER / self.name / f"shot_{number:05d}.npz"
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        ((_, truth, exposure),) = self.shots.exposures(range(number, number + 1))
        (data,) = wrong_start(truth, self.off, number)
        begin = data if self.believed is None else replace(data, detector=self.believed)
        hkl, sums = summed(exposure, truth)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, hkl=hkl.astype(np.int16), sums=sums.astype(np.float32))
        _write(path.with_suffix(".sums"), buffer.getvalue())
        found = self._refined(begin, exposure)
        _write(path, b"" if found.fit is None else packed(kept_shot(path.stem, found, OPTIONS)))
        return path

    def _refined(self, begin: ExperimentData, exposure: Exposure) -> StillResult:
        shot = read_shot([begin], exposure.table, exposure.counts, self.start)
        options = Options(**OPTIONS, check_sampling=False, centroids=False, start=SIZE, most_steps=self.most_steps)
        return FromNearby(shot, options, Clock()).run()


def gathered(pool: Pool, count: int, *, anomalous: bool = False) -> tuple[list[SharedShot], Asymmetric]:
    """Those of the shots that converged alone, to be refined together, and the list that they share."""
    shared = Asymmetric.of(pool.start, anomalous=anomalous)
    return shared_shots(list(pool.kept(count)), shared)[0], shared


class FromNearby(Refinement):
    """A refinement that starts near its end: without a search for the size and spread of the crystal."""

    def _coarse(self, problem: Problem) -> tuple[Problem, State]:
        parameters, state = with_scale(problem, first_columns(problem))
        return replace(problem, parameters=parameters), state


def _write(path: Path, content: bytes) -> None:
    with open_output(path, "shots") as file:
        file.write(content)


def series(seed: int = 0, **options: Any) -> Series:
    """Stills of P 43 21 2, 56 56 44, 60 boxes each in any orientation."""
    return small_series(fluence=4e25, mosaic_spread_deg=0.12, seed=seed, **options)


def wrong_by_a_fifth(seed: int = 0) -> Pool:
    """F of the start wrong by 20%."""
    shots = series(seed)
    return Pool(f"wrong-{seed}", shots, wrong_factors(shots.base.factors, WRONG_F, seed + 5))


def near(group: str) -> Pool:
    """Stills within 0.4 degrees of one orientation, so that most reflections are seen by many."""
    shots = series(group=group, turn_deg=0.4)
    return Pool("near-" + group.replace(" ", ""), shots, wrong_factors(shots.base.factors, WRONG_F, 5))


def with_mates() -> Pool:
    """F of Friedel mates 3% apart; the start has them alike."""
    shots = series()
    truth = anomalous_truth(shots.base.factors, ANOMALOUS, 9)
    shots = replace(shots, base=replace(shots.base, factors=truth))
    return Pool("mates", shots, Asymmetric.of(truth).reflections())


def anomalous_truth(factors: Reflections, relative: float, seed: int) -> Reflections:
    """Mates whose F differ by a normal part of this width of themselves."""
    whole = Asymmetric.of(factors, anomalous=True)
    amplitude = np.sqrt(whole.intensity.numpy())
    plus, minus = whole.pairs.numpy()
    part = relative * np.random.default_rng(seed).normal(size=len(plus)) / 2
    amplitude[plus], amplitude[minus] = amplitude[plus] * (1 + part), amplitude[minus] * (1 - part)
    return replace(whole.reflections(), amplitude=amplitude)


def on_panels() -> Pool:
    """32 panels that stand up to 3 pixels and 0.3 degrees from where they are believed to be: no shot fits alone."""
    shots = series()
    data = shots.base.experiments[0]
    assert data.detector is not None
    named = tiled(data.detector, *PANELS)
    true = replace(data, detector=misplaced(named, PIXELS, DEGREES, 3))
    shots = replace(shots, base=replace(shots.base, experiments=(true,)))
    return Pool("panels", shots, shots.base.factors, replace(OFF, distance_mm=0.0), named, most_steps=3)
