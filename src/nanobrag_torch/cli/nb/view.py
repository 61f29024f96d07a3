"""`nb view`: an image as a picture, with the beam and rings of resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nanobrag_torch.errors import InputError


def view(
    file: Annotated[Path, typer.Argument(help="an image of any kind that nb reads")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the picture, a PNG file")],
    frame: Annotated[int, typer.Option(help="which image of several, from 0")] = 0,
    geometry: Annotated[Path | None, typer.Option(help="geometry of an image that does not state it")] = None,
    experiment: Annotated[int | None, typer.Option(help="which experiment of several in --geometry, from 0")] = None,
    data_file: Annotated[Path | None, typer.Option(help="images that hold the values a CrystFEL .geom locates")] = None,
) -> None:
    """Draw an image: dark spots on white, beam centre, resolution rings."""
    from nanobrag_torch.io.geometry import read_geometry
    from nanobrag_torch.io.images import read_image
    from nanobrag_torch.io.png_image import write_png

    if output.suffix.lower() != ".png":
        raise InputError("--output", str(output), "a name that ends in .png")
    image = read_image(file, frame)
    data = image.experiment if geometry is None else read_geometry(geometry, index=experiment, data_file=data_file)
    if data is not None and data.detector is not None and data.detector.shape != image.pixels.shape:
        raise InputError("--geometry", data.detector.shape, f"the size of the image, {image.pixels.shape}")
    write_png(output, image.pixels, data, title=file.name if image.frames == 1 else f"{file.name}, {frame}")
    typer.echo(str(output))
