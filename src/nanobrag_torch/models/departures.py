"""Where a script written for the earlier package of this name would get other numbers: a line in the log for each.

What somebody gave, and what is read otherwise here, is said wherever it is met; a default that is another one here only
to scripts that are recognised by a crystal_config. Each line is said once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig, DetectorConvention
from nanobrag_torch.models.conventions import CONVENTIONS
from nanobrag_torch.models.tensors import as_tensor

LAB_Z = (0, 0, 1)
_LOG = logging.getLogger("nanobrag_torch.departures")
_SAID: set[str] = set()


def say(lines: Iterable[str]) -> None:
    """Log every line that has not been said yet."""
    for line in lines:
        if line not in _SAID:
            _SAID.add(line)
            _LOG.warning(line)


def given_otherwise(detector: DetectorConfig, beam: BeamConfig) -> Iterator[str]:
    """What was given and is read otherwise."""
    if detector.detector_convention is DetectorConvention.ADXV and detector.beam_center_s is not None:
        yield "beam_center_s of ADXV counts from the far edge, as in the C program"
    weights = beam.source_weights
    if weights is not None and len(torch.unique(as_tensor(weights).detach())) > 1:
        yield "source_weights count: intensities relative to each other"


def default_otherwise(crystal: CrystalConfig, detector: DetectorConfig, beam: BeamConfig) -> Iterator[str]:
    """Defaults that are others here."""
    convention = CONVENTIONS[detector.detector_convention]
    name = detector.detector_convention.name
    turns = any(_given(x) for x in (crystal.phi_start_deg, crystal.osc_range_deg))
    if turns and crystal.spindle_axis is None and convention.spindle != LAB_Z:
        yield f"spindle_axis is that of {name}, {convention.spindle}; it was (0, 0, 1) for all"
    if _given(beam.polarization_factor) and beam.polarization_axis is None and convention.polar != LAB_Z:
        yield f"polarization_axis is that of {name}, {convention.polar}; it was (0, 0, 1) for all"
    if _given(crystal.mosaic_spread_deg) and crystal.mosaic_domains is None:
        yield "mosaic_domains is 10 where there is a spread; it was 1"
    if _given(detector.detector_thick_um) and detector.detector_abs_um is None:
        yield "detector_abs_um is the thickness of the sensor; without it there was no absorption"
    if _given(beam.flux) and (beam.exposure, beam.beamsize_mm) == (1.0, 0.1):
        yield "flux counts with exposure 1 s and beamsize 0.1 mm; both were 0"
    if detector.detector_pivot is None and convention.pivot.name == "SAMPLE":
        yield f"detector_pivot is that of {name}, SAMPLE; it was BEAM unless a custom vector was given"
    if detector.detector_convention is DetectorConvention.CUSTOM and detector.custom_beam_vector is None:
        yield "custom_beam_vector is (1, 0, 0); it was (0, 0, 1)"


def _given(value: object) -> bool:
    """Whether a number is there, or a tensor, which an optimiser may change."""
    return isinstance(value, Tensor) or bool(value)
