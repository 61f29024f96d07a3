"""Normal equations against a Jacobian formed column by column with central differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from nanobrag_torch import normal_equations
from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import operation
from nanobrag_torch.testing import Example, cubic_still, phi_sweep, triclinic_turned


def leaf(*values: float) -> torch.Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64, requires_grad=True)


SCENES: dict[str, tuple[Callable[[], Example], dict[str, Any]]] = {
    "still": (cubic_still, {"cell_a": leaf(90.0), "misset_deg": leaf(11.0, 22.0, 33.0), "fudge": None}),
    "turned": (triclinic_turned, {"cell_beta": leaf(97.0), "distance_mm": leaf(90.0), "wavelength_A": leaf(1.1)}),
    "sweep": (phi_sweep, {"mosaic_spread_deg": leaf(0.8), "phi_start_deg": leaf(3.0), "water_size_um": leaf(0.01)}),
}


def images(scene: Example, names: list[str], values: list[torch.Tensor], kernel: str) -> torch.Tensor:
    return scene.with_fields(**dict(zip(names, values, strict=True))).simulator(kernel=kernel).run().detach()


def numeric_jacobian(scene: Example, names: list[str], values: list[torch.Tensor], kernel: str) -> torch.Tensor:
    columns = []
    for i, value in enumerate(values):
        for j in range(value.numel()):
            step = torch.zeros(value.numel(), dtype=torch.float64)
            step[j] = 1e-5
            moved = [[v.detach() for v in values] for _ in range(2)]
            for sign, trial in zip((1, -1), moved, strict=True):
                trial[i] = trial[i] + sign * step.reshape(value.shape)
            high, low = (images(scene, names, trial, kernel) for trial in moved)
            columns.append((high - low).flatten() / 2e-5)
    return torch.stack(columns)


@pytest.mark.parametrize("kernel", ["reference", "auto"])
@pytest.mark.parametrize("name", SCENES)
def test_normal_equations_match_a_finite_difference_jacobian(name, kernel):
    maker, given = SCENES[name]
    fields = {key: value for key, value in given.items() if value is not None}
    scene, names, values = maker(), list(fields), list(fields.values())
    simulator = scene.with_fields(**fields).simulator(kernel=kernel)
    generator = torch.Generator().manual_seed(3)
    shape = simulator.image_shape
    residual = torch.randn(shape, generator=generator, dtype=torch.float64)
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    equations = normal_equations(simulator, values, residual, weights)
    jacobian = numeric_jacobian(scene, names, values, kernel)
    w, r = weights.flatten(), residual.flatten()
    scale = (jacobian**2 @ w).sqrt()
    assert ((equations.matrix - (jacobian * w) @ jacobian.T).abs() <= 1e-6 * scale[:, None] * scale).all()
    assert ((equations.gradient - jacobian @ (w * r)).abs() <= 1e-6 * scale * (w * r * r).sum().sqrt()).all()


def test_only_pixels_of_the_region_count():
    cell = leaf(90.0)
    whole = cubic_still().with_fields(cell_a=cell)
    part = whole.with_fields(roi_xmin=3, roi_xmax=9, roi_ymin=2, roi_ymax=17)
    mask = torch.zeros(whole.simulator().image_shape, dtype=torch.float64)
    mask[2:18, 3:10] = 1
    ones = torch.ones_like(mask)
    inside = normal_equations(part.simulator(), [cell], ones)
    masked = normal_equations(whole.simulator(), [cell], ones, mask)
    assert torch.allclose(inside.matrix, masked.matrix) and torch.allclose(inside.gradient, masked.gradient)


def test_parameters_that_do_not_shape_the_image_are_refused():
    with pytest.raises(InputError, match="parameters"):
        normal_equations(cubic_still().simulator(), [leaf(1.0)], torch.zeros(24, 20))
    cell = leaf(90.0)
    with pytest.raises(InputError, match="shape the image"):
        normal_equations(cubic_still().with_fields(cell_a=cell).simulator(), [cell, leaf(1.0)], torch.zeros(24, 20))
    with pytest.raises(InputError, match="phi"):
        normal_equations(phi_sweep().simulator(compat="c"), [cell], torch.zeros(20, 20))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile_sees_the_operation_as_one_node(backend):
    """A loss around the operation compiles without a break in the graph, and has the gradients of the plain one."""
    simulator = cubic_still().simulator()
    scene, options = simulator.scene(), simulator.options()
    pixels = torch.arange(24 * 20)

    def loss(lattice: torch.Tensor) -> torch.Tensor:
        image = operation.intensity(pixels, replace(scene, lattice=lattice), options)
        return ((image - 1.0) ** 2).sum()

    slopes = []
    for function in (loss, torch.compile(loss, backend=backend, fullgraph=True)):
        lattice = scene.lattice.clone().requires_grad_()
        function(lattice).backward()
        slopes.append(lattice.grad)
    assert torch.equal(slopes[0], slopes[1])
