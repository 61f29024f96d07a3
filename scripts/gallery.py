"""The gallery docs/gallery.md: twelve images that the program makes, each with its command.

    python scripts/gallery.py [FOLDER]    draws them into docs/images/gallery, or FOLDER

The page is written by generate_docs.py; a test draws every image anew.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

NOTICE = "<!-- written by scripts/generate_docs.py; do not edit -->"
FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images" / "gallery"
SCENE = "-lambda 1 -distance 100 -detpixels 200 -pixel 0.6 -default_F 300 -cell 25 30 36 90 90 90"


@dataclass(frozen=True)
class Entry:
    """One image: the name of its file, what is seen, and the flags of nanoBragg."""

    name: str
    says: str
    flags: str

    def words(self, folder: Path, passing: Path) -> list[str]:
        """The flags that draw it into a folder, its other files into a passing one."""
        words = [*shlex.split(self.flags), "-pngfile", str(folder / f"{self.name}.png"), "-nonoise", "-nopgm"]
        return [*words, "-floatfile", str(passing / "image.bin"), "-intfile", str(passing / "image.img")]


ENTRIES = (
    Entry("still", "A still of a small crystal, 12 unit cells along each edge.", f"{SCENE} -N 12 -misset 11 22 33"),
    Entry("large", "The same crystal, 40 cells along each edge: fewer spots touch the Ewald sphere, and are small.",
          f"{SCENE} -N 40 -oversample 2 -misset 11 22 33"),
    Entry("rotation", "Two degrees of rotation in 10 steps.", f"{SCENE} -N 20 -osc 2 -phisteps 10 -misset 11 22 33"),
    Entry("aligned", "Looking down the c axis.", f"{SCENE} -N 10 -osc 1 -phisteps 5"),
    Entry("mosaic", "A mosaic spread of one degree, 15 domains: spots become arcs.",
          f"{SCENE} -N 20 -mosaic 1 -mosaic_domains 15 -misset 11 22 33"),
    Entry("powder", "Hundreds of orientations: spots begin to be the rings of a powder.",
          "-lambda 1 -distance 100 -detpixels 200 -pixel 0.6 -default_F 300 -cell 20 24 30 90 90 90 -N 8 -mosaic 90 "
          "-mosaic_domains 400"),
    Entry("pink", "A bandwidth of 5%: spots are streaks towards the beam.",
          f"{SCENE} -N 20 -dispersion 5 -dispsteps 15 -misset 11 22 33"),
    Entry("divergent", "A beam that converges by 10 mrad.",
          f"{SCENE} -N 20 -divergence 10 -divsteps 5 -misset 11 22 33"),
    Entry("round", "A round crystal: no fringes between spots.", f"{SCENE} -N 8 -round_xtal -misset 11 22 33"),
    Entry("fringes", "Five cells along each edge: the fringes of a tiny square crystal.",
          f"{SCENE} -N 5 -square_xtal -misset 11 22 33"),
    Entry("tilted", "A detector turned by 30 degrees about the vertical: rings become ellipses.",
          f"{SCENE} -N 20 -osc 1 -phisteps 5 -detector_roty 30 -misset 11 22 33"),
    Entry("water", "A crystal in water, whose scattering lies under the spots.",
          f"{SCENE} -N 12 -water 2 -default_F 3000 -misset 11 22 33"),
)  # fmt: skip


def gallery() -> Iterator[str]:
    """The lines of the page."""
    says = "Twelve images, each with the command that makes it. `python scripts/gallery.py` draws all of them."
    yield from (NOTICE, "# Gallery", "", says)
    for entry in ENTRIES:
        yield from ("", f"## {entry.says}", "", f"![{entry.says}](images/gallery/{entry.name}.png)", "", "```sh")
        yield from (f"nanoBragg {entry.flags} -pngfile {entry.name}.png", "```")


def draw(folder: Path) -> None:
    """Draw every image of the gallery into a folder."""
    from nanobrag_torch.cli.nanobragg import main

    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as passing:
        for entry in ENTRIES:
            if code := main(entry.words(folder, Path(passing))):
                raise SystemExit(code)
            _lighten(folder / f"{entry.name}.png")


def _lighten(path: Path) -> None:
    """A picture in 32 colours, a fifth of the bytes."""
    from PIL import Image

    with Image.open(path) as picture:
        fewer = picture.convert("RGB").quantize(32, dither=Image.Dither.NONE)
    fewer.save(path, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
