"""Slopes along directions: the fused kernel against the reference kernel's forward mode and its own adjoint."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import pytest
import torch
from kernel_scenes import D, Draw, deviation, draw_scene, options_of
from torch import Tensor
from torch.autograd import forward_ad

from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import operation, reference
from nanobrag_torch.kernels.arguments import SCENE
from nanobrag_torch.kernels.cpu import gradients as cpu_gradients
from nanobrag_torch.kernels.problem import Options, Pull, Scene
from nanobrag_torch.physics.lattice_factor import Profile

DOUBLE, SINGLE = 1e-10, 1e-5
SMALL = (4, 5)
NAMES = [field.name for field in fields(Scene)]
SWITCHES = (
    "point_pixel", "curved", "oversample_omega", "oversample_polar", "oversample_thick", "last_layer_capture",
    "front_solid_angle", "curved_by_lab_axes", "curved_sensor_is_flat",
)  # fmt: skip


def combination(seed: int) -> tuple[Draw, dict[str, object]]:
    """A scene and options drawn at random, every switch on in about a third of them."""
    r = random.Random(seed)
    draw = Draw(
        profile=list(Profile)[seed % len(Profile)],
        panels=r.choice((1, 3)),
        sources=r.choice((1, 3)),
        lattices=r.choice((1, 3)),
        layers=r.choice((1, 1, 3)),
        thick=r.random() < 0.7,
        table=r.random() < 0.7,
        offset=r.choice((0.0, 0.0, 1e3)),
        cells=r.choice(((5.0, 7.0, 4.0), (1.0, 2.0, 6.0), (4.3, 5.5, 3.9))),
        seed=seed,
    )
    more: dict[str, object] = {name: r.random() < 0.33 for name in SWITCHES}
    more |= {"oversample": r.choice((1, 2)), "interpolate": r.random() < 0.3, "dmin": r.choice((0.0, 0.0, 13e-10))}
    return draw, more | {"image_shape": SMALL}


def directions_of(scene: Scene, count: int, moving: Sequence[str] = NAMES, seed: int = 0) -> dict[str, Tensor]:
    """Random stacks in the units of each tensor; every other direction of the lattices is one matrix times all."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in scene.named().items():
        if name not in moving or tensor.numel() == 0:
            continue
        size = tensor.detach().abs().max().clamp(min=1e-12)
        stack = torch.randn((count, *tensor.shape), generator=generator, dtype=D) * size
        if name == "lattice":
            left = torch.randn((count, 1, 3, 3), generator=generator, dtype=D)
            stack[::2] = left[::2] @ tensor.detach()
        found[name] = stack
    return found


def one_tensor_each(scene: Scene, seed: int = 0) -> dict[str, Tensor]:
    """A direction for each tensor, in which it moves alone."""
    stacks = directions_of(scene, len(NAMES), seed=seed)
    for i, name in enumerate(NAMES):
        if name in stacks:
            stacks[name][torch.arange(len(NAMES)) != i] = 0
    return stacks


def worst(got: Tensor, true: Tensor) -> float:
    """Largest deviation of a direction."""
    assert got.shape == true.shape
    return max(deviation(a, b) for a, b in zip(got, true, strict=True))


def from_reference(scene: Scene, directions: Mapping[str, Tensor], options: Options) -> float:
    """Largest deviation of a direction's slopes from the reference kernel's in float64, over all pixels."""
    got = operation.tangents(None, scene, directions, options, kernel="fused")
    assert got.dtype is options.dtype
    true = operation.tangents(None, scene, directions, replace(options, dtype=D), kernel="reference")
    return worst(got, true)


@pytest.mark.parametrize("seed", range(16))
def test_each_tensor_alone_over_combinations(seed):
    draw, more = combination(seed)
    scene = draw_scene(draw)
    assert from_reference(scene, one_tensor_each(scene), options_of(draw, **more)) < DOUBLE


@pytest.mark.parametrize("seed", range(100, 110))
def test_single_precision_over_combinations(seed):
    draw, more = combination(seed)
    scene = draw_scene(draw)
    assert from_reference(scene, one_tensor_each(scene), options_of(draw, **more, dtype=torch.float32)) < SINGLE


@pytest.mark.parametrize("count", [1, 6, 32])
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_any_number_of_directions_that_move_everything(count, dtype):
    draw = Draw(offset=10.0)
    scene, options = draw_scene(draw), options_of(draw, image_shape=SMALL, dtype=dtype)
    assert from_reference(scene, directions_of(scene, count), options) < (DOUBLE if dtype is D else SINGLE)


@pytest.mark.parametrize("moving", [["lattice", "shape"], ["panels"], ["lattice_weights", "structure_factors"]])
@pytest.mark.parametrize("profile", list(Profile))
def test_float32_differences_from_anchors(profile, moving):
    """Fine pixels, so that groups of neighbours share an anchor."""
    draw = Draw(profile=profile, panels=1, pixel=1e-5, cells=(10.0, 6.0, 12.0), thick=False)
    scene, options = draw_scene(draw), options_of(draw, image_shape=(20, 40), dtype=torch.float32)
    assert from_reference(scene, directions_of(scene, 2, moving), options) < SINGLE


def test_more_lattices_than_a_batch():
    draw = Draw(panels=1, sources=1, lattices=70)
    scene, options = draw_scene(draw), options_of(draw, image_shape=(2, 3))
    assert from_reference(scene, directions_of(scene, 2), options) < DOUBLE


