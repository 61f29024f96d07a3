"""`nb record`: what a detector makes of an image of expected photons, as often as wanted: store once, draw often."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobrag_torch.cli.nb.option_groups import takes
from nanobrag_torch.cli.nb.response_words import ResponseWords
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanobrag_torch.records.experiment import ExperimentData
    from nanobrag_torch.response.chain import Response


OF_ITSELF = {
    "detector": "a detector by name, whose gaps and values to use",
    "gain": "ADU a photon [1]",
    "pedestal": "offset (ADU) [0]",
}
"""What options that `nb simulate` has too mean here."""


@takes(ResponseWords, "words", **OF_ITSELF)
def record(
    image: Annotated[Path, typer.Argument(help="expected photons: .npy, or an image that nb show reads")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="image to write; #### stands for the number of each")
    ] = "recorded_####.cbf",
    geometry: Annotated[Path | None, typer.Option(help="where the geometry is, if the image has none")] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="images to draw")] = 1,
    first: Annotated[int, typer.Option(help="number of the first; each number has its own noise")] = 1,
    seed: Annotated[int, typer.Option(help="of the noise")] = 1,
    noise: Annotated[bool, typer.Option("--noise/--no-noise", help="count whole photons")] = True,
    *,
    words: ResponseWords,
    allow_loss: Annotated[bool, typer.Option("--allow-loss", help="write what the format cannot hold")] = False,
) -> None:
    """Record an image of expected photons: spread, noise, gain, gaps; image after image without rendering again."""
    from nanobrag_torch.datasets.series import numbered
    from nanobrag_torch.io.images import output_format, write_image

    if count < 1:
        raise InputError("--count", count, "a whole number from 1 up")
    if count > 1 and "#" not in output and "%" not in output:
        raise InputError("--output", output, "a name with #### for the number, where several are drawn")
    photons, data = _read(image, geometry)
    written = output_format(output)
    dtype = "float32" if written.fractions else {"uint16": "uint16"}.get(written.pixel_types[0], "int32")
    response = _response(words, data, photons, counting=noise, dtype=dtype)
    source = None if data is None else _with_story(data, words)
    import torch

    for number in range(first, first + count):
        drawn = response.record(torch.from_numpy(photons), seed, number).numpy()
        name = numbered(output, number) if "#" in output or "%" in output else output
        write_image(name, drawn, source, allow_loss=allow_loss)
        typer.echo(f"wrote {name}")


def _read(path: Path, geometry: Path | None) -> tuple[NDArray[Any], ExperimentData | None]:
    """Expected photons [panel, slow, fast] or (slow, fast), float32, and the geometry if there is one."""
    import numpy as np

    from nanobrag_torch.io.geometry import read_geometry
    from nanobrag_torch.io.images import read_image

    found = read_image(path)
    data = found.experiment if geometry is None else read_geometry(geometry)
    photons = np.ascontiguousarray(found.pixels, np.float32)
    if data is not None and data.detector is not None and photons.shape != data.detector.shape:
        raise InputError("--geometry", str(geometry or path), f"a detector of {photons.shape} pixels")
    return photons, data


def _response(
    words: ResponseWords, data: ExperimentData | None, photons: NDArray[Any], *, counting: bool, dtype: str
) -> Response:
    from dataclasses import replace

    from nanobrag_torch.experiment import Experiment
    from nanobrag_torch.models.detector import Detector
    from nanobrag_torch.response.chain import Response
    from nanobrag_torch.response.panels import panel_response

    beam = None if data is None else data.beam
    config = words.config(None if beam is None else beam.wavelength_A, counting=counting, dtype=dtype)
    if config.mask is not None and tuple(config.mask.shape) != photons.shape:
        raise InputError("--detector", words.detector, f"a detector of {photons.shape} pixels, as the image has")
    if data is None or data.detector is None:
        return Response(config)
    config = panel_response(data.detector, config) or config
    if words.detector is not None:
        config = replace(config, dtype="int32")
    return Response(
        config, geometry=None if beam is None else Detector(Experiment(data=data).detector_config()).geometry()
    )


def _with_story(data: ExperimentData, words: ResponseWords) -> ExperimentData:
    """The experiment whose source says what was done."""
    from dataclasses import replace

    return replace(data, source="; ".join(filter(None, (data.source, words.story()))) or None)
