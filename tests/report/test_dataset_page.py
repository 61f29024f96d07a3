"""The page of a data set in a browser."""

import numpy as np
import pytest
from looking import everything_written, is_drawn, model_state

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.datasets.looking import write_dataset_page
from nanobrag_torch.datasets.reader import ShardReader
from nanobrag_torch.datasets.store import open_folder

RECIPE = """
[dataset]
images = 8
seed = 5
shard_images = 4

[crystal]
cell = [40.0, 50.0, 60.0, 90, 90, 90]
space_group = "P212121"
N_cells = {uniform = [5, 9]}
mosaic_spread_deg = {uniform = [0.1, 0.4]}
mosaic_domains = 6

[lattices]
number = {choice = [1, 2]}

[detector]
pixels = [80, 64]
pixel_size_mm = 0.6
distance_mm = {uniform = [95, 105]}

[beam]
fluence = {log_normal = [3e27, 0.3]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small data set as the command makes it."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "recipe.toml").write_text(RECIPE)
    assert main(["dataset", str(folder / "recipe.toml"), "-o", str(folder / "out"), "--workers", "1", "-q"]) == 0
    return folder / "out"


def test_nine_images_their_spots_and_what_varies(browser, made):
    page = made / "report.html"
    assert page.stat().st_size < 8e6
    browser.open(page)
    browser.settle()
    said = everything_written(browser)
    folder = open_folder(made)
    counts = []
    for shard in range(2):
        with ShardReader(folder, shard) as reader:
            counts.append(len(reader.spot_columns()["h"]))
    assert "8 images, all made" in said and f"Labels: {sum(counts)} spots" in said
    assert is_drawn(browser)
    titles = [model_state(browser, "Figure", i, "m.title ? m.title.text : ''") for i in range(10)]
    assert titles[0].startswith("image 0: ") and titles[7].startswith("image 7: ")
    assert any("fluence" in title for title in titles[8:]) or "fluence" in page.read_text()


def test_boxes_lie_about_the_photons_of_their_spots(made):
    """Sums of pixels in the drawn boxes are those of the image there; the brightest pixel of all is in a box."""
    from nanobrag_torch.datasets.looking import _thumbnails

    for one in _thumbnails(open_folder(made), [0, 1]):
        row, column = np.unravel_index(one.image.argmax(), one.image.shape)
        inside = (one.spots["fast0"] <= column) & (column < one.spots["fast1"])
        inside &= (one.spots["slow0"] <= row) & (row < one.spots["slow1"])
        assert inside.any() and len(one.says) == len(one.spots["h"])


def test_an_unfinished_set_says_so(made, tmp_path, capsys):
    folder = open_folder(made)
    record = folder.shard(1, "json")
    kept = record.read_bytes()
    record.unlink()
    try:
        write_dataset_page(folder, tmp_path / "part.html")
    finally:
        record.write_bytes(kept)
    assert "4 of 8 images are made so far" in (tmp_path / "part.html").read_text()
    assert main(["view", str(made), "--html", str(tmp_path / "view.html")]) == 0
    assert (tmp_path / "view.html").read_bytes() == (made / "report.html").read_bytes(), "a function of the folder"
