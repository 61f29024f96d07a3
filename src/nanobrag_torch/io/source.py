"""Tables of sources as tensors: unit directions, weights and wavelengths in metres."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.io import sourcefile

if TYPE_CHECKING:
    import torch

Directions = NDArray[np.float64]
_LOG = logging.getLogger(__name__)


def with_defaults(table: Directions, default_position: list[float], default_wavelength_m: float) -> Directions:
    """A table [S, 5] of io.sourcefile with what lines left out: the position, an intensity of 1, the wavelength (m)."""
    return np.where(np.isnan(table), [*default_position, 1.0, default_wavelength_m], table)


def read_sourcefile(
    path: str | os.PathLike[str],
    default_wavelength_m: float,
    default_source_distance_m: float = 10.0,
    beam_direction: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit directions [S, 3] from the sample, weights [S] as in the file, wavelengths [S] in metres.

    beam_direction [3], (1, 0, 0) unless given: a line without a position is a source at default_source_distance_m
    against it. Wavelengths of the file count, and are said in the log where they are not the default. BeamConfig takes
    them in Angstrom: times 1e10. Raises InputError as io.sourcefile does.
    """
    import torch

    along = [1.0, 0.0, 0.0] if beam_direction is None else torch.as_tensor(beam_direction).tolist()
    table = sourcefile.read_sourcefile(path)
    table = with_defaults(table, [-default_source_distance_m * x for x in along], default_wavelength_m)
    if (table[:, 4] != default_wavelength_m).any():
        _LOG.warning("%s: wavelengths are those of the file, not %g m for all", path, default_wavelength_m)
    found = torch.from_numpy(table).to(device, dtype or torch.float64)
    directions = found[:, :3] / torch.linalg.vector_norm(found[:, :3], dim=-1, keepdim=True)
    return directions, found[:, 3], found[:, 4]
