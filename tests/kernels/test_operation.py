"""The operation: registered with torch, independent of threads, honest about what it cannot do."""

from __future__ import annotations

import subprocess
import sys
import timeit
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from kernel_scenes import D, Draw, deviation, draw_scene, options_of

from nanobrag_torch.compilation import Availability
from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import backends, operation
from nanobrag_torch.kernels.arguments import SCENE, Arguments, require_sound
from nanobrag_torch.kernels.cpu import gradients as cpu_gradients
from nanobrag_torch.kernels.cpu import launch as cpu
from nanobrag_torch.kernels.operators import Operators
from nanobrag_torch.kernels.problem import Pull, Scene, sized

TENSORS = [field.name for field in fields(Scene)]


def arguments(draw: Draw, pixels: torch.Tensor | None, grad: bool, **more: object) -> tuple[object, ...]:
    scene = Scene(*(tensor.requires_grad_(grad) for tensor in draw_scene(draw).tensors()))
    return pixels, *SCENE.pack(scene, options_of(draw, **more))


@pytest.mark.parametrize("pixels", [None, torch.tensor([1, 2, 7, 9])], ids=["all", "list"])
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_opcheck(pixels, dtype):
    draw = Draw(panels=1, lattices=2)
    inputs = arguments(draw, pixels, True, dtype=dtype)
    torch.library.opcheck(torch.ops.nanobrag_torch.intensity.default, inputs)
    upstream = torch.ones(117 if pixels is None else 4, dtype=dtype)
    plain = arguments(draw, pixels, False, dtype=dtype)
    wanted = [name in ("panels", "lattice", "structure_factors") for name in TENSORS]
    torch.library.opcheck(torch.ops.nanobrag_torch.intensity_adjoint.default, (upstream, *plain, wanted, True))


