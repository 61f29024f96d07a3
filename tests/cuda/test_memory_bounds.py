"""No load, store or atomic addition of the kernel is outside the tensors that it was given.

Seen in the interpreter, which would read anything; a GPU faults by itself where it can.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cuda_cases import DEVICE, NAMES, case, every_pixel, make_scene, upstream_of
from triton.runtime.interpreter import interpreter_builder

from nanobrag_torch.kernels.cuda import kernel as cuda_kernel
from nanobrag_torch.kernels.cuda import launch as cuda
from nanobrag_torch.kernels.cuda import sorted_sums
from nanobrag_torch.kernels.problem import Options, Pull
from nanobrag_torch.physics.lattice_factor import Profile


class Watched:
    """The kernel, whose accesses are held against the memory of its arguments."""

    def __init__(self, of):
        self.of, self.ranges, self.seen = of, [], 0

    def __getitem__(self, grid):
        def launched(*arguments, **how):
            tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
            self.ranges = [(t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in tensors]
            self.of[grid](*arguments, **how)

        return launched

    def check(self, pointers, mask):
        addresses = np.asarray(pointers.data)[np.asarray(mask.data, dtype=bool)]
        inside = np.zeros(addresses.shape, dtype=bool)
        for first, end in self.ranges:
            inside |= (addresses >= first) & (addresses < end)
        assert inside.all()
        self.seen += addresses.size


@pytest.fixture
def watched(monkeypatch):
    found = Watched(cuda_kernel.image_kernel)
    monkeypatch.setattr(cuda_kernel, "image_kernel", found)
    kind = type(interpreter_builder)
    load, store, add = kind.create_masked_load, kind.create_masked_store, kind.create_atomic_rmw

    def checked_load(self, ptrs, mask, *rest):
        found.check(ptrs, mask)
        return load(self, ptrs, mask, *rest)

    def checked_store(self, ptrs, value, mask, *rest):
        found.check(ptrs, mask)
        return store(self, ptrs, value, mask, *rest)

    def checked_add(self, rmwOp, ptr, val, mask, *rest):
        found.check(ptr, mask)
        return add(self, rmwOp, ptr, val, mask, *rest)

    monkeypatch.setattr(kind, "create_masked_load", checked_load)
    monkeypatch.setattr(kind, "create_masked_store", checked_store)
    monkeypatch.setattr(kind, "create_atomic_rmw", checked_add)
    return found


def far_apart():
    """Three panels, and pixels on the first and the last."""
    scene = make_scene(panels=3)
    panels = scene.panels.clone()
    panels[1] = 0.0
    options = Options(image_shape=(9, 13), profile=Profile.GRATING, hkl_first=(-4, -5, -5), dtype=torch.float64)
    return (
        replace(scene, panels=panels),
        options,
        torch.cat((torch.arange(100, 117), torch.arange(234, 260))).to(DEVICE),
    )


def none_left_outside(watched):
    """On a GPU the card itself tells, once all is done."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    else:
        assert watched.seen > 10_000


def test_every_job_stays_within_its_tensors(watched):
    scene, options, pixels = far_apart()
    upstream = upstream_of(pixels.numel(), torch.float64)
    cuda.forward(pixels, scene, options)
    cuda.adjoint(Pull(upstream, NAMES, value=True), pixels, scene, options)
    cuda.tangents(pixels, scene, {n: torch.ones_like(t)[None] for n, t in scene.named().items()}, options)
    sorted_sums.by_sorting(upstream, pixels, scene, options)
    none_left_outside(watched)


def test_nodes_of_an_interpolation_are_within_the_table(watched):
    scene, options = case("tricubic", torch.float64)
    pixels = every_pixel(scene, options)[40:44]
    cuda.by_table(upstream_of(4, torch.float64), pixels, scene, options)
    none_left_outside(watched)
