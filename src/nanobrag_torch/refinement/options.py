"""What `refine_still` takes beside its four inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import inf, isfinite
from typing import Any

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.setup import Choices
from nanobrag_torch.refinement.targets import TARGETS

SHAPES = (CrystalShape.GAUSS_HKL, CrystalShape.SQUARE, CrystalShape.ROUND)
"""Those that are tried."""
WORDS: dict[str, tuple[str | int, ...]] = {
    "target": tuple(TARGETS),
    "intensities": ("free", "held"),
    "background": ("planes", "constant", "none"),
    "psf_shape": ("gauss", "fiber"),
    "N": (1, 2, 3, 6),
    "spread": (1, 3, 6),
}
"""Options with few values."""
NUMBERS: tuple[tuple[Callable[[float], bool], str, tuple[str, ...]], ...] = (
    (lambda x: x >= 1, "1 or more", ("boxes", "half_box", "most_steps", "spectrum_channels", "threads")),
    (lambda x: x >= 0, "0 or more", ("frame", "shot")),
    (lambda x: x > 0, "a number above 0", ("sigma_F",)),  # inf: no prior
    (lambda x: 0 < x < inf, "a number above 0", ("gain", "d_min", "d_max", "bandwidth_eV")),
    (lambda x: 0 <= x < inf, "a number from 0 on", ("readout_noise",)),
    (isfinite, "a number", ("pedestal",)),
)
"""What numbers have to be; NaN is none of it."""


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
    shapes = ("auto", *(shape.value for shape in CrystalShape if shape is not CrystalShape.TOPHAT))
    for name, accepted in (*WORDS.items(), ("shape", shapes)):
        if getattr(chosen, name) not in accepted:
            raise InputError(name, getattr(chosen, name), ", ".join(map(str, accepted)))
    for accepts, said, names in NUMBERS:
        for name in names:
            value = getattr(chosen, name)
            if value is not None and not accepts(value):
                raise InputError(name, value, said)
    for name in ("readout_noise", "pedestal") if "gain" in chosen.free else ():
        if getattr(chosen, name) is None:
            raise InputError(name, None, "a number (0 for none) where the gain is free: noise alone tells but one")
    _require_order("trusted_range", chosen.trusted_range)
    if chosen.d_min is not None and chosen.d_max is not None:
        _require_order("d_min, d_max", (chosen.d_min, chosen.d_max))
    return chosen


def _require_order(name: str, pair: tuple[float, float] | None) -> None:
    if pair is not None and not pair[0] < pair[1]:
        raise InputError(name, pair, "the lower before the higher")
