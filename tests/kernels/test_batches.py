"""Batches of scenes in one call: the same as the loop over them, whatever they share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_scenes import D, Draw, deviation, draw_scene, options_of
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import backends, operation
from nanobrag_torch.kernels.arguments import SCENE
from nanobrag_torch.kernels.batch import scene_of
from nanobrag_torch.kernels.in_turn import one_by_one
from nanobrag_torch.kernels.problem import CUTS, Options, Pull, Scene
from nanobrag_torch.physics.lattice_factor import Profile

COUNT = 3
CRYSTALS = ("lattice", "lattice_weights", "shape")
STACKED = {
    "lattices": ("lattice",),
    "crystals and beams": (*CRYSTALS, "incident", "wavelengths", "source_weights", "polarization", "offset"),
    "detectors": ("panels", "pixel_size", "sensor", "curvature"),
    "everything": SCENE.names,
}


def batch_of(draw: Draw, names: tuple[str, ...]) -> Scene:
    """A scene, some of whose tensors are another one in each of COUNT scenes."""
    scenes = [draw_scene(replace(draw, seed=draw.seed + i)) for i in range(COUNT)]
    return replace(scenes[0], **{name: torch.stack([getattr(one, name) for one in scenes]) for name in names})


def lists(count: int) -> Tensor:
    """Lists of pixels of several lengths, one of them empty, one with a hole."""
    rows = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(i))[:60] for i in range(COUNT)])
    rows[1, 37:] = -1
    rows[2, 50:] = -1
    rows[2, 20] = -1
    return rows


def loop(pixels: Tensor | None, scene: Scene, options: Options) -> Tensor:
    """Values [B, n] of every scene apart."""
    found = []
    for b in range(COUNT):
        listed = pixels if pixels is None or pixels.dim() == 1 else pixels[b].clamp(min=0)
        values = operation.intensity(listed, scene_of(scene, b), options)
        found.append(values if listed is pixels or pixels is None else torch.where(pixels[b] >= 0, values, 0))
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["all", "list", "lists"])
@pytest.mark.parametrize("stacked", STACKED)
def test_values_are_those_of_the_loop(stacked, kind):
    draw = Draw(panels=2, sources=2, lattices=3, offset=1.0)
    scene, options = batch_of(draw, STACKED[stacked]), options_of(draw, oversample=2)
    pixels = {"all": None, "list": torch.tensor([3, 200, 7]), "lists": lists(2 * 9 * 13)}[kind]
    found = operation.intensity(pixels, scene, options)
    assert torch.equal(found, loop(pixels, scene, options))
    reference = operation.intensity(pixels, scene, options, kernel="reference")
    assert deviation(found, reference) < 1e-12


@pytest.mark.parametrize("kind", ["all", "lists"])
@pytest.mark.parametrize("stacked", STACKED)
def test_gradients_are_those_of_the_loop(stacked, kind):
    """By tensors that the scenes share they are sums."""
    draw = Draw(panels=2, sources=2, lattices=3, offset=1.0)
    scene, options = batch_of(draw, STACKED[stacked]), options_of(draw, oversample=2)
    pixels = None if kind == "all" else lists(2 * 9 * 13)
    leaves = Scene(*(tensor.clone().requires_grad_() for tensor in scene.tensors()))
    upstream = torch.randn((COUNT, 234 if pixels is None else 60), generator=torch.Generator().manual_seed(0), dtype=D)
    wanted = torch.autograd.grad((loop(pixels, leaves, options) * upstream).sum(), leaves.tensors())
    found = torch.autograd.grad((operation.intensity(pixels, leaves, options) * upstream).sum(), leaves.tensors())
    assert max(deviation(f, w) for f, w in zip(found, wanted, strict=True)) < 1e-12
    values, one_pass = operation.gradients(upstream, pixels, scene, options, SCENE.names, value=True)
    assert deviation(values, loop(pixels, scene, options)) < 1e-13
    assert all(torch.equal(one_pass[name], f) for name, f in zip(SCENE.names, found, strict=True))
    reference = operation.intensity(pixels, leaves, options, kernel="reference")
    slow = torch.autograd.grad((reference * upstream).sum(), leaves.tensors(), materialize_grads=True)
    assert max(deviation(f, w) for f, w in zip(found, slow, strict=True)) < 1e-9


@pytest.mark.parametrize("kind", ["all", "lists"])
@pytest.mark.parametrize("stacked", STACKED)
def test_slopes_are_those_of_the_loop(stacked, kind):
    draw = Draw(panels=2, sources=2, lattices=3, offset=1.0)
    scene, options = batch_of(draw, STACKED[stacked]), options_of(draw, oversample=2)
    pixels = None if kind == "all" else lists(2 * 9 * 13)
    generator = torch.Generator().manual_seed(1)
    directions = {
        name: torch.randn((2, *tensor.shape), generator=generator, dtype=D) * tensor.abs().max() * 1e-3
        for name, tensor in scene.named().items()
    }
    directions["lattice"][1] = 1e-3 * scene.lattice  # one matrix on the left of all
    found = operation.tangents(pixels, scene, directions, options)
    for b in range(COUNT):
        listed = None if pixels is None else pixels[b].clamp(min=0)
        named = set(scene.stacked())
        alone = {name: stack[:, b] if name in named else stack for name, stack in directions.items()}
        wanted = operation.tangents(listed, scene_of(scene, b), alone, options)
        wanted = wanted if pixels is None else torch.where(pixels[b] >= 0, wanted, 0)
        assert deviation(found[:, b], wanted) < 1e-13
    slow = operation.tangents(pixels, scene, directions, options, kernel="reference")
    assert deviation(found, slow) < 1e-9


@pytest.mark.parametrize(
    ("profile", "more"),
    [
        (Profile.GAUSS, {"cut": CUTS[D]}),
        (Profile.GRATING, {"tolerance": 1e-3}),
        (Profile.SPHERE, {"tolerance": 1e-3}),
        (Profile.GRATING, {"interpolate": True}),
        (Profile.GRATING, {"curved": True}),
        (Profile.GRATING, {"dtype": torch.float32}),
        (Profile.SPHERE, {"dtype": torch.float32}),
    ],
    ids=str,
)
def test_bounds_and_rare_parts(profile, more):
    """What is left out of a scene does not depend on the batch that it is in."""
    draw = Draw(profile=profile, panels=1, sources=2, lattices=12, pixel=3e-4)
    scene, options = batch_of(draw, CRYSTALS), options_of(draw, image_shape=(40, 50), **more)
    scene = replace(scene, shape=scene.shape * torch.tensor([1.0, 20.0, 40.0], dtype=D)[:, None, None])
    found = operation.intensity(None, scene, options)
    assert torch.equal(found, loop(None, scene, options))
    upstream = torch.ones_like(found)
    values, by = operation.gradients(upstream, None, scene, options, ["lattice"], value=True)
    for b in range(COUNT):
        alone = operation.gradients(upstream[b], None, scene_of(scene, b), options, ["lattice"], value=True)
        assert torch.equal(values[b], alone[0])
        assert deviation(by["lattice"][b], alone[1]["lattice"]) < 1e-13


def test_round_crystals_of_either_precision():
    """Large ones are worked out in float64, whichever others are in the batch: values, gradients and slopes."""
    draw = Draw(profile=Profile.SPHERE, panels=1, sources=2)
    scene, options = batch_of(draw, CRYSTALS), options_of(draw, dtype=torch.float32)
    scene = replace(scene, shape=scene.shape * torch.tensor([1.0, 400.0, 2.0], dtype=D)[:, None, None])
    assert torch.equal(operation.intensity(None, scene, options), loop(None, scene, options))
    upstream = torch.ones((COUNT, 9 * 13))
    directions = {"lattice": scene.lattice[None], "structure_factors": scene.structure_factors[None]}
    slopes = operation.tangents(None, scene, directions, options)
    _, by = operation.gradients(upstream, None, scene, options, ["lattice"])
    for b in range(COUNT):
        one, own = scene_of(scene, b), directions | {"lattice": scene.lattice[None, b]}
        assert torch.equal(slopes[:, b], operation.tangents(None, one, own, options))
        alone = operation.gradients(upstream[b], None, one, options, ["lattice"])[1]["lattice"]
        assert deviation(by["lattice"][b], alone) < 1e-13


def test_threads_change_nothing():
    draw = Draw(panels=1, sources=2, lattices=3)
    scene, options = batch_of(draw, CRYSTALS), options_of(draw, image_shape=(70, 90))
    upstream = torch.ones((COUNT, 6300), dtype=D)
    found = []
    for threads in (1, 2, 5):
        part = replace(options, threads=threads)
        values, gradients = operation.gradients(upstream, None, scene, part, SCENE.names, value=True)
        found.append([operation.intensity(None, scene, part), values, *gradients.values()])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_backends_that_render_one_scene_take_them_in_turn():
    turns = one_by_one(replace(backends.CPU, batches=False))
    draw = Draw(panels=1, sources=2, lattices=3)
    scene, options, pixels = batch_of(draw, CRYSTALS), options_of(draw), lists(117)
    assert torch.equal(turns.value(pixels, scene, options), operation.intensity(pixels, scene, options))
    upstream = torch.ones((COUNT, 60), dtype=D)
    values, found = turns.gradients(Pull(upstream, SCENE.names, value=True), pixels, scene, options)
    whole, wanted = operation.gradients(upstream, pixels, scene, options, SCENE.names, value=True)
    assert torch.equal(values, whole)
    assert max(deviation(found[name], wanted[name]) for name in SCENE.names) < 1e-13
    assert turns.tangents is not None
    directions = {"lattice": torch.ones((1, *scene.lattice.shape), dtype=D) * 1e-10}
    slopes = turns.tangents(pixels, scene, directions, options)
    assert deviation(slopes, operation.tangents(pixels, scene, directions, options)) < 1e-13


def test_a_scene_that_is_not_finite_spoils_no_other():
    draw = Draw(panels=1, sources=2, lattices=3)
    scene, options = batch_of(draw, ("lattice", "wavelengths")), options_of(draw)
    wavelengths = scene.wavelengths.clone()
    wavelengths[1, 0] = torch.nan
    spoiled = replace(scene, wavelengths=wavelengths)
    found = operation.intensity(None, spoiled, options)
    assert bool(torch.isnan(found[1]).all())
    assert torch.equal(found[[0, 2]], operation.intensity(None, scene, options)[[0, 2]])
    upstream = torch.ones((COUNT, 117), dtype=D)
    values, by = operation.gradients(upstream, None, spoiled, options, ["lattice", "panels"], value=True)
    assert bool(torch.isnan(values[1]).all()) and bool(torch.isnan(by["lattice"][1]).all())
    assert bool(torch.isfinite(by["lattice"][[0, 2]]).all()) and bool(torch.isnan(by["panels"]).all())


def test_empty_batches_and_lists():
    draw = Draw(panels=1, sources=2, lattices=3)
    scene, options = batch_of(draw, CRYSTALS), options_of(draw)
    none = replace(scene, **{name: getattr(scene, name)[:0] for name in CRYSTALS})
    for kernel in ("fused", "reference"):
        assert operation.intensity(None, none, options, kernel=kernel).shape == (0, 117)
        assert operation.intensity(torch.zeros((COUNT, 0), dtype=torch.int64), scene, options, kernel=kernel).shape == (
            COUNT,
            0,
        )
        nowhere = torch.full((COUNT, 2), -1)
        assert not bool(operation.intensity(nowhere, scene, options, kernel=kernel).any())


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_opcheck_of_batches(dtype):
    draw = Draw(panels=1, lattices=2)
    scene, options = batch_of(draw, CRYSTALS), options_of(draw, dtype=dtype)
    leaves = Scene(*(tensor.clone().requires_grad_() for tensor in scene.tensors()))
    pixels = lists(117)
    torch.library.opcheck(torch.ops.nanobrag_torch.intensity.default, (pixels, *SCENE.pack(leaves, options)))
    given, upstream = SCENE.pack(scene, options), torch.ones((COUNT, 60), dtype=dtype)
    wanted = SCENE.flags(["panels", "lattice", "structure_factors"])
    torch.library.opcheck(torch.ops.nanobrag_torch.intensity_adjoint.default, (upstream, pixels, *given, wanted, True))
    directions = SCENE.in_order({"lattice": torch.ones((2, *scene.lattice.shape), dtype=D)}, scene)
    torch.library.opcheck(torch.ops.nanobrag_torch.intensity_tangents.default, (pixels, *given, directions))


def test_gradcheck_of_a_batch():
    draw = Draw(panels=1, sources=1, lattices=2, cells=(3.0, 4.0, 2.0))
    scene, options = batch_of(draw, ("lattice",)), options_of(draw, image_shape=(2, 3))

    def image(scale: Tensor, distance: Tensor) -> Tensor:
        lattice = scene.lattice * scale[:, None, None, None]
        return operation.intensity(None, replace(scene, lattice=lattice, panels=scene.panels * distance), options)

    given = torch.ones(COUNT, dtype=D, requires_grad=True), torch.ones((), dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(image, given, eps=1e-7, atol=1e-4, rtol=1e-4, check_forward_ad=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lattice": 2}, r"scene.lattice.*B = 3"),
        ({"source_weights": None}, r"scene.source_weights"),
    ],
)
def test_lengths_that_differ_are_refused(changed, words):
    scene, options = batch_of(Draw(panels=1), ("lattice", "source_weights")), options_of(Draw())
    for name, length in changed.items():
        tensor = getattr(scene, name)
        scene = replace(scene, **{name: tensor[:length] if length else tensor[None]})
    with pytest.raises(InputError, match=words):
        operation.intensity(None, scene, options)


def test_lists_of_another_number_of_scenes_are_refused():
    scene, options = batch_of(Draw(panels=1), ("lattice",)), options_of(Draw())
    with pytest.raises(InputError, match=r"pixels: got \[2, 60\]; accepted: .*\[3, n\]"):
        operation.intensity(lists(117)[:2], scene, options)
