"""What models keep: results of plain numbers alone, and nothing that a later change could make wrong."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from nanobrag_torch.compat import Compat
from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig, PanelConfig
from nanobrag_torch.models.beam import Beam
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.models.remembered import _LAST, is_plain
from nanobrag_torch.simulator import Simulator

PANEL = {"origin_mm": (-5.0, 5.0, -100.0), "fast_axis": (1.0, 0.0, 0.0), "slow_axis": (0.0, -1.0, 0.0)}


@pytest.fixture(autouse=True)
def _first_of_its_kind():
    """No other test has placed such a detector."""
    _LAST.clear()


@pytest.fixture
def counted(monkeypatch):
    """How often a detector is really placed."""
    calls: list[Detector] = []
    whole = Detector.beam_centre

    def counting(self: Detector) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(self)
        return whole(self)

    monkeypatch.setattr(Detector, "beam_centre", counting)
    return calls


def test_a_detector_of_numbers_is_placed_once(counted):
    detector = Detector(DetectorConfig(distance_mm=120.0, detector_rotx_deg=3.0))
    first, second = detector.geometry(), detector.geometry()
    assert len(counted) == 1 and torch.equal(first.panels, second.panels)
    detector.geometry(Compat(normal_stays=True))
    assert len(counted) == 2


def test_a_change_of_any_number_places_it_anew(counted):
    detector = Detector(DetectorConfig(distance_mm=120.0))
    before = detector.geometry().panels
    detector.config.distance_mm = 130.0
    assert not torch.equal(before, detector.geometry().panels) and len(counted) == 2
    detector.config.roi_xmin = 5  # which no geometry depends on
    detector.geometry()
    assert len(counted) == 2


def test_detectors_of_the_same_numbers_are_placed_once(counted):
    first, second = (Detector(DetectorConfig(distance_mm=120.0, detector_rotx_deg=3.0)) for _ in range(2))
    assert torch.equal(first.geometry().panels, second.geometry().panels) and len(counted) == 1
    second.geometry().panels.zero_()
    assert torch.equal(first.geometry().panels, Detector(first.config).geometry().panels) and len(counted) == 1


@pytest.mark.parametrize("other", [-0.0, 0, 1e-300, float("nan")])
def test_numbers_that_are_merely_equal_are_not_the_same(counted, other):
    for angle in (0.0, other, other):
        Detector(DetectorConfig(distance_mm=120.0)).geometry()
        config = DetectorConfig(distance_mm=120.0)
        object.__setattr__(config, "detector_rotx_deg", angle)
        Detector(config).geometry()
    assert len(counted) == 4  # once again wherever the one before was another


def test_a_kind_of_its_own_is_placed_its_own_way(counted):
    class Nearer(Detector):
        def _distances(self, ratio):
            return tuple(distance / 2 for distance in super()._distances(ratio))

    whole = Detector(DetectorConfig(distance_mm=120.0)).geometry().close_distance
    assert Nearer(DetectorConfig(distance_mm=120.0)).geometry().close_distance.item() == pytest.approx(whole.item() / 2)


def test_what_is_handed_out_may_be_changed():
    detector = Detector(DetectorConfig(distance_mm=120.0))
    before = detector.geometry().panels.clone()
    for change in (lambda t: t.zero_(), lambda t: t.numpy().fill(7.0)):
        change(detector.geometry().panels)
        assert torch.equal(detector.geometry().panels, before)


@pytest.mark.parametrize("given", [
    {"distance_mm": torch.tensor(120.0, dtype=torch.float64)}, {"custom_fdet_vector": [0.0, 0.0, 1.0]},
    {"twotheta_axis": np.array([0.0, 0.0, 1.0])},
])  # fmt: skip
def test_what_can_be_changed_in_place_is_read_anew(counted, given):
    detector = Detector(DetectorConfig(**given))
    detector.geometry()
    detector.geometry()
    assert len(counted) == 2


def test_a_tensor_that_an_optimiser_moves_counts_and_carries_its_gradient():
    distance = torch.tensor(120.0, dtype=torch.float64, requires_grad=True)
    detector = Detector(DetectorConfig(distance_mm=distance))
    for expected in (0.12, 0.11):
        found = detector.geometry().close_distance
        assert found.item() == pytest.approx(expected)
        (slope,) = torch.autograd.grad(found, distance)
        assert slope.item() == pytest.approx(1e-3)
        with torch.no_grad():
            distance -= 10


def test_a_list_in_a_panel_is_read_anew():
    origin = [-5.0, 5.0, -100.0]
    panel = PanelConfig(**{**PANEL, "origin_mm": origin}, fpixels=8, spixels=8)
    assert not is_plain(panel) and is_plain(PanelConfig(**PANEL, fpixels=8, spixels=8))
    detector = Detector(DetectorConfig(panels=(panel,)))
    before = detector.geometry().panels[0, 0, 2].item()
    origin[2] = -200.0
    assert detector.geometry().panels[0, 0, 2].item() == pytest.approx(2 * before)


def test_sources_are_those_of_the_beam_that_is_asked_for():
    beam, polar = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    model = Beam(BeamConfig(hdiv_range_mrad=1.0, hdiv_steps=3))
    first = model.sources(beam, polar)
    turned = model.sources(polar, beam)
    assert not torch.allclose(first.directions, turned.directions)
    assert torch.equal(model.sources(beam.clone(), polar).directions, first.directions)
    moving = beam.clone().requires_grad_()
    assert model.sources(moving, polar).directions.requires_grad


def test_a_tangent_of_the_beam_is_neither_lost_nor_left_behind():
    beam, polar = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    model = Beam(BeamConfig(hdiv_range_mrad=1.0, hdiv_steps=3))

    def slope(given):
        return forward_ad.unpack_dual(model.sources(given, polar).directions).tangent

    for _ in range(2):
        with forward_ad.dual_level():
            moving = slope(forward_ad.make_dual(beam, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)))
            assert moving is not None and moving.abs().max() > 0
            assert slope(beam) is None


def test_a_change_while_a_result_is_made_is_not_kept_as_that_of_before(monkeypatch):
    detector = Detector(DetectorConfig(distance_mm=120.0))
    whole, given = Detector._distances, detector.config.distance_mm

    def meanwhile(self, ratio):
        self.config.distance_mm = 130.0
        return whole(self, ratio)

    monkeypatch.setattr(Detector, "_distances", meanwhile)
    assert detector.geometry().close_distance.item() == pytest.approx(0.13)
    monkeypatch.undo()
    detector.config.distance_mm = given
    assert detector.geometry().close_distance.item() == pytest.approx(0.12)


def test_transforms_and_modes_of_torch_leave_nothing_behind():
    crystal = Crystal(CrystalConfig(cell_a=70.0, misset_deg=(1.0, 2.0, 3.0)), dtype=torch.float64)

    def volume(scale):
        return (crystal.cell()[2] * scale).sum()

    torch.func.grad(volume)(torch.tensor(1.0, dtype=torch.float64))
    with torch.inference_mode():
        crystal.cell()
    rows = crystal.cell()[0]
    assert not rows.is_inference() and not torch._C._functorch.is_functorch_wrapped_tensor(rows)
    edge = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (rows * edge).sum().backward()
    assert edge.grad is not None
    found = torch.func.jvp(volume, (edge.detach(),), (torch.ones_like(edge),))
    torch.testing.assert_close(found[1], crystal.cell()[2])


def test_copies_and_pickles_of_a_model_go_their_own_way():
    detector = Detector(DetectorConfig(distance_mm=120.0))
    detector.geometry()
    for other in (copy.copy(detector), copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        other.config = DetectorConfig(distance_mm=140.0)
        assert other.geometry().close_distance.item() == pytest.approx(0.14)
        assert detector.geometry().close_distance.item() == pytest.approx(0.12)


def test_a_device_of_its_own(monkeypatch):
    detector = Detector(DetectorConfig(distance_mm=120.0))
    detector.geometry()
    assert detector.to("meta").geometry().panels.device.type == "meta"
    assert detector.to("cpu").geometry().panels.device.type == "cpu"


def test_an_image_is_the_same_the_second_time():
    crystal = Crystal(CrystalConfig(cell_a=70.0, N_cells=(4, 4, 4), default_F=10.0), dtype=torch.float64)
    detector = Detector(DetectorConfig(spixels=9, fpixels=7, pixel_size_mm=1.0))
    simulator = Simulator(crystal, detector, dtype=torch.float64, kernel="reference")
    assert torch.equal(simulator.run(), simulator.run())
    assert torch.equal(simulator.run(oversample=2), simulator.run(oversample=2))


def test_a_tensor_given_by_name_is_read_anew():
    beam, along = Beam(BeamConfig()), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    across = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    before = beam.sources(beam=along, polar=across).directions
    along.neg_()
    assert torch.equal(beam.sources(beam=along, polar=across).directions, -before)
