"""`nb dataset`: many images with known truth from one recipe, restartable, on any number of machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanobrag_torch.cli.messages import Loudness
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from nanobrag_torch.datasets.engine import Engine, Tally
    from nanobrag_torch.datasets.recipe import Recipe
    from nanobrag_torch.datasets.store import Folder


def dataset(
    words: Annotated[
        list[str] | None, typer.Argument(help="a recipe (TOML); or: pack FOLDER", metavar="RECIPE | pack FOLDER")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder of the data set; of --check the picture")
    ] = None,
    images: Annotated[int | None, typer.Option(help="number of images, in place of the recipe's")] = None,
    workers: Annotated[int | None, typer.Option(help="worker processes on this machine [one a core]")] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="slurm:queue=x,jobs=50,cores=8, likewise pbs, lsf, sge; or tcp://host:port of Dask"),
    ] = None,
    shard: Annotated[int | None, typer.Option(help="make this shard alone, in this process: for job arrays")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with a folder; what is there is checked first")
    ] = False,
    example: Annotated[str | None, typer.Option(help="print a recipe: rotation, stills, serial or ml")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="show what a recipe makes, how long, how large; nine thumbnails")
    ] = False,
    to: Annotated[str | None, typer.Option(help="of pack: webdataset or zarr")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="say nothing but what went wrong")] = False,
) -> None:
    """Make the images of a recipe, with labels: a function of the recipe, whatever makes them and however often."""
    words, quiet = words or [], quiet or Loudness.quiet
    if example is not None:
        _alone("--example", words)
        _print_example(example)
    elif words[:1] == ["pack"]:
        _pack(words[1:], to, output, quiet)
    elif to is not None:
        raise InputError("--to", to, "pack FOLDER before it")
    else:
        path = _one(words)
        recipe = _recipe(path, images)
        if check:
            _check(path, recipe, output, workers)
        else:
            _make(_folder(output, recipe, path), workers, cluster, shard, resume, quiet)


def _alone(flag: str, words: list[str]) -> None:
    if words:
        raise InputError(flag, " ".join(words), "no recipe beside it")


def _one(words: list[str]) -> Path:
    if len(words) != 1:
        raise InputError("recipe", " ".join(words) or None, "one recipe (TOML); --example prints one to start from")
    return Path(words[0])


def _print_example(name: str) -> None:
    from nanobrag_torch.datasets.examples import example

    typer.echo(example(name), nl=False)


def _recipe(path: Path, images: int | None) -> Recipe:
    from dataclasses import replace

    from nanobrag_torch.datasets.recipe import read_recipe

    found = read_recipe(path)
    if images is None:
        return found
    if images < 1:
        raise InputError("--images", images, "a number from 1 up")
    return replace(found, dataset=replace(found.dataset, images=images))


def _folder(output: Path | None, recipe: Recipe, path: Path) -> Folder:
    from nanobrag_torch.datasets.store import open_folder

    if output is None:
        raise InputError("-o", None, "a folder for the data set")
    return open_folder(output, recipe, text=path.read_bytes())


def _make(
    folder: Folder, workers: int | None, cluster: str | None, shard: int | None, resume: bool, quiet: bool
) -> None:
    from nanobrag_torch.datasets import engine
    from nanobrag_torch.workers import place_of_process

    place = place_of_process()
    if not quiet and place.rank == 0:
        _say_what_is_left_out(folder.recipe)
    if shard is not None:
        _require_unused("--shard", shard, workers=workers, cluster=cluster)
        folder.recipe.images_of(shard)
        tally = _watched(folder, engine.in_this_process, quiet, [shard])
    elif place.size > 1:
        _require_unused(f"{place.size} ranks of {place.launcher}", place.rank, workers=workers, cluster=cluster)
        tally = _watched(folder, engine.in_this_process, quiet or place.rank > 0, engine.order_of_ranks(folder, place))
    else:
        _require_free(folder, resume)
        tally = _by_engine(folder, workers, cluster, quiet)
    tally.raise_failures()
    complete = engine.finish(folder)
    if complete and place.rank == 0:
        from nanobrag_torch.datasets.looking import write_dataset_page

        write_dataset_page(folder)
    if not quiet and place.rank == 0:
        recipe = folder.recipe
        words = (
            f"{recipe.dataset.images} images in {recipe.shards} shards, report.html"
            if complete
            else "other shards are missing yet"
        )
        typer.echo(f"{folder.path}: {words}")


def _say_what_is_left_out(recipe: Recipe) -> None:
    from nanobrag_torch.datasets.materials import unused_spectrum

    tolerance, file = recipe.render.tolerance, recipe.detector.file
    if tolerance:
        print(f"up to {tolerance:g} photons of a pixel and lattice are left out (render.tolerance)", file=sys.stderr)
    if unused_spectrum(recipe):
        print(f"the spectrum in {file} is not used: beam.spectrum is {recipe.beam.spectrum}, not file", file=sys.stderr)


def _by_engine(folder: Folder, workers: int | None, cluster: str | None, quiet: bool) -> Tally:
    from nanobrag_torch.datasets import engine
    from nanobrag_torch.datasets.clusters import cluster_client

    if cluster is not None:
        _require_unused("--cluster", cluster, workers=workers)
        with cluster_client(cluster) as client:
            return _watched(folder, engine.by_dask(client), quiet, dashboard=str(client.dashboard_link))
    count = min(_cores() if workers is None else workers, folder.recipe.shards)
    if count < 1:
        raise InputError("--workers", workers, "a number from 1 up")
    if count == 1:
        return _watched(folder, engine.in_this_process, quiet)
    engine.warm_up(folder)
    with engine.local_cluster(count) as client:
        return _watched(folder, engine.by_dask(client), quiet, dashboard=str(client.dashboard_link))


def _watched(
    folder: Folder, engine: Engine, quiet: bool, shards: Sequence[int] | None = None, *, dashboard: str = ""
) -> Tally:
    from nanobrag_torch.cli.nb.dataset_view import watching
    from nanobrag_torch.datasets.engine import run

    with watching(folder, folder.recipe.dataset.images, quiet=quiet, dashboard=dashboard) as notice:
        return run(folder, engine, shards, notice)


def _require_unused(flag: str, value: object, **others: object) -> None:
    for name, other in others.items():
        if other is not None:
            raise InputError(f"--{name}", other, f"nothing beside {flag} ({value})")


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _require_free(folder: Folder, resume: bool) -> None:
    """A folder with images goes on only when asked, unless a living run is at it, which this one joins."""
    if folder.living_runs():
        print("another run of this recipe is at work here: sharing it", file=sys.stderr)
        return
    if resume:
        for number in range(folder.recipe.shards):
            if damaged := folder.damaged(number):
                print(f"damaged, made again: {', '.join(damaged)}", file=sys.stderr)
                folder.forget(number)
        return
    there = folder.recipe.shards - len(folder.missing())
    if there:
        accepted = f"an empty folder, or --resume: {there} shards of this recipe are there"
        raise InputError("-o", str(folder.path), accepted)


def _check(path: Path, recipe: Recipe, output: Path | None, workers: int | None) -> None:
    """Render a sample, and say what the whole would take."""
    from nanobrag_torch.cli.progress import duration
    from nanobrag_torch.datasets.contact import estimate, sample_numbers, sheet_of
    from nanobrag_torch.datasets.render import Renderer

    renderer = Renderer(recipe)
    picture = path.with_suffix(".png") if output is None else output
    samples = sheet_of(picture, renderer, sample_numbers(recipe))
    found = estimate(renderer, samples)
    cores = workers or _cores()
    kind = (
        f"{recipe.dataset.images // recipe.scan.frames} scan(s) of {recipe.scan.frames}" if recipe.is_scan else "stills"
    )
    shape = " x ".join(str(size) for size in renderer.image_shape)
    spots = [len(s.labels.spots["h"]) for s in samples if s.labels is not None]
    typer.echo(f"{found.images} images of {shape} pixels ({kind}) in {found.shards} shards")
    typer.echo(f"{found.steps_an_image:.3g} pixel-steps an image, {1000 * found.seconds_an_image:.3g} ms on one core")
    typer.echo(
        f"{duration(3600 * found.hours(cores))} on {cores} core(s), {_size(found.bytes_an_image * found.images)}"
    )
    for material, crystal in zip(renderer.materials, recipe.crystal, strict=True):
        name = crystal.name or "crystal"
        typer.echo(f"{name}: {material.space_group}, cell {' '.join(f'{x:g}' for x in material.cell)}")
    if spots:
        typer.echo(f"{min(spots)} to {max(spots)} spots in the sample of {len(samples)}")
    _say_what_is_left_out(recipe)
    typer.echo(f"wrote {picture}")


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _pack(words: list[str], form: str | None, output: Path | None, quiet: bool) -> None:
    from nanobrag_torch.datasets.pack import FORMS, pack
    from nanobrag_torch.datasets.store import open_folder

    if len(words) != 1:
        raise InputError("pack", " ".join(words) or None, "the folder of a data set")
    if form is None or output is None:
        raise InputError("--to, -o", (form, output), f"{' or '.join(FORMS)}, and where to write")
    written = pack(open_folder(words[0]), form, output)
    if not quiet:
        typer.echo(f"{output}: {len(written)} file(s)" if form == "webdataset" else str(output))
