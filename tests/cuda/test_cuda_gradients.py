"""Gradients of the Triton kernel against autograd through the reference kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cuda_cases import (
    CASES,
    DEVICE,
    NAMES,
    case,
    every_pixel,
    make_scene,
    relative,
    true_gradients,
    true_values,
    upstream_of,
)

from nanobrag_torch.kernels.cuda import kernel as cuda_kernel
from nanobrag_torch.kernels.cuda import launch as cuda
from nanobrag_torch.kernels.cuda import plan, sorted_sums
from nanobrag_torch.kernels.cuda.jit import GRADIENTS, VALUE
from nanobrag_torch.kernels.problem import Options, Pull
from nanobrag_torch.physics.lattice_factor import Profile

NOT_TABLE = [name for name in NAMES if name != "structure_factors"]
WITHIN = {torch.float32: 1e-4, torch.float64: 1e-11}


def compare(pixels, scene, options, wanted):
    count = every_pixel(scene, options).numel() if pixels is None else pixels.numel()
    upstream = upstream_of(count, options.dtype)
    true = true_gradients(upstream, pixels, scene, options)
    _, found = cuda.adjoint(Pull(upstream, wanted), pixels, scene, options)
    assert set(found) == set(wanted)
    for name, gradient in found.items():
        assert gradient.shape == getattr(scene, name).shape, name
        assert relative(gradient, true[name]) < WITHIN[options.dtype], name


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_reference(name):
    scene, options = case(name, torch.float64)
    compare(None, scene, options, NOT_TABLE)


@pytest.mark.parametrize("name", ["nearest", "sphere", "gauss", "tricubic", "cached factors"])
def test_gradients_in_float32(name):
    scene, options = case(name, torch.float32)
    compare(None, scene, options, NOT_TABLE)


@pytest.mark.parametrize("name", ["nearest", "tricubic", "cached factors"])
def test_gradients_by_structure_factors(name):
    scene, options = case(name, torch.float64)
    pixels = every_pixel(scene, options)[40:75]
    compare(pixels, scene, options, ["structure_factors"])


@pytest.mark.parametrize("name", ["nearest", "tricubic", "resolution limit"])
def test_whole_numbers_are_the_sums_of_a_sorted_list(monkeypatch, name):
    """Two ways that share the steps and nothing of the sums; the list in pieces of a few pixels."""
    monkeypatch.setattr(sorted_sums, "RECORDS", 8 * 6 * 64)
    scene, options = case(name, torch.float64)
    pixels = every_pixel(scene, options)[60:77]
    upstream = upstream_of(17, torch.float64)
    true = sorted_sums.by_sorting(upstream, pixels, scene, options)
    found = cuda.by_table(upstream, pixels, scene, options)
    assert int((true != 0).sum()) >= 1
    assert relative(found, true) < 1e-13


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_whole_numbers_have_a_scale_of_their_own(scale):
    """A power of two that follows the bound, so that a brighter beam neither overflows nor drowns."""
    scene, options = case("nearest", torch.float64)
    pixels, upstream = every_pixel(scene, options)[60:77], upstream_of(17, torch.float64)
    plain = cuda.by_table(upstream, pixels, scene, options)
    bright = replace(scene, source_weights=scene.source_weights * scale)
    assert relative(cuda.by_table(upstream, pixels, bright, options) / scale, plain) < 1e-13


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:All-NaN")
def test_a_gradient_that_is_no_number_is_none_by_structure_factors_either():
    scene, options = case("nearest", torch.float64)
    pixels, upstream = every_pixel(scene, options)[:8], upstream_of(8, torch.float64)
    upstream[3] = torch.nan
    assert torch.isnan(cuda.by_table(upstream, pixels, scene, options)).all()


def test_the_largest_sum_fits_and_is_not_small():
    for bound in (1e-260, 0.7, 1.0, 3e17, 1e300):
        whole = float(cuda.scale_of(torch.tensor(bound, dtype=torch.float64))) * bound
        assert 2.0**60 <= whole <= 2.0**61
    assert float(cuda.scale_of(torch.tensor(0.0, dtype=torch.float64))) > 0


def test_programs_and_chunks_add_up(monkeypatch):
    """Several programs, each with several tiles and a share of the lattices, panels mixed within a tile."""
    monkeypatch.setattr(plan, "GRADIENT_CHUNK", 2)
    monkeypatch.setattr(plan, "PROGRAMS_PER_PROCESSOR", 4)
    scene = make_scene(lattices=3, sources=1, panels=2)
    options = Options(image_shape=(9, 20), profile=Profile.GRATING, hkl_first=(-4, -5, -5), dtype=torch.float64)
    shares = plan.adjoint_plan(360, 128, 3, 3, 1)
    assert (shares.tiles, shares.rows, shares.chunks) == (3, 2, 2)
    compare(every_pixel(scene, options).flip(0), scene, options, NOT_TABLE)


def test_gradients_repeat_bit_for_bit():
    scene, options = case("nearest", torch.float32)
    upstream, pixels = upstream_of(30, torch.float32), every_pixel(scene, options)[:30]
    _, first = cuda.adjoint(Pull(upstream, NAMES), pixels, scene, options)
    _, again = cuda.adjoint(Pull(upstream, NAMES), pixels, scene, options)
    assert all(torch.equal(first[name], again[name]) for name in NAMES)


class Launches:
    """The kernel, and the jobs and grids of its launches."""

    def __init__(self, of):
        self.of, self.jobs, self.grids = of, [], []

    def __getitem__(self, grid):
        def launched(*arguments, **how):
            self.jobs.append(arguments[-1].job)
            self.grids.append(grid)
            return self.of[grid](*arguments, **how)

        return launched


@pytest.fixture
def launches(monkeypatch):
    found = Launches(cuda_kernel.image_kernel)
    monkeypatch.setattr(cuda_kernel, "image_kernel", found)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", ["nearest", "layers", "resolution limit", "panels"])
def test_values_come_with_the_gradients_from_one_launch(launches, name, dtype):
    scene, options = case(name, dtype)
    upstream = upstream_of(every_pixel(scene, options).numel(), dtype)
    values, gradients = cuda.adjoint(Pull(upstream, NOT_TABLE, value=True), None, scene, options)
    assert launches.jobs == [GRADIENTS.value]
    assert values.dtype == dtype
    assert relative(values, true_values(None, scene, options)) < {torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    none, plain = cuda.adjoint(Pull(upstream, NOT_TABLE), None, scene, options)
    assert none.numel() == 0
    for name, one in gradients.items():  # another compilation: another rounding on a GPU
        assert relative(one, plain[name].double()) < {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]


def test_values_of_lattices_in_chunks_add_up(monkeypatch, launches):
    """The offset is added once; where the parts of all chunks would take too much memory, a launch of their own."""
    monkeypatch.setattr(plan, "GRADIENT_CHUNK", 2)
    scene = make_scene(lattices=3, sources=1)
    options = Options(image_shape=(5, 8), profile=Profile.GRATING, hkl_first=(-4, -5, -5), dtype=torch.float64)
    upstream = upstream_of(40, torch.float64)
    for room, separate in ((plan.ROW_BYTES, 0), (2 * 40 * 8 - 1, 1)):
        monkeypatch.setattr(plan, "ROW_BYTES", room)
        values, _ = cuda.adjoint(Pull(upstream, NOT_TABLE, value=True), None, scene, options)
        assert launches.grids[0][1] == 2
        assert launches.jobs == [GRADIENTS.value] + [VALUE.value] * separate
        launches.jobs.clear()
        launches.grids.clear()
        assert relative(values, true_values(None, scene, options)) < 1e-12


def test_values_without_other_gradients_than_by_structure_factors():
    scene, options = case("nearest", torch.float64)
    pixels = every_pixel(scene, options)[40:60]
    wanted = ["structure_factors"]
    values, _ = cuda.adjoint(Pull(upstream_of(20, torch.float64), wanted, value=True), pixels, scene, options)
    assert relative(values, true_values(pixels, scene, options)) < 1e-12


def test_tiny_and_huge_intensities_keep_their_gradients():
    """Scales of 1e-30 and 1e+30, beyond the squares that float32 can hold."""
    scene, options = case("no table", torch.float32)
    upstream = upstream_of(117, torch.float32)
    plain = cuda.adjoint(Pull(upstream, ["lattice"]), None, scene, options)[1]["lattice"]
    for scale in (1e-30, 1e30):
        scaled = replace(scene, source_weights=scene.source_weights * scale)
        found = cuda.adjoint(Pull(upstream, ["lattice"]), None, scaled, options)[1]["lattice"]
        assert relative(found / scale, plain.double()) < 1e-5


def test_no_pixel_has_no_gradient():
    scene, options = case("nearest", torch.float32)
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    _, found = cuda.adjoint(Pull(torch.zeros(0, device=DEVICE), NAMES), none, scene, options)
    assert all(float(gradient.abs().sum()) == 0 for gradient in found.values())


def test_segments_are_summed_where_they_belong():
    places = torch.tensor([2, 0, 2, 5, 4, 0], dtype=torch.int32, device=DEVICE)
    values = torch.tensor([1.0, 2, 4, 8, 16, 32], dtype=torch.float64, device=DEVICE)
    assert sorted_sums.segment_sums(places, values, 5).tolist() == [34.0, 0.0, 5.0, 0.0, 16.0]
