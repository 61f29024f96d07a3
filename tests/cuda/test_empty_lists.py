"""No pixel, no source, no lattice: zeros and gradients of zero, the same from all three kernels."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from cuda_cases import DEVICE, NAMES, case, relative, true_values

from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.arguments import SCENE
from nanobrag_torch.kernels.operators import OPERATORS as REGISTERED
from nanobrag_torch.kernels.problem import Scene

CPU, OPERATORS = torch.device("cpu"), torch.ops.nanobrag_torch
GPU = REGISTERED.by_device["cuda"]
OF_SOURCES = ("incident", "wavelengths", "source_weights", "polarization")
OF_LATTICES = ("lattice", "lattice_weights")


def without(scene, *names):
    return replace(scene, **{name: getattr(scene, name)[:0] for name in names})


def by_operators(value, adjoint, device):
    """Values and gradients by the operators of a device."""

    def made(pixels, scene, options):
        listed = None if pixels is None else pixels.to(device)
        arguments = SCENE.pack(scene.to(device), options)
        values = value(listed, *arguments)
        *gradients, again = adjoint(torch.ones_like(values), listed, *arguments, [True] * len(NAMES), True)
        assert again.shape == values.shape
        return values, gradients

    return made


def by_reference(pixels, scene, options):
    leaves = [tensor.clone().requires_grad_() for tensor in scene.to(CPU).tensors()]
    listed = None if pixels is None else pixels.cpu()
    values = operation.intensity(listed, Scene(*leaves), options, kernel="reference")
    found = torch.autograd.grad(values.sum(), leaves, allow_unused=True)
    return values.detach(), [torch.zeros_like(t) if g is None else g for g, t in zip(found, leaves, strict=True)]


KERNELS = {
    "reference": by_reference,
    "cpu": by_operators(OPERATORS.intensity, OPERATORS.intensity_adjoint, CPU),
    "cuda": by_operators(GPU.value, GPU.gradients, DEVICE),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("missing", ["pixels", "sources", "sources and lattices"])
def test_nothing_gives_zeros(kernel, missing):
    scene, options = case("layers", torch.float64)
    pixels = torch.zeros(0, dtype=torch.int64, device=DEVICE) if missing == "pixels" else None
    gone = {"pixels": (), "sources": OF_SOURCES, "sources and lattices": OF_SOURCES + OF_LATTICES}[missing]
    values, gradients = KERNELS[kernel](pixels, without(scene, *gone), options)
    assert values.shape == ((0,) if missing == "pixels" else (117,))
    assert not values.any()
    for field, gradient in zip(fields(Scene), gradients, strict=True):
        assert gradient.shape == getattr(without(scene, *gone), field.name).shape
        assert not gradient.any(), field.name


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["layers", "resolution limit", "tricubic"])
def test_no_lattice_leaves_what_is_added_once_a_pixel(kernel, name):
    """The same as lattices of no weight, which the reference kernel renders."""
    scene, options = case(name, torch.float64)
    none, dark = without(scene, *OF_LATTICES), replace(scene, lattice_weights=0 * scene.lattice_weights)
    values, gradients = KERNELS[kernel](None, none, options)
    _, true = by_reference(None, dark, options)
    assert relative(values.to(DEVICE), true_values(None, dark, options)) < 1e-12
    for field, gradient, expected in zip(NAMES, gradients, true, strict=True):
        assert gradient.shape == getattr(none, field).shape
        if field not in OF_LATTICES:
            assert relative(gradient.cpu(), expected) < 1e-11, field


@pytest.mark.parametrize("kernel", ["reference", "fused"])
@pytest.mark.parametrize("gone", [OF_SOURCES, OF_LATTICES])
def test_slopes_along_directions_agree(kernel, gone):
    scene, options = case("nearest", torch.float64)
    scene = without(scene.to(CPU), *gone)
    directions = {n: torch.ones((2, *tensor.shape), dtype=torch.float64) for n, tensor in scene.named().items()}
    slopes = operation.tangents(None, scene, directions, options, kernel=kernel)
    _, gradients = by_reference(None, scene, options)
    assert slopes.shape == (2, 117)
    expected = sum(float(gradient.sum()) for gradient in gradients)
    assert slopes.sum(1).tolist() == pytest.approx([expected] * 2, rel=1e-9)
