"""What torch's transforms make of the operation: right, or refused in one line that names another way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_scenes import D, Draw, deviation, draw_scene, options_of
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import operation

SMALL = (3, 4)
AGAIN = r"kernel: got 'fused'; accepted: reference"


def problem(kernel: str = "fused"):
    """A scene, and the image as a function of lattice and source weights."""
    scene = draw_scene(Draw(panels=1, lattices=2, sources=2, cells=(3.0, 4.0, 2.0)))
    options = options_of(Draw(), image_shape=SMALL)

    def image(lattice: Tensor, weights: Tensor) -> Tensor:
        moved = replace(scene, lattice=lattice, source_weights=weights)
        return operation.intensity(None, moved, options, kernel=kernel)

    return scene, image


def test_functional_gradients():
    scene, image = problem()

    def loss(lattice: Tensor) -> Tensor:
        return (image(lattice, scene.source_weights) ** 2).sum()

    leaf = scene.lattice.clone().requires_grad_()
    (plain,) = torch.autograd.grad(loss(leaf), leaf)
    assert deviation(torch.func.grad(loss)(scene.lattice), plain) < 1e-13
    jacobian = torch.func.jacrev(lambda lattice: image(lattice, scene.source_weights))(scene.lattice)
    forward = torch.func.jacfwd(lambda lattice: image(lattice, scene.source_weights))(scene.lattice)
    assert deviation(jacobian, forward) < 1e-11


def test_a_batch_of_scenes():
    scene, image = problem()
    lattices = torch.stack([scene.lattice * scale for scale in (1.0, 1.01, 0.98)])
    weights = torch.stack([scene.source_weights * scale for scale in (1.0, 2.0, 3.0)], 1)
    found = torch.vmap(image, in_dims=(0, 1))(lattices, weights)
    assert torch.equal(found, torch.stack([image(a, w) for a, w in zip(lattices, weights.T, strict=True)]))
    one = torch.vmap(image, in_dims=(0, None))(lattices, scene.source_weights)
    assert torch.equal(one, torch.stack([image(a, scene.source_weights) for a in lattices]))


def test_gradients_and_slopes_of_a_batch_of_scenes():
    scene, image = problem()
    lattices = torch.stack([scene.lattice, scene.lattice * 1.01])

    def loss(lattice: Tensor) -> Tensor:
        return (image(lattice, scene.source_weights) ** 2).sum()

    found = torch.vmap(torch.func.grad(loss))(lattices)
    assert deviation(found, torch.stack([torch.func.grad(loss)(a) for a in lattices])) < 1e-13

    def slope(lattice: Tensor) -> Tensor:
        return torch.func.jvp(image, (lattice, scene.source_weights), (lattice, scene.source_weights))[1]

    assert deviation(torch.vmap(slope)(lattices), torch.stack([slope(a) for a in lattices])) < 1e-13


def test_slopes_of_a_batch_along_directions_of_one_or_of_all():
    """Lattices of their own or the same one, and so the directions."""
    scene, image = problem()
    lattices = torch.stack([scene.lattice, scene.lattice * 1.01])

    def slope(lattice: Tensor, direction: Tensor) -> Tensor:
        return torch.func.jvp(lambda a: image(a, scene.source_weights), (lattice,), (direction,))[1]

    for in_dims in ((0, 0), (0, None), (None, 0)):
        given = [lattices if dim == 0 else lattices[0] for dim in in_dims]
        each = [[value[i] if dim == 0 else value for value, dim in zip(given, in_dims, strict=True)] for i in range(2)]
        found = torch.vmap(slope, in_dims=in_dims)(*given)
        assert deviation(found, torch.stack([slope(*one) for one in each])) < 1e-13


def test_batches_of_batches():
    scene, image = problem()
    lattices = scene.lattice * torch.tensor([[1.0, 1.01, 0.98], [0.99, 1.02, 1.03]], dtype=D)[..., None, None, None]
    found = torch.vmap(torch.vmap(lambda lattice: image(lattice, scene.source_weights)))(lattices)
    assert torch.equal(found[1, 2], image(lattices[1, 2], scene.source_weights))


def double_backward(image, lattice: Tensor, weights: Tensor) -> Tensor:
    leaf = lattice.clone().requires_grad_()
    (first,) = torch.autograd.grad((image(leaf, weights) ** 2).sum(), leaf, create_graph=True)
    return torch.autograd.grad((first**2).sum(), leaf)[0]


def hessian(image, lattice: Tensor, weights: Tensor) -> Tensor:
    return torch.func.hessian(lambda x: (image(lattice * x, weights) ** 2).sum())(torch.ones((), dtype=D))


def reverse_over_reverse(image, lattice: Tensor, weights: Tensor) -> Tensor:
    def loss(x: Tensor) -> Tensor:
        return (image(lattice * x, weights) ** 2).sum()

    return torch.func.grad(torch.func.grad(loss))(torch.ones((), dtype=D))


def reverse_over_forward(image, lattice: Tensor, weights: Tensor) -> Tensor:
    def loss(x: Tensor) -> Tensor:
        return (image(lattice * x, weights) ** 2).sum()

    return torch.func.grad(torch.func.jacfwd(loss))(torch.ones((), dtype=D))


@pytest.mark.parametrize("second", [double_backward, hessian, reverse_over_reverse, reverse_over_forward])
def test_second_derivatives_of_the_fused_kernel_are_refused(second):
    scene, image = problem()
    with pytest.raises(InputError, match=AGAIN):
        second(image, scene.lattice, scene.source_weights)


def test_second_derivatives_by_the_reference_kernel():
    """Of the sum of squares along the scale of all lattices, against a difference of first derivatives."""
    scene, image = problem("reference")

    def slope(x: float) -> float:
        leaf = torch.tensor(x, dtype=D, requires_grad=True)
        loss = (image(scene.lattice * leaf, scene.source_weights) ** 2).sum()
        return float(torch.autograd.grad(loss, leaf)[0])

    leaf = torch.ones((), dtype=D, requires_grad=True)
    loss = (image(scene.lattice * leaf, scene.source_weights) ** 2).sum()
    (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
    (second,) = torch.autograd.grad(first, leaf)
    step = 1e-6
    assert float(second) == pytest.approx((slope(1 + step) - slope(1 - step)) / (2 * step), rel=1e-5)
