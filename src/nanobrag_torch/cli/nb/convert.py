"""`nb convert`: geometry to geometry, image to image; what would be lost is said first, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from numpy import ndarray

    from nanobrag_torch.records.experiment import ExperimentData
    from nanobrag_torch.records.images import ImageData


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="a file, or name_####.cbf for numbered images")],
    output: Annotated[str, typer.Argument(metavar="OUT", help=".expt .geom .mat XPARM.XDS .img .cbf .nxs .npy .png")],
    to: Annotated[str | None, typer.Option(help="geometry format, where the name does not say it")] = None,
    allow_loss: Annotated[bool, typer.Option("--allow-loss", help="leave out what OUT cannot hold")] = False,
    geometry: Annotated[Path | None, typer.Option(help="geometry of images that do not state it")] = None,
    experiment: Annotated[int | None, typer.Option(help="which experiment of several, from 0")] = None,
    frame: Annotated[int | None, typer.Option(help="which image of several, from 0")] = None,
    wavelength: Annotated[float | None, typer.Option(help="Angstrom; needed for a MOSFLM matrix")] = None,
    data_file: Annotated[Path | None, typer.Option(help="images that hold the values a CrystFEL .geom locates")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with a series that was cut off")] = False,
) -> None:
    """Convert between geometry formats, or between image formats, refusing what would lose data silently."""
    from nanobrag_torch.io.geometry import geometry_output, read_geometry, write_geometry

    if geometry_output(output, to) is not None:
        data = read_geometry(source, index=experiment, wavelength_A=wavelength, data_file=data_file)
        written = write_geometry(output, data, to=to, allow_loss=allow_loss)
        left_out = f"; left out: {', '.join(written.lost)}" if written.lost else ""
        typer.echo(f"{output}: {written.format}{left_out}")
        return
    from nanobrag_torch.io.images import output_format

    given = None
    if geometry is not None:
        given = read_geometry(geometry, index=experiment, wavelength_A=wavelength, data_file=data_file)
    count = _convert_images(source, output, given, frame, allow_loss, resume)
    bare = "" if output_format(output).holds else "; left out: the geometry"
    typer.echo(f"{output}: {count} image{'s' if count > 1 else ''}{bare}")


def _convert_images(
    source: str, output: str, given: ExperimentData | None, frame: int | None, allow_loss: bool, resume: bool
) -> int:
    """Write every image of the source, or one frame; the number of images."""
    from nanobrag_torch.io.images import output_format, read_image, write_image

    chosen = output_format(output)
    files = numbered_files(source) if "#" in source else [Path(source)]
    first = read_image(files[0], frame or 0)
    count = len(files) if len(files) > 1 else (1 if frame is not None else first.frames)
    experiment = first.experiment if given is None else given
    if experiment is None and chosen.holds:
        raise InputError("geometry", first.no_geometry or None, "--geometry, for images that do not state it")
    if count == 1:
        index = 0 if frame is None or experiment is None or experiment.scan is None else frame
        write_image(output, first.pixels, experiment, index=index, allow_loss=allow_loss, title=Path(source).name)
        return 1
    if chosen.frames is None and "#" not in output and "%" not in output:
        raise InputError("output", output, f"--frame, or a name with #### for {count} images")
    if experiment is None:
        raise InputError("geometry", None, "--geometry, for a series of images that do not state it")
    if len(files) > 1 and given is None:
        experiment = _joined(files, first)
    _write_series(files, output, experiment, count, first.pixels.dtype, allow_loss, resume)
    return count


def _write_series(
    files: list[Path],
    output: str,
    experiment: ExperimentData,
    count: int,
    dtype: Any,
    allow_loss: bool,
    resume: bool,
) -> None:
    from nanobrag_torch.datasets.series import open_series
    from nanobrag_torch.io.images import read_image

    made_of: dict[str, object] = {f"content of {path}": path for path in files} | {"--allow-loss": allow_loss}
    options = {"dtype": dtype, "resume": resume, "allow_loss": allow_loss, "progress": True, "made_of": made_of}
    with open_series(output, experiment, count, **options) as series:
        for index in series.missing():
            image = read_image(files[index]) if len(files) > 1 else read_image(files[0], index)
            series.write(index, image.pixels)


def numbered_files(template: str) -> list[Path]:
    """The files of a name with #### for the number, in order. Raises InputError if there are none."""
    import re

    place = Path(template)
    pattern = re.compile(re.sub(r"(?:\\?#)+", r"(\\d+)", re.escape(place.name)))
    matches = ((pattern.fullmatch(path.name), path) for path in place.parent.iterdir())
    found = sorted((int(match[1]), path) for match, path in matches if match is not None)
    if not found:
        raise InputError("IN", template, "numbered files (none has such a name)")
    return [path for _, path in found]


def _joined(files: list[Path], first: ImageData) -> ExperimentData:
    """The experiment of numbered images whose scans follow one another."""
    from dataclasses import replace

    from nanobrag_torch.io.geometry import read_geometry

    experiment = first.experiment
    if experiment is None or experiment.scan is None:
        raise InputError("scan", None, f"angles in the header of {files[0]}, or --geometry")
    scans = [read_geometry(path).scan for path in files]
    for index, scan in enumerate(scans):
        if scan is None or abs(scan.oscillation_start_deg - experiment.scan.start_deg(index)) > 1e-6:
            stated = None if scan is None else scan.oscillation_start_deg
            raise InputError(f"{files[index]}: start angle", stated, f"{experiment.scan.start_deg(index):g} deg")
    low = experiment.scan.image_range[0]
    joined = replace(
        experiment.scan,
        image_range=(low, low + len(files) - 1),
        exposure_times_s=_together([scan.exposure_times_s for scan in scans if scan is not None]),
        epochs=_together([scan.epochs for scan in scans if scan is not None]),
    )
    return replace(experiment, scan=joined)


def _together(parts: list[ndarray | None]) -> ndarray | None:
    """The numbers of each image in one array; None if any is missing."""
    import numpy as np

    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
