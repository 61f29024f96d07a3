"""Values of the Triton kernel against the reference kernel, in every combination of options that it covers."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from cuda_cases import CASES, DEVICE, case, every_pixel, make_scene, relative, true_values
from torch.utils._python_dispatch import TorchDispatchMode

from nanobrag_torch.kernels.cuda import launch as cuda
from nanobrag_torch.kernels.cuda import plan
from nanobrag_torch.kernels.cuda import tables as cuda_tables
from nanobrag_torch.kernels.problem import Options, Pull
from nanobrag_torch.physics.lattice_factor import Profile

WITHIN = {torch.float32: 2e-6, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_reference(name, dtype):
    scene, options = case(name, dtype)
    found = cuda.forward(None, scene, options)
    assert found.dtype == dtype
    assert relative(found, true_values(None, scene, options)) < WITHIN[dtype]


@pytest.mark.parametrize("name", ["resolution limit", "layers", "panels"])
def test_the_cases_test_something(name):
    """Some but not all samples are beyond the limit; both panels and all layers matter."""
    scene, options = case(name, torch.float64)
    plain = replace(options, dmin=0.0, layers=1)
    whole = true_values(None, scene, options)
    if name == "panels":
        assert whole.reshape(2, -1).amax(1).min() > 0
    else:
        share = (whole - true_values(None, scene, plain)).abs() > 0
        assert 0.02 < share.double().mean() <= 1


@pytest.mark.parametrize("middle", [0.0, 1.5, -2.5, 7.0])
def test_a_curved_detector_of_any_angle(middle):
    """Pixels that the curve carries around the crystal, in every quadrant and beyond a whole turn."""
    scene, options = case("curved as in C", torch.float64)
    far = scene.panels.clone()
    far[:, 0, 1:] += middle * scene.curvature[3]
    scene = replace(scene, panels=far)
    assert relative(cuda.forward(None, scene, options), true_values(None, scene, options)) < 1e-11


def test_a_list_in_any_order_costs_only_its_pixels():
    scene, options = case("panels", torch.float32)
    pixels = every_pixel(scene, options).flip(0)[3:90:2]
    found = cuda.forward(pixels, scene, options)
    assert relative(found, true_values(pixels, scene, options)) < WITHIN[torch.float32]


def test_no_pixel_is_no_value():
    scene, options = case("nearest", torch.float32)
    assert cuda.forward(torch.zeros(0, dtype=torch.int64, device=DEVICE), scene, options).shape == (0,)


def test_no_lattice_is_darkness_but_for_the_offset():
    scene, options = case("nearest", torch.float32)
    none = replace(scene, lattice=scene.lattice[:0], lattice_weights=scene.lattice_weights[:0])
    dark = replace(scene, lattice_weights=torch.zeros_like(scene.lattice_weights))
    found = cuda.forward(None, none, options)
    assert found.min() > 0
    assert relative(found, true_values(None, dark, options)) < WITHIN[torch.float32]


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:All-NaN")
@pytest.mark.parametrize("profile", [Profile.GRATING, Profile.SPHERE, Profile.GAUSS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_what_is_not_a_number_is_none_in_the_image(profile, dtype):
    """Maxima and masks must not swallow it: bad input gives no picture."""
    scene = make_scene(profile=profile)
    options = Options(image_shape=(4, 8), profile=profile, dtype=dtype)
    for name in ("wavelengths", "lattice", "panels", "shape"):
        spoiled = replace(scene, **{name: torch.full_like(getattr(scene, name), torch.nan)})
        assert not torch.isfinite(cuda.forward(None, spoiled, options)).any(), name


def test_lattices_in_chunks_add_up(monkeypatch):
    monkeypatch.setattr(plan, "CHUNK", 2)
    options = Options(image_shape=(5, 8), profile=Profile.GRATING, hkl_first=(-4, -5, -5))
    scene = make_scene(lattices=5, sources=1)
    assert plan.plan_of(40, 256, 5, 1).chunks == 3
    assert relative(cuda.forward(None, scene, options), true_values(None, scene, options)) < WITHIN[torch.float32]


@pytest.mark.parametrize("cells", [20.0, 200.0, 3000.0])
def test_float32_is_within_its_bound_at_any_number_of_cells(cells):
    """Pixels through the middle of a spot, and through its tails: 1e-5 of the maximum (design, section 4)."""
    scene = make_scene(cells=(cells, cells, cells), sources=1, table=False)
    far = scene.panels.clone()
    far[:, 0] *= max(1.0, cells / 4)
    options = Options(image_shape=(16, 16), profile=Profile.GRATING)
    narrow = replace(scene, panels=far, lattice=scene.lattice[:1], lattice_weights=scene.lattice_weights[:1])
    narrow = replace(narrow, lattice=aligned(narrow))
    found, true = cuda.forward(None, narrow, options), true_values(None, narrow, options)
    assert true.max() > 3 * true.median()
    assert relative(found, true) < 1e-5


def aligned(scene):
    """The lattice scaled so that the middle pixel is close to whole hkl, a spot that every N resolves."""
    middle = scene.panels[0, 0] + 8e-4 * scene.panels[0, 1] + 8.8e-4 * scene.panels[0, 2]
    q = (middle / middle.norm() - scene.incident[0]) / scene.wavelengths[0]
    hkl = scene.lattice[0] @ q
    wanted = hkl.round()
    return (scene.lattice[0] + torch.outer(wanted - hkl, q) / (q @ q))[None]


def test_float32_differences_are_left_where_their_bound_fails():
    """Beyond the bound all of hkl is float64: the same values as where that is asked for, and not those of float32."""
    scene, options = case("nearest", torch.float32)
    far = replace(scene, shape=200 * scene.shape)
    assert torch.equal(cuda.forward(None, far, options), whole(far, options))
    narrow = cuda.forward(None, scene, options)
    assert not torch.equal(narrow, whole(scene, options))
    assert relative(whole(scene, options), narrow.double()) < 2e-6


def whole(scene, options):
    """Values in float32, hkl in float64 throughout."""
    call = cuda.call_of(None, scene, options)
    shares, parts = call.plan(), call.empty(1, call.count)
    cuda.launch(call, shares, call.way._replace(wide=True), parts)
    return parts[0]


def test_a_distance_of_zero_is_a_peak():
    """Every pixel sees hkl = 0 exactly where the beam direction is its own."""
    scene = make_scene(sources=1, table=False)
    middle = scene.panels[0, 0] + 4.5e-4 * scene.panels[0, 1] + 4.95e-4 * scene.panels[0, 2]
    scene = replace(scene, incident=(middle / middle.norm())[None])
    options = Options(image_shape=(9, 9), profile=Profile.GRATING)
    found = cuda.forward(None, scene, options)
    assert int(found.argmax()) == 4 * 9 + 4
    assert relative(found, true_values(None, scene, options)) < WITHIN[torch.float32]


class NoLook(TorchDispatchMode):
    """Fails at any operation that needs a tensor's value on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        assert not any(word in name for word in ("_local_scalar_dense", "nonzero", "equal", "unique", "masked_select"))
        return func(*args, **(kwargs or {}))


