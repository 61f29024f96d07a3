"""`nb simulate`: render what a geometry file and structure factors describe, into images that other programs open."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobrag_torch.cli.messages import Loudness, say
from nanobrag_torch.cli.nb.option_groups import takes
from nanobrag_torch.cli.nb.response_words import BACKGROUND_HELP, ResponseWords, materials_of
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanobrag_torch.experiment import Experiment
    from nanobrag_torch.io.fileformat import FileFormat
    from nanobrag_torch.records.experiment import ExperimentData

WITHOUT_EFFECT = ("output", "picture", "resume", "threads", "allow_loss")
"""Options that change no pixel."""
SMOOTH_DOMAINS = 30
"""Mosaic domains for a spread whose domains nobody counted: enough for smooth spots."""


@takes(ResponseWords, "words")
def simulate(
    experiment: Annotated[Path | None, typer.Argument(help="DIALS .expt, or any geometry that nb show reads")] = None,
    geometry: Annotated[
        Path | None, typer.Option(help="the same: XPARM.XDS, .geom, or an SMV, CBF or NXmx image with a header")
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="image to write: .cbf .img .nxs .npy .png; #### stands for the number in a series"
        ),
    ] = "simulated.nxs",
    structure_factors: Annotated[
        Path | None,
        typer.Option(help="MTZ, mmCIF, PDB model, HKL text or Fdump.bin; without it every F is --default-f"),
    ] = None,
    column: Annotated[str | None, typer.Option(help="column of that file")] = None,
    default_f: Annotated[
        float | None, typer.Option(help="F outside the table; 100 without structure factors, else 0")
    ] = None,
    dmin: Annotated[
        float | None, typer.Option(help="resolution limit (A) [of a model: the corner of the detector; else none]")
    ] = None,
    which: Annotated[int | None, typer.Option("--experiment", help="which experiment of several, from 0")] = None,
    data_file: Annotated[Path | None, typer.Option(help="images that hold the values a CrystFEL .geom locates")] = None,
    matrix: Annotated[
        Path | None, typer.Option(help="MOSFLM orientation matrix, for a geometry without a crystal")
    ] = None,
    cell: Annotated[
        tuple[float, float, float, float, float, float] | None,
        typer.Option(help="a b c (A) alpha beta gamma (deg), as words or with commas; for a geometry without one"),
    ] = None,
    misset: Annotated[
        tuple[float, float, float] | None, typer.Option(help="orientation of --cell: deg about x, y, z")
    ] = None,
    frames: Annotated[str | None, typer.Option(help="images to render, such as 3 or 1-90; all by default")] = None,
    cells: Annotated[
        tuple[int, int, int],
        typer.Option("--cells", "-N", help="unit cells of a block along a, b, c; 30: along each"),
    ] = (10, 10, 10),
    shape: Annotated[str, typer.Option(help="square, round, gauss, tophat, gauss_hkl or gauss_star")] = "square",
    phi_steps: Annotated[
        int | None, typer.Option(help="steps through the rotation of an image [10 if it turns]")
    ] = None,
    mosaic_spread: Annotated[float, typer.Option(help="mosaic spread (deg)")] = 0.0,
    mosaic_domains: Annotated[int | None, typer.Option(help="mosaic domains [30 with a spread]")] = None,
    oversample: Annotated[int, typer.Option(help="sub-pixels along a pixel edge [automatic]")] = -1,
    fluence: Annotated[float | None, typer.Option(help="photons / m^2 of an image [1.26e29]")] = None,
    blocks: Annotated[
        float, typer.Option(help="mosaic blocks of --cells in the beam, that multiply the crystal's photons")
    ] = 1.0,
    beam_size: Annotated[
        str | None, typer.Option(help="edge of the square beam, such as 50um, for --background [0.1mm]")
    ] = None,
    water: Annotated[float, typer.Option(help="size of a water droplet (um), for background")] = 0.0,
    noise: Annotated[
        bool, typer.Option("--noise", help="draw whole photons instead of rounding expected ones")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="of the noise [1]; each image has its own, whichever others are rendered")
    ] = None,
    background: Annotated[list[str] | None, typer.Option(help=BACKGROUND_HELP)] = None,
    *,
    words: ResponseWords,
    picture: Annotated[Path | None, typer.Option("--png", help="also draw the first image here")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with a series that was cut off")] = False,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="write even where the output cannot say what placed the spots")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32 or float64")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    kernel: Annotated[str, typer.Option(help="auto, reference or fused")] = "auto",
    threads: Annotated[int | None, typer.Option(help="at most so many cores [all]")] = None,
    tolerance: Annotated[
        float, typer.Option(help="share of the brightest pixel that any pixel may lose, where that saves time; 0: none")
    ] = 1e-6,
) -> None:
    """Render the images of an experiment: refined.expt and model.mtz in, a series that DIALS opens out."""
    made_of = _ingredients(dict(locals()))
    from nanobrag_torch.cli.nb import simulate_inputs as inputs
    from nanobrag_torch.devices import checked_device

    place = checked_device(device, "--device")
    simulator: dict[str, Any] = {"dtype": _dtype(dtype), "device": place, "kernel": kernel, "threads": threads}
    path = inputs.one_of(experiment, geometry)
    _require_use("--column", column, structure_factors is not None, "nothing without --structure-factors")
    materials = materials_of(background)
    _require_use("--dmin", dmin, structure_factors is not None, "nothing without --structure-factors")
    _require_use("--seed", seed, noise or words.draws, "nothing without --noise")
    data = inputs.read(path, which, data_file)
    options: dict[str, Any] = {
        "N_cells": cells, "shape": shape, "mosaic_spread_deg": mosaic_spread, "oversample": oversample,
        "mosaic_domains": _domains(mosaic_domains, mosaic_spread), "water_size_um": water,
    }  # fmt: skip
    given = {"fluence": fluence, "phi_steps": phi_steps, "default_F": default_f}
    given |= inputs.illuminated(blocks, beam_size, bool(materials))
    options |= {name: value for name, value in given.items() if value is not None}
    options |= inputs.crystal(data, matrix, cell, misset)
    data = _told(data, words, background)
    chosen = inputs.frames(frames, data)
    target = inputs.output(output, data, chosen, allow_loss, picture)
    described = inputs.with_amplitudes(data, structure_factors, column, dmin, options)
    simulator |= {"background": materials} if materials else {}
    simulator["tolerance"] = _tolerance(described, chosen[0], simulator, tolerance)
    job = _Job(described, simulator, noise, 1 if seed is None else seed, target, made_of, words)
    job.announce(chosen)
    start = time.perf_counter()
    if len(chosen) == 1:
        _write_one(job, chosen[0], output)
    else:
        _write_series(job, chosen, output, resume)
    if picture is not None:
        _draw(job, chosen[0], picture)
    pixels = len(chosen) * _pixels(described)
    seconds = time.perf_counter() - start
    say(f"{len(chosen)} image(s), {pixels} pixels in {seconds:.2f} s: {pixels / seconds:.3g} pixels/s")


class _Job:
    """Renders frames as the pixels that an output takes."""

    def __init__(
        self,
        experiment: Experiment,
        simulator: dict[str, Any],
        noise: bool,
        seed: int,
        output: FileFormat,
        made_of: dict[str, object],
        words: ResponseWords,
    ) -> None:
        from nanobrag_torch.experiment import FrameRenderer

        self.experiment, self.simulator, self.noise, self.seed = experiment, simulator, noise, seed
        self.output, self.made_of = output, made_of
        self.recorded = noise or words.draws or (words.given and not output.fractions)
        if words.given:
            assert experiment.data.beam is not None
            wavelength = experiment.data.beam.wavelength_A
            self.simulator["response"] = words.config(wavelength, counting=noise, dtype="int32")
        self.frames = FrameRenderer(experiment, **self.simulator)

    def announce(self, frames: range) -> None:
        """Say what will be done, and how long it will take."""
        if Loudness.quiet:
            return
        from nanobrag_torch.cli.nb.simulate_plan import background_lines, plan_lines, time_lines

        simulator = self.experiment.simulator(frames[0], **self.simulator)
        for lines in (plan_lines, background_lines, time_lines):
            for line in lines(simulator, len(frames)):
                say(line)

    def photons(self, frame: int, shown: bool = False) -> NDArray[Any]:
        """What is expected of a frame, or what is recorded: whole numbers. shown: a bar on stderr meanwhile."""
        import sys

        from nanobrag_torch.cli.progress import progress_meter

        with progress_meter(shown and not Loudness.quiet, stream=sys.stderr) as progress:
            if self.recorded:
                image = self.frames.record(frame, seed=self.seed, progress=progress)
            else:
                image = self.frames.simulate(frame, progress=progress)
        photons: NDArray[Any] = image.cpu().numpy()
        return photons

    def pixels(self, frame: int, shown: bool = False) -> NDArray[Any]:
        """The photons, whole and in range where the format holds whole numbers only."""
        import numpy as np

        image = self.photons(frame, shown)
        if self.output.fractions:
            return image.astype(self.dtype, copy=False)
        least = np.iinfo(self.dtype).min if self.recorded else 0  # values below 0 are those of gaps
        counts: NDArray[Any] = np.clip(np.rint(image), least, self.output.largest_count).astype(self.dtype)
        return counts

    @property
    def dtype(self) -> str:
        """Of the pixels that `pixels` gives."""
        if self.output.fractions:
            return str(self.simulator["dtype"]).removeprefix("torch.")
        return self.output.pixel_types[0]


def _write_one(job: _Job, frame: int, output: str) -> None:
    from nanobrag_torch.datasets.series import numbered
    from nanobrag_torch.io.images import write_image

    name = numbered(output, _number(job.experiment, frame)) if "#" in output or "%" in output else output
    write_image(name, job.pixels(frame, shown=True), job.experiment.data, index=frame, allow_loss=True)
    say(f"wrote {name}")


def _write_series(job: _Job, frames: range, output: str, resume: bool) -> None:
    from nanobrag_torch.datasets.series import open_series
    from nanobrag_torch.records.experiment import part_of_scan

    data = part_of_scan(job.experiment.data, frames.start, len(frames))
    options: dict[str, Any] = {"dtype": job.dtype, "resume": resume, "allow_loss": True}
    options |= {"progress": not Loudness.quiet, "made_of": job.made_of}
    with open_series(output, data, len(frames), **options) as series:
        for index in series.missing():
            series.write(index, job.pixels(frames[index]))
    say(f"wrote {output}, {len(frames)} images")


def _draw(job: _Job, frame: int, picture: Path) -> None:
    from nanobrag_torch.io.png_image import write_png

    write_png(picture, job.photons(frame), job.experiment.data, title=f"image {_number(job.experiment, frame)}")
    say(f"wrote {picture}")


def _number(experiment: Experiment, frame: int) -> int:
    """Of the image that a frame, counted from 0, is called in its scan."""
    scan = experiment.data.scan
    return frame + (1 if scan is None else scan.image_range[0])


def _tolerance(experiment: Experiment, frame: int, simulator: dict[str, Any], share: float) -> float:
    """Photons that a pixel may lose, said in a line: a share of the most that a sample of the first image has."""
    if not 0 <= share < 1:
        raise InputError("--tolerance", share, "a share of the brightest pixel, from 0 up, below 1")
    if share == 0:
        say("tolerance: none, every step is summed")
        return 0.0
    made = experiment.simulator(frame, **simulator)
    brightest = made.brightest()
    say(
        f"tolerance: a pixel may lose {share * brightest:.3g} photons, {share:g} of {brightest:.4g}, the most that a "
        f"sample of pixels of image {_number(experiment, frame)} has"
    )
    made.tolerance = share * brightest
    if line := made.fewer_samples_line():
        say(line)
    return share * brightest


def _ingredients(options: dict[str, Any]) -> dict[str, object]:
    """What decides the pixels of a series: every option but those that do not, files by their content."""
    asked = options | vars(options["words"])
    left_out = (*WITHOUT_EFFECT, "words")
    found = {f"--{name.replace('_', '-')}": value for name, value in asked.items() if name not in left_out}
    profiles = [Path(word.partition(":")[0]) for word in asked["background"] or ()]
    return found | {f"--background {path}": path for path in profiles if path.is_file()}


def _told(data: ExperimentData, words: ResponseWords, background: list[str] | None) -> ExperimentData:
    """The experiment with the detector that is named; its source, which headers keep, says what was done."""
    from dataclasses import replace

    story = ", ".join([*(background or ()), *filter(None, [words.story()])])
    data = words.placed(data)
    if not story:
        return data
    return replace(data, source="; ".join(filter(None, (data.source, f"simulated with {story}"))))


def _require_use(name: str, value: object, used: bool, accepted: str) -> None:
    """Raise InputError for an option that would change nothing."""
    if value is not None and not used:
        raise InputError(name, value, accepted)


def _domains(given: int | None, spread: float) -> int:
    """Mosaic domains as asked for, else enough for a spread."""
    if given is None:
        return SMOOTH_DOMAINS if spread > 0 else 1
    return given


def _pixels(experiment: Experiment) -> int:
    assert experiment.data.detector is not None
    return sum(panel.shape[0] * panel.shape[1] for panel in experiment.data.detector.panels)


def _dtype(name: str) -> Any:
    import torch

    known = {"float32": torch.float32, "float64": torch.float64}
    if name not in known:
        raise InputError("--dtype", name, ", ".join(known))
    return known[name]
