"""What `refine_still` takes beside its four inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.setup import Choices
from nanobrag_torch.refinement.targets import TARGETS

SHAPES = (CrystalShape.GAUSS_HKL, CrystalShape.SQUARE, CrystalShape.ROUND)
"""Those that are tried."""


@dataclass(frozen=True, kw_only=True)
class Options(Choices):
    """What `refine_still` takes beside its four inputs; the first fields are those of Choices.

    shape: auto tries square, round and gauss_hkl. flag: what DIALS must say of a reflection. boxes: at most so many,
    the strongest; half_box: pixels to either side of the centre. d_min, d_max (Angstrom). intensities: free, or held at
    those of the structure factors; sigma_F: how wrong F is taken to be (inf: no prior). background: planes, constant,
    none. readout_noise, gain and pedestal in photons, counts a photon and counts; mask: an array or an image file, not
    0 = use the pixel. most_steps of each fit. spectrum: a file of wavelengths and weights. sampling: sums of this
    fineness; None: as fine as it takes. check_sampling: say, or see to it, that finer sums would change nothing.
    """

    frame: int = 0
    shot: int = 0
    column: str | None = None
    spectrum: str | None = None
    shape: str = "auto"
    flag: str = "indexed"
    boxes: int = 400
    half_box: int | None = None
    d_min: float | None = None
    d_max: float | None = None
    intensities: str = "free"
    sigma_F: float = 0.2
    background: str = "planes"
    target: str = "poisson"
    gain: float | None = None
    pedestal: float | None = None
    readout_noise: float | None = None
    mask: Any = None
    trusted_range: tuple[float, float] | None = None
    most_steps: int = 30
    sampling: Sampling | None = None
    check_sampling: bool = True
    centroids: bool = True
    neighbours: bool = True


def options_of(given: Mapping[str, Any]) -> Options:
    """Options by their names. Raises InputError for a name or a word that is not known."""
    known = {f.name for f in fields(Options)}
    for name in given:
        if name not in known:
            raise InputError("option", name, ", ".join(sorted(known)))
    chosen = Options(**given)
    if chosen.target not in TARGETS:
        raise InputError("target", chosen.target, ", ".join(TARGETS))
    if chosen.intensities not in ("free", "held"):
        raise InputError("intensities", chosen.intensities, "free, held")
    shapes = ["auto", *(shape.value for shape in CrystalShape if shape is not CrystalShape.TOPHAT)]
    if chosen.shape not in shapes:
        raise InputError("shape", chosen.shape, ", ".join(shapes))
    return chosen
