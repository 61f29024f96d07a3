"""Normal equations with linear columns eliminated, held against the dense system solved whole."""

import numpy as np
import pytest
import torch

from nanobrag_torch import normal_equations
from nanobrag_torch.background.materials import MaterialConfig
from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig, PanelConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.columns import Columns, Layout, eliminate
from nanobrag_torch.refinement.equations import Equations
from nanobrag_torch.refinement.losses import loss_and_gradient
from nanobrag_torch.response.config import ResponseConfig
from nanobrag_torch.testing import Example, cubic_still, random_table


def random_fit(seed, pixels=400, blocks=23, columns=4, parameters=6):
    """Pixels in blocks of unequal size with their columns, a Jacobian, weights and residuals."""
    generator = torch.Generator().manual_seed(seed)
    block = torch.cat((torch.arange(blocks), torch.randint(0, blocks, (pixels - blocks,), generator=generator)))
    block = block[torch.randperm(pixels, generator=generator)]
    values = torch.randn((pixels, columns), generator=generator, dtype=torch.float64)
    jacobian = torch.randn((parameters, pixels), generator=generator, dtype=torch.float64)
    weights = torch.rand(pixels, generator=generator, dtype=torch.float64) + 0.1
    residual = torch.randn(pixels, generator=generator, dtype=torch.float64)
    return block, values, jacobian, weights, residual


def dense(block, values, jacobian, weights, residual, precision):
    """Matrix and right side of all unknowns together: parameters, then the columns of every block."""
    blocks, columns = int(block.max()) + 1, values.shape[1]
    design = torch.zeros((len(block), blocks * columns), dtype=torch.float64)
    for column in range(columns):
        design[torch.arange(len(block)), block * columns + column] = values[:, column]
    whole = torch.cat((jacobian.T, design), 1)
    matrix = whole.T @ (weights[:, None] * whole)
    matrix[len(jacobian) :, len(jacobian) :] += torch.diag(precision.reshape(-1))
    return matrix, whole.T @ (weights * residual)


@pytest.mark.parametrize("seed", range(4))
def test_columns_are_eliminated_exactly(seed):
    block, values, jacobian, weights, residual = random_fit(seed)
    precision = torch.full((23, 4), 0.3, dtype=torch.float64)
    matrix, right = dense(block, values, jacobian, weights, residual, precision)
    whole = torch.linalg.solve(matrix, right)
    gram, sums = Layout(block, 23).gram(torch.cat((values, jacobian.T), 1), weights, weights * residual)
    gram[:, :4, :4] += torch.diag_embed(precision)
    found = eliminate(gram, sums, 4)
    step = torch.linalg.solve(found.matrix, found.right)
    torch.testing.assert_close(step, whole[:6], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.solution(step).reshape(-1), whole[6:], rtol=1e-9, atol=1e-10)


def test_blocks_of_any_size_are_padded_right():
    block = torch.tensor([0] * 1 + [1] * 200 + [3] * 3)  # one is empty
    layout = Layout(block, 4)
    gram, sums = layout.gram(
        torch.ones((204, 1), dtype=torch.float64), torch.ones(204).double(), torch.ones(204).double()
    )
    assert gram[:, 0, 0].tolist() == [1, 200, 0, 3]
    assert sums[:, 0].tolist() == [1, 200, 0, 3]