@pytest.mark.parametrize("hkl_first", [(-1, -5, -6), (0, -9, -2), (40, 40, 40)])
@pytest.mark.parametrize("interpolate", [False, True])
def test_edges_of_the_table(hkl_first, interpolate):
    draw = Draw(panels=1, thick=False, lattices=2)
    scene = draw_scene(draw)
    options = options_of(draw, image_shape=SMALL, hkl_first=hkl_first, interpolate=interpolate)
    moving = ["lattice", "structure_factors", "default_F"]
    assert from_reference(scene, directions_of(scene, 2, moving), options) < DOUBLE


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("seed", [1, 5, 6])
def test_slopes_and_gradients_are_two_readings_of_one_jacobian(seed, dtype):
    """sum(u J v) = sum(J^T u v), in scenes too large for the reference."""
    draw, more = combination(seed)
    draw = replace(draw, lattices=70, panels=3)
    scene, options = draw_scene(draw), options_of(draw, **more | {"image_shape": (40, 50), "dtype": dtype})
    directions = directions_of(scene, 32)
    upstream = torch.rand(3 * 40 * 50, generator=torch.Generator().manual_seed(1), dtype=dtype)
    slopes = operation.tangents(None, scene, directions, options)
    _, gradients = cpu_gradients.gradients(Pull(upstream, NAMES), None, scene, options)
    parts = torch.stack([d.reshape(32, -1) @ gradients[name].reshape(-1).double() for name, d in directions.items()])
    found, most = (slopes.double() @ upstream.double()), slopes.double().abs() @ upstream.double()
    assert float(((found - parts.sum(0)).abs() / most).max()) < (1e-12 if dtype is D else 1e-5)


@pytest.mark.parametrize("pixels", [[], [5], [200, 3, 150, 3, 3, 60], list(range(233, -1, -1))])
def test_lists_of_pixels(pixels):
    draw = Draw()
    scene, options = draw_scene(draw), options_of(draw)
    directions, listed = directions_of(scene, 3), torch.tensor(pixels, dtype=torch.int64)
    whole = operation.tangents(None, scene, directions, options)
    part = operation.tangents(listed, scene, directions, options)
    assert part.shape == (3, len(pixels))
    if pixels:
        assert worst(part, whole[:, listed]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_results_do_not_depend_on_threads(dtype):
    draw = Draw(lattices=3)
    scene, options = draw_scene(draw), options_of(draw, image_shape=(110, 130), dtype=dtype)
    directions = directions_of(scene, 4)
    first, *others = (
        operation.tangents(None, scene, directions, replace(options, threads=threads)) for threads in (1, 2, 3)
    )
    assert all(torch.equal(first, other) for other in others)


def test_a_direction_does_not_feel_its_neighbours():
    draw = Draw(offset=2.0)
    scene, options = draw_scene(draw), options_of(draw)
    stacks = directions_of(scene, 5)
    stacks["panels"][3, 0, 0, 0] = torch.nan
    slopes = operation.tangents(None, scene, stacks, options)
    assert bool(torch.isnan(slopes[3]).all())
    for t in (0, 1, 2, 4):
        alone = operation.tangents(None, scene, {name: stack[t : t + 1] for name, stack in stacks.items()}, options)
        assert deviation(slopes[t], alone[0]) < 1e-12


def test_forward_mode_differentiates_the_operation():
    draw = Draw(offset=2.0, lattices=2)
    scene, options = draw_scene(draw), options_of(draw, dtype=torch.float32)
    directions = directions_of(scene, 1)
    slopes = operation.tangents(None, scene, directions, options)[0]

    def image(*tensors: Tensor) -> Tensor:
        return operation.intensity(None, Scene(*tensors), options, kernel="fused")

    value, tangent, *_ = torch.func.jvp(image, scene.tensors(), tuple(directions[name][0] for name in NAMES))
    assert torch.equal(tangent, slopes)
    assert torch.equal(value, image(*scene.tensors()))
    with forward_ad.dual_level():
        dual = image(*(forward_ad.make_dual(tensor, directions[name][0]) for name, tensor in scene.named().items()))
        assert torch.equal(forward_ad.unpack_dual(dual).tangent, slopes)


def test_forward_jacobians_take_one_pass():
    draw = Draw(lattices=2)
    scene, options = draw_scene(draw), options_of(draw, image_shape=SMALL)

    def image(wavelengths: Tensor, scale: Tensor) -> Tensor:
        moved = replace(scene, wavelengths=wavelengths, lattice=scale * scene.lattice)
        return operation.intensity(None, moved, options, kernel="fused")

    leaves = scene.wavelengths, torch.ones((), dtype=D)
    found = torch.func.jacfwd(image, argnums=(0, 1))(*leaves)
    true = torch.autograd.functional.jacobian(image, leaves)
    assert all(deviation(a, b) < 1e-12 for a, b in zip(found, true, strict=True))


@pytest.mark.parametrize("pixels", [None, torch.tensor([1, 2, 7, 9])], ids=["all", "list"])
def test_opcheck(pixels):
    draw = Draw(panels=1, lattices=2)
    scene = draw_scene(draw)
    directions = SCENE.in_order(directions_of(scene, 2), scene)
    arguments = (pixels, *SCENE.pack(scene, options_of(draw)), directions)
    torch.library.opcheck(torch.ops.nanobrag_torch.intensity_tangents.default, arguments)


def test_what_depends_on_the_order_of_steps_goes_to_the_reference():
    draw = Draw(lattices=1, panels=1)
    scene, options = draw_scene(draw), options_of(draw, image_shape=SMALL, running_factors=True, oversample_polar=True)
    directions = directions_of(scene, 1, ["lattice"])
    found = operation.tangents(None, scene, directions, options)
    assert torch.equal(found, reference.tangents(torch.arange(20), scene, directions, options))


def test_unknown_kernels_are_refused():
    scene = draw_scene(Draw())
    with pytest.raises(InputError, match="kernel: got 'fast'"):
        operation.tangents(None, scene, directions_of(scene, 1), options_of(Draw()), kernel="fast")
