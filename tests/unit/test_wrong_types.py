"""Wrong types and shapes: one line that names the field, the value and what is accepted, never an error of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
from nanobrag_torch.config import GroupConfig, PanelConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.beam import Beam
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector

CRYSTAL, DETECTOR = {"cell_a": 60.0}, {"spixels": 4, "fpixels": 4}
PANEL = {"origin_mm": (0, 0, 100), "fast_axis": (1, 0, 0), "slow_axis": (0, 1, 0), "fpixels": 4, "spixels": 4}
WRONG = [
    (CrystalConfig, CRYSTAL, "cell_a", "60", "a number"),
    (CrystalConfig, CRYSTAL, "cell_b", True, "a number"),
    (CrystalConfig, CRYSTAL, "cell_c", torch.ones(2), "a number"),
    (CrystalConfig, CRYSTAL, "cell_alpha", torch.ones(3, 1), "a number"),
    (CrystalConfig, CRYSTAL, "cell_beta", 90j, "a number"),
    (CrystalConfig, CRYSTAL, "fudge", None, "a number"),
    (CrystalConfig, CRYSTAL, "misset_deg", torch.zeros(3, 1), "along one axis"),
    (CrystalConfig, CRYSTAL, "misset_deg", 3.0, "a vector"),
    (CrystalConfig, CRYSTAL, "misset_deg", "123", "a vector"),
    (CrystalConfig, CRYSTAL, "misset_deg", (1, 2), "3 numbers"),
    (CrystalConfig, CRYSTAL, "misset_deg", (1, "2", 3), "a vector"),
    (CrystalConfig, CRYSTAL, "misset_deg", {1, 2, 3}, "a vector"),
    (CrystalConfig, CRYSTAL, "mosflm_a_star", np.ones((1, 3)), "along one axis"),
    (CrystalConfig, CRYSTAL, "N_cells", 5, "a vector"),
    (CrystalConfig, CRYSTAL, "N_cells", (5, 5), "3 numbers"),
    (CrystalConfig, CRYSTAL, "phi_steps", 2.0, "a whole number"),
    (CrystalConfig, CRYSTAL, "phi_steps", torch.tensor(2), "a whole number"),
    (CrystalConfig, CRYSTAL, "phi_steps", True, "a whole number"),
    (CrystalConfig, CRYSTAL, "mosaic_domains", "3", "a whole number"),
    (CrystalConfig, CRYSTAL, "mosaic_spread_deg", "0.1", "a number"),
    (CrystalConfig, CRYSTAL, "interpolate", 1, "True, False"),
    (CrystalConfig, CRYSTAL, "shape", 3, "square, round"),
    (DetectorConfig, DETECTOR, "distance_mm", "100", "a number"),
    (DetectorConfig, DETECTOR, "distance_mm", [100.0], "a number"),
    (DetectorConfig, DETECTOR, "spixels", 4.0, "a whole number"),
    (DetectorConfig, DETECTOR, "oversample", "2", "a whole number"),
    (DetectorConfig, DETECTOR, "oversample_omega", "no", "True, False"),
    (DetectorConfig, DETECTOR, "curved_detector", 1.0, "True, False"),
    (DetectorConfig, DETECTOR, "detector_convention", None, "mosflm"),
    (DetectorConfig, DETECTOR, "mask_array", "mask.img", "an array of shape"),
    (DetectorConfig, DETECTOR, "panels", PanelConfig(**PANEL), "a list of PanelConfig"),
    (DetectorConfig, DETECTOR, "panels", [DETECTOR], "a list of PanelConfig"),
    (DetectorConfig, DETECTOR, "groups", ["a"], "a list of GroupConfig"),
    (PanelConfig, PANEL, "origin_mm", 100.0, "a vector"),
    (PanelConfig, PANEL, "pixel_size_mm", "0.1", "a number"),
    (PanelConfig, PANEL, "name", 1, "a word"),
    (GroupConfig, {"name": "a"}, "shift_mm", torch.zeros(1, 3), "along one axis"),
    (BeamConfig, {}, "wavelength_A", "1.0", "a number"),
    (BeamConfig, {}, "wavelength_A", torch.ones(2), "a number"),
    (BeamConfig, {}, "nopolar", 0, "True, False"),
    (BeamConfig, {}, "hdiv_steps", 1.5, "a whole number"),
    (BeamConfig, {}, "source_directions", (-1.0, 0.0, 0.0), "3 numbers a source"),
    (BeamConfig, {}, "source_directions", torch.ones(2, 3, 1), "3 numbers a source"),
    (BeamConfig, {"source_directions": [(-1, 0, 0)]}, "source_wavelengths", 1.0, "one number a source"),
    (BeamConfig, {"source_directions": [(-1, 0, 0)]}, "source_weights", torch.ones(1, 1), "one number a source"),
]


@pytest.mark.parametrize(("kind", "rest", "field", "value", "accepted"), WRONG)
def test_a_field_of_the_wrong_kind_is_named(kind, rest, field, value, accepted):
    with pytest.raises(InputError) as refused:
        kind(**{**rest, field: value})
    line = str(refused.value)
    assert line.startswith(field) and accepted in line and "\n" not in line


RIGHT = [
    (CrystalConfig, CRYSTAL, "cell_a", np.float32(60)),
    (CrystalConfig, CRYSTAL, "cell_a", torch.tensor([60.0])),
    (CrystalConfig, CRYSTAL, "misset_deg", [torch.tensor(1.0), 2, np.float64(3)]),
    (CrystalConfig, CRYSTAL, "misset_deg", np.zeros(3)),
    (CrystalConfig, CRYSTAL, "phi_steps", np.int64(2)),
    (CrystalConfig, CRYSTAL, "mosaic_spread_deg", np.eye(3)),
    (DetectorConfig, DETECTOR, "point_pixel", np.bool_(True)),
    (BeamConfig, {}, "source_directions", [(-1, 0, 0), torch.tensor([-1.0, 0, 0])]),
]


@pytest.mark.parametrize(("kind", "rest", "field", "value"), RIGHT)
def test_numbers_of_numpy_and_torch_are_numbers(kind, rest, field, value):
    kind(**{**rest, field: value})


SWAPPED = {
    "crystal: got 'Detector'; accepted: a Crystal": lambda c, d: Simulator(d, c),
    "crystal: got 'CrystalConfig'; accepted: a Crystal": lambda c, d: Simulator(c.config, d),
    "detector: got 'DetectorConfig'; accepted: a Detector": lambda c, d: Simulator(c, d.config),
    "beam_config: got 'Beam'; accepted: a BeamConfig": lambda c, d: Simulator(c, d, beam_config=Beam()),
    "config: got 'DetectorConfig'; accepted: a CrystalConfig": lambda c, d: Crystal(d.config),
    "config: got 'CrystalConfig'; accepted: a DetectorConfig": lambda c, d: Detector(c.config),
    "config: got 'Crystal'; accepted: a BeamConfig": lambda c, d: Beam(c),
}


@pytest.mark.parametrize("line", SWAPPED)
def test_models_and_configurations_are_not_taken_for_each_other(line):
    with pytest.raises(InputError) as refused:
        SWAPPED[line](Crystal(CrystalConfig(**CRYSTAL)), Detector(DetectorConfig(**DETECTOR)))
    assert str(refused.value) == line