def test_options_survive_packing():
    options = options_of(Draw(), oversample=3, layers=2, dmin=1e-10, curved=True, oversample_thick=True, threads=5)
    scene = draw_scene(Draw())
    again, unpacked, rest = SCENE.unpack([*SCENE.pack(scene, options), "behind"])
    assert unpacked == options
    assert all(a is b for a, b in zip(again.tensors(), scene.tensors(), strict=True))
    assert list(rest) == ["behind"]


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_results_do_not_depend_on_threads(dtype):
    draw = Draw(lattices=3)
    scene, options = draw_scene(draw), options_of(draw, image_shape=(110, 130), dtype=dtype)
    upstream = torch.randn(2 * 110 * 130, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found = []
    for threads in (1, 2, 3):
        part = replace(options, threads=threads)
        value, gradients = cpu_gradients.gradients(Pull(upstream, TENSORS, value=True), None, scene, part)
        found.append((cpu.value(None, scene, part), value, *gradients.values()))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", TENSORS)
def test_one_gradient_alone_is_the_same(name):
    draw = Draw(offset=2.0, lattices=2)
    scene, options = draw_scene(draw), options_of(draw, oversample=2)
    upstream = torch.ones(2 * 9 * 13, dtype=D)
    _, every = cpu_gradients.gradients(Pull(upstream, TENSORS), None, scene, options)
    _, alone = cpu_gradients.gradients(Pull(upstream, [name]), None, scene, options)
    assert list(alone) == [name]
    assert deviation(alone[name], every[name]) < 1e-13


def test_no_gradient_wanted_runs_no_adjoint(monkeypatch):
    monkeypatch.setattr(cpu_gradients, "gradients", None)
    draw = Draw()
    scene = draw_scene(draw)
    assert not operation.intensity(None, scene, options_of(draw)).requires_grad
    with torch.no_grad():
        moving = replace(scene, lattice=scene.lattice.requires_grad_())
        assert not operation.intensity(None, moving, options_of(draw)).requires_grad


def test_scenes_that_are_not_finite_give_nan():
    draw = Draw(panels=1)
    scene = replace(draw_scene(draw), wavelengths=torch.full((3,), torch.nan, dtype=D, requires_grad=True))
    value = operation.intensity(None, scene, options_of(draw), kernel="fused")
    assert bool(torch.isnan(value).all())
    assert bool(torch.isnan(torch.autograd.grad(value.sum(), scene.wavelengths)[0]).all())


def test_gradients_and_slopes_are_not_taken_for_constants():
    """Where somebody wants to differentiate what they were made with, that is refused and not silently nothing."""
    draw = Draw(lattices=1)
    scene, options = draw_scene(draw), options_of(draw)
    upstream = torch.ones(2 * 9 * 13, dtype=D, requires_grad=True)
    direction = scene.lattice[None].clone().requires_grad_()
    _, found = operation.gradients(upstream, None, scene, options, ["lattice"])
    for result in (found["lattice"], operation.tangents(None, scene, {"lattice": direction}, options)):
        with pytest.raises(InputError, match="first derivatives alone"):
            result.sum().backward()
    with torch.no_grad():
        assert not operation.tangents(None, scene, {"lattice": direction}, options).requires_grad


@pytest.mark.parametrize("seen", [None, lambda _: None], ids=["plain", "with progress"])
def test_signs_that_a_view_puts_off_and_default_devices(seen):
    draw = Draw(lattices=1)
    scene, options = draw_scene(draw), options_of(draw)
    expected = operation.intensity(None, scene, options)
    late = replace(scene, lattice=torch._neg_view(-scene.lattice))
    assert late.lattice.is_neg() and torch.equal(operation.intensity(None, late, options, progress=seen), expected)
    upstream = torch._neg_view(-torch.ones_like(expected))
    _, found = operation.gradients(upstream, None, late, options, ["shape"])
    _, plain = operation.gradients(torch.ones_like(expected), None, scene, options, ["shape"])
    assert torch.equal(found["shape"], plain["shape"])
    with torch.device("meta"):  # what is made without a device is of shapes alone
        assert torch.equal(operation.intensity(None, scene, options, progress=seen), expected)


def test_progress_ends_at_one():
    draw, seen = Draw(lattices=1), []
    with torch.no_grad():
        operation.intensity(None, draw_scene(draw), options_of(draw, image_shape=(200, 200)), progress=seen.append)
    assert seen[-1] == 1.0
    assert seen == sorted(seen)


def test_unknown_kernels_are_refused():
    with pytest.raises(InputError, match="kernel: got 'fast'"):
        operation.intensity(None, draw_scene(Draw()), options_of(Draw()), kernel="fast")


@pytest.mark.parametrize("switch", ["running_factors", "interpolation_latch"])
def test_what_depends_on_the_order_of_steps_goes_to_the_reference(switch, caplog):
    operation._warn_once.cache_clear()
    options = options_of(Draw(), **{switch: True, "oversample_omega": True})
    found = operation.intensity(None, draw_scene(Draw()), options)
    assert torch.equal(found, operation.intensity(None, draw_scene(Draw()), options, kernel="reference"))
    said = caplog.messages[0]
    assert len(caplog.messages) == 1
    assert "reference kernel" in said


def test_without_numba_the_reference_takes_over_and_says_so(monkeypatch, caplog):
    operation._warn_once.cache_clear()
    monkeypatch.setattr(backends, "available", lambda: Availability(False, "numba cannot be imported (x)"))
    draw = Draw(lattices=1)
    found = operation.intensity(None, draw_scene(draw), options_of(draw))
    assert torch.equal(found, operation.intensity(None, draw_scene(draw), options_of(draw), kernel="reference"))
    said = caplog.text
    assert "numba cannot be imported" in said
    assert "slower" in said
    with pytest.raises(InputError, match="numba cannot be imported"):
        operation.intensity(None, draw_scene(draw), options_of(draw), kernel="fused")


def test_importing_compiles_nothing():
    code = "import sys, nanobrag_torch.kernels.operation; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_memory_does_not_grow_with_steps():
    """50 million pixel-steps take less than 48 MB, gradients included; one number for each would be 200 MB."""
    code = """
import resource, torch
from kernel_scenes import Draw, draw_scene, options_of
from nanobrag_torch.kernels.cpu import gradients as cpu_gradients
from nanobrag_torch.kernels.cpu import launch as cpu
from nanobrag_torch.kernels.problem import Pull
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def run(side, lattices):
    draw = Draw(panels=1, sources=1, lattices=lattices, pixel=1e-5)
    scene, options = draw_scene(draw), options_of(draw, image_shape=(side, side), dtype=torch.float32)
    value = cpu.value(None, scene, options)
    cpu_gradients.gradients(Pull(torch.ones_like(value), list(scene.named())), None, scene, options)
run(16, 2)
before = peak()
run(512, 200)
print(peak() - before)
"""
    here = Path(__file__).parent
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    assert float(found.stdout) < 48


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_kernels_without_rare_parts_give_the_same(monkeypatch, dtype):
    """Values bit for bit; gradients but for rounding in their float64 sums, which LLVM may put in another order."""
    draw = Draw(panels=1, lattices=3)
    scene, options = draw_scene(draw), options_of(draw, dtype=dtype, oversample=2)

    def results() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        upstream = torch.ones(117, dtype=dtype)
        values, gradients = cpu_gradients.gradients(Pull(upstream, TENSORS, value=True), None, scene, options)
        return [cpu.value(None, scene, options), values], gradients

    values, gradients = results()
    monkeypatch.setattr(cpu, "_value_of_most", vars(cpu)["_value"])
    monkeypatch.setattr(cpu_gradients, "_adjoint_of_most", vars(cpu_gradients)["_adjoint"])
    again, whole = results()
    assert all(map(torch.equal, values, again))
    assert all(deviation(whole[name], gradients[name]) < 1e-13 for name in TENSORS)


def test_threads_stop_when_one_is_interrupted():
    draw = Draw(panels=1, lattices=200)
    options = options_of(draw, image_shape=(400, 512), dtype=torch.float32, threads=2)

    def interrupt(done: float) -> None:
        assert done < 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cpu.value(None, draw_scene(draw), options, interrupt)


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("wavelengths", torch.ones(2, dtype=D), r"scene.wavelengths: got '\[2\] float64'; accepted: \[S = 3\] float64"),
        ("panels", torch.ones((2, 3, 3), dtype=D), r"scene.panels: got '\[2, 3, 3\] .*\[P = 2, 4, 3\]"),
        ("lattice", torch.ones((4, 3, 3)), r"scene.lattice: got '\[4, 3, 3\] float32'.*float64"),
        ("structure_factors", torch.ones((2, 2, 2), dtype=torch.int32), "float64 or float32"),
        ("default_F", torch.ones((1, 1), dtype=D), r"scene.default_F: got '\[1, 1\] float64'; accepted: \[\] float64"),
    ],
)
def test_unsound_scenes_are_refused(name, wrong, words):
    """Also where the operators are called directly: compiled code does not check bounds."""
    options, scene = options_of(Draw()), replace(draw_scene(Draw()), **{name: wrong})
    for kernel in operation.KERNELS:
        with pytest.raises(InputError, match=words):
            operation.intensity(None, scene, options, kernel=kernel)
    upstream, given = torch.ones(234, dtype=D), SCENE.pack(scene, options)
    with pytest.raises(InputError, match=words):
        torch.ops.nanobrag_torch.intensity(None, *given)
    with pytest.raises(InputError, match=words):
        torch.ops.nanobrag_torch.intensity_adjoint(upstream, None, *given, SCENE.flags(["panels"]), False)
    with pytest.raises(InputError, match=words):
        operation.tangents(None, scene, {"offset": torch.ones(1, dtype=D)}, options)


