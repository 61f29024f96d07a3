"""The picture: spots dark on white however small, rings where geometry puts them, and nothing left behind on error."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from nanobrag_torch.errors import InputError
from nanobrag_torch.io import picture
from nanobrag_torch.io.picture import ResolutionMap, block_maximum, grey_range, ring_spacings, write_picture

WAVELENGTH, DISTANCE, PIXEL = 0.9768, 231.0, 0.172
LEFT, _, _, TOP = picture.MARGINS


def flat_map(shape, beam, tilt_deg=0.0, nodes=9):
    """A detector whose corner positions are known, turned about the fast axis through the beam spot."""
    fast, slow = np.linspace(0, shape[1], nodes), np.linspace(0, shape[0], nodes)
    x, y = np.meshgrid((fast - beam[0]) * PIXEL, (slow - beam[1]) * PIXEL)
    tilt = math.radians(tilt_deg)
    points = np.stack([DISTANCE + y * math.sin(tilt), y * math.cos(tilt), x], -1)
    return ResolutionMap.from_positions(fast, slow, points, (2.0, 0, 0), WAVELENGTH)


def drawn(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize("tilt", [0.0, 25.0])
@pytest.mark.parametrize("d", [6.0, 2.5])
def test_rings_lie_where_braggs_law_puts_them(tilt, d):
    shape, beam = (2527, 2463), (1400.0, 1100.0)
    points = flat_map(shape, beam, tilt).ring(d)
    points = points[np.isfinite(points[:, 0])]
    x, y = ((points - beam) * PIXEL).T
    height, depth = y * math.cos(math.radians(tilt)), DISTANCE + y * math.sin(math.radians(tilt))
    two_theta = np.arctan2(np.hypot(x, height), depth)
    assert len(points) > 200
    np.testing.assert_allclose(WAVELENGTH / (2 * np.sin(two_theta / 2)), d, rtol=2e-4)


def test_a_ring_is_drawn_in_its_colour_at_its_radius(tmp_path):
    shape, beam = (400, 400), (200.0, 200.0)
    write_picture(tmp_path / "p.png", np.ones(shape), beam_pixel=beam, resolution=flat_map(shape, beam))
    pixels = drawn(tmp_path / "p.png")
    row = pixels[TOP + 2 * 200, LEFT : LEFT + 800]
    blue = np.flatnonzero(row[:, 2] - row[:, 0] > 60)
    highest = flat_map(shape, beam).inverse_d.max()
    radii = [DISTANCE * math.tan(2 * math.asin(WAVELENGTH / (2 * d))) / PIXEL for d in ring_spacings(0.0, highest)]
    expected = [2 * (200 + sign * radius) for radius in radii if radius < 195 for sign in (-1, 1)]
    assert len(expected) >= 4
    assert all(np.abs(blue - place).min() <= 2 for place in expected)
    assert all(np.abs(np.array(expected) - place).min() <= 2 for place in blue)


def test_spots_are_dark_on_white_and_one_pixel_survives_the_reduction(tmp_path):
    image = np.full((2527, 2463), 0.01, np.float32)
    image[1001, 2002] = 5000.0
    write_picture(tmp_path / "p.png", image)
    block = -(-2527 // picture.LONGEST_SIDE)
    pixels = drawn(tmp_path / "p.png")[TOP:, LEFT:]
    assert pixels[1001 // block, 2002 // block].max() < 30
    assert pixels[1001 // block + 40, 2002 // block].min() > 225


def test_the_beam_is_marked_where_it_is_and_not_off_the_image(tmp_path):
    image = np.ones((80, 80))
    write_picture(tmp_path / "on.png", image, beam_pixel=(20, 60))
    write_picture(tmp_path / "off.png", image, beam_pixel=(-20, 60))
    on, off = drawn(tmp_path / "on.png"), drawn(tmp_path / "off.png")
    red = np.argwhere(on[..., 0] - on[..., 2] > 60)
    np.testing.assert_allclose(red.mean(0), [TOP + 60 * 10, LEFT + 20 * 10], atol=1)
    assert not (off[..., 0] - off[..., 2] > 60).any()


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_block_maximum_is_that_of_every_block(block):
    image = np.random.default_rng(block).random((11, 13))
    padded = np.full((-(-11 // block) * block, -(-13 // block) * block), -1.0)
    padded[:11, :13] = image
    blocks = padded.reshape(padded.shape[0] // block, block, padded.shape[1] // block, block).max((1, 3))
    np.testing.assert_array_equal(block_maximum(image, block), blocks)


@pytest.mark.parametrize(("lowest", "highest"), [(0.0, 0.9), (0.0, 0.01), (0.2, 0.5), (0.49, 0.51), (3.0, 9.0)])
def test_ring_spacings_are_round_and_within_reach(lowest, highest):
    spacings = ring_spacings(lowest, highest)
    assert spacings == sorted(set(spacings), reverse=True) and 1 <= len(spacings) <= 5
    assert all(lowest < 1 / d < highest and len(f"{d:g}".strip("0.").replace(".", "")) <= 2 for d in spacings)


def test_grey_range_of_dark_flat_and_steep_images():
    assert grey_range(np.zeros(4)) == (0.1, 1.0)
    assert grey_range(np.full(4, 3.0)) == (3.0, 9.0)
    white, black = grey_range(np.geomspace(1e-12, 1e6, 1000))
    assert black >= 1e5 and white >= black / 10**picture.DECADES


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (64, 12), (3, 2000)])
@pytest.mark.parametrize("level", [0.0, 1e-30, 1e30])
def test_any_shape_and_level_gives_a_picture(tmp_path, shape, level):
    beam = (shape[1] / 2, shape[0] / 2)
    write_picture(tmp_path / "p.png", np.full(shape, level, np.float32), title="$x_{$ Å", beam_pixel=beam,
                  resolution=flat_map(shape, beam))  # fmt: skip
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("bad", [np.full((3, 3), np.nan), np.full((3, 3), np.inf), np.zeros(4), np.zeros((0, 3))])
def test_what_is_no_image_is_refused_and_leaves_no_file(tmp_path, bad):
    with pytest.raises(InputError, match="image"):
        write_picture(tmp_path / "p.png", bad)
    with pytest.raises(InputError, match="-pngfile"):
        write_picture(tmp_path / "none" / "p.png", np.ones((2, 2)))
    assert list(tmp_path.iterdir()) == []


def test_six_million_pixels_are_quick(tmp_path):
    image = np.random.default_rng(0).gamma(0.3, 10, (2527, 2463)).astype(np.float32)
    shape, beam = image.shape, (1265.0, 1243.0)
    write_picture(tmp_path / "warm.png", image[:50, :50])
    start = time.process_time()
    write_picture(tmp_path / "p.png", image, title="large", beam_pixel=beam, resolution=flat_map(shape, beam))
    assert time.process_time() - start < 2.5  # 0.5 s on an idle core


def test_importing_the_io_room_is_light():
    code = (
        "import sys, nanobrag_torch.io as room, importlib, pkgutil\n"
        "[importlib.import_module(f'nanobrag_torch.io.{m.name}') for m in pkgutil.iter_modules(room.__path__)]\n"
        "print([m for m in ('torch', 'matplotlib', 'numba', 'h5py', 'gemmi') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
