"""Steps that are left out: what a pixel loses stays below the bound, whatever the scene; and much is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_scenes import (
    D,
    Draw,
    deviation,
    draw_scene,
    onto_reflection,
    options_of,
    steady,
    true_value_and_gradients,
)
from test_fused_agrees import SWITCHES, combination
from torch import Tensor

from nanobrag_torch.kernels import operation, reference
from nanobrag_torch.kernels.arguments import SCENE
from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.blocks import next_block
from nanobrag_torch.kernels.cpu.intrinsics import entry
from nanobrag_torch.kernels.cpu.limits import FADING, OVERSHOOT
from nanobrag_torch.kernels.cpu.packing import pack, scratch
from nanobrag_torch.kernels.problem import CUTS, Options, Scene
from nanobrag_torch.physics.lattice_factor import Profile

COARSE = 1e-3
"""A cut that shows where a bound is used up."""


def narrow(draw: Draw, cells: float = 40.0, skew: float = 0.3) -> Scene:
    """A scene whose spots are small against the space between them, their axes askew."""
    scene = draw_scene(draw)
    form = torch.eye(3, dtype=D) + skew * torch.tensor([[0, 1, 0.5], [1, 0, -0.4], [0.5, -0.4, 0]], dtype=D)
    return replace(scene, shape=form * cells**2 / 0.63)


def most(scene: Scene, options: Options) -> Tensor:
    """What each pixel would be on the peak of the strongest reflection at every step."""
    strongest = torch.cat((scene.structure_factors.flatten(), scene.default_F[None])).abs().max()
    flat = replace(scene, shape=torch.zeros((3, 3), dtype=D), default_F=strongest)
    flat = replace(flat, structure_factors=torch.zeros((0, 0, 0), dtype=D), lattice_weights=scene.lattice_weights.abs())
    return operation.intensity(None, flat, replace(options, cut=0.0, profile=Profile.GAUSS, interpolate=False))


def is_sparse(pixels: Tensor | None, scene: Scene, options: Options) -> bool:
    return bool(pack(pixels, scene, options).scenes[0].whole[at.SPARSE])


@entry()
def _count_steps(scene: at.Packed, scratch: at.Scratch) -> int:
    """Lanes times lattices that blocks have left."""
    total, first, last = 0, 0, scene.whole[at.PLACES]
    while first < last:
        used, lanes, _panel = next_block(scratch, scene, first, last)
        first += used
        for number in range(scratch.first[0], scratch.first[1] if lanes else scratch.first[0]):
            bits = scratch.groups[number]
            while bits:
                total, bits = total + at.GROUP * (bits & 1), bits >> 1
    return total


def steps_left(pixels: Tensor | None, scene: Scene, options: Options) -> int:
    """Steps of the first layer and source, sub-pixels aside, that are not left out beforehand."""
    packed = pack(pixels, scene, options).scenes[0]
    assert packed.whole[at.SPARSE]
    return int(_count_steps(packed, scratch(packed)))


SCENES = {
    "plain": {},
    "sub-pixels": {"oversample": 2},
    "curved": {"oversample": 2, "curved": True},
    "each factor": {"oversample": 2, "oversample_omega": True, "oversample_polar": True, "oversample_thick": True},
    "resolution limit": {"dmin": 3e-10, "oversample": 3},
    "interpolated": {"interpolate": True},
    "last capture": {"last_layer_capture": True, "oversample": 2},
    "point pixels": {"point_pixel": True},
}


@pytest.mark.parametrize("profile", [Profile.GAUSS, Profile.TOPHAT])
@pytest.mark.parametrize("name", SCENES)
def test_nothing_is_lost_that_the_type_could_hold(name, profile):
    """Value, gradients and slopes with all that may be left out left out, against the full sums."""
    draw = Draw(profile=profile, panels=2, sources=2, lattices=12, layers=2, pixel=3e-4, offset=0.0)
    scene, full = narrow(draw, 50.0), options_of(draw, image_shape=(50, 70), **SCENES[name])
    options = replace(full, cut=CUTS[D])
    assert is_sparse(None, scene, options)
    upstream = torch.rand(2 * 50 * 70, generator=torch.Generator().manual_seed(1), dtype=D)
    value, gradients = operation.gradients(upstream, None, scene, full, SCENE.names, value=True)
    sparse, found = operation.gradients(upstream, None, scene, options, SCENE.names, value=True)
    assert deviation(sparse, value) < 1e-14
    assert deviation(operation.intensity(None, scene, options), value) < 1e-14
    assert max(deviation(found[n], gradients[n]) for n in found if n != "offset") < 1e-12
    assert deviation(found["offset"], gradients["offset"]) < 1e-12
    directions = {n: torch.ones((1, *t.shape), dtype=D) * t.abs().max() for n, t in scene.named().items() if t.numel()}
    slopes = operation.tangents(None, scene, directions, full)
    assert deviation(operation.tangents(None, scene, directions, options), slopes) < 1e-12


@pytest.mark.parametrize("profile", [Profile.GAUSS, Profile.TOPHAT])
def test_float32_with_and_without(profile):
    draw = Draw(profile=profile, panels=1, sources=2, lattices=12, pixel=1e-4)
    full = options_of(draw, image_shape=(90, 75), dtype=torch.float32, oversample=2)
    scene = onto_reflection(narrow(draw), 4000, full)
    value = operation.intensity(None, scene, full)
    assert deviation(operation.intensity(None, scene, replace(full, cut=CUTS[torch.float32])), value.double()) < 2e-6
    exact = operation.intensity(None, scene, replace(full, dtype=D))
    cut = operation.intensity(None, scene, replace(full, dtype=D, cut=CUTS[torch.float32]))
    assert deviation(cut, exact) < 1e-7


def test_an_offset_stays_where_no_spot_is():
    draw = Draw(profile=Profile.GAUSS, panels=1, sources=1, lattices=10, offset=7.0)
    scene, full = narrow(draw), options_of(draw, image_shape=(30, 40))
    found = operation.intensity(None, scene, replace(full, cut=CUTS[D]))
    assert deviation(found, operation.intensity(None, scene, full)) < 1e-14
    assert float(found.min()) > 0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    oversample=st.sampled_from((2, 3, 5)),
    layers=st.sampled_from((1, 2)),
    each=st.sampled_from(("oversample_omega", "oversample_polar", "oversample_thick", "point_pixel", "curved")),
    offset=st.sampled_from((0.0, 7.0)),
    water=st.booleans(),
)
def test_one_sample_serves_where_no_spot_is(seed, oversample, layers, each, offset, water):
    """What is added to every pixel and the scattering of water, by the reference kernel's full sums over sub-pixels.

    Value, gradients and slopes: a spot or two among tiles without any, and what has no spots at all.
    """
    profile = Profile.GRATING if water else Profile.GAUSS
    draw = Draw(profile=profile, panels=1, sources=2, lattices=4, layers=layers, offset=offset, pixel=3e-4, seed=seed)
    full = options_of(draw, image_shape=(12, 20), oversample=oversample, **{each: True})
    scene = replace(draw_scene(draw), shape=torch.eye(3, dtype=D)) if water else narrow(draw, 60.0)
    scene = scene if water else onto_reflection(scene, 30, full)
    if water:
        scene = replace(scene, structure_factors=torch.zeros((0, 0, 0), dtype=D))
    upstream = 0.5 + torch.rand(240, generator=torch.Generator().manual_seed(1), dtype=D)
    value, truth = true_value_and_gradients(torch.arange(240), upstream, scene, full)
    options = replace(full, cut=CUTS[D])
    found = operation.intensity(None, scene, options)
    assert deviation(found, value) < 1e-12
    _, gradients = operation.gradients(upstream, None, scene, options, SCENE.names, value=True)
    flat = ("lattice", "incident", "wavelengths", "structure_factors") if water else ()  # that water does not depend on
    pairs = [(gradients[name], true) for name, true in zip(SCENE.names, truth, strict=True) if name not in flat]
    assert max(deviation(ours, true) for ours, true in pairs) < 1e-9
    directions = {"panels": torch.ones((1, *scene.panels.shape), dtype=D) * 1e-3}
    slopes = operation.tangents(None, scene, directions, full, kernel="reference")
    assert deviation(operation.tangents(None, scene, directions, options), slopes) < 1e-9


@pytest.mark.parametrize("kind", ["all", "backwards", "box", "scattered", "one"])
def test_lists_of_pixels(kind):
    draw = Draw(profile=Profile.GAUSS, panels=2, sources=2, lattices=10, pixel=3e-4)
    scene, full = narrow(draw), options_of(draw, image_shape=(40, 50), oversample=2)
    every = torch.arange(4000)
    pixels = {
        "all": every,
        "backwards": every.flip(0),
        "box": (50 * torch.arange(10, 20)[:, None] + torch.arange(13, 23)).flatten(),
        "scattered": torch.randperm(4000, generator=torch.Generator().manual_seed(0))[:300],
        "one": every[777:778],
    }[kind]
    whole = operation.intensity(None, scene, full)
    found = operation.intensity(pixels, scene, replace(full, cut=CUTS[D]))
    assert float((found - whole[pixels]).abs().max()) < 1e-14 * float(whole.max())


@pytest.mark.parametrize("shape", [(16, 8), (24, 4), (40, 16), (7, 12), (16, 16)])
def test_images_narrower_than_a_tile(shape):
    """Whichever pixels a spot touches: a whole group, a row of them, a tile."""
    draw = Draw(profile=Profile.GAUSS, panels=1, sources=1, lattices=10, pixel=3e-4)
    full = options_of(draw, image_shape=shape)
    for number in range(0, shape[0] * shape[1], 11):
        scene = onto_reflection(narrow(draw), number, full)
        found = operation.intensity(None, scene, replace(full, cut=CUTS[D]))
        assert deviation(found, operation.intensity(None, scene, full)) < 1e-14


def boxes(width: int, height: int, shape: tuple[int, int] = (60, 90)) -> Tensor:
    """Flat indices of three boxes on one panel and one at the corner of the next, row by row."""
    corners = torch.tensor([[3, 5], [20, 41], [shape[0] - height, shape[1] - width], [shape[0], 0]])
    slow = corners[:, :1, None] + torch.arange(height)[:, None]
    return (slow * shape[1] + corners[:, 1:, None] + torch.arange(width)).flatten()


@pytest.mark.parametrize("size", [(10, 10), (5, 5), (3, 7), (16, 16), (1, 9), (30, 25), (90, 3)])
@pytest.mark.parametrize("profile", [Profile.GAUSS, Profile.GRATING])
def test_shoeboxes_are_taken_in_squares(size, profile):
    """Value, gradients and slopes of boxes, in both types, as those of the whole image."""
    draw = Draw(profile=profile, panels=2, sources=3, lattices=10, pixel=3e-4, thick=False)
    full, pixels = options_of(draw, image_shape=(60, 90), oversample=2), boxes(*size)
    scene = narrow(draw) if profile is Profile.GAUSS else fading(profile, draw, 50.0)
    scene = onto_reflection(scene, int(pixels[len(pixels) // 5]), full)
    whole = operation.intensity(pixels, scene, full)
    options = replace(full, cut=CUTS[D], tolerance=1e-6 * float(whole.max()))
    assert is_sparse(pixels, scene, options)
    assert float((operation.intensity(pixels, scene, options) - whole).abs().max()) <= options.tolerance
    single = operation.intensity(pixels, scene, replace(options, dtype=torch.float32))
    assert deviation(single, whole) < 1e-5
    upstream = torch.rand(len(pixels), generator=torch.Generator().manual_seed(1), dtype=D)
    value, gradients = operation.gradients(upstream, pixels, scene, full, SCENE.names, value=True)
    sparse, found = operation.gradients(upstream, pixels, scene, options, SCENE.names, value=True)
    assert float((sparse - value).abs().max()) <= options.tolerance
    assert max(deviation(found[n], gradients[n]) for n in found) < 1e-3
    directions = {"lattice": torch.ones((1, *scene.lattice.shape), dtype=D) * 1e-10}
    slopes = operation.tangents(pixels, scene, directions, full)
    assert deviation(operation.tangents(pixels, scene, directions, options), slopes) < 1e-3


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    cells=st.floats(15.0, 200.0),
    pixel=st.floats(1e-5, 1e-3),
    apart=st.floats(0.0, 0.02),
    spread=st.floats(0.0, 0.02),
    count=st.integers(2, 20),
    listed=st.booleans(),
)
def test_sources_that_are_held_together_lose_no_more(seed, cells, pixel, apart, spread, count, listed):
    """Sources from all alike to far apart, in direction and wavelength."""
    draw = Draw(profile=Profile.GAUSS, panels=2, sources=count, lattices=6, pixel=pixel, seed=seed)
    scene, full = narrow(draw, cells), options_of(draw, image_shape=(30, 40))
    generator = torch.Generator().manual_seed(seed)
    turned = scene.incident[:1] + apart * torch.randn((count, 3), generator=generator, dtype=D)
    scene = replace(scene, incident=torch.nn.functional.normalize(turned, dim=1))
    scene = replace(scene, wavelengths=1e-10 * (1 + spread * torch.rand(count, generator=generator, dtype=D)))
    scene = onto_reflection(scene, 620, full)
    pixels = boxes(9, 11, (30, 40)) if listed else None
    whole = operation.intensity(pixels, scene, full)
    lost = (whole - operation.intensity(pixels, scene, replace(full, cut=COARSE))).abs()
    bound = most(scene, full).abs() * COARSE
    bound = bound if pixels is None else bound[pixels]
    assert bool((lost <= bound * (1 + 1e-9) + 1e-13 * whole.abs().max()).all())


def test_results_do_not_depend_on_threads():
    draw = Draw(profile=Profile.GAUSS, panels=2, sources=2, lattices=10, pixel=3e-4)
    scene, options = narrow(draw), options_of(draw, image_shape=(150, 170), cut=COARSE, oversample=2)
    upstream = torch.ones(2 * 150 * 170, dtype=D)
    results = []
    for threads in (1, 2, 3):
        part = replace(options, threads=threads)
        value, gradients = operation.gradients(upstream, None, scene, part, SCENE.names, value=True)
        results.append([operation.intensity(None, scene, part), value, *gradients.values()])
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("interpolate", [False, True])
def test_absent_reflections_cost_nothing(profile, interpolate):
    """No steps are left to do about them, and fewer where half of the table is zero; images stay the same."""
    draw = Draw(profile=profile, panels=1, sources=2, lattices=10, pixel=3e-4)
    full = options_of(draw, image_shape=(60, 60), interpolate=interpolate)
    plain = fading(profile, draw, 30.0) if profile in FADE else narrow(draw)
    plain = onto_reflection(replace(plain, default_F=torch.zeros((), dtype=D)), 1700, full)
    size, counts = plain.structure_factors.shape, []
    h, k, l = (torch.arange(n) < n // 2 for n in size)
    for kept in (torch.ones(size), h[:, None, None], k[:, None], l, torch.zeros(size)):
        scene = replace(plain, structure_factors=plain.structure_factors * kept)
        whole = operation.intensity(None, scene, full)
        options = replace(full, cut=CUTS[D], tolerance=1e-6 * float(whole.max()) + 1e-30)
        found = operation.intensity(None, scene, options)
        assert float((whole - found).abs().max()) <= options.tolerance + 1e-14 * float(whole.max())
        coarse = replace(options, tolerance=1e-3 * float(most(scene, full).max()) + 1e-30)
        counts.append(steps_left(None, scene, coarse))
    assert counts[0] > 0 and counts[-1] == 0 and min(counts[1:-1]) < 0.95 * counts[0], counts


def test_what_lies_outside_the_table_costs_nothing():
    """A table of one reflection: only the pixels about it have steps left to do."""
    draw = Draw(profile=Profile.GAUSS, panels=1, sources=1, lattices=10, pixel=3e-4)
    full = options_of(draw, image_shape=(60, 60), cut=CUTS[D])
    scene = onto_reflection(replace(narrow(draw), default_F=torch.zeros((), dtype=D)), 1700, full)
    q = reference.look_at_pixels(torch.tensor([1700]), scene, full).q[0, 0, 0, 0]
    hkl = tuple(int(x) for x in (scene.lattice[0] @ q).round())
    one = replace(scene, structure_factors=torch.full((1, 1, 1), 50.0, dtype=D))
    options = replace(full, hkl_first=hkl)
    found = operation.intensity(None, one, options)
    assert deviation(found, operation.intensity(None, one, replace(options, cut=0.0))) < 1e-14
    everywhere = steps_left(None, replace(one, default_F=torch.ones((), dtype=D)), options)
    assert 0 < steps_left(None, one, options) < 0.5 * everywhere


def test_the_reference_kernel_leaves_out_steps_below_the_cut():
    """Each of them loses less than the cut, so that a pixel loses less than the cut times its most."""
    draw = Draw(profile=Profile.GAUSS, panels=1, sources=2, lattices=10, pixel=3e-4)
    scene, full = narrow(draw), options_of(draw, image_shape=(30, 40))
    options = replace(full, cut=COARSE)
    whole = operation.intensity(None, scene, full, kernel="reference")
    found = operation.intensity(None, scene, options, kernel="reference")
    lost = whole - found
    assert float(lost.max()) > 0 and bool((lost <= COARSE * most(scene, full)).all()) and float(lost.min()) >= 0
    fused = operation.intensity(None, scene, options, kernel="fused")
    assert bool((fused >= found * (1 - 1e-12)).all()), "tiles keep all that a step of its own would"


def test_wide_spots_are_summed_in_full():
    draw = Draw(profile=Profile.GAUSS, panels=1, sources=2, lattices=10)
    assert not is_sparse(None, narrow(draw, 3.0), options_of(draw, cut=CUTS[D]))
    assert not is_sparse(None, narrow(draw), options_of(draw))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    cells=st.floats(15.0, 200.0),
    pixel=st.floats(1e-5, 3e-3),
    skew=st.floats(-0.4, 0.6),
    oversample=st.sampled_from((1, 2, 3)),
    curved=st.booleans(),
    profile=st.sampled_from((Profile.GAUSS, Profile.TOPHAT)),
    shape=st.sampled_from(((20, 33), (1, 100), (17, 5), (48, 48))),
    tilt=st.floats(0.0, 1.4),
    listed=st.booleans(),
)
def test_no_scene_loses_more_than_the_bound(seed, cells, pixel, skew, oversample, curved, profile, shape, tilt, listed):
    """Panels that lean up to 80 degrees, large and small pixels, at a cut so coarse that any slip would show."""
    draw = Draw(profile=profile, panels=2, sources=2, lattices=8, pixel=pixel, seed=seed)
    scene = narrow(draw, cells, skew)
    c, s = torch.cos(torch.tensor(tilt, dtype=D)), torch.sin(torch.tensor(tilt, dtype=D))
    turn = torch.eye(3, dtype=D)
    turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1] = c, -s, s, c
    panels = torch.cat((scene.panels[:, :1], scene.panels[:, 1:] @ turn), 1)
    full = options_of(draw, image_shape=shape, oversample=oversample, curved=curved)
    scene = onto_reflection(replace(scene, panels=panels), shape[0] * shape[1] // 2, full)
    pixels = torch.arange(0, 2 * shape[0] * shape[1], 3) if listed else None
    whole = operation.intensity(pixels, scene, full)
    found = operation.intensity(pixels, scene, replace(full, cut=COARSE))
    bound = COARSE * most(scene, full) if profile is Profile.GAUSS else torch.zeros(2 * shape[0] * shape[1], dtype=D)
    bound = bound if pixels is None else bound[pixels]
    assert bool(((whole - found).abs() <= bound.abs() * (1 + 1e-9) + 1e-13 * whole.abs().max()).all())


def test_the_bound_is_used():
    """Pixels lose up to a good share of what they may."""
    draw = Draw(profile=Profile.GAUSS, panels=1, sources=1, lattices=8, pixel=2e-5)
    full = options_of(draw, image_shape=(200, 200))
    scene = onto_reflection(narrow(draw, 60.0, 0.0), 20100, full)
    lost = operation.intensity(None, scene, full) - operation.intensity(None, scene, replace(full, cut=COARSE))
    one_step = most(replace(scene, lattice_weights=scene.lattice_weights * 0 + scene.lattice_weights.max()), full) / 8
    assert 0.02 < float((lost / (COARSE * one_step)).max()) <= 8


def fading(profile: Profile, draw: Draw, cells: float = 12.0) -> Scene:
    """A scene whose spots fade: numbers of cells, whole for a grating, or the form of a ball."""
    scene = draw_scene(draw)
    matrix = torch.diag(torch.tensor([cells, cells + 3, cells - 2], dtype=D))
    return replace(scene, shape=matrix if profile is Profile.GRATING else matrix @ matrix)


FADE = (Profile.GRATING, Profile.SPHERE)


@pytest.mark.parametrize("profile", FADE)
@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("share", [1e-2, 1e-4])
def test_what_fades_is_left_out_within_the_tolerance(name, profile, share):
    """Photons a pixel, in every pixel; and something is left out."""
    draw = Draw(profile=profile, panels=1, sources=2, lattices=12, layers=2, pixel=1.5e-4)
    full = options_of(draw, image_shape=(30, 50), **SCENES[name])
    scene = onto_reflection(fading(profile, draw), 800, full)
    whole = operation.intensity(None, scene, full)
    options = replace(full, tolerance=share * float(whole.max()))
    assert is_sparse(None, scene, options)
    lost = whole - operation.intensity(None, scene, options)
    assert -1e-12 * float(whole.max()) < float(lost.min())
    assert float(lost.max()) <= options.tolerance * (1 + 1e-9)
    if name != "interpolated":  # where every F has the same, large bound
        assert float(lost.max()) > (1e-3 if share == 1e-2 else 0.0) * options.tolerance


@pytest.mark.parametrize("profile", FADE)
def test_gradients_and_slopes_leave_out_as_little(profile):
    draw = Draw(profile=profile, panels=1, sources=2, lattices=12, pixel=1e-4)
    full = options_of(draw, image_shape=(60, 60))
    scene = onto_reflection(fading(profile, draw, 20.0), 1800, full)
    upstream = torch.rand(3600, generator=torch.Generator().manual_seed(1), dtype=D)
    value, gradients = operation.gradients(upstream, None, scene, full, SCENE.names, value=True)
    options = replace(full, tolerance=1e-7 * float(value.max()))
    sparse, found = operation.gradients(upstream, None, scene, options, SCENE.names, value=True)
    assert float((value - sparse).max()) <= options.tolerance
    assert max(deviation(found[n], gradients[n]) for n in found) < 1e-4
    directions = {"lattice": torch.ones((1, *scene.lattice.shape), dtype=D) * 1e-10}
    slopes = operation.tangents(None, scene, directions, full)
    assert deviation(operation.tangents(None, scene, directions, options), slopes) < 1e-4


def test_the_reference_kernel_keeps_to_the_tolerance_too():
    draw = Draw(panels=1, sources=2, lattices=5, pixel=3e-4, layers=2)
    full = options_of(draw, image_shape=(20, 30), oversample=2)
    scene = onto_reflection(fading(Profile.GRATING, draw), 300, full)
    whole = operation.intensity(None, scene, full, kernel="reference")
    options = replace(full, tolerance=1e-3 * float(whole.max()))
    lost = whole - operation.intensity(None, scene, options, kernel="reference")
    assert 0 < float(lost.max()) <= options.tolerance and float(lost.min()) >= 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    cells=st.one_of(st.floats(0.6, 60.0), st.integers(1, 100).map(float)),
    pixel=st.floats(1e-5, 3e-3),
    exponent=st.floats(-9.0, -0.5),
    oversample=st.sampled_from((1, 2, 3)),
    layers=st.sampled_from((1, 2)),
    curved=st.booleans(),
    table=st.booleans(),
    interpolate=st.booleans(),
    profile=st.sampled_from(FADE),
    shape=st.sampled_from(((20, 33), (1, 100), (17, 5), (48, 48))),
)
def test_no_scene_loses_more_than_the_tolerance(
    seed, cells, pixel, exponent, oversample, layers, curved, table, interpolate, profile, shape
):
    draw = Draw(profile=profile, panels=2, sources=2, lattices=8, layers=layers, table=table, pixel=pixel, seed=seed)
    full = options_of(draw, image_shape=shape, oversample=oversample, curved=curved, interpolate=interpolate)
    matrix = torch.diag(torch.tensor([cells, 1.2 * cells, 0.9 * cells], dtype=D))
    scene = replace(draw_scene(draw), shape=matrix if profile is Profile.GRATING else matrix @ matrix)
    scene = onto_reflection(scene, shape[0] * shape[1] // 2, full)
    whole = operation.intensity(None, scene, full)
    tolerance = 10**exponent * float(whole.max())
    lost = (whole - operation.intensity(None, scene, replace(full, tolerance=tolerance))).abs()
    assert float(lost.max()) <= tolerance * (1 + 1e-9) + 1e-12 * float(whole.max())


def generated(seed: int, cells: float, pixel: float, tilt: float, weights: str) -> tuple[Draw, Scene, Options]:
    """A combination of the matrix that kernels are held by: every switch, layers, water, tables, interpolation, a limit
    of resolution that crosses the image, leaning panels; weights that are even, uneven or in part zero."""
    draw, more = combination(seed)
    draw = replace(draw, pixel=pixel, lattices=min(draw.lattices, 12))
    full = options_of(draw, image_shape=(20, 33), **more)
    scene = draw_scene(draw)
    if draw.profile in FADE:
        matrix = torch.diag(torch.tensor([cells, 1.2 * cells, 0.9 * cells], dtype=D))
        scene = replace(scene, shape=matrix if draw.profile is Profile.GRATING else matrix @ matrix)
    else:
        scene = narrow(draw, cells)
    c, s = torch.cos(torch.tensor(tilt, dtype=D)), torch.sin(torch.tensor(tilt, dtype=D))
    turn = torch.eye(3, dtype=D)
    turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1] = c, -s, s, c
    scene = replace(scene, panels=torch.cat((scene.panels[:, :1], scene.panels[:, 1:] @ turn), 1))
    scale = {"even": 1.0, "uneven": 1e3, "in part zero": 0.0}[weights]
    for name in ("source_weights", "lattice_weights"):
        given = getattr(scene, name).clone()
        given[0] *= scale
        scene = replace(scene, **{name: given})
    scene = onto_reflection(scene, 340, full)
    if full.dmin > 0:
        full = replace(
            full, dmin=1 / float(reference.look_at_pixels(torch.tensor([340]), scene, full).q[0, 0, 0, 0].norm())
        )
    return draw, scene, full


def losses_and_bounds(
    draw: Draw, scene: Scene, full: Options, share: float, listed: bool
) -> tuple[Tensor, Tensor, float]:
    """What each pixel loses, what it may, and the brightest."""
    pixels = torch.arange(0, draw.panels * 660, 3) if listed else None
    whole = operation.intensity(pixels, scene, full)
    brightest = float(whole.abs().max())  # those that see the crystal from behind are negative
    if draw.profile in FADE:
        options, bound = replace(full, tolerance=share * brightest), torch.full_like(whole, share * brightest)
    elif draw.profile is Profile.TOPHAT:
        options, bound = replace(full, cut=COARSE), torch.zeros_like(whole)
    else:
        options, bound = replace(full, cut=COARSE), COARSE * most(scene, full).abs()
        bound = bound * (OVERSHOOT**2 if full.interpolate else 1.0)
        bound = bound if pixels is None else bound[pixels]
    return (whole - operation.intensity(pixels, scene, options)).abs(), bound, brightest


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    cells=st.floats(4.0, 150.0),
    pixel=st.floats(1e-5, 3e-3),
    tilt=st.floats(0.0, 1.4),
    weights=st.sampled_from(("even", "uneven", "in part zero")),
    exponent=st.floats(-8.0, -1.0),
    listed=st.booleans(),
)
@example(14678740, 82.5, 3.465e-5, 1.0935, "uneven", -4.0, False)  # a curved detector's sensor, met from behind
@example(71202525, 100.8, 1.4574e-3, 1.2729, "even", -4.0, False)  # and so that what it captures has 277 digits
def test_no_combination_of_options_loses_more(seed, cells, pixel, tilt, weights, exponent, listed):
    draw, scene, full = generated(seed, cells, pixel, tilt, weights)
    lost, bound, brightest = losses_and_bounds(draw, scene, full, 10**exponent, listed)
    assert bool((lost <= bound * (1 + 1e-9) + 1e-12 * brightest).all())


def test_combinations_of_options_do_lose_something():
    """The search above is one of scenes whose steps are left out: of every kind, with every switch."""
    losing: set[str] = set()
    for seed in range(120):
        draw, scene, full = generated(seed, 40.0, 2e-4, 0.3, "even")
        lost, bound, brightest = losses_and_bounds(draw, scene, full, 1e-2, listed=seed % 2 == 0)
        assert bool((lost <= bound * (1 + 1e-9) + 1e-12 * brightest).all())
        if float(lost.max()) > 1e-10 * brightest:
            on = [*SWITCHES, "interpolate", "dmin"]
            losing |= {draw.profile.name, *(name for name in on if getattr(full, name))}
            losing |= {"layers"} if full.layers > 1 and draw.thick else set()
            losing |= {"water"} if draw.offset else set()
    assert losing >= {"GRATING", "SPHERE", "GAUSS", *SWITCHES, "interpolate", "dmin", "layers", "water"}, losing


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("oversample", [1, 3])
@pytest.mark.parametrize("table", [True, False])
def test_tiles_by_series_agree_with_float64(profile, oversample, table):
    """Panels that capture everything, float32: sub-pixels about the middle of a group, as lists of pixels have not."""
    draw = Draw(profile=profile, panels=2, sources=2, lattices=9, pixel=1e-4, table=table, thick=False)
    full = options_of(draw, image_shape=(45, 70), dtype=torch.float32, oversample=oversample)
    plain = draw_scene(draw)
    scene = plain if profile in FADING else narrow(draw, 20.0)
    scene = onto_reflection(scene, 2000, full)
    exact = operation.intensity(None, scene, replace(full, dtype=D))
    tolerance = 1e-6 * float(exact.max())
    options = replace(full, cut=CUTS[torch.float32], tolerance=tolerance if profile in FADING else 0.0)
    assert is_sparse(None, scene, options)
    found = operation.intensity(None, scene, options)
    listed = operation.intensity(torch.arange(found.numel()), scene, options)
    for image in (found, listed):
        away = (image.double() - exact).abs() / exact.max()
        assert (away > 1e-6).sum() <= 2 and away.max() < 1e-4  # two may take another nearest reflection between two
    assert not torch.equal(found, listed)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    cells=st.one_of(st.floats(3.0, 300.0), st.integers(3, 300).map(float)),
    pixel=st.floats(1e-5, 3e-4),
    oversample=st.sampled_from((1, 2, 3)),
    sources=st.sampled_from((1, 3)),
    thick=st.booleans(),
    table=st.booleans(),
    listed=st.booleans(),
)
def test_float32_is_as_precise_for_any_number_of_cells(seed, cells, pixel, oversample, sources, thick, table, listed):
    """Gratings, whose phases are the anchors': tiles and shoeboxes, whole and broken numbers of cells."""
    draw = Draw(panels=1, sources=sources, lattices=8, pixel=pixel, seed=seed, thick=thick, table=table)
    full = options_of(draw, image_shape=(30, 40), oversample=oversample)
    scene = onto_reflection(fading(Profile.GRATING, draw, cells + 2), 620, full)
    pixels = (torch.arange(10, 20)[:, None] * 40 + torch.arange(15, 27)).flatten() if listed else None
    exact = operation.intensity(pixels, scene, full)
    options = replace(full, dtype=torch.float32, tolerance=1e-7 * float(exact.max()))
    firm = steady(torch.arange(1200) if pixels is None else pixels, scene, options)
    away = (operation.intensity(pixels, scene, options).double() - exact).abs() * firm
    assert float(away.max()) < 1e-5 * float(exact.max())
