"""What data sets cost, and whether they keep their promises: `python -m benchmarks.dataset [row ...] [--count N]`.

The table goes into docs/datasets.md. Run it on one thread (OMP_NUM_THREADS=1); times are processor seconds. Rows of
faults run commands of their own and kill them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.dataset_faults import FAULTS
from benchmarks.dataset_steps import steps_left
from benchmarks.rows import ROOT, Found, measure_rows

from nanobrag_torch.datasets import shards
from nanobrag_torch.datasets.backdrop import Backdrop
from nanobrag_torch.datasets.examples import example
from nanobrag_torch.datasets.labels import labels_of
from nanobrag_torch.datasets.recipe import Recipe, recipe_of
from nanobrag_torch.datasets.render import Frame, Renderer
from nanobrag_torch.datasets.stills import StillsTruth
from nanobrag_torch.datasets.store import open_folder
from nanobrag_torch.kernels import operation
from nanobrag_torch.torch_threads import one_torch_thread

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "dataset.json", ROOT / "docs" / "datasets.md"
BEST_OF = 5
SMALLEST_COUNT = 100
ALONE = 20
"""Frames whose kernel and response are worked out again by themselves, about, evenly through a series."""


def recipe_of_example(name: str, images: int, shard_images: int, **parts: dict[str, Any]) -> Recipe:
    """An example with another number of images, and some keys of some tables replaced."""
    import tomllib

    tree = tomllib.loads(example(name))
    tree["dataset"] |= {"images": images, "shard_images": shard_images}
    if "scan" in tree:
        tree["scan"]["frames"] = images
    for part, keys in parts.items():
        tree[part] = {**tree.get(part, {}), **keys}
    return recipe_of(tree, Path.cwd())


class Stages:
    """Processor seconds by stage, of functions that are wrapped while a block runs; what a stage calls is its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside: list[str] = []

    @contextmanager
    def of(self, *wrapped: tuple[Any, str, str]) -> Iterator[None]:
        """(where, name, stage) of each function."""
        before = [(where, name, getattr(where, name)) for where, name, _ in wrapped]
        for where, name, stage in wrapped:
            setattr(where, name, self._timed(getattr(where, name), stage))
        try:
            yield
        finally:
            for where, name, function in before:
                setattr(where, name, function)

    def _timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            begun = time.process_time()
            self._inside.append(stage)
            try:
                return function(*words, **more)
            finally:
                took = time.process_time() - begun
                self._inside.pop()
                self.seconds[stage] = self.seconds.get(stage, 0.0) + took
                if self._inside:
                    self.seconds[self._inside[-1]] = self.seconds.get(self._inside[-1], 0.0) - took

        return call


STAGES = (
    (operation, "intensity", "kernel"),
    (Backdrop, "image", "background"),
    (Renderer, "frames", "rest of rendering"),
    (Renderer, "record", "noise"),
    (shards, "labels_of", "labels"),
    (shards._ImageFile, "put", "compression"),
    (shards, "write_columns", "tables"),
    (shards, "write_rows", "tables"),
    (shards, "image_row", "tables"),
    (StillsTruth, "add", "truth for DIALS"),
    (StillsTruth, "write", "truth for DIALS"),
)


def machine_learning(count: int) -> Found:
    """The `ml` example, everything included; and a part of it with the quickest of several goes at each stage."""
    images = max(count, SMALLEST_COUNT)
    recipe = recipe_of_example("ml", images, min(images, 500))
    renderer, stages = Renderer(recipe), Stages()
    warm(renderer)
    with tempfile.TemporaryDirectory() as home, stages.of(*STAGES):
        folder = open_folder(Path(home) / "set", recipe)
        begun = time.process_time()
        for shard in range(recipe.shards):
            shards.make_shard(folder, shard, renderer)
        total = 1000 * (time.process_time() - begun) / images
    each = {name: 1000 * seconds / images for name, seconds in stages.seconds.items()}
    each["files"] = total - sum(each.values())
    shares = ", ".join(f"{name} {ms:.1f}" for name, ms in sorted(each.items(), key=lambda entry: -entry[1]))
    quiet = undisturbed(renderer, recipe) + sum(each[n] for n in ("compression", "tables", "truth for DIALS", "files"))
    said = f"{total:.1f} ms (load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores): {shares}; "
    said += f"{quiet:.1f} ms with the best of {BEST_OF} goes at rendering, noise and labels; "
    said += f"{mean_steps(renderer, SMALLEST_COUNT) / 1e6:.2g}e6 pixel-steps an image after skipping"
    return Found("8 ms an image a core", said, min(total, quiet) <= 8, images)


