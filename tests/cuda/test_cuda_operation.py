"""The GPU kernel behind the operation: registered, shaped as announced, and clear about what it cannot do."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from cuda_cases import DEVICE, NAMES, case, every_pixel, relative, true_gradients, true_values, upstream_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from nanobrag_torch.devices import checked_device
from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import backends, operation, reference
from nanobrag_torch.kernels.arguments import SCENE
from nanobrag_torch.kernels.cuda import devices as cuda_devices
from nanobrag_torch.kernels.operators import OPERATORS
from nanobrag_torch.kernels.problem import Scene

GPU = OPERATORS.by_device["cuda"]


def test_all_operators_have_a_kernel_for_cuda():
    for name in ("intensity", "intensity_adjoint", "intensity_tangents"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"nanobrag_torch::{name}", "CUDA")


def test_the_registered_kernels_give_values_and_gradients():
    """Called as the dispatcher calls them, whatever the device."""
    scene, options = case("nearest", torch.float32)
    pixels = every_pixel(scene, options)[20:60]
    upstream, packed = upstream_of(40, torch.float32), SCENE.pack(scene, options)
    values = GPU.value(pixels, *packed)
    wanted = [name in ("panels", "lattice") for name in NAMES]
    *gradients, again = GPU.gradients(upstream, pixels, *packed, wanted, True)
    assert relative(values, true_values(pixels, scene, options)) < 2e-6
    assert relative(again, values.double()) < 2e-6
    directions = {name: torch.ones_like(getattr(scene, name))[None] for name in ("wavelengths", "offset")}
    slopes = GPU.tangents(pixels, *packed, SCENE.in_order(directions, scene))
    listed = reference.tangents(pixels, scene, directions, replace(options, dtype=torch.float64))
    assert relative(slopes, listed) < 1e-4
    true = true_gradients(upstream, pixels, scene, options)
    for name, want, gradient in zip(NAMES, wanted, gradients, strict=True):
        assert relative(gradient, true[name]) < 1e-4 if want else gradient.numel() == 0


def test_shapes_types_and_devices_are_as_announced():
    """The fake operators, which torch.compile sees, against the real ones."""
    scene, options = case("tricubic", torch.float64)
    packed, wanted = SCENE.pack(scene, options), [name != "structure_factors" for name in NAMES]
    upstream = upstream_of(117, torch.float64)
    real = GPU.gradients(upstream, None, *packed, wanted, False)
    value = GPU.value(None, *packed)
    with FakeTensorMode() as mode:
        fakes = SCENE.pack(Scene(*(mode.from_tensor(tensor) for tensor in scene.tensors())), options)
        announced = OPERATORS._fake_adjoint(mode.from_tensor(upstream), None, *fakes, wanted, False)
        announced.append(OPERATORS._fake_value(None, *fakes))
    for found, fake in zip([*real, value], announced, strict=True):
        assert (found.shape, found.dtype, found.stride()) == (fake.shape, fake.dtype, fake.stride())


def test_a_captured_cuda_graph_follows_its_inputs():
    """On a GPU a replayed graph reads the inputs anew. Elsewhere there are no graphs, and a second call reads them."""
    scene, options = case("nearest", torch.float32)
    packed = SCENE.pack(scene, options)
    expected = GPU.value(None, *packed) * 2
    if DEVICE.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = GPU.value(None, *packed)
    for tensor in (scene.source_weights, scene.offset):
        tensor.mul_(2)
    if DEVICE.type == "cuda":
        graph.replay()
    else:
        found = GPU.value(None, *packed)
    assert relative(found, expected.double()) < 1e-6


def test_importing_the_operation_imports_neither_triton_nor_cuda():
    code = (
        "import sys, torch; import nanobrag_torch.kernels.operation, nanobrag_torch.simulator; "
        "sys.exit('triton' in sys.modules or torch.cuda.is_initialized())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("missing", "words"),
    [("triton", "Triton is not installed"), ("compiler", "no C compiler"), ("gpu", "no CUDA GPU"), ("new GPU", "7.0")]
    + [("new Triton", "Triton 3.2 is older than 3.4")],
)
def test_obstacles_are_named(monkeypatch, missing, words):
    """One line that says what is missing and that the reference kernel renders."""
    monkeypatch.setattr(cuda_devices, "c_compiler", lambda: None if missing == "compiler" else "gcc")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if missing == "triton" else name)
    monkeypatch.setattr(cuda_devices, "triton_version", lambda: (3, 2) if missing == "new Triton" else (3, 9))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: missing != "gpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0) if missing == "new GPU" else (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    cuda_devices.obstacle.cache_clear()
    try:
        found = cuda_devices.obstacle(torch.device("cuda"))
    finally:
        cuda_devices.obstacle.cache_clear()
    assert words in found
    assert "reference kernel renders" in found
    assert "\n" not in found


@pytest.mark.parametrize("name", ["gpu", "cuda:999", "cuda:256", "cuda:x"])
def test_devices_that_are_not_there_are_refused(name):
    with pytest.raises(InputError, match="device: got"):
        checked_device(name)


@pytest.mark.parametrize("number", [2, 127, 128, 255, 256, 999])
def test_a_number_that_torch_would_wrap_is_refused(monkeypatch, number):
    """It keeps eight bits of the number of a device: 256 would be the first GPU, without a word."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert checked_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match=f"device: got .*{number}"):
        checked_device(f"cuda:{number}")