def test_looking_at_a_scene_takes_microseconds():
    scene = draw_scene(Draw())
    assert min(timeit.repeat(lambda: require_sound(scene), number=100, repeat=20)) / 100 < 100e-6


@pytest.mark.parametrize(
    ("directions", "words"),
    [
        ({}, "directions"),
        ({"lattices": torch.ones((1, 4, 3, 3), dtype=D)}, "directions"),
        ({"lattice": torch.ones((1, 3, 3, 3), dtype=D)}, r"directions\['lattice'\]"),
        ({"lattice": torch.ones((1, 4, 3, 3), dtype=D), "offset": torch.ones(2, dtype=D)}, "the same number"),
    ],
)
def test_directions_that_fit_no_tensor_are_refused(directions, words):
    with pytest.raises(InputError, match=words):
        operation.tangents(None, draw_scene(Draw()), directions, options_of(Draw()))


@dataclass(frozen=True)
class Larger(Scene):
    """A scene with a tensor more."""

    gain: torch.Tensor = sized()


def larger_backend() -> backends.Backend:
    """The CPU's, its values times the gain."""

    def value(pixels, scene, options):
        return cpu.value(pixels, scene, options) * scene.gain.to(options.dtype)

    def gradients(pull, pixels, scene, options):
        scaled = Pull(pull.upstream * scene.gain, {*pull.wanted} - {"gain"}, value=True)
        values, found = cpu_gradients.gradients(scaled, pixels, scene, options)
        return values * scene.gain, found | {"gain": (pull.upstream * values).sum().to(D)}

    return replace(backends.CPU, value=value, gradients=gradients, tangents=None)


def test_a_tensor_added_to_the_scene_needs_no_other_table():
    """Arguments, checks and gradients follow from the fields, and old kernels still find what they know by name."""
    arguments = Arguments(Larger)
    assert arguments.schema.replace(", Tensor gain", "") == SCENE.schema
    operators = Operators("nanobrag_torch_larger", arguments, [larger_backend()])
    plain, options = draw_scene(Draw(panels=1)), options_of(Draw())
    scene = Larger(**plain.named(), gain=torch.tensor(3.0, dtype=D, requires_grad=True))
    scene.lattice.requires_grad_()
    value = operators.call.intensity(None, *arguments.pack(scene, options))
    assert torch.equal(value, 3 * operation.intensity(None, plain, options))
    by_gain, by_lattice = torch.autograd.grad(value.sum(), [scene.gain, scene.lattice])
    assert deviation(by_gain * 3, value.sum().detach()) < 1e-12
    _, known = operation.gradients(torch.full((117,), 3.0, dtype=D), None, plain, options, ["lattice"])
    assert deviation(by_lattice, known["lattice"]) < 1e-12
    with pytest.raises(InputError, match="scene.gain"):
        operators.call.intensity(None, *arguments.pack(replace(scene, gain=torch.ones((1, 1), dtype=D)), options))
    with pytest.raises(KeyError, match="no tensor of a scene is called profile"):
        arguments.in_order({"profile": value}, scene)
