"""A small data set: 100 stills of 128 x 128 pixels with labels, and a contact sheet of nine.

make dataset-demo    writes demo-dataset/: shards, labels, master, contact-sheet.png
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from nanobrag_torch.cli.nb.app import main as nb
from nanobrag_torch.datasets.examples import example

FOLDER = Path("demo-dataset")
SMALLER = {"images = 10000": "images = 100", "shard_images = 500": "shard_images = 25", "[256, 256]": "[128, 128]"}


def recipe() -> str:
    """The example for learners, with fewer and smaller images."""
    text = example("ml")
    for old, new in SMALLER.items():
        if old not in text:
            raise SystemExit(f"the example has no {old}")
        text = text.replace(old, new)
    return text


def main() -> int:
    """Make the data set anew; the exit code of the command."""
    start = time.perf_counter()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    words = FOLDER / "recipe.toml"
    words.write_text(recipe())
    code = nb(["dataset", str(words), "-o", str(FOLDER)])
    code = code or nb(["dataset", "--check", str(words), "-o", str(FOLDER / "contact-sheet.png")])
    print(f"{FOLDER}: {time.perf_counter() - start:.0f} s, compiling included")
    return code


if __name__ == "__main__":
    sys.exit(main())
