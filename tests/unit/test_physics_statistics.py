"""The printed statistics and the integer images of the 52 reference cases, from their stored float images."""

from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.io.smv import HeaderText, read_smv_image
from nanobrag_torch.records import statistics
from nanobrag_torch.records.statistics import (
    grey_bytes,
    image_statistics,
    integer_counts,
    integer_scale,
    last_subpixel_m,
    pgm_scale,
)

DATA = Path(__file__).parents[1] / "data"
CASES = sorted(path.stem for path in (DATA / "reference").glob("*.npz"))


class Case:
    """A reference case: its arrays and the few command-line values that its integer images depend on."""

    def __init__(self, name: str) -> None:
        with np.load(DATA / "reference" / f"{name}.npz") as stored:
            self.data = dict(stored)
        self.words = str(self.data["args"]).split()
        self.header = HeaderText(str(self.data["int_header"]))
        shape = self.header.dimensions()
        self.image = self.data["float"].reshape(shape)
        self.int = self.data["int"].reshape(shape)
        self.roi = self.values("-roi", 4)
        mask = self.values("-mask", 1, str)
        self.mask = None if mask is None else read_smv_image(DATA / "inputs" / mask[0])[1] != 0
        self.adc = float(self.values("-adcoffset", 1, float, (40.0,))[0])
        self.scale = float(self.values("-scale", 1, float, (0.0,))[0])
        self.pgmscale = float(self.values("-pgmscale", 1, float, (0.0,))[0])

    def values(self, flag, count, kind=int, default=None):
        if flag not in self.words:
            return default
        at = self.words.index(flag) + 1
        return tuple(map(kind, self.words[at : at + count]))


def printed(value: float) -> str:
    return f"{value:g}"


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return Case(request.param)


def test_there_are_52_cases():
    assert len(CASES) == 52


def test_printed_statistics(case):
    found = image_statistics(case.image, roi=case.roi, mask=case.mask)
    assert [printed(x) for x in (found.mean, found.rms, found.rmsd)] == [printed(x) for x in case.data["mean_rms_rmsd"]]
    pixel_size, oversample = case.header.real("PIXEL_SIZE") / 1000, int(case.data["oversample"][0])
    slow, fast = (last_subpixel_m(pixel, pixel_size, oversample) for pixel in found.max_pixel)
    assert [printed(x) for x in (found.max_I, fast, slow)] == [printed(x) for x in case.data["max_I"]]


def test_integer_images_and_scales(case):
    found = image_statistics(case.image, roi=case.roi, mask=case.mask)
    scale = integer_scale(found.max_I, case.scale)
    assert printed(scale) == printed(case.data["intfile_scale"][0])
    np.testing.assert_array_equal(integer_counts(case.image, scale, case.adc, roi=case.roi), case.int)
    if "pgm" in case.data:
        grey_scale = pgm_scale(found.rmsd, scale, case.pgmscale)
        assert printed(grey_scale) == printed(case.data["pgm_scale"][0])
        np.testing.assert_array_equal(grey_bytes(case.image, grey_scale, roi=case.roi).ravel(), case.data["pgm"])


@pytest.mark.parametrize("block_pixels", [1, 7, 1 << 16])
def test_statistics_do_not_depend_on_the_blocks(monkeypatch, block_pixels):
    image = np.random.default_rng(5).gamma(0.5, 9.0, (37, 23)).astype(np.float32)
    mask = np.random.default_rng(6).random(image.shape) > 0.4
    image[~mask] = 0
    image[20, 9] = image[30, 3] = 1e4
    mask[20, 9] = mask[30, 3] = True
    roi = (2, 18, 4, 33)
    monkeypatch.setattr(statistics, "_BLOCK_PIXELS", block_pixels)
    found = image_statistics(image, roi=roi, mask=mask)
    inside, lit = image[4:34, 2:19].astype(float), mask[4:34, 2:19]
    values = inside[lit]
    assert found.max_pixel == (20, 9) and found.max_I == 1e4
    assert found.mean == pytest.approx(values.mean(), rel=1e-14)
    assert found.rms == pytest.approx(np.sqrt((values**2).sum() / (values.size - 1)), rel=1e-6)
    assert found.rmsd == pytest.approx(np.sqrt(((inside - values.mean()) ** 2).sum() / (inside.size - 1)), rel=1e-14)


def test_an_image_without_photons_has_no_maximum_and_unit_scales():
    found = image_statistics(np.zeros((4, 5), np.float32))
    assert (found.max_I, found.max_pixel, found.rmsd) == (0.0, None, 0.0)
    assert integer_scale(found.max_I) == 1.0 and pgm_scale(found.rmsd, 1.0) == 1.0


def test_a_region_that_reaches_past_the_image_is_cut_to_it():
    image = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    assert image_statistics(image, roi=(0, 4, 0, 3)) == image_statistics(image)
    np.testing.assert_array_equal(integer_counts(image, 1.0, 0.0, roi=(0, 4, 0, 3)), image.astype(np.uint16))


def test_counts_are_rounded_and_held_within_16_bits():
    image = np.array([[0.4, 0.6, 1e9, 70000.0, 2.0]], np.float32)
    np.testing.assert_array_equal(integer_counts(image, 1.0, 0.0), [[0, 1, 65535, 65535, 2]])
    np.testing.assert_array_equal(integer_counts(image, 1.0, -1.0), [[0, 0, 65535, 65535, 1]])
    np.testing.assert_array_equal(grey_bytes(image, 100.0), [[40, 60, 255, 255, 200]])
