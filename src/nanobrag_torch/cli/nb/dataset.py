"""`nb dataset`: many images with known truth from one recipe, restartable, on any number of machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from nanobrag_torch.datasets.engine import Tally
    from nanobrag_torch.datasets.recipe import Recipe
    from nanobrag_torch.datasets.store import Folder


def dataset(
    recipe: Annotated[Path | None, typer.Argument(help="recipe (TOML); --example prints one")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder of the data set")] = None,
    images: Annotated[int | None, typer.Option(help="number of images, in place of the recipe's")] = None,
    workers: Annotated[int | None, typer.Option(help="worker processes [one a core]")] = None,
    shard: Annotated[int | None, typer.Option(help="make this shard alone, in this process")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with a folder; checks what is there")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="say nothing but what went wrong")] = False,
) -> None:
    """Make the images of a recipe, with labels."""
    from nanobrag_torch.datasets import engine
    from nanobrag_torch.datasets.store import open_folder
    from nanobrag_torch.workers import place_of_process

    if recipe is None:
        raise InputError("recipe", None, "a recipe (TOML)")
    if output is None:
        raise InputError("-o", None, "a folder for the data set")
    folder = open_folder(output, _recipe(recipe, images), text=recipe.read_bytes())
    place = place_of_process()
    if shard is not None:
        folder.recipe.images_of(shard)
        tally = engine.run(folder, engine.in_this_process, [shard])
    elif place.size > 1:
        tally = engine.run(folder, engine.in_this_process, engine.order_of_ranks(folder, place))
    else:
        _require_free(folder, resume)
        tally = _locally(folder, _cores() if workers is None else workers)
    tally.raise_failures()
    engine.finish(folder)
    if not quiet:
        typer.echo(f"{output}: {folder.recipe.dataset.images} images in {folder.recipe.shards} shards")


def _cores() -> int:
    """Cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _locally(folder: Folder, workers: int) -> Tally:
    from nanobrag_torch.datasets import engine

    if workers < 1:
        raise InputError("--workers", workers, "a number from 1 up")
    if workers == 1:
        return engine.run(folder, engine.in_this_process)
    with engine.local_cluster(workers) as client:
        return engine.run(folder, engine.by_dask(client))


def _recipe(path: Path, images: int | None) -> Recipe:
    from dataclasses import replace

    from nanobrag_torch.datasets.recipe import read_recipe

    found = read_recipe(path)
    if images is None:
        return found
    if images < 1:
        raise InputError("--images", images, "a number from 1 up")
    return replace(found, dataset=replace(found.dataset, images=images))


def _require_free(folder: Folder, resume: bool) -> None:
    """A folder with images goes on only when asked, unless a living run is at it."""
    if resume:
        for number in range(folder.recipe.shards):
            if damaged := folder.damaged(number):
                typer.echo(f"damaged, made again: {', '.join(damaged)}", err=True)
                folder.forget(number)
        return
    there = folder.recipe.shards - len(folder.missing())
    if there and not folder.living_runs():
        raise InputError(
            "-o", str(folder.path), f"an empty folder, or --resume: {there} shards of this recipe are there"
        )
