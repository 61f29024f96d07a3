"""Noise images against those that the C program drew from the same float images, and the edges of the 16-bit range."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.c_random import Streams
from nanobrag_torch.errors import InputError
from nanobrag_torch.response.serial_noise import noise_counts, poisson_image

DATA = Path(__file__).parents[1] / "data"
CASES = dict(line.split("\t") for line in (DATA / "cases.tsv").read_text().splitlines())
WITH_NOISE = [name for name, arguments in CASES.items() if "-nonoise" not in arguments]


def options(arguments):
    """State of the noise stream, offset and region of interest of a reference command line."""
    words = arguments.split()
    after = {flag: words[i + 1 : i + 5] for i, flag in enumerate(words)}
    roi = tuple(int(word) for word in after["-roi"]) if "-roi" in after else None
    return -int(after["-seed"][0]), float(after.get("-adcoffset", ["40"])[0]), roi


@pytest.mark.parametrize("name", WITH_NOISE)
def test_noise_image_is_the_c_programs(name):
    state, adc, roi = options(CASES[name])
    with np.load(DATA / "reference" / f"{name}.npz") as reference:
        size = dict(re.findall(r"(SIZE.)=(\d+);", str(reference["noise_header"])))
        shape = int(size["SIZE2"]), int(size["SIZE1"])
        found = noise_counts(reference["float"].reshape(shape), Streams(), state, adc=adc, roi=roi)
        assert found.counts.tobytes() == reference["noise"].tobytes()
        assert (round(found.photons), found.overloads) == tuple(reference["photons_overloads"])


def test_every_reference_case_but_one_has_a_noise_image():
    assert len(WITH_NOISE) == 51


def test_same_seed_same_noise_and_another_seed_another():
    image = np.full((20, 30), 2.5, np.float32)
    first, again, other = (noise_counts(image, Streams(), state).counts for state in (-7, -7, -8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_following_image_goes_on_with_the_stream():
    image = np.full((40, 30), 2.5, np.float32)
    whole, _ = poisson_image(image, Streams(), -7)
    streams = Streams()
    upper, state = poisson_image(image[:15], streams, -7)
    lower, _ = poisson_image(image[15:], streams, state)
    assert np.array_equal(np.concatenate([upper, lower]), whole)


def test_a_strided_or_double_image_is_drawn_in_raster_order():
    image = np.random.default_rng(1).gamma(1, 3, (9, 7)).astype(np.float32)
    expected = noise_counts(image, Streams(), -3)
    for same in (np.asfortranarray(image), image.astype(np.float64), np.repeat(image, 2, 1)[:, ::2]):
        assert np.array_equal(noise_counts(same, Streams(), -3).counts, expected.counts)


def test_pixels_outside_the_region_draw_nothing_and_stay_zero():
    image = np.full((6, 8), 30.0, np.float32)
    whole = noise_counts(image[2:5, 1:8], Streams(), -3)
    part = noise_counts(image, Streams(), -3, roi=(1, 99, 2, 4))  # the last pixel belongs to it, and edges clip it
    assert np.array_equal(part.counts[2:5, 1:8], whole.counts)
    assert part.counts.sum() == whole.counts.sum()
    assert (part.photons, part.next_state) == (whole.photons, whole.next_state)
    assert not noise_counts(image, Streams(), -3, roi=(5, 4, 0, 5)).counts.any()


def test_offset_and_range():
    dark, bright = np.zeros((2, 3), np.float32), np.full((2, 3), 2e9, np.float32)
    assert (noise_counts(dark, Streams(), -1, adc=12.75).counts == 12).all()
    assert (noise_counts(dark, Streams(), -1, adc=-5.0).counts == 0).all()  # the C program's would wrap around
    saturated = noise_counts(bright, Streams(), -1)
    assert (saturated.counts == 65535).all() and saturated.overloads == 6
    assert noise_counts(dark, Streams(), -1, adc=65535.0).overloads == 0


def test_bad_input_is_refused():
    image = np.ones((4, 5), np.float32)
    image[2, 3] = np.nan
    with pytest.raises(InputError, match=r"nan in pixel \(2, 3\)"):
        noise_counts(image, Streams(), -1)
    with pytest.raises(InputError, match=r"inf in pixel \(0,\)"):
        poisson_image([np.inf, 1.0], Streams(), -1)
    with pytest.raises(InputError, match="adc"):
        noise_counts(np.ones((2, 2)), Streams(), -1, adc=float("nan"))
    with pytest.raises(InputError, match="roi"):
        noise_counts(np.ones((2, 2)), Streams(), -1, roi=(-1, 1, 0, 1))
