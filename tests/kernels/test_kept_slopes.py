"""What is kept of pixels before a loss, over combinations of options: values and gradients of the ordinary kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_scenes import D, Draw, deviation, draw_scene, options_of
from test_fused_agrees import combination
from torch import Tensor

from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.cpu.kept import KEEPS
from nanobrag_torch.kernels.problem import CUTS, Options, Scene
from nanobrag_torch.physics.lattice_factor import Profile

TAKEN: dict[str, object] = {"curved": False, "interpolate": False, "dmin": 0.0}
"""Options with which a grating's slopes can be kept."""


def generated(seed: int, dtype: torch.dtype) -> tuple[Draw, Scene, Options]:
    """A combination; every second one is made such that its slopes can be kept, whatever else it has."""
    draw, more = combination(seed)
    if seed % 2:
        draw, more = replace(draw, profile=Profile.GRATING), more | TAKEN
    scene = draw_scene(draw)
    scene = replace(scene, structure_factors=scene.structure_factors.to(dtype))
    return draw, scene, options_of(draw, **more, dtype=dtype)


def has_to_be_left(scene: Scene, options: Options) -> bool:
    cubic = options.interpolate and scene.structure_factors.numel() > 0
    return options.profile is not Profile.GRATING or cubic or options.curved or options.dmin > 0


def moved_alike(gradient: Tensor, lattice: Tensor) -> Tensor:
    """The gradient by X [3, 3] where every lattice is changed to (1 + X) times it."""
    return (gradient.double() @ lattice.transpose(-1, -2)).sum(0)


def in_a_line(scene: Scene, seed: int) -> Scene:
    """Its sources made to differ by wavelength and weight alone."""
    generator = torch.Generator().manual_seed(seed)
    count, spread = scene.incident.shape[0], float(torch.rand((), generator=generator)) * 0.05
    return replace(
        scene,
        incident=scene.incident[:1].repeat(count, 1),
        wavelengths=scene.wavelengths[0] * (1 + spread * torch.randn(count, generator=generator, dtype=D)),
        polarization=scene.polarization[:1].repeat(count, 1, 1),
    )


def compare(scene: Scene, options: Options, names: frozenset[str] = KEEPS) -> dict[str, float]:
    """Deviations of all that is kept from what the ordinary kernel finds, for a list of pixels with a gap."""
    slow, fast = options.image_shape
    every = torch.arange(scene.panels.shape[0] * slow * fast)
    pixels = torch.cat((every[:50], every[57:]))
    upstream = 0.5 + torch.rand(pixels.numel(), generator=torch.Generator().manual_seed(1), dtype=D)
    kept = operation.keep(pixels, scene, options, names)
    if kept is None:
        assert has_to_be_left(scene, options)
        return {}
    assert not has_to_be_left(scene, options)
    value, wanted = operation.gradients(upstream.to(options.dtype), pixels, scene, options, names, value=True)
    found = kept.gradients(upstream.to(options.dtype), names)
    assert found.keys() == wanted.keys() == names
    away = {name: deviation(found[name], wanted[name].double()) for name in names - {"lattice"}}
    matrices = (moved_alike(each["lattice"], scene.lattice) for each in (found, wanted))
    return {**away, "lattice": deviation(*matrices), "value": deviation(kept.values, value.double())}


@pytest.mark.parametrize("dtype", [D, torch.float32], ids=str)
@pytest.mark.parametrize("block", range(4))
def test_over_combinations(block, dtype):
    """Eighty combinations in either type; the ones that are not kept are of the kinds that are left to two passes."""
    kept = 0
    for seed in range(500 + 20 * block, 520 + 20 * block):
        draw, scene, options = generated(seed, dtype)
        found = compare(scene, options)
        kept += bool(found)
        assert max(found.values(), default=0.0) < (1e-12 if dtype is D else 5e-5), (draw, options, found)
    assert kept >= 10


@pytest.mark.parametrize("dtype", [D, torch.float32], ids=str)
@pytest.mark.parametrize("block", range(2))
def test_wavelengths_of_a_direction_together(block, dtype):
    """Each by itself where gradients by its direction are asked for, all together else; and the same comes of it."""
    rows = set()
    for seed in range(801 + 40 * block, 841 + 40 * block, 2):
        draw, scene, options = generated(seed, dtype)
        scene = in_a_line(scene, seed)
        names = KEEPS - {"incident"} - ({"polarization"} if options.oversample_polar else set())
        together = compare(scene, options, frozenset(names))
        alone = compare(scene, options)
        assert max(together.values()) < (1e-12 if dtype is D else 5e-5), (draw, options, together)
        assert max(alone.values()) < (1e-12 if dtype is D else 5e-5), (draw, options, alone)
        pixels = torch.arange(20)
        sizes = [operation.keep(pixels, scene, options, chosen).slopes.size for chosen in (names, KEEPS)]
        rows.add(sizes[0] < sizes[1])
        assert (sizes[0] < sizes[1]) == (draw.sources > 1), draw
    assert rows == {True, False}


@pytest.mark.parametrize("what", ["a direction", "a polarization", "a weight of zero"])
def test_what_keeps_wavelengths_apart(what):
    """Sources that differ in more than their wavelength are kept one by one, and give what they give."""
    draw = Draw(panels=1, sources=3, lattices=7, thick=False)
    scene, options = in_a_line(draw_scene(draw), 1), options_of(draw, oversample=2, oversample_polar=True)
    names, pixels = KEEPS - {"incident", "polarization"}, torch.arange(30)
    together = operation.keep(pixels, scene, options, names).slopes.size
    name = {"a direction": "incident", "a polarization": "polarization", "a weight of zero": "source_weights"}[what]
    changed = getattr(scene, name).clone()
    changed[1] *= 0.0 if what == "a weight of zero" else 1 + 1e-9
    scene = replace(scene, **{name: changed})
    assert operation.keep(pixels, scene, options, names).slopes.size > together
    assert max(compare(scene, options, names).values()) < 1e-12


@pytest.mark.parametrize("dtype", [D, torch.float32], ids=str)
def test_bounds_are_left_to_two_passes(dtype):
    draw = Draw(panels=1, sources=2, lattices=12, pixel=3e-4, cells=(40.0, 50.0, 60.0))
    scene, options = draw_scene(draw), options_of(draw, image_shape=(40, 50), dtype=dtype)
    scene = replace(scene, structure_factors=scene.structure_factors.to(dtype))
    pixels = torch.arange(2000)
    assert operation.keep(pixels, scene, options) is not None
    assert operation.keep(pixels, scene, replace(options, tolerance=1.0)) is None
    assert operation.keep(pixels, scene, replace(options, cut=CUTS[dtype])) is not None  # a grating never vanishes
    assert operation.keep(pixels, scene, options, kernel="reference") is None


@pytest.mark.parametrize("name", ["panels", "wavelengths", "structure_factors", "lattice"])
def test_what_is_not_finite_is_left_to_two_passes(name):
    draw = Draw(panels=1)
    scene = draw_scene(draw)
    broken = getattr(scene, name).clone()
    broken.view(-1)[0] = torch.nan
    kept = operation.keep(torch.arange(117), replace(scene, **{name: broken}), options_of(draw))
    assert (kept is None) == (name != "structure_factors")  # a reflection that is none is one of many
