"""Normal equations with linear columns eliminated, held against the dense system solved whole."""

import numpy as np
import pytest
import torch

from nanobrag_torch import normal_equations
from nanobrag_torch.errors import InputError
from nanobrag_torch.refinement.columns import Columns, Layout, eliminate
from nanobrag_torch.refinement.equations import Equations
from nanobrag_torch.testing import cubic_still


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
