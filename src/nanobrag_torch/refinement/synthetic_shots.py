"""Made-up series of stills: crystals of one kind in random orientations, each with its own brightness and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.records.experiment import DetectorData, rotation_matrix
from nanobrag_torch.records.reflections import Cell
from nanobrag_torch.refinement.synthetic import Exposure, Truth, counted, rendered, still_truth

SMALL_CELL: Cell = (56.0, 56.0, 44.0, 90.0, 90.0, 90.0)


@dataclass(frozen=True, kw_only=True)
class Series:
    """Shots of one truth, numbered from 0: what is true of a shot follows from the seed and its number alone.

    turn_deg: largest rotation from the first orientation, None: any orientation. brightness and size: standard
    deviations of the logarithms of each shot's fluence and numbers of cells.
    """

    base: Truth
    seed: int = 0
    turn_deg: float | None = None
    brightness: float = 0.4
    size: float = 0.1

    def truth(self, number: int) -> Truth:
        """What is true of one shot."""
        generator = np.random.default_rng([self.seed, number])
        data = self.base.experiments[0]
        assert data.crystal is not None
        crystal = replace(data.crystal, real_space=self._rows(data.crystal.real_space, generator))
        options = dict(self.base.options)
        options["fluence"] = options["fluence"] * float(np.exp(self.brightness * generator.normal()))
        factor = float(np.exp(self.size * generator.normal()))
        options["N_cells"] = tuple(n * factor for n in options["N_cells"])
        return replace(self.base, experiments=(replace(data, crystal=crystal),), options=options)

    def _rows(self, rows: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
        if self.turn_deg is not None:
            return np.asarray(rows @ rotation_matrix(generator.normal(size=3), self.turn_deg * generator.random()).T)
        four = generator.normal(size=4)
        w, x, y, z = four / np.linalg.norm(four)
        turn = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        return np.asarray(rows @ np.array(turn).T)

    def exposures(self, numbers: range) -> Iterator[tuple[int, Truth, Exposure]]:
        """Each shot's number, truth and counted exposure."""
        for number in numbers:
            truth = self.truth(number)
            yield number, truth, counted(rendered(truth), truth, int(self.seed * 1_000_003 + number))


def small_series(
    *, group: str = "P 43 21 2", cell: Cell = SMALL_CELL, seed: int = 0, most_spots: int = 60, **options: Any
) -> Series:
    """Stills of a small cell on a small detector, which refine in a fraction of a second each."""
    chosen = {"size": 800, "distance_mm": 100.0, "domains": 25, "mosaic_sampling": "quadrature", "fluence": 4e24}
    own = {name: options.pop(name) for name in ("turn_deg", "brightness", "size") if name in options}
    if "pixels" in options:
        chosen["size"] = options.pop("pixels")
    base = still_truth(cell=cell, group=group, **{**chosen, **options})
    return Series(base=replace(base, most_spots=most_spots), seed=seed, **own)


def tiled(detector: DetectorData, columns: int, rows: int, gap: int = 4) -> DetectorData:
    """A detector of one panel cut into panels of equal size with a gap of some pixels between them."""
    whole = detector.panels[0]
    fast, slow = whole.pixel_size_mm
    width, height = (whole.image_size[0] + gap) // columns - gap, (whole.image_size[1] + gap) // rows - gap
    panels = [
        replace(
            whole,
            name=f"panel_{row}_{column}",
            origin_mm=whole.origin_mm
            + column * (width + gap) * fast * whole.fast
            + row * (height + gap) * slow * whole.slow,
            image_size=(width, height),
        )
        for row in range(rows)
        for column in range(columns)
    ]
    return replace(detector, panels=tuple(panels))


def misplaced(detector: DetectorData, pixels: float, degrees: float, seed: int) -> DetectorData:
    """Every panel shifted along its axes by up to so many pixels, and turned by up to so many degrees."""
    generator = np.random.default_rng(seed)
    found = []
    for panel in detector.panels:
        shift = generator.uniform(-pixels, pixels, 2) * panel.pixel_size_mm
        axis = generator.normal(size=3)
        turn = rotation_matrix(axis, degrees * generator.uniform(-1, 1))
        middle = panel.positions_mm(panel.image_size[0] / 2, panel.image_size[1] / 2)
        origin = turn @ (panel.origin_mm - middle) + middle + shift[0] * panel.fast + shift[1] * panel.slow
        found.append(replace(panel, origin_mm=origin, fast=turn @ panel.fast, slow=turn @ panel.slow))
    return replace(detector, panels=tuple(found))


def misplacement(found: DetectorData, truth: DetectorData) -> float:
    """Root mean square distance (pixels) across the beam between where two detectors have the corners of their panels.

    Without what no spot can tell from a crystal: a shift, a turn about the beam, and a scale of the whole.
    """
    places, off = [], []
    for one, other in zip(found.panels, truth.panels, strict=True):
        wide, tall = one.image_size
        fast, slow = np.array([0, wide, 0, wide]), np.array([0, 0, tall, tall])
        here, there = one.positions_mm(fast, slow)[:, :2], other.positions_mm(fast, slow)[:, :2]
        places.append(there)
        off.append((here - there) / one.pixel_size_mm[0])
    (x, y), d = np.concatenate(places).T, np.concatenate(off)
    zero, one_ = np.zeros_like(x), np.ones_like(x)
    design = np.concatenate([np.stack([one_, zero, -y, x], 1), np.stack([zero, one_, x, y], 1)])
    target = np.concatenate([d[:, 0], d[:, 1]])
    left = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return float(np.sqrt((left**2).sum() / len(x)))
