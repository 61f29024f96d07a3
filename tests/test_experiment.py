"""Experiments from files: spots stand where the geometry alone says, for every format that can hold it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanobrag_torch import Experiment
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.geometry import write_geometry
from nanobrag_torch.io.images import write_image
from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    GroupData,
    PanelData,
    ScanData,
    rotation_matrix,
)

PIXEL = 0.172
SHAPE = (400, 420)  # slow, fast
CELL = np.array([[58.0, 3.0, -2.0], [-1.0, 66.0, 4.0], [6.0, -3.0, 81.0]])


def test_it_shows_what_it_holds(tmp_path):
    experiment = Experiment(data=ExperimentData(), options={"N_cells": (3, 3, 3)})
    assert repr(experiment) == (
        "Experiment(0 panels, no beam, 1 frames, no crystal, no structure factors, {'N_cells': (3, 3, 3)})"
    )


def experiment_data(panels: int = 1) -> ExperimentData:
    """A crystal at an arbitrary orientation, tilted panels, a beam off the axis, a rotation of 20 degrees."""
    tilt = rotation_matrix(np.array([0.3, 0.9, 0.1]), 4.0)
    fast, slow = tilt @ [1.0, 0, 0], tilt @ [0, -1.0, 0]
    corner = tilt @ [-0.5 * SHAPE[1] * PIXEL, 0.5 * SHAPE[0] * PIXEL, -120.0]
    made = []
    for i in range(panels):
        origin = corner + i * (fast * (SHAPE[1] + 6) * PIXEL)
        made.append(
            PanelData(
                origin_mm=origin, fast=fast, slow=slow, pixel_size_mm=(PIXEL, PIXEL), image_size=SHAPE[::-1],
                name=f"p{i}", trusted_range=(0.0, 65535.0),
            )
        )  # fmt: skip
    root = GroupData(name="both", origin_mm=corner, children=tuple(range(panels))) if panels > 1 else None
    goniometer = GoniometerData.from_axes(
        [[1, 0, 0], [0.6, 0, 0.8], [1, 0, 0]], [12.0, -30.0, 0.0], ("phi", "kappa", "omega"), 2
    )
    return ExperimentData(
        beam=BeamData(
            wavelength_A=0.98, direction=np.array([0.004, -0.002, 1.0]), polarization_fraction=0.99,
            polarization_normal=np.array([0.0, 1, 0]),
        ),
        detector=DetectorData(panels=tuple(made), root=root),
        goniometer=goniometer,
        scan=ScanData(image_range=(1, 40), oscillation_start_deg=10.0, oscillation_width_deg=0.5),
        crystal=CrystalData(real_space=CELL @ rotation_matrix(np.array([1.0, 2, 3]), 40.0).T),
    )  # fmt: skip


def predict(data: ExperimentData, wanted: int, stills: bool) -> list[tuple[float, int, float, float, np.ndarray]]:
    """Angle, panel, fast, slow and hkl of reflections, from the geometry alone: |s0 + R r| = |s0|.

    With `stills` the angle is free, as if the crystal had been turned there.
    """
    assert data.beam is not None and data.crystal is not None and data.detector is not None
    s0 = -data.beam.direction / data.beam.wavelength_A
    axis, setting, fixed = np.array([1.0, 0, 0]), np.eye(3), np.eye(3)
    if data.goniometer is not None:
        axis, setting, fixed = (
            data.goniometer.rotation_axis,
            data.goniometer.setting_rotation,
            data.goniometer.fixed_rotation,
        )
    indices = np.stack(np.meshgrid(*[np.arange(-14, 15)] * 3, indexing="ij"), -1).reshape(-1, 3)
    stars = np.linalg.inv(data.crystal.real_space)
    found = []
    for hkl in np.random.default_rng(4).permutation(indices[np.abs(indices).sum(1) > 3]):
        r = setting @ fixed @ stars @ hkl
        lab_axis = setting @ axis
        along, across, third = r @ lab_axis * lab_axis, r - r @ lab_axis * lab_axis, np.cross(lab_axis, r)
        # |s0 + along + across cos + third sin|^2 = |s0|^2
        a, b = 2 * s0 @ across, 2 * s0 @ third
        c = -(r @ r) - 2 * s0 @ along
        if abs(c) >= np.hypot(a, b) * 0.98:
            continue
        for angle in (
            np.arctan2(b, a) + np.arccos(c / np.hypot(a, b)),
            np.arctan2(b, a) - np.arccos(c / np.hypot(a, b)),
        ):
            degrees = float(np.degrees(angle)) % 360
            if not stills and not 12 < degrees < 28:
                continue
            ray = s0 + along + across * np.cos(angle) + third * np.sin(angle)
            if abs(np.cross(lab_axis, s0) @ ray) * data.beam.wavelength_A**2 < 0.15:
                continue  # moves along the sphere: its angle is not sharp
            for i, panel in enumerate(data.detector.panels):
                matrix = np.stack((panel.fast, panel.slow, panel.origin_mm), 1)
                u, v, w = np.linalg.solve(matrix, ray)
                fast, slow = u / w / panel.pixel_size_mm[0], v / w / panel.pixel_size_mm[1]
                if w > 0 and 12 < fast < SHAPE[1] - 12 and 12 < slow < SHAPE[0] - 12:
                    found.append((degrees, i, fast, slow, hkl))
        if len(found) >= wanted:
            break
    return found[:wanted]


def centroid(
    experiment: Experiment, degrees: float, panel: int, fast: float, slow: float, hkl: np.ndarray
) -> np.ndarray:
    """Centre of mass (fast, slow) of one spot in its shoebox, swept through its reflecting range; no other reflects."""
    sweep: dict[str, Any] = {
        "phi_start_deg": degrees - 2,
        "osc_range_deg": 4,
        "phi_steps": 81,
        "phi_step_deg": 0.05,
        "default_F": 0.0,
    }
    if experiment.data.goniometer is None:
        sweep["spindle_axis"] = (1.0, 0.0, 0.0)
    simulator = experiment.with_options(**sweep).simulator(dtype=torch.float64)
    simulator.crystal.hkl_data = torch.ones(1, 1, 1)
    simulator.crystal.hkl_metadata = {f"{axis}_min": int(n) for axis, n in zip("hkl", hkl, strict=True)}
    half = 5
    f, s = np.meshgrid(np.arange(-half, half + 1) + int(fast), np.arange(-half, half + 1) + int(slow))
    flat = (panel * SHAPE[0] + s) * SHAPE[1] + f
    values = simulator.pixel_values(torch.from_numpy(flat.reshape(-1))).numpy().reshape(f.shape)
    return np.array([(values * (f + 0.5)).sum(), (values * (s + 0.5)).sum()]) / values.sum()


def written(kind: str, data: ExperimentData, folder: Path) -> Path:
    """The geometry in a file of that kind."""
    path = (
        folder
        / {"expt": "a.expt", "xds": "XPARM.XDS", "geom": "a.geom", "cbf": "a.cbf", "nxs": "a.nxs", "smv": "a.img"}[kind]
    )
    if kind in ("expt", "xds", "geom"):
        write_geometry(path, data, allow_loss=True)
    else:
        image = np.zeros(data.detector.shape, np.uint16 if kind == "smv" else np.int32)
        write_image(path, image, data, allow_loss=True)
    return path


SPOTS = {"shape": "gauss_star", "N_cells": (9, 8, 7), "oversample": 3}


@pytest.mark.parametrize("kind", ["expt", "xds", "geom", "cbf", "nxs", "smv"])
def test_spots_stand_where_the_geometry_says(kind, tmp_path):
    data = experiment_data()
    if kind == "smv":
        data = straight(data)
    experiment = Experiment.from_file(written(kind, data, tmp_path), **SPOTS)
    read = experiment.data
    if read.crystal is None:  # the file has no crystal: the same one is given from outside
        read = ExperimentData(
            beam=read.beam, detector=read.detector, goniometer=read.goniometer, scan=read.scan, crystal=data.crystal
        )
        experiment = Experiment(data=read, options=SPOTS)
    reflections = predict(read, 200, stills=read.goniometer is None)
    assert len(reflections) == 200
    off = [centroid(experiment, *reflection) - reflection[2:4] for reflection in reflections]
    assert np.abs(off).max() < 0.1, f"{kind}: {np.abs(off).max():.3f} pixel"


def straight(data: ExperimentData) -> ExperimentData:
    """The same with what an SMV header can say: a detector across the beam, one axis."""
    corner = np.array([-0.5 * SHAPE[1] * PIXEL, 0.5 * SHAPE[0] * PIXEL, -120.0])
    panel = PanelData(
        origin_mm=corner, fast=[1.0, 0, 0], slow=[0, -1.0, 0], pixel_size_mm=(PIXEL, PIXEL), image_size=SHAPE[::-1],
        trusted_range=(0.0, 65535.0),
    )  # fmt: skip
    beam = BeamData(wavelength_A=0.98)
    return ExperimentData(
        beam=beam, detector=DetectorData(panels=(panel,)), goniometer=GoniometerData(rotation_axis=[1.0, 0, 0]),
        scan=data.scan, crystal=data.crystal,
    )  # fmt: skip


def test_panels_of_an_experiment_render_together_and_move_with_their_group(tmp_path):
    experiment = Experiment.from_file(
        written("expt", experiment_data(panels=2), tmp_path), N_cells=(5, 5, 5), phi_steps=1
    )
    image = experiment.simulate(0)
    assert image.shape == (2, *SHAPE) and image.dtype == torch.float32 and image.numpy().max() > 0
    config = experiment.detector_config()
    assert config.groups and all(panel.group for panel in config.panels)
    shift = torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    moved = [
        type(g)(**{**vars(g), "shift_mm": shift}) if g.name == config.panels[0].group else g for g in config.groups
    ]
    simulator = experiment.with_options(groups=moved).simulator(dtype=torch.float64)
    simulator.pixel_values(torch.arange(0, 2 * SHAPE[0] * SHAPE[1], 997)).sum().backward()
    assert torch.isfinite(shift.grad).all() and shift.grad.abs().max() > 0


def test_an_experiment_survives_writing_and_reading(tmp_path):
    first = Experiment.from_file(written("expt", experiment_data(panels=2), tmp_path), N_cells=(5, 5, 5), phi_steps=2)
    first.to_file(tmp_path / "again.expt")
    again = Experiment.from_file(tmp_path / "again.expt", N_cells=(5, 5, 5), phi_steps=2)
    assert torch.equal(first.simulate(3), again.simulate(3))
    assert again.frames == 40


def test_a_scan_varying_crystal_is_that_of_the_frame():
    data = experiment_data()
    assert data.crystal is not None
    points = np.stack([data.crystal.A * (1 + 0.001 * i) for i in range(41)])
    varying = CrystalData(real_space=data.crystal.real_space, A_at_scan_points=points)
    experiment = Experiment(data=ExperimentData(**{**vars(data), "crystal": varying}))
    edges = [np.linalg.norm(experiment.crystal_config(frame).mosflm_a_star) for frame in (0, 10)]
    assert np.isclose(edges[1] / edges[0], (1 + 0.001 * 10.5) / (1 + 0.001 * 0.5), rtol=1e-12)


def test_what_is_missing_is_named():
    data = experiment_data()
    with pytest.raises(InputError, match="frame"):
        Experiment(data=data).simulate(40)
    with pytest.raises(InputError, match="crystal"):
        Experiment(data=ExperimentData(beam=data.beam, detector=data.detector)).simulate()
    with pytest.raises(InputError, match="detector"):
        Experiment(data=ExperimentData(beam=data.beam, crystal=data.crystal)).simulate()
    with pytest.raises(InputError, match="N_cell"):
        Experiment(data=data, options={"N_cell": 3})
