"""`nb refine-geometry`: where the panels of a detector stand, from all shots of a folder together."""

from __future__ import annotations

from typing import Annotated

import typer

from nanobrag_torch.cli.nb.refine_intensities import Folder, How, Output, Part, Workers

Groups = Annotated[str, typer.Option(help="panel, asic, quadrant, whole, a level, or a file of panels and groups.")]


def refine_geometry(
    folder: Folder,
    output: Output,
    groups: Groups = "panel",
    free: Annotated[list[str] | None, typer.Option(help="shift, tilt, distance; default: shift,tilt.")] = None,
    centroids: Annotated[bool, typer.Option("--centroids", help="By the centroids alone, without pixels.")] = False,
    workers: Workers = 1,
    reducer: How = "auto",
    part: Part = None,
) -> None:
    """Refine where groups of panels stand, shared by all shots that nb refine has left in a folder."""
    from nanobrag_torch.cli.nb.refine import groups_of, words_of
    from nanobrag_torch.cli.nb.refine_intensities import company
    from nanobrag_torch.refinement.geometry_outputs import Request, run, write

    request = Request(
        folder=folder,
        output=output,
        groups=groups_of(groups),
        free=words_of(free) or ("shift", "tilt"),
        pixels=not centroids,
    )
    with company(workers, part, reducer, request) as (place, sums):
        found, data = run(request, place, sums)
        if place.rank:
            return
        names = write(found, data, output)
    said = [f"{row['rms_before']:.3f} -> {row['rms_after']:.3f}" for row in found.rows if row["spots_after"]]
    print(f"rms residuals by panel (pixels): {', '.join(said)}")
    for row in found.shots:
        if not row["weight"]:
            print(f"left out: {row['name']}: {row['reason']}")
    print(f"{found.status}{f' ({found.reason})' if found.reason else ''}: {len(found.groups.names)} groups")
    print(f"{output}: {', '.join(names)}")
    if found.status != "converged":
        raise typer.Exit(3)
