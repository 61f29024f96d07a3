"""Slopes along directions on a GPU against those of the reference kernel, and against the same kernel's gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cuda_cases import CASES, DEVICE, NAMES, case, every_pixel, make_scene, relative

from nanobrag_torch.kernels import reference
from nanobrag_torch.kernels.cuda import launch as cuda
from nanobrag_torch.kernels.cuda import plan
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.physics.lattice_factor import Profile

WITHIN = {torch.float32: 1e-4, torch.float64: 1e-11}


def directions_of(scene, count, moving=NAMES):
    """Stacks [count, *shape] of a size that moves each tensor by about a share of itself."""
    random = torch.Generator().manual_seed(5)
    found = {}
    for name in moving:
        tensor = getattr(scene, name)
        scale = tensor.abs().max().cpu() if tensor.numel() else 1.0
        stack = torch.randn((count, *tensor.shape), generator=random, dtype=torch.float64) * scale
        found[name] = stack.to(DEVICE)
    return found


def compare(pixels, scene, options, directions):
    listed = every_pixel(scene, options) if pixels is None else pixels
    whole = Scene(*(tensor.contiguous() for tensor in scene.tensors()))
    true = reference.tangents(listed, whole, directions, replace(options, dtype=torch.float64))
    found = cuda.tangents(pixels, scene, directions, options)
    assert found.dtype == options.dtype
    assert found.shape == true.shape
    for one, other in zip(found, true, strict=True):
        assert relative(one, other) < WITHIN[options.dtype]


@pytest.mark.parametrize("name", CASES)
def test_slopes_are_those_of_the_reference(name):
    scene, options = case(name, torch.float64)
    compare(every_pixel(scene, options)[:40], scene, options, directions_of(scene, 1))


@pytest.mark.parametrize("name", NAMES)
def test_each_tensor_moves_alone(name):
    """Where lattices, the shape or the table stand still the kernel leaves their part out."""
    scene, options = case("cached factors", torch.float64)
    compare(every_pixel(scene, options)[40:60], scene, options, directions_of(scene, 1, [name]))


@pytest.mark.parametrize("count", [3, 9])
def test_any_number_of_directions_in_float32(count):
    scene, options = case("nearest", torch.float32)
    compare(None, scene, options, directions_of(scene, count, ["panels", "lattice", "wavelengths", "shape"]))


def test_lattices_in_chunks_and_in_batches_add_up(monkeypatch):
    monkeypatch.setattr(plan, "CHUNK", 2)
    scene = make_scene(lattices=3, sources=1, panels=2)
    options = Options(image_shape=(3, 20), profile=Profile.GRATING, hkl_first=(-4, -5, -5), dtype=torch.float64)
    assert plan.plan_of(120, 128, 3, 1).chunks == 2
    compare(every_pixel(scene, options).flip(0), scene, options, directions_of(scene, 2))


def test_a_direction_that_is_no_number_spoils_no_other():
    scene, options = case("nearest", torch.float64)
    directions = directions_of(scene, 2, ["wavelengths"])
    directions["wavelengths"][1] = torch.nan
    found = cuda.tangents(every_pixel(scene, options)[:9], scene, directions, options)
    assert torch.isfinite(found[0]).all()
    assert torch.isnan(found[1]).all()


def test_no_pixel_has_no_slope():
    scene, options = case("nearest", torch.float32)
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    assert cuda.tangents(none, scene, directions_of(scene, 3), options).shape == (3, 0)
