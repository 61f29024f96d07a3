"""render_batch: rows of configuration fields, against one simulator for each row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator, render_batch
from nanobrag_torch.background.materials import MaterialConfig
from nanobrag_torch.batches import scene_batch
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.testing import random_table

D = torch.float64
COUNT = 4


def simulator(crystal=None, detector=None, beam=None, **more) -> Simulator:
    config = {"cell_a": 60.0, "cell_c": 40.0, "N_cells": (7, 8, 9), "default_F": 30.0, "interpolate": False}
    ends = {f"{axis}_{end}": sign * 10 for axis in "hkl" for end, sign in (("min", -1), ("max", 1))}
    made = Crystal(CrystalConfig(**config | (crystal or {})), hkl_data=random_table(21), hkl_metadata=ends)
    shape = {"distance_mm": 100.0, "pixel_size_mm": 0.3, "spixels": 11, "fpixels": 12, "oversample": 1}
    return Simulator(
        made,
        Detector(DetectorConfig(**shape | (detector or {}))),
        beam_config=BeamConfig(**{"wavelength_A": 1.1} | (beam or {})),
        dtype=D,
        **more,
    )


def rows_of(**fields: tuple[float, ...] | float) -> dict[str, Tensor]:
    """COUNT rows about each value."""
    scales = 1 + 0.03 * torch.arange(COUNT, dtype=D)
    return {name: torch.tensordot(scales, torch.tensor(value, dtype=D), 0) for name, value in fields.items()}


def loop(base: dict, rows: dict[str, Tensor]) -> Tensor:
    """The photons of a simulator for each row."""
    images = []
    for b in range(COUNT):
        parts: dict[str, dict] = {name: dict(base.get(name, {})) for name in ("crystal", "detector", "beam")}
        for name, stack in rows.items():
            for part, config in (("crystal", CrystalConfig), ("detector", DetectorConfig), ("beam", BeamConfig)):
                if name in config.__dataclass_fields__:
                    parts[part][name] = stack[b]
        more = {k: v for k, v in base.items() if k not in parts}
        images.append(simulator(**parts, **more).photons())
    return torch.stack(images)


CASES = {
    "orientations": ({}, {"misset_deg": (5.0, 17.0, 31.0)}),
    "vectors": ({}, {"orientation_vector_deg": (10.0, -20.0, 30.0)}),
    "cells": ({}, {"cell_a": 58.0, "cell_b": 61.0, "cell_c": 40.0, "cell_beta": 91.0}),
    "mosaic": ({"crystal": {"mosaic_domains": 5}}, {"mosaic_spread_deg": 0.4, "misset_deg": (5.0, 17.0, 31.0)}),
    "anisotropic": ({"crystal": {"mosaic_domains": 5}}, {"mosaic_spread_deg": (0.4, 0.2, 0.3)}),
    "rotation": ({"crystal": {"phi_steps": 3}}, {"phi_start_deg": 4.0, "osc_range_deg": 0.5}),
    "sizes": ({"crystal": {"shape": "gauss_star"}}, {"N_cells": (7.0, 8.0, 9.0), "fudge": 1.2}),
    "amplitudes": ({}, {"F_scale": 1.4, "B_factor_A2": 9.0, "default_F": 3.0}),
    "beams": ({"beam": {"dispersion_steps": 3}}, {"wavelength_A": 1.1, "dispersion_pct": 0.6, "fluence": 1e24}),
    "flux": ({"beam": {"flux": 1e9}}, {"flux": 1e10, "beamsize_mm": 0.1, "polarization_factor": 0.5}),
    "spectra": (
        {"beam": {"source_directions": ((-1.0, 0.0, 0.0),) * 2}},
        {"source_wavelengths": (1.1, 1.12), "source_weights": (1.0, 2.0)},
    ),
    "detectors": (
        {"detector": {"detector_thick_um": 300.0, "detector_abs_um": 500.0}},
        {"distance_mm": 100.0, "beam_center_f": 1.7, "detector_rotx_deg": 3.0, "detector_thick_um": 300.0},
    ),
    "automatic sub-pixels": ({"detector": {"oversample": -1}}, {"cell_a": 500.0}),
    "automatic interpolation": ({"crystal": {"interpolate": None}}, {"N_cells": (1.9, 2.0, 2.0)}),
    "water": ({"beam": {"water_size_um": 5.0}}, {"wavelength_A": 1.1, "distance_mm": 90.0}),
    "water that varies": ({"beam": {"water_size_um": 5.0}}, {"water_size_um": 6.0}),
    "region": ({"detector": {"roi_xmin": 3, "roi_xmax": 7}}, {"misset_deg": (5.0, 17.0, 31.0)}),
    "reference kernel": ({"kernel": "reference"}, {"misset_deg": (5.0, 17.0, 31.0)}),
    "amorphous": ({"background": (MaterialConfig(thickness_mm=1.0),)}, {"distance_mm": 90.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_images_are_those_of_single_simulators(name):
    base, fields = CASES[name]
    rows = rows_of(**fields)
    found = render_batch(simulator(**base), rows)
    wanted = loop(base, rows)
    assert found.shape == wanted.shape == (COUNT, 11, 12)
    assert float((found - wanted).abs().max()) < 1e-11 * float(wanted.abs().max())
    assert float((wanted[1:] - wanted[0]).abs().max()) > 1e-4 * float(wanted.max()), "the rows do something"


def test_lists_of_pixels():
    rows = rows_of(misset_deg=(5.0, 17.0, 31.0))
    images = loop({}, rows).flatten(1)
    one = torch.tensor([5, 100, 17])
    assert torch.allclose(render_batch(simulator(), rows, one), images[:, one], rtol=1e-11)
    own = torch.tensor([[5, 100, -1], [1, 2, 3], [77, -1, -1], [9, 8, 7]])
    wanted = torch.where(own >= 0, images.gather(1, own.clamp(min=0)), 0)
    assert torch.allclose(render_batch(simulator(), rows, own), wanted, rtol=1e-11)


def test_gradients_are_those_of_single_simulators():
    rows = {name: stack.requires_grad_() for name, stack in rows_of(cell_a=60.0, misset_deg=(5.0, 17.0, 31.0)).items()}
    weights = torch.rand((COUNT, 11, 12), generator=torch.Generator().manual_seed(0), dtype=D)
    found = torch.autograd.grad((render_batch(simulator(), rows) * weights).sum(), list(rows.values()))
    wanted = torch.autograd.grad((loop({}, rows) * weights).sum(), list(rows.values()))
    for f, w in zip(found, wanted, strict=True):
        assert float((f - w).abs().max()) < 1e-10 * float(w.abs().max())


def test_slopes_along_directions():
    """Forward mode, through the models and the kernel."""
    rows = rows_of(misset_deg=(5.0, 17.0, 31.0))["misset_deg"]
    direction = torch.ones_like(rows)

    def image(misset: Tensor) -> Tensor:
        return render_batch(simulator(), {"misset_deg": misset}, check=False)

    slope = torch.func.jvp(image, (rows,), (direction,))[1]
    step = 1e-5
    central = (image(rows + step * direction) - image(rows - step * direction)) / (2 * step)
    assert float((slope - central).abs().max()) < 1e-5 * float(central.abs().max())


def test_tensors_that_no_row_changes_are_shared():
    scene, options = scene_batch(simulator(), rows_of(misset_deg=(5.0, 17.0, 31.0)))
    assert scene.stacked() == ("lattice",)
    assert options.oversample == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({}, "rows"),
        ({"misset_deg": torch.zeros((0, 3))}, "rows"),
        ({"misset_deg": torch.zeros((2, 3)), "cell_a": torch.ones(3)}, "as many rows"),
        ({"misset": torch.zeros((2, 3))}, r"rows\['misset'\]: got 'no field'"),
        ({"phi_steps": torch.ones(2)}, r"rows\['phi_steps'\]: got 'the same in all scenes'"),
        ({"hdiv_range_mrad": torch.ones(2)}, "hdiv_range_mrad"),
        ({"cell_a": torch.tensor([60.0, -1.0])}, "cell_a: got -1.0"),
        ({"wavelength_A": torch.tensor([1.0, torch.nan, 1.0])}, "wavelength_A"),
        ({"spindle_axis": torch.tensor([[1.0, 0, 0], [0, 0, 0]])}, "spindle_axis"),
        ({"cell_alpha": torch.tensor([90.0, 170.0]), "cell_beta": torch.tensor([90.0, 100.0])}, "cell_alpha"),
        ({"misset_deg": torch.zeros((2, 4))}, "misset_deg"),
    ],
)
def test_rows_that_cannot_be_are_refused(rows, words):
    with pytest.raises(InputError, match=words):
        render_batch(simulator(), rows)


def test_stale_orientations_belong_to_one_image():
    with pytest.raises(InputError, match="compat"):
        render_batch(simulator(compat="c"), rows_of(misset_deg=(5.0, 17.0, 31.0)))
