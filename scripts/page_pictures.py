"""Pictures of every kind of page that the program leaves, docs/images/page_*.png, as a window of 1280 x 800 shows them.

    python scripts/page_pictures.py [KIND ...]    view compare evidence dataset refine shots geometry

Each is what the command leaves of data that are made up here, in Chromium without a window.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "images"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "report")]

from browser import Browser  # noqa: E402  of the tests

import shot_series  # noqa: E402
from nanobrag_torch.cli.nanobragg import main as nanobragg  # noqa: E402
from nanobrag_torch.cli.nb.app import main as nb  # noqa: E402
from nanobrag_torch.datasets.examples import example  # noqa: E402
from nanobrag_torch.refinement.synthetic import Start  # noqa: E402
from nanobrag_torch.refinement.synthetic_shots import Series, misplaced, small_series, tiled  # noqa: E402

SCENE = "-cell 78 78 38 90 90 90 -default_F 100 -N 12 -lambda 1 -distance 150 -detpixels 512 -pixel 0.3 -osc 0.5"
STEPS = "-phisteps 5"
SHOTS, SPOILT = 8, 5
_SCROLL = """(words => {
    const found = [];
    const walk = n => {
        if (["H1", "H2"].includes(n.tagName) && n.textContent.includes(words)) found.push(n);
        for (const c of [...(n.shadowRoot ? n.shadowRoot.childNodes : []), ...n.childNodes]) walk(c);
    };
    walk(document.body);
    found[0].scrollIntoView({block: "start"});
})"""


def view(home: Path, take: Callable[..., None]) -> None:
    """A still with background and noise, as a data set has it."""
    recipe = _with(example("stills"), images="1", ice_mm="0", water_mm="0.02", fluence="6e19")
    (home / "recipe.toml").write_text(recipe)
    _run(nb, ["dataset", str(home / "recipe.toml"), "-o", str(home / "set"), "--quiet", "--workers", "1"])
    _run(nb, ["view", str(home / "set" / "master.nxs"), "--html", str(home / "page.html")])
    take(home / "page.html", {"page_image": ""})


def compare(home: Path, take: Callable[..., None]) -> None:
    """The same crystal twice, a tenth of a degree apart."""
    for name, misset in (("a", "11 22 33"), ("b", "11.1 22 33")):
        _run(nanobragg, [*SCENE.split(), *STEPS.split(), "-misset", *misset.split(), *_files(home, name)])
    nb(["compare", str(home / "a.img"), str(home / "b.img"), "--outdir", str(home / "out")])  # they differ: exit code 1
    take(home / "out" / "report.html", {"page_compare": ""})


def evidence(home: Path, take: Callable[..., None]) -> None:
    """A bundle for others to audit."""
    nb(["evidence", "--outdir", str(home / "out"), "--", *SCENE.split(), *STEPS.split(), "-misset", "11", "22", "33"])
    take(home / "out" / "report.html", {"page_evidence": ""})


def dataset(home: Path, take: Callable[..., None]) -> None:
    """Sixty images of the example for learners."""
    (home / "recipe.toml").write_text(_with(example("ml"), images="60"))
    _run(nb, ["dataset", str(home / "recipe.toml"), "-o", str(home / "set"), "--quiet", "--workers", "1"])
    take(home / "set" / "report.html", {"page_dataset": "", "page_dataset_labels": "How everything"})


def refine(home: Path, take: Callable[..., None]) -> None:
    """One shot that began a tenth of a degree off."""
    off = Start(rotation_deg=0.1, cell=0.002, distance_mm=0.1)
    _write_series(home, small_series(fluence=2e25, mosaic_spread_deg=0.1), 1, off=off)
    _refine(home)
    page = home / "out" / "report.html"
    page = page if page.exists() else home / "out" / "shot_00000" / "report.html"
    headings = {"page_refine": "", "page_refine_views": "where they stand", "page_refine_boxes": "Boxes:"}
    take(page, headings)


def shots(home: Path, take: Callable[..., None]) -> None:
    """Several shots, one of them with the image of another: alone, then the intensities that they share."""
    series = small_series(fluence=2e25, mosaic_spread_deg=0.1)
    first: list[object] = []

    def spoil(number: int, data: object, counts: object, table: object) -> tuple[object, object, object]:
        first.append(counts)
        return data, first[0] if number == SPOILT else counts, table

    _write_series(home, series, SHOTS, spoil=spoil)
    _refine(home)
    take(home / "out" / "report.html", {"page_shots": ""})
    for verb, name in (("refine-intensities", "page_intensities"), ("merge", "page_merge")):
        _run(nb, [verb, str(home / "out"), "-F", str(home / "start.mtz"), "-o", str(home / verb)])
        take(home / verb / "report.html", {name: ""})


def geometry(home: Path, take: Callable[..., None]) -> None:
    """Four panels that stand elsewhere than the files say, from the spots of a few shots."""
    series = small_series(fluence=4e25, mosaic_spread_deg=0.12)
    data = series.base.experiments[0]
    assert data.detector is not None
    named = tiled(data.detector, 2, 2)
    true = replace(data, detector=misplaced(named, 0.3, 0.05, 3))

    def as_said(number: int, data: object, counts: object, table: object) -> tuple[object, object, object]:
        return replace(data, detector=named), counts, table  # type: ignore[type-var]

    series = replace(series, base=replace(series.base, experiments=(true,)))
    _write_series(home, series, 4, spoil=as_said, off=Start(rotation_deg=0.02, cell=0.0005, distance_mm=0.0))
    _refine(home)
    words = ["refine-geometry", str(home / "out"), "-o", str(home / "geometry"), "--groups", "panel"]
    _run(nb, [*words, "--free", "shift,tilt"])
    take(home / "geometry" / "report.html", {"page_geometry": ""})


KINDS = {one.__name__: one for one in (view, compare, evidence, dataset, refine, shots, geometry)}


def _write_series(home: Path, series: Series, count: int, **options: Any) -> None:
    """Files of shots, as the tests make them."""
    write: Any = shot_series.write_series
    write(home, series, count, **options)


def _with(recipe: str, **values: str) -> str:
    """A recipe with other values of some keys."""
    for key, value in values.items():
        recipe, found = re.subn(rf"(?m)^{key} = [^#\n]*", f"{key} = {value} ", recipe)
        assert found, key
    return recipe


def _files(home: Path, name: str) -> list[str]:
    return ["-floatfile", str(home / f"{name}.bin"), "-intfile", str(home / f"{name}.img"), "-nonoise", "-nopgm"]


def _run(command: Callable[[list[str]], int], words: list[str]) -> None:
    if code := command(words):
        raise SystemExit(f"{' '.join(words)}: exit code {code}")


def _refine(home: Path) -> None:
    files = [str(home / name) for name in ("shots.expt", "shots.refl")]
    words = ["refine", *files, "-F", str(home / "start.mtz"), "-o", str(home / "out"), "--shape", "gauss_hkl"]
    nb([*words, "--readout-noise", "0.7"])  # a shot that fails gives exit code 1


def main(words: list[str]) -> None:
    """Draw the pages that are asked for, all without words."""
    for kind in words or KINDS:
        with tempfile.TemporaryDirectory() as place, Browser() as browser:

            def take(page: Path, pictures: dict[str, str], browser: Browser = browser) -> None:
                browser.open(page.resolve())
                browser.settle()
                for name, heading in pictures.items():
                    browser.value(f"{_SCROLL}({heading!r})" if heading else "window.scrollTo(0, 0)")
                    browser.settle()
                    (FOLDER / f"{name}.png").write_bytes(browser.screenshot())
                    size = page.stat().st_size / 1e6
                    print(f"{name}: {size:.1f} MB, {browser.complaints or 'no'} complaints", flush=True)

            os.chdir(place)  # titles have the names of files as a reader would give them
            KINDS[kind](Path(), take)


if __name__ == "__main__":
    main(sys.argv[1:])