def test_nothing_looks_at_values_on_the_host():
    """So that a GPU never waits for the host, and calls can be captured in a CUDA graph."""
    scene, options = case("nearest", torch.float32)
    with NoLook():
        given = cuda_tables.tables(scene, options)
        rows = cuda_tables.empty_rows(3, 2, 1, 2, 2, DEVICE)
        cuda_tables.by_name(rows.summed(), scene)
        cuda.scale_of(scene.source_weights.sum())
        directions = {name: torch.ones_like(tensor)[None] for name, tensor in scene.named().items()}
        cuda_tables.direction_rows(directions, scene, 4, torch.float32)
    assert given.polarization.shape == (2, 3, 3)


def test_panels_without_a_pixel_in_the_list_are_left_alone():
    """The one in the middle has no direction at all: nothing may be computed with it, or gradients are no numbers."""
    scene = make_scene(panels=3)
    broken = scene.panels.clone()
    broken[1] = 0.0
    scene = replace(scene, panels=broken)
    options = Options(image_shape=(9, 13), profile=Profile.GRATING, hkl_first=(-4, -5, -5), dtype=torch.float64)
    pixels = torch.cat((torch.arange(100, 117), torch.arange(234, 260))).to(DEVICE)
    assert relative(cuda.forward(pixels, scene, options), true_values(pixels, scene, options)) < 1e-12
    upstream = torch.ones(pixels.numel(), dtype=torch.float64, device=DEVICE)
    values, gradients = cuda.adjoint(Pull(upstream, list(scene.named()), value=True), pixels, scene, options)
    assert relative(values, true_values(pixels, scene, options)) < 1e-12
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
    assert not gradients["panels"][1].any()


def test_where_a_callers_tensors_begin_selects_no_code():
    """A slice may begin at any address; another kernel for each kind would be seconds of compilation amid a run."""
    code = """
from nanobrag_torch.kernels.cuda.jit import NUMBERS
from nanobrag_torch.kernels.cuda.kernel import image_kernel
params = {p.name: p for p in image_kernel.params}
numbers = {"way", *NUMBERS}
assert all(p.do_not_specialize_on_alignment for name, p in params.items() if name not in numbers)
assert all(params[name].do_not_specialize for name in NUMBERS)
assert {name for name, p in params.items() if p.is_constexpr} == {"way"}
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


def test_any_number_of_lattices_and_sources_fits_a_grid_and_its_rows():
    for lattices, tables in ((10**7, 2), (10**9, 2), (10**6, 10**4), (10**5, 10**6)):
        shares = plan.adjoint_plan(1024 * 1024, 128, lattices, tables, 132)
        assert shares.chunks <= plan.LARGEST_GRID
        assert shares.chunk * shares.chunks >= lattices > shares.chunk * (shares.chunks - 1)
        assert shares.rows * shares.chunks * tables * 128 <= 2 * plan.ROW_BYTES


def test_memory_is_flat_in_the_number_of_lattices():
    """Tables of gradients: their rows are bounded by the number of programs, whatever the number of lattices."""
    for lattices in (1, 1000, 20_000):
        shares = plan.adjoint_plan(1024 * 1024, 128, lattices, 2, 132)
        assert shares.chunk * shares.chunks >= lattices
        assert shares.rows * lattices * 16 * 8 < 90e6
        assert shares.rows * shares.chunks < 2 * 132 * plan.PROGRAMS_PER_PROCESSOR
    many_sources = plan.adjoint_plan(1024 * 1024, 128, 1, 100_000, 132)
    assert many_sources.rows * 100_000 * 128 <= plan.ROW_BYTES
