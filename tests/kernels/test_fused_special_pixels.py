"""Pixels placed on purpose where formulae for the lattice factor break: on a reflection, beside it, halfway between."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_scenes import (
    D,
    Draw,
    deviation,
    draw_scene,
    fused_value_and_gradients,
    options_of,
    true_value_and_gradients,
)
from torch import Tensor

from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.physics.lattice_factor import Profile

DISTANCES = (0.0, 1e-12, 1e-8, 3e-7, 1e-6, 1e-4, 0.003, 0.1, 0.5 - 1e-6, 0.5 - 1e-3)
CELLS = (2, 3, 5, 17, 100, 1000)
NAMES = ("lattice", "incident", "wavelengths", "panels")


def placed(
    distance: tuple[float, float, float],
    cells: float,
    pitch: float,
    pixel: int,
    reflection: tuple[float, float, float] = (1.0, -1.0, 0.0),
) -> tuple[Scene, Options]:
    """A row of 48 pixels, one of them at these distances from a reflection; hkl changes by `pitch` a pixel."""
    draw = Draw(panels=1, sources=1, lattices=1, table=False, thick=False, cells=(cells, cells, cells), pixel=1e-3)
    scene, options = draw_scene(draw), options_of(draw, image_shape=(1, 48))
    panel = scene.panels[0]
    positions = panel[0] + (torch.arange(48, dtype=D)[:, None] + 0.5) * scene.pixel_size[0, 0] * panel[1]
    positions = positions + 0.5 * scene.pixel_size[0, 1] * panel[2]
    q = (torch.nn.functional.normalize(positions, dim=1) - scene.incident[0]) / scene.wavelengths[0]
    target = torch.tensor(reflection, dtype=D) + torch.tensor(distance, dtype=D)
    step = q[pixel + 1] - q[pixel]
    wanted = torch.stack((target, torch.full_like(target, pitch)))
    rows = torch.linalg.lstsq(torch.stack((q[pixel], step)), wanted).solution.T
    return replace(scene, lattice=rows[None].contiguous()), options


def results(scene: Scene, options: Options, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Value and some gradients: fused, and true."""
    pixels = torch.arange(48)
    upstream = torch.ones(48, dtype=D)
    true = true_value_and_gradients(pixels, upstream, scene, options)
    fused = fused_value_and_gradients(pixels, upstream, scene, replace(options, dtype=dtype))
    return [fused[0], *fused[1]], [true[0], *true[1]]


def gradients_alone(scene: Scene, options: Options, dtype: torch.dtype, pixel: int) -> tuple[Tensor, Tensor]:
    """The slope by the lattice of one pixel: fused, and true, in units of hkl."""
    upstream = torch.zeros(48, dtype=D)
    upstream[pixel] = 1.0
    index = list(Scene.__dataclass_fields__).index("lattice")
    _, true = true_value_and_gradients(torch.arange(48), upstream, scene, options)
    _, fused = fused_value_and_gradients(None, upstream, scene, replace(options, dtype=dtype))
    return fused[index], true[index]


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("pitch", [2e-4, 0.03], ids=["fine", "coarse"])
def test_value_and_slope_on_and_beside_reflections(cells, dtype, pitch):
    """In float64 beside (0, 0, 0): at (1, -1, 0) the last bit of hkl, times 1000 cells, is already more than 1e-12."""
    bound, reflection = (1e-12, (0.0, 0.0, 0.0)) if dtype is D else (1e-5, (1.0, -1.0, 0.0))
    values, slopes = [], []
    for distance in DISTANCES:
        for signs in ((1, 1, 1), (-1, 1, 0), (0, 0, 1)):
            place = tuple(sign * distance for sign in signs)
            scene, options = placed(place, cells, pitch / cells**0.5, 21, reflection)
            value = operation.intensity(None, scene, replace(options, dtype=dtype), kernel="fused")[21]
            true = operation.intensity(None, scene, options, kernel="reference")[21]
            values.append((value, true))
            slopes.append(gradients_alone(scene, options, dtype, 21))
    for pairs in (values, slopes):
        got, true = (torch.stack(x) for x in zip(*pairs, strict=True))
        assert bool(torch.isfinite(got).all())
        assert deviation(got, true) < bound


@pytest.mark.parametrize("profile", [Profile.SPHERE, Profile.GAUSS])
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_round_and_gaussian_spots_on_reflections(profile, dtype):
    bound = 1e-12 if dtype is D else 1e-5
    for distance in (0.0, 1e-8, 1e-6, 0.3):
        scene, options = placed((distance, 0.0, -distance), 20.0, 1e-3, 21)
        scene = replace(scene, shape=torch.diag(torch.tensor([9.0, 16.0, 25.0], dtype=D)))
        got, true = results(scene, replace(options, profile=profile), dtype)
        assert max(deviation(a, b) for a, b in zip(got, true, strict=True)) < bound


def test_a_tie_between_reflections_goes_down():
    """h is exactly one half: F of (0, 0, 0) counts, not of (1, 0, 0)."""
    draw = Draw(panels=1, sources=1, lattices=1, thick=False)
    panel = torch.tensor([[1.0, 0.0, 0.0], [0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=D)
    scene = replace(
        draw_scene(draw),
        panels=panel[None],
        pixel_size=torch.full((1, 2), 2.0**-30, dtype=D),
        incident=torch.tensor([[0.5, 0.0, 0.0]], dtype=D),
        wavelengths=torch.ones(1, dtype=D),
        lattice=torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=D))[None],
        structure_factors=torch.tensor([1.0, 10.0], dtype=D).reshape(2, 1, 1),
    )
    options = options_of(draw, image_shape=(1, 1), hkl_first=(0, 0, 0))
    pixel = torch.tensor([0])
    for dtype in (torch.float32, D):
        single = replace(options, dtype=dtype)
        fused = operation.intensity(pixel, scene, single, kernel="fused")
        assert deviation(fused, operation.intensity(pixel, scene, options, kernel="reference")) < 1e-5
        one = operation.intensity(pixel, replace(scene, structure_factors=scene.structure_factors * 0 + 1), single)
        assert deviation(fused, one.double()) < 1e-5


@pytest.mark.parametrize("pixel", [2e-6, 2e-4], ids=["sampled", "undersampled"])
@pytest.mark.parametrize("cells", [60.0, 300.0, 1000.0])
def test_single_precision_holds_for_many_cells(pixel, cells):
    draw = Draw(panels=1, sources=2, lattices=3, cells=(cells, cells, cells), pixel=pixel, thick=False, table=False)
    scene, options = draw_scene(draw), options_of(draw, image_shape=(128, 128))
    double = operation.intensity(None, scene, options, kernel="fused")
    single = operation.intensity(None, scene, replace(options, dtype=torch.float32), kernel="fused")
    assert deviation(single, double) < 1e-5