def test_a_constraint_holds_and_the_rest_is_the_constrained_minimum():
    block, values, jacobian, weights, residual = random_fit(5)
    gram, sums = Layout(block, 23).gram(torch.cat((values, jacobian.T), 1), weights, weights * residual)
    constraint = torch.zeros((2, 23, 4), dtype=torch.float64)
    constraint[0, :12, 3], constraint[1, 12:, 3] = 1 / 12, 1 / 11
    gap = torch.tensor([0.3, -0.2], dtype=torch.float64)
    equations = Equations(
        gram[:, 4:, 4:].sum(0), gram[:, :4, 4:], gram[:, :4, :4], sums[:, 4:].sum(0), sums[:, :4], constraint, gap, 0.0
    )
    projected = equations.projected()
    step = projected.step()
    matrix, right = dense(block, values, jacobian, weights, residual, torch.zeros(23, 4).double())
    border = torch.cat((torch.zeros(2, 6), constraint.reshape(2, -1)), 1).double()
    bordered = torch.cat((torch.cat((matrix, border.T), 1), torch.cat((border, torch.zeros(2, 2)), 1)))
    inverse = torch.linalg.inv(bordered)
    whole = inverse @ torch.cat((right, gap))
    torch.testing.assert_close(step.parameters, whole[:6], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(step.linear.reshape(-1), whole[6:-2], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close((constraint * step.linear).sum((1, 2)), gap, rtol=1e-9, atol=1e-12)
    covariance = projected.covariance()
    torch.testing.assert_close(covariance, inverse[:6, :6], rtol=1e-8, atol=1e-12)
    expected = torch.stack([inverse[6 + 4 * b : 10 + 4 * b, 6 + 4 * b : 10 + 4 * b] for b in range(23)])
    torch.testing.assert_close(projected.linear_covariance(covariance), expected, rtol=1e-8, atol=1e-12)


def planes_and_spot(simulator, pixels, parameters, factor):
    """Blocks of four by four pixels; columns: constant, fast, slow and the image itself."""
    fast = simulator.image_shape[1]
    block = (pixels // fast // 4) * (fast // 4) + pixels % fast // 4
    image = simulator.pixel_values(pixels).detach().double()
    x, y = (pixels % fast % 4 - 1.5).double(), (pixels // fast % 4 - 1.5).double()
    _, number = torch.unique(block, return_inverse=True)
    return Columns(number, torch.stack((torch.ones_like(x), x, y, image * factor), 1))


@pytest.mark.parametrize("at_once", [1000, 37])
def test_public_equations_with_columns_equal_the_dense_system(at_once, monkeypatch):
    monkeypatch.setattr("nanobrag_torch.refinement.normal_equations.PIXELS_AT_ONCE", at_once)
    edge = torch.tensor(90.0, dtype=torch.float64, requires_grad=True)
    turn = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    simulator = cubic_still().with_fields(cell_a=edge, orientation_vector_deg=turn).simulator()
    pixels = torch.randperm(480, generator=torch.Generator().manual_seed(1))[:400]
    columns = planes_and_spot(simulator, pixels, [edge, turn], 1e-3)
    columns = Columns(columns.block, columns.values, torch.full((columns.count, 4), 1e-2, dtype=torch.float64))
    residual = torch.randn(400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = torch.rand(400, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5
    found = normal_equations(simulator, [edge, turn], residual, weights, pixels=pixels, columns=columns)

    def image(e, t):
        return cubic_still().with_fields(cell_a=e, orientation_vector_deg=t).simulator().pixel_values(pixels)

    by_edge, by_turn = torch.autograd.functional.jacobian(image, (edge.detach(), turn.detach()))
    jacobian = torch.cat((by_edge[None], by_turn.T))
    matrix, right = dense(columns.block, columns.values, jacobian, weights, residual, columns.precision)
    whole = torch.linalg.solve(matrix, right)
    step = torch.linalg.solve(found.matrix, found.gradient)
    torch.testing.assert_close(step, whole[:4], rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(found.columns.solution(step).reshape(-1), whole[4:], rtol=1e-8, atol=1e-10)


def test_a_list_of_pixels_is_the_same_as_the_image():
    edge = torch.tensor(90.0, dtype=torch.float64, requires_grad=True)
    simulator = cubic_still().with_fields(cell_a=edge).simulator()
    residual = torch.from_numpy(np.random.default_rng(1).normal(size=(24, 20)))
    whole = normal_equations(simulator, [edge], residual)
    pixels = torch.arange(480).flip(0)
    listed = normal_equations(simulator, [edge], residual.reshape(-1).flip(0), pixels=pixels)
    torch.testing.assert_close(listed.matrix, whole.matrix, rtol=1e-12, atol=0)
    torch.testing.assert_close(listed.gradient, whole.gradient, rtol=1e-12, atol=0)


def test_columns_of_other_pixels_are_refused():
    edge = torch.tensor(90.0, dtype=torch.float64, requires_grad=True)
    simulator = cubic_still().with_fields(cell_a=edge).simulator()
    columns = Columns(torch.zeros(3, dtype=torch.int64), torch.ones((3, 1), dtype=torch.float64))
    with pytest.raises(InputError, match="a block for each of 480 pixels"):
        normal_equations(simulator, [edge], torch.zeros(24, 20), columns=columns)
    with pytest.raises(InputError, match="a value for each of 5 pixels"):
        normal_equations(simulator, [edge], torch.zeros(24, 20), pixels=torch.arange(5))


def three_panels(**fields):
    """A turning triclinic crystal in a drop of water and a sheet of another, on three panels turned apart."""
    panels = tuple(
        PanelConfig(
            origin_mm=(60.0, y, z),
            fast_axis=(0.02, np.cos(turn), np.sin(turn)),
            slow_axis=(-0.03, -np.sin(turn), np.cos(turn)),
            fpixels=12,
            spixels=10,
            pixel_size_mm=0.9,
        )
        for y, z, turn in ((-15.0, -8.0, 0.05), (1.0, -7.5, -0.03), (-14.0, 3.0, 0.1))
    )
    crystal = CrystalConfig(
        cell_a=60.0,
        cell_b=72.0,
        cell_c=85.0,
        cell_alpha=82.0,
        cell_beta=97.0,
        cell_gamma=108.0,
        N_cells=(5, 4, 6),
        shape="gauss_hkl",
        osc_range_deg=1.0,
        phi_steps=2,
    )
    beam = BeamConfig(wavelength_A=1.0, fluence=1e28, water_size_um=1.0)
    example = Example(crystal, DetectorConfig(panels=panels, oversample=1), beam, random_table(31))
    sheet = MaterialConfig(thickness_mm=1e-11)  # as bright as the drop
    return example.with_fields(**fields).simulator(kernel="reference", background=[sheet])


def central_jacobian(image, values, relative=1e-4):
    """Slopes [n, T] by central differences of two steps."""
    found = []
    for i, value in enumerate(values):
        ways = []
        for step in (relative * value, relative / 2 * value):
            up, down = ([v + sign * step * (j == i) for j, v in enumerate(values)] for sign in (1, -1))
            ways.append((image(*up) - image(*down)) / (2 * step))
        found.append((4 * ways[1] - ways[0]) / 3)
    return torch.stack(found, 1)


def test_boxes_that_share_pixels_and_reflections_on_panels_with_water_are_the_dense_system():
    """Boxes of the first panel share pixels, so they are one block; a reflection is in both boxes of the second."""
    names, values = ("cell_a", "wavelength_A", "fluence", "osc_range_deg"), (60.0, 1.0, 1e28, 1.0)
    pixels = torch.randperm(360, generator=torch.Generator().manual_seed(4))[:300]

    def image(*given):
        return three_panels(**dict(zip(names, given, strict=True))).pixel_values(pixels)

    jacobian, spot = central_jacobian(image, values), image(*values)
    panel, fast = pixels // 120, (pixels % 12).double()
    first, second = (fast < 7).double(), (fast >= 5).double()
    columns = torch.stack((first, second, first * fast, second * fast, spot * first, spot * second), 1)
    columns[panel == 1, 5] = 0
    columns[panel == 1, 4] = spot[panel == 1]
    generator = np.random.default_rng(5)
    weights = torch.from_numpy(generator.uniform(0, 2, 300) * (generator.random(300) > 0.3)) / spot
    weights[(panel == 2) & (fast < 5)] = 0  # most of a box
    residual = torch.from_numpy(generator.normal(size=300)) * spot.sqrt()
    precision = torch.full((3, 6), 1e-3, dtype=torch.float64)
    leaves = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    simulator = three_panels(**dict(zip(names, leaves, strict=True)))
    given = Columns(panel, columns, precision)
    found = normal_equations(simulator, leaves, residual, weights, pixels=pixels, columns=given)
    matrix, right = dense(panel, columns, jacobian.T, weights, residual, precision)
    scale = matrix.diagonal().sqrt()
    whole = torch.linalg.solve(matrix / scale / scale[:, None], right / scale) / scale
    step = torch.linalg.solve(found.matrix / scale[:4] / scale[:4, None], found.gradient / scale[:4]) / scale[:4]
    torch.testing.assert_close(step * scale[:4], whole[:4] * scale[:4], rtol=1e-6, atol=1e-6)
    linear = found.columns.solution(step).reshape(-1)
    torch.testing.assert_close(linear * scale[4:], whole[4:] * scale[4:], rtol=1e-6, atol=1e-6)


def test_what_would_be_looked_up_outside_the_image_or_left_out_of_it_is_refused():
    edge = torch.tensor(90.0, dtype=torch.float64, requires_grad=True)
    scene = cubic_still().with_fields(cell_a=edge)
    one, simulator = torch.ones(2, dtype=torch.float64), scene.simulator()
    for pixels, says in (((0, 480), "0 to 479"), ((-1, 3), "0 to 479"), ((0.0, 1.0), "whole numbers")):
        with pytest.raises(InputError, match=says):
            normal_equations(simulator, [edge], one, pixels=torch.tensor(pixels))
        with pytest.raises(InputError, match=says):
            loss_and_gradient(simulator, lambda photons, at: photons.sum(), [edge], pixels=torch.tensor(pixels))
    with pytest.raises(InputError, match="response"):
        normal_equations(scene.simulator(response=ResponseConfig(gain=2.0)), [edge], torch.zeros(24, 20))
    with pytest.raises(InputError, match="require grad"):
        normal_equations(simulator, [edge.detach()], torch.zeros(24, 20))
    with pytest.raises(InputError, match="a value for each of 480 pixels"):
        normal_equations(simulator, [edge], torch.zeros(5, 5))


def test_blocks_and_priors_that_fit_no_column_are_refused():
    values = torch.ones((3, 1), dtype=torch.float64)
    with pytest.raises(InputError, match="from 0 up"):
        Columns(torch.tensor([0, -1, 0]), values)
    with pytest.raises(InputError, match=r"\[2, 1\]"):
        Columns(torch.tensor([0, 1, 0]), values, torch.ones((3, 1)))
