"""The full-size case: 2463 x 2527 pixels through the command, against the C program's image."""

from __future__ import annotations

import shlex
import shutil

import numpy as np
import pytest

from nanobrag_torch.cli.nanobragg import main
from nanobrag_torch.io.floatimage import read_float_image
from nanobrag_torch.validation.scenes import scene_in


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    """A folder with the inputs of the case."""
    folder = tmp_path_factory.mktemp("supervisor")
    scene_in("supervisor", folder, text=True)
    shutil.copy(data / "supervisor" / "A.mat", folder / "A.mat")
    return folder


def render(folder, data, monkeypatch, *more: str) -> np.ndarray:
    """The image of the stored command line with more flags."""
    monkeypatch.chdir(folder)
    assert main([*shlex.split((data / "supervisor" / "args.txt").read_text()), *more]) == 0
    return read_float_image(folder / "floatimage.bin", (2527, 2463)).astype(np.float64)


@pytest.fixture(scope="module")
def reference(data):
    with np.load(data / "supervisor" / "reference.npz") as stored:
        return {name: stored[name] for name in stored.files}


def stored_and_rendered(image: np.ndarray, reference) -> tuple[np.ndarray, np.ndarray]:
    """Every stored pixel, and the same pixels of the image."""
    slow, fast = reference["roi_origin_slow_fast"]
    region = image[slow : slow + 96, fast : fast + 96].ravel()
    found = np.concatenate([region, image.ravel()[reference["index"]], image.ravel()[reference["peak_index"]]])
    return np.concatenate([reference["roi"].ravel(), reference["value"], reference["peak_value"]]).astype(float), found


def test_double_precision_is_the_c_programs_image(folder, data, reference, monkeypatch):
    image = render(folder, data, monkeypatch, "-compat", "c", "-dtype", "float64")
    expected, found = stored_and_rendered(image, reference)
    top = float(reference["max"])
    assert (np.abs(found - expected) <= np.maximum(1e-6 * np.abs(expected), 1e-9 * top)).all()
    assert abs(image.sum() / float(reference["sum"]) - 1) <= 1e-7
    assert image.max() == pytest.approx(top, rel=1e-6)


def test_single_precision_is_within_its_bound(folder, data, reference, monkeypatch):
    image = render(folder, data, monkeypatch, "-compat", "c", "-dtype", "float32")
    expected, found = stored_and_rendered(image, reference)
    assert np.abs(found - expected).max() <= 1e-5 * float(reference["max"])


def test_the_default_mode_differs_by_its_one_correction_alone(folder, data, reference, monkeypatch, capsys):
    """D2: phi = 0 is rendered afresh, so only what the first of ten steps adds is other."""
    image = render(folder, data, monkeypatch, "-dtype", "float64")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("correction")]
    assert len(lines) == 1 and "D2" in lines[0]
    fresh = render(folder, data, monkeypatch, "-compat", "c", "-phi_mode", "spec", "-dtype", "float64")
    assert np.array_equal(image, fresh)