def warm(renderer: Renderer) -> None:
    """Compile and import what has to be, once a process."""
    given = renderer.recipe
    scan = replace(given.scan, frames=1) if given.is_scan else given.scan
    recipe = replace(given, dataset=replace(given.dataset, images=1), scan=scan)
    with tempfile.TemporaryDirectory() as home:
        shards.make_shard(open_folder(Path(home) / "set", recipe), 0, renderer)


def mean_steps(renderer: Renderer, images: int) -> float:
    """Pixel-steps of an image after skipping."""
    calls = observed(lambda: renderer.frames(range(images)))[1]
    return sum(steps_left(*words[1:]) for words in calls) / images


def undisturbed(renderer: Renderer, recipe: Recipe) -> float:
    """Milliseconds of rendering, noise and labels, each the best of several goes; a mean over some images."""
    total = 0.0
    for first in range(0, SMALLEST_COUNT, renderer.at_once):
        images = range(first, min(first + renderer.at_once, SMALLEST_COUNT))
        total += best(partial(renderer.frames, images))
        for frame in renderer.frames(images):
            total += best(partial(renderer.record, frame))
            total += best(partial(labels_of, renderer, frame, renderer.record(frame)))
    return 1000 * total / SMALLEST_COUNT


def best(work: Callable[[], object]) -> float:
    """Processor seconds of the quickest of a few calls."""
    seconds = []
    for _ in range(BEST_OF):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return min(seconds)