def test_a_device_that_torch_has_wrapped_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="device: got"):
        checked_device(torch.device("cuda", 999))


def test_too_little_memory_says_what_would_fit():
    """100 MB free, 40 MB of tables, 16 bytes a pixel: 60 MB are 3 932 160 pixels."""
    error = cuda_devices.memory_error(100 * 2**20, 9_000_000, 16, 40 * 2**20)
    assert "3932160 pixels" in str(error)
    assert "100 MB of GPU memory free" in str(error)
    assert "GPU with 200 MB" in str(cuda_devices.memory_error(2**20, 9, 16, 200 * 2**20))


def test_running_out_of_memory_becomes_an_input_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**20, 2**30))
    with pytest.raises(InputError, match="pixels"), cuda_devices.launching(DEVICE, 10**9, 16, 0):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def unwarned():
    """Warnings that were given before are given again."""
    operation._warn_once.cache_clear()
    yield
    operation._warn_once.cache_clear()


@pytest.fixture
def elsewhere(monkeypatch):
    """A scene on a device whose images and gradients have a fused kernel, and whose slopes along directions have none.

    "meta" tensors have no values, but go the same way through the operation.
    """
    there = replace(backends.CUDA, device="meta", tangents=None, obstacle=backends.too_large)
    monkeypatch.setitem(backends.BACKENDS, "meta", there)
    scene, options = case("nearest", torch.float64)
    return scene.to(torch.device("meta")), options


def test_slopes_by_the_reference_kernel_are_told_once(unwarned, elsewhere, caplog):
    scene, options = elsewhere
    directions = {name: torch.ones((2, *tensor.shape), device="meta") for name, tensor in scene.named().items()}
    for _ in range(2):
        assert operation.tangents(None, scene, directions, options).shape == (2, 117)
    lines = caplog.messages
    assert len(lines) == 1
    assert "no fused kernel of slopes along directions" in lines[0]
    assert "backward gradients are not concerned" in lines[0]
    operation.tangents(None, scene, directions, options, kernel="reference")
    with pytest.raises(InputError, match="kernel: got"):
        operation.tangents(None, scene, directions, options, kernel="fused")


def test_forward_mode_tells_it_too(unwarned, elsewhere, caplog):
    scene, options = elsewhere
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(scene.wavelengths, torch.ones_like(scene.wavelengths))
        moved = operation.intensity(None, replace(scene, wavelengths=dual), options)
        assert forward_ad.unpack_dual(moved).tangent.shape == (117,)
    assert caplog.text.count("no fused kernel of slopes along directions") == 1


def test_more_pixels_than_can_be_counted_in_32_bits_are_left_to_the_reference_kernel(elsewhere):
    scene, options = elsewhere
    large = replace(options, image_shape=(2**16, 2**15))
    with pytest.raises(InputError, match="kernel.*more than .* pixels"):
        operation.intensity(torch.zeros(3, dtype=torch.int64), scene, large, kernel="fused")


def test_a_list_of_pixels_goes_where_the_scene_is(elsewhere):
    scene, options = elsewhere
    assert operation.intensity(torch.arange(5), scene, options).device.type == "meta"


def test_images_and_gradients_there_are_silent(unwarned, elsewhere, caplog):
    scene, options = elsewhere
    leaf = scene.wavelengths.clone().requires_grad_()
    operation.intensity(None, replace(scene, wavelengths=leaf), options).sum().backward()
    assert caplog.messages == []
