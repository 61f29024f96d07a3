"""The gradient table: every parameter, both kernels, float64 against central differences, float32 against float64."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.testing import EXAMPLES, Example, cubic_still, phi_sweep
from nanobrag_torch.validation import gradients

PAGE = Path(__file__).parents[1] / "docs" / "gradients.md"
DOUBLE, SINGLE = 1e-6, 1e-3
KERNELS = {
    "reference": {"kernel": "reference"},
    "fused": {"kernel": "fused"},
    "fused, float32": {"kernel": "fused", "dtype": torch.float32},
}
NOT_REAL = {
    "phi_steps", "mosaic_domains", "mosaic_seed", "mosaic_sampling", "shape", "interpolate", "spixels", "fpixels",
    "detector_convention", "detector_pivot", "oversample", "oversample_omega", "oversample_polar", "oversample_thick",
    "detector_thicksteps", "point_pixel", "curved_detector", "roi_xmin", "roi_xmax", "roi_ymin", "roi_ymax",
    "mask_array", "panels", "groups", "nopolar", "dispersion_steps", "hdiv_steps", "vdiv_steps", "round_div",
}  # fmt: skip
# A cut-off and an automatic count: piecewise constant, their gradient is zero wherever there is one.
PIECEWISE = {"dmin", "sample_size_mm"}
# The same quantity as another row, by another unit: a step instead of a range.
OTHERWISE = {"phi_step_deg", "hdiv_step_mrad", "vdiv_step_mrad"}


def test_no_real_field_is_missing():
    wanted = {f.name for config in (CrystalConfig, DetectorConfig, BeamConfig) for f in fields(config)}
    covered = {gradients.field_name(p) for p in gradients.PARAMETERS}
    assert wanted - covered == NOT_REAL | PIECEWISE | OTHERWISE


@pytest.mark.parametrize("name", gradients.rows())
def test_row(name):
    found = gradients.row(name, **KERNELS)
    assert set(found) == set(EXAMPLES)
    for scene, differences in found.items():
        for kernel, difference in differences.items():
            bound = SINGLE if "float32" in kernel else DOUBLE
            assert difference <= bound, f"{name}, {scene}, {kernel}: {difference:.1e}"


@pytest.mark.parametrize("field", sorted(OTHERWISE))
def test_steps_instead_of_ranges(field):
    parameter = gradients.Parameter(
        field, 0.7, {"hdiv_steps": 2, "vdiv_steps": 2, "phi_steps": 3, "phi_start_deg": 3.0}
    )
    assert max(gradients.differences(parameter, phi_sweep(), **KERNELS).values()) <= SINGLE
    assert gradients.differences(parameter, phi_sweep(), fused={"kernel": "fused"})["fused"] <= DOUBLE


@pytest.mark.parametrize("kernel", ["reference", "fused"])
def test_gradcheck_on_a_small_scene(kernel):
    base = cubic_still().with_fields(spixels=5, fpixels=4, pixel_size_mm=4.0)
    start = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (90.0, (11.0, 22.0, 33.0), 100.0, 1.0)]

    def image(
        cell: torch.Tensor, misset: torch.Tensor, distance: torch.Tensor, wavelength: torch.Tensor
    ) -> torch.Tensor:
        fields_ = {"cell_a": cell, "misset_deg": misset, "distance_mm": distance, "wavelength_A": wavelength}
        return base.with_fields(**fields_).simulator(kernel=kernel).run() * 1e3

    assert torch.autograd.gradcheck(image, start, eps=1e-6, atol=1e-5, rtol=1e-5)


def test_gradients_of_several_parameters_at_once_are_those_of_each_alone():
    scene: Example = phi_sweep()
    names = ["cell_a", "distance_mm", "wavelength_A", "mosaic_spread_deg"]
    scene = scene.with_fields(close_distance_mm=None)
    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (60.0, 90.0, 1.0, 0.8)]
    weights = gradients.smooth_weights(scene)

    def slopes(chosen: list[int]) -> list[torch.Tensor]:
        given = {n: leaves[i] if i in chosen else leaves[i].detach() for i, n in enumerate(names)}
        total = (scene.with_fields(**given).simulator().run() * weights).sum()
        return list(torch.autograd.grad(total, [leaves[i] for i in chosen]))

    together = slopes([0, 1, 2, 3])
    for i, slope in enumerate(together):
        assert torch.allclose(slopes([i])[0], slope, rtol=1e-9)


def test_the_page_has_every_row_and_no_failing_one():
    table = PAGE.read_text().partition("<!-- table -->")[2]
    lines = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]
    assert [cells[0].strip().strip("`") for cells in lines] == gradients.rows()
    for cells in lines:
        figures = [float(cell) for cell in cells[1:]]
        assert len(figures) == 3 * len(EXAMPLES)
        assert all(figure <= (SINGLE if i % 3 == 2 else DOUBLE) for i, figure in enumerate(figures)), cells[0]
