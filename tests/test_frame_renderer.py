"""Frames of a series share what does not change between them, and are the images that each alone would be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nanobrag_torch import Experiment
from nanobrag_torch.crystallography import symmetry
from nanobrag_torch.errors import InputError
from nanobrag_torch.experiment import FrameRenderer
from nanobrag_torch.records.experiment import ExperimentData, rotation_matrix
from nanobrag_torch.records.reflections import Reflections
from test_experiment import experiment_data, straight

OPTIONS: dict[str, Any] = {"N_cells": (4, 4, 4), "oversample": 1, "phi_steps": 2, "default_F": 5.0}


def small(data: ExperimentData) -> ExperimentData:
    assert data.detector is not None
    panels = tuple(replace(panel, image_size=(24, 20)) for panel in data.detector.panels)
    return replace(data, detector=replace(data.detector, panels=panels))


def reflections() -> Reflections:
    hkl = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3, indexing="ij"), -1).reshape(-1, 3)
    hkl = hkl[(hkl @ [361, 19, 1]) > 0]
    amplitude = np.random.default_rng(1).uniform(10, 100, len(hkl))
    return Reflections(hkl=hkl.astype(np.int32), amplitude=amplitude, space_group="P1", cell=(58, 66, 81, 92, 94, 91))


def turning_crystal() -> ExperimentData:
    data = experiment_data()
    assert data.crystal is not None
    points = np.stack([data.crystal.A @ rotation_matrix(np.array([0.0, 0, 1]), 0.3 * i) for i in range(41)])
    return replace(data, crystal=replace(data.crystal, A_at_scan_points=points))


def wandering_beam() -> ExperimentData:
    data = experiment_data()
    assert data.beam is not None
    s0 = -data.beam.direction / np.linalg.norm(data.beam.direction) / data.beam.wavelength_A
    points = np.stack([s0 * (1 + 1e-3 * i) for i in range(41)])
    return replace(data, beam=replace(data.beam, s0_at_scan_points=points))


SCENES = {
    "one axis": lambda: straight(experiment_data()), "three axes": experiment_data,
    "two panels": lambda: experiment_data(2), "a crystal that moves": turning_crystal,
    "a beam that moves": wandering_beam,
}  # fmt: skip


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("more", [{}, {"mosaic_spread_deg": 0.3, "mosaic_domains": 3}, {"misset_deg": torch.ones(3)}],
                         ids=["plain", "mosaic", "a tensor"])  # fmt: skip
def test_frames_are_those_of_the_experiment(scene, more):
    experiment = Experiment(data=small(SCENES[scene]()), structure_factors=reflections(), options={**OPTIONS, **more})
    renderer = FrameRenderer(experiment, kernel="reference", dtype=torch.float64)
    for frame in (3, 0, 7):
        alone = experiment.simulate(frame, kernel="reference", dtype=torch.float64)
        assert torch.equal(renderer.simulate(frame), alone), frame
        assert alone.max() > 0
    again = experiment.record(5, seed=2, kernel="reference", dtype=torch.float64)
    assert torch.equal(renderer.record(5, seed=2), again)


def test_symmetry_is_applied_once_an_experiment(monkeypatch):
    from nanobrag_torch import experiment as module

    calls = []

    def counting(given: Reflections) -> symmetry.Expansion:
        calls.append(given)
        return symmetry.expand_to_p1(given)

    monkeypatch.setattr(module, "expand_to_p1", counting)
    experiment = Experiment(data=small(straight(experiment_data())), structure_factors=reflections(), options=OPTIONS)
    tables = [experiment.simulator(frame).crystal.hkl_data for frame in range(3)]
    assert len(calls) == 1 and all(table is not None for table in tables)
    assert tables[0] is not tables[1]  # each may be changed
    experiment.with_options(default_F=1.0).simulator(0)
    assert len(calls) == 2


def test_a_frame_that_is_none_is_refused():
    renderer = FrameRenderer(Experiment(data=small(straight(experiment_data())), options=OPTIONS), kernel="reference")
    renderer.simulate(0)
    for frame in (-1, 40):
        with pytest.raises(InputError, match="frame: got"):
            renderer.simulate(frame)


def test_the_strongest_neighbours_of_a_table_are_kept_for_that_table_alone():
    from nanobrag_torch.config import CrystalConfig, DetectorConfig
    from nanobrag_torch.kernels.cpu.limits import ceilings
    from nanobrag_torch.models.crystal import Crystal
    from nanobrag_torch.models.detector import Detector
    from nanobrag_torch.simulator import Simulator

    crystal = Crystal(CrystalConfig(cell_a=60.0, N_cells=(5, 5, 5)))
    crystal.hkl_data = torch.rand((5, 4, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    crystal.hkl_metadata = {"h_min": -2, "k_min": -2, "l_min": -1, "h_max": 2, "k_max": 1, "l_max": 1}
    simulator = Simulator(crystal, Detector(DetectorConfig(spixels=8, fpixels=8)), tolerance=1.0)
    first = ceilings(simulator.scene(), simulator.options())
    assert ceilings(simulator.scene(), simulator.options()) is first
    assert first.max() == pytest.approx(crystal.hkl_data.float().max().item() ** 2, rel=1e-5)
    crystal.hkl_data.numpy()[0, 0, 0] = 9.0
    assert ceilings(simulator.scene(), simulator.options()).max() == pytest.approx(81.0, rel=1e-5)
    crystal.config.default_F = 11.0
    assert ceilings(simulator.scene(), simulator.options()).max() == pytest.approx(121.0, rel=1e-5)
