"""What is known of a run before anything is rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.cli.nanobragg.settings import Plane, Scans
from nanobrag_torch.cli.nanobragg.structure import StructureFactors
from nanobrag_torch.compat import Compat
from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Prepared:
    """One run, checked and ready: the request, its automatic choices and the three configurations."""

    words: Sequence[str]
    compat: Compat
    headers: Request  # what the headers said before any flag
    request: Request
    plane: Plane
    scans: Scans
    structure: StructureFactors
    sources: NDArray[np.float64] | None  # the table of -sourcefile, missing entries filled in
    crystal: CrystalConfig
    detector: DetectorConfig
    beam: BeamConfig
    lines: Sequence[str]  # printed while reading headers
    clock_seed: int  # stands for the seeds that nobody gave

    @property
    def noise_seed(self) -> int:
        """Seed of the noise; the state of its stream is the negative."""
        return self.clock_seed if self.request.seed is None else self.request.seed

    @property
    def misset_seed(self) -> int:
        """Seed of a random orientation: its own, else that of the noise (D16)."""
        return self.noise_seed if self.request.misset_seed is None else self.request.misset_seed
