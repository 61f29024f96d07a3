"""The fused CPU kernel against the reference kernel: value and every gradient, over combinations of options."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from kernel_scenes import IMAGE, D, Draw, deviations, draw_scene, onto_reflection, options_of

from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import Scene
from nanobrag_torch.physics.lattice_factor import Profile

DOUBLE, SINGLE = 1e-12, 1e-5
SWITCHES = (
    "point_pixel", "curved", "oversample_omega", "oversample_polar", "oversample_thick", "last_layer_capture",
    "front_solid_angle", "curved_by_lab_axes", "curved_sensor_is_flat",
)  # fmt: skip


def combination(seed: int) -> tuple[Draw, dict[str, object]]:
    """A scene and options drawn at random, every switch on in about a third of them."""
    r = random.Random(seed)
    draw = Draw(
        profile=r.choice(list(Profile)),
        panels=r.choice((1, 2)),
        sources=r.choice((1, 3)),
        lattices=r.choice((1, 4, 70)),
        layers=r.choice((1, 1, 2, 3)),
        thick=r.random() < 0.7,
        table=r.random() < 0.7,
        offset=r.choice((0.0, 0.0, 1e3)),
        cells=r.choice(((5.0, 7.0, 4.0), (1.0, 2.0, 6.0), (4.3, 5.5, 3.9))),
        seed=seed,
    )
    more: dict[str, object] = {name: r.random() < 0.33 for name in SWITCHES}
    more |= {"oversample": r.choice((1, 2)), "interpolate": r.random() < 0.3, "dmin": r.choice((0.0, 0.0, 13e-10))}
    return draw, more


@pytest.mark.parametrize("seed", range(40))
def test_double_precision_over_combinations(seed):
    draw, more = combination(seed)
    found = deviations(None, draw_scene(draw), options_of(draw, **more))
    assert max(found.values()) < DOUBLE, (draw, more, found)


@pytest.mark.parametrize("seed", range(100, 124))
def test_single_precision_over_combinations(seed):
    draw, more = combination(seed)
    found = deviations(None, draw_scene(draw), options_of(draw, **more, dtype=torch.float32))
    found["sensor"] /= 1 if draw.thick else 10  # of layers without a thickness: little is left of large parts
    assert max(found.values()) < SINGLE, (draw, more, found)


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("table", [True, False])
def test_float32_differences_from_anchors(profile, table):
    """Fine pixels, so that groups of neighbours share an anchor."""
    draw = Draw(profile=profile, table=table, panels=1, pixel=1e-5, cells=(20.0, 12.0, 30.0), thick=False)
    options = options_of(draw, image_shape=(20, 40), dtype=torch.float32)
    found = deviations(None, onto_reflection(draw_scene(draw), 420, options), options)
    assert max(found.values()) < SINGLE, found


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("point_pixel", [True, False])
@pytest.mark.parametrize("cells", [3.0, 40.0])
def test_pixels_with_one_sample_and_one_source(table, point_pixel, cells):
    """Runs of fine pixels, whose unit vectors come from those of anchors; and the end of a row, no whole group."""
    draw = Draw(table=table, panels=2, sources=1, lattices=2, pixel=2e-5, cells=(cells,) * 3, thick=False)
    options = options_of(draw, image_shape=(16, 301), point_pixel=point_pixel, dtype=torch.float32)
    scene = onto_reflection(draw_scene(draw), 2000, options)
    assert deviations(None, scene, options)["value"] < SINGLE / 3


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("lattices", [1, 70, 140])
def test_runs_of_pixels_over_many_lattices(profile, lattices):
    """More lattices than are summed up in float32 at once; runs from a list, one too short for the quick way."""
    draw = Draw(profile=profile, panels=1, sources=1, lattices=lattices, pixel=2e-5, cells=(9.0,) * 3, thick=False)
    options = options_of(draw, image_shape=(4, 301), dtype=torch.float32)
    scene = draw_scene(draw)
    pixels = torch.cat([torch.arange(0, 301), torch.arange(310, 325), torch.arange(400, 900)])
    assert deviations(pixels, scene, options)["value"] < SINGLE / 3


def test_runs_of_pixels_do_not_depend_on_threads_or_lists():
    draw = Draw(panels=2, sources=1, lattices=3, pixel=2e-5, thick=False)
    options = options_of(draw, image_shape=(40, 301), dtype=torch.float32)
    scene, every = draw_scene(draw), torch.arange(2 * 40 * 301)
    whole = operation.intensity(None, scene, replace(options, threads=1), kernel="fused")
    assert torch.equal(whole, operation.intensity(every, scene, replace(options, threads=2), kernel="fused"))


@pytest.mark.parametrize("shift", [(0, 0, 0), (3, 0, 0), (0, -5, 2), (40, 40, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_edges_of_the_table(shift, dtype):
    """Blocks inside, across and outside the table, near it and far away; the default counts, and has a gradient."""
    draw = Draw(panels=1, thick=False)
    first = tuple(a + b for a, b in zip((-4, -5, -6), shift, strict=True))
    found = deviations(None, draw_scene(draw), options_of(draw, hkl_first=first, dtype=dtype))
    assert max(found.values()) < (DOUBLE if dtype is D else SINGLE), found


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_nothing_to_see_outside_the_table(dtype):
    draw = Draw(panels=1)
    scene = replace(draw_scene(draw), default_F=torch.zeros((), dtype=D))
    found = deviations(None, scene, options_of(draw, hkl_first=(60, 60, 60), dtype=dtype))
    found.pop("offset")  # adds to every pixel
    assert max(found.values()) == 0.0


@pytest.mark.parametrize(
    "pixels",
    [
        [],
        [5],
        [0, 12, 13, 116, 117, 233],
        [200, 3, 150, 3, 3, 60],
        list(range(20, 40)) + list(range(150, 170)),
        [13 * s + f for s in (1, 2, 3) for f in (4, 5, 6)],
        list(range(233, -1, -1)),
    ],
    ids=["none", "one", "corners", "scattered and repeated", "two runs", "box", "backwards"],
)
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_lists_of_pixels(pixels, dtype):
    draw = Draw()
    listed = torch.tensor(pixels, dtype=torch.int64)
    scene, options = draw_scene(draw), options_of(draw, dtype=dtype)
    found = deviations(listed, scene, options) if pixels else {"": float(_count(listed, scene, options))}
    assert max(found.values()) < (DOUBLE if dtype is D else SINGLE), found


def _count(listed, scene, options):
    return operation.intensity(listed, scene, options, kernel="fused").numel()


def test_all_pixels_need_no_list():
    draw = Draw(panels=2)
    scene, options = draw_scene(draw), options_of(draw, dtype=torch.float32)
    whole = operation.intensity(None, scene, options, kernel="fused")
    listed = operation.intensity(torch.arange(2 * IMAGE[0] * IMAGE[1]), scene, options, kernel="fused")
    assert torch.equal(whole, listed)


def test_gradcheck():
    draw = Draw(panels=1, sources=2, lattices=2, layers=2, offset=0.3, cells=(2.0, 3.0, 2.5))
    options = options_of(draw, image_shape=(2, 3), oversample=2, interpolate=True)
    scene = draw_scene(draw)
    units = [1.0, 1e-3, 1e-3, 1.0, 1.0, 1e-10, 1.0, 1.0, 1e-9, 1.0, 1.0, 10.0, 10.0, 1.0]

    def value(*scaled: torch.Tensor) -> torch.Tensor:
        tensors = [x * unit for x, unit in zip(scaled, units, strict=True)]
        return operation.intensity(None, Scene(*tensors), options, kernel="fused")

    inputs = tuple((x / unit).requires_grad_() for x, unit in zip(scene.tensors(), units, strict=True))
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-3, rtol=1e-5, fast_mode=True)
