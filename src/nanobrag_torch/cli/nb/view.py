"""`nb view`: an image as a picture or as a page, with the beam and rings of resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nanobrag_torch.errors import InputError


def view(
    file: Annotated[
        Path, typer.Argument(help="an image of any kind that nb reads, or a folder that nb refine or nb dataset filled")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="the picture (.png, .svg), or of --frames the animation (.gif, .mp4)"),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="the page: zoom, contrast, values, no network")] = None,
    full: Annotated[bool, typer.Option("--full", help="every pixel in the page, however large it gets")] = False,
    frame: Annotated[int, typer.Option(help="which image of several, from 0")] = 0,
    frames: Annotated[str | None, typer.Option(help="an animation of these images, from 0: 0,3-5 or all")] = None,
    rate: Annotated[float, typer.Option(help="images a second of an animation")] = 5.0,
    geometry: Annotated[Path | None, typer.Option(help="geometry of an image that does not state it")] = None,
    experiment: Annotated[int | None, typer.Option(help="which experiment of several in --geometry, from 0")] = None,
    data_file: Annotated[Path | None, typer.Option(help="images that hold the values a CrystFEL .geom locates")] = None,
) -> None:
    """Draw an image: dark spots on white, beam centre, resolution rings; or write the page of a folder of results."""
    if file.is_dir():
        _view_folder(file, output, html)
        return
    if frames is not None:
        _view_frames(file, frames, output, html, rate)
        return
    from nanobrag_torch.io.geometry import read_geometry
    from nanobrag_torch.io.images import read_image
    from nanobrag_torch.io.png_image import write_png
    from nanobrag_torch.report.opening import open_file

    _require_names(output, html, full)
    image = read_image(file, frame)
    data = image.experiment if geometry is None else read_geometry(geometry, index=experiment, data_file=data_file)
    if data is not None and data.detector is not None and data.detector.shape != image.pixels.shape:
        raise InputError("--geometry", data.detector.shape, f"the size of the image, {image.pixels.shape}")
    title = file.name if image.frames == 1 else f"{file.name}, {frame}"
    if output is not None:
        write_png(output, image.pixels, data, title=title)
        typer.echo(str(output))
    if html is not None:
        from nanobrag_torch.report.image import write_image_page

        size = write_image_page(html, image.pixels, data, title=title, full=full)
        typer.echo(f"{html}: {size / 1e6:.1f} MB")
    open_file(html or output or file)


def _view_frames(file: Path, frames: str, output: Path | None, html: Path | None, rate: float) -> None:
    """Images of a series one after the other."""
    from nanobrag_torch.cli.nb.flags import numbers
    from nanobrag_torch.io.images import read_image
    from nanobrag_torch.io.movie import write_movie
    from nanobrag_torch.report.opening import open_file

    if output is None or html is not None:
        raise InputError("--frames", frames, "the animation's name, --output, and no --html")
    if not rate > 0:
        raise InputError("--rate", rate, "a number above 0")
    count = read_image(file).frames
    chosen = list(range(count)) if frames == "all" else numbers(frames)
    found = (read_image(file, number).pixels for number in chosen)
    stacked = (pixels.reshape(-1, pixels.shape[-1]) for pixels in found)
    write_movie(output, stacked, [f"{file.name}, {number}" for number in chosen], rate=rate)
    typer.echo(f"{output}: {len(chosen)} images")
    open_file(output)


def _view_folder(folder: Path, output: Path | None, html: Path | None) -> None:
    """The page of a data set, of a refined shot, or of all shots of a refinement."""
    from nanobrag_torch.datasets.looking import dataset_of, write_dataset_page
    from nanobrag_torch.report.opening import open_file
    from nanobrag_torch.report.shot import PAGE, write_shot_page
    from nanobrag_torch.report.shot_data import is_shot
    from nanobrag_torch.report.shots import write_pages

    if output is not None:
        _draw_folder(folder, output, html)
        return
    page = folder / PAGE if html is None else html
    if (data_set := dataset_of(folder)) is not None:
        write_dataset_page(data_set, page)
    elif is_shot(folder):
        write_shot_page(folder, page)
    else:
        write_pages(folder, page)
    typer.echo(str(page))
    open_file(page)


def _draw_folder(folder: Path, output: Path, html: Path | None) -> None:
    """The charts of a refined shot as a picture, for print."""
    from nanobrag_torch.report.opening import open_file
    from nanobrag_torch.report.shot_data import is_shot, read_shot_folder
    from nanobrag_torch.report.shot_pictures import write_shot_charts

    _require_names(output, html, full=False)
    if not is_shot(folder):
        raise InputError(
            "--output", str(output), "an image, or the folder of one refined shot; others have a page, --html"
        )
    write_shot_charts(output, read_shot_folder(folder))
    typer.echo(str(output))
    open_file(output)


def _require_names(output: Path | None, html: Path | None, full: bool) -> None:
    if output is None and html is None:
        raise InputError("--output, --html", None, "the picture or the page to write")
    for flag, name, ends in (("--output", output, (".png", ".svg")), ("--html", html, (".html", ".htm"))):
        if name is not None and name.suffix.lower() not in ends:
            raise InputError(flag, str(name), f"a name that ends in {' or '.join(ends)}")
    if full and html is None:
        raise InputError("--full", True, "used with --html")
