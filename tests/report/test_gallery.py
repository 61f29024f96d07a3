"""Every command of the gallery draws its picture, here of fewer pixels, and the page has twelve of them."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from nanobrag_torch.cli.nanobragg import main

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))

from gallery import ENTRIES, FOLDER  # type: ignore[import-not-found]  # noqa: E402


def test_there_are_twelve_and_each_has_its_picture():
    assert len(ENTRIES) == 12 == len({entry.name for entry in ENTRIES})
    page = (ROOT / "docs" / "gallery.md").read_text()
    for entry in ENTRIES:
        assert entry.flags in page and (FOLDER / f"{entry.name}.png").stat().st_size < 200_000


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_its_command_draws_it(entry, tmp_path):
    assert main([*entry.words(tmp_path, tmp_path), "-detpixels", "24", "-pixel", "5", "-oversample", "1"]) == 0
    with Image.open(tmp_path / f"{entry.name}.png") as picture:
        assert picture.format == "PNG"