def frames(count: int) -> Found:
    """The `rotation` example: whole frames, in turns with the kernel and the response alone of some of them."""
    recipe = recipe_of_example("rotation", count, count)
    renderer, every = Renderer(recipe), max(1, count // ALONE)
    warm(renderer)
    alone: list[float] = []

    def noted(images: Sequence[int], whole: Callable[..., list[Frame]] = Renderer.frames) -> list[Frame]:
        begun = time.process_time()
        found, calls = observed(lambda: whole(renderer, images))
        took = time.process_time() - begun
        alone.extend(kernel_and_response(renderer, frame, calls) for frame in found if frame.plan.frame % every == 0)
        spent.append(time.process_time() - begun - took)
        return found

    spent: list[float] = []
    with tempfile.TemporaryDirectory() as home:
        folder = open_folder(Path(home) / "set", recipe)
        renderer.frames = noted  # type: ignore[method-assign]
        begun = time.process_time()
        shards.make_shard(folder, 0, renderer)
        total = time.process_time() - begun - sum(spent)
    apart = sum(alone) / len(alone)
    ratio = total / count / apart
    said = f"{ratio:.2f}: {total / count:.2f} s a frame, kernel and response alone {apart:.2f} s ({len(alone)} of them)"
    return Found("at most 1.3 of both alone", said, ratio <= 1.3, count)


def observed(work: Callable[[], list[Frame]]) -> tuple[list[Frame], list[tuple[Any, ...]]]:
    """What work gives, and what the operation was called with meanwhile."""
    calls: list[tuple[Any, ...]] = []
    original = operation.intensity

    def noting(*words: Any) -> Any:
        calls.append(words)
        return original(*words)

    operation.intensity = noting  # type: ignore[assignment]
    try:
        return work(), calls
    finally:
        operation.intensity = original


def kernel_and_response(renderer: Renderer, frame: Frame, calls: list[tuple[Any, ...]]) -> float:
    """Processor seconds of the crystals of a frame, and of recording it, by themselves."""
    response = renderer.optics or renderer.readout
    begun = time.process_time()
    with one_torch_thread(), torch.no_grad():
        image = torch.stack([operation.intensity(*words).sum(0) for words in calls]).sum(0)
        response.record(image.reshape(renderer.image_shape).clamp(min=0), 1, frame.plan.image)
    return time.process_time() - begun


def truth(count: int) -> Found:
    """Isolated whole spots of the `ml` example: the .refl against centroids and sums of the stored noiseless images."""
    from nanobrag_torch.datasets.reader import ShardReader
    from nanobrag_torch.io.refl import read_refl

    recipe = recipe_of_example("ml", count, count, output={"expected": True}, background={"constant": 0.0})
    recipe = replace(recipe, lattices=replace(recipe.lattices, number=recipe.lattices.split))
    with tempfile.TemporaryDirectory() as home:
        folder = open_folder(Path(home) / "set", recipe)
        shards.make_shard(folder, 0, Renderer(recipe))
        table = read_refl(folder.shard(0, "refl")).columns
        with ShardReader(folder, 0) as reader:
            spots = reader.spot_columns()
            images = [reader.image(place, "expected") for place in range(count)]
    whole = (spots["overlap"] < 1e-3) & (spots["photons"] > 0.97 * spots["photons_total"]) & (spots["photons"] > 100)
    away, off = [], []
    for row in np.flatnonzero(whole):
        fast0, fast1, slow0, slow1 = table["bbox"][row, :4]
        box = images[spots["image"][row]][slow0:slow1, fast0:fast1].astype(np.float64)
        slow, fast = np.mgrid[slow0:slow1, fast0:fast1] + 0.5
        place = np.array([(box * fast).sum(), (box * slow).sum()]) / box.sum()
        away.append(float(np.linalg.norm(place - table["xyzcal.px"][row, :2])))
        off.append(abs(box.sum() / table["intensity.sum.value"][row] - 1))
    said = f"median {np.median(away):.3f} pixel of {len(away)} spots; sums differ by {max(off):.1e} at most"
    return Found("0.1 pixel; 0.1%", said, bool(np.median(away) < 0.1 and max(off) < 1e-3), count)


RATED = {"ml": 40, "stills": 3, "serial": 3, "rotation": 2}


def rates(_: int) -> Found:
    """Images a second on one core, of every example as it is; files included."""
    found = {}
    for name, images in RATED.items():
        recipe = recipe_of_example(name, images, images)
        renderer = Renderer(recipe)
        warm(renderer)
        with tempfile.TemporaryDirectory() as home:
            folder = open_folder(Path(home) / "set", recipe)
            begun = time.process_time()
            shards.make_shard(folder, 0, renderer)
            found[name] = images / (time.process_time() - begun), renderer.image_shape
    said = ", ".join(f"`{n}` ({s[-1]} x {s[-2]}) {rate:.3g}" for n, (rate, s) in found.items())
    return Found("none", said, True, sum(RATED.values()))


def finder(count: int) -> Found:
    """The example that trains: 40 seconds of training, precision and recall on images that it has not seen."""
    sys.path.insert(0, str(ROOT / "examples"))
    from spot_finder import WANTED, score, train
    from torch.utils.data import DataLoader

    from nanobrag_torch.datasets import SimulatedDataset

    recipe = recipe_of_example("ml", 1000, 500)
    model = train(DataLoader(SimulatedDataset(recipe, WANTED, batch=8), batch_size=None), 40)
    unseen = SimulatedDataset(recipe, WANTED, batch=8, first=10**6, images=40)
    precision, recall = score(model, DataLoader(unseen, batch_size=None))
    said = f"precision {precision:.3f}, recall {recall:.3f} after 40 s"
    return Found("a minute on a core", said, precision > 0.9 and recall > 0.6, 40)


def demo(count: int) -> Found:
    """`make dataset-demo` in a fresh clone, by this environment, nothing compiled yet; wall seconds."""
    with tempfile.TemporaryDirectory() as home:
        clone, environment = Path(home) / "clone", Path(sys.executable).parent
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        words = ["make", "-s", "-o", "stamp", "dataset-demo", f"BIN={environment}", "STAMP=stamp"]
        kept = {**os.environ, "PYTHONPATH": str(clone / "src"), "NUMBA_CACHE_DIR": str(Path(home) / "compiled")}
        begun = time.perf_counter()
        subprocess.run(words, cwd=clone, env=kept, check=True, stdout=subprocess.DEVNULL)
        took = time.perf_counter() - begun
        made = clone / "demo-dataset"
        complete = (made / "contact-sheet.png").exists() and (made / "manifest.json").exists()
        shutil.copy(made / "contact-sheet.png", Path(tempfile.gettempdir()) / "dataset-demo.png")
    said = f"{took:.0f} s, everything compiled anew (load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores)"
    return Found("100 images in a minute", said, complete and took < 60, 100)


ROWS = {
    "ml": ("stills of 256 x 256, `ml` example", machine_learning),
    "frames": ("frames of 2463 x 2527, whole chain", frames),
    "truth": ("truth `.refl` against noiseless images", truth),
    "rates": ("images a second, one core, the examples", rates),
    "finder": ("`examples/spot_finder.py`", finder),
    "demo": ("`make dataset-demo` in a fresh clone", demo),
    **FAULTS,
}


def main(words: list[str] | None = None) -> None:
    """Measure the rows that were asked for, keep them, and write the table."""
    torch.set_num_threads(1)
    measure_rows(words, ROWS, RESULTS, PAGE, about=__doc__ or "", of="images or kills")


if __name__ == "__main__":
    main()
