"""Made-up series of stills: crystals of one kind in random orientations, each with its own brightness and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.records.experiment import rotation_matrix
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
