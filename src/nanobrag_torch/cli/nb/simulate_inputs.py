"""What `nb simulate` reads and checks before it renders: geometry, crystal, frames, output, structure factors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from nanobrag_torch.experiment import Experiment
    from nanobrag_torch.io.fileformat import FileFormat
    from nanobrag_torch.records.experiment import ExperimentData

CellWords = tuple[float, float, float, float, float, float]
PLACES_SPOTS = frozenset({
    "several panels", "several images", "images that do not follow one another", "spectrum",
    "wavelength for each image",
})  # fmt: skip
"""What an output must say, for a reader would otherwise look for the spots in wrong places."""


def one_of(experiment: Path | None, geometry: Path | None) -> Path:
    """The geometry, given in one of two ways. Raises InputError for both and for none."""
    if (experiment is None) == (geometry is None):
        shown = "nothing" if geometry is None else str(geometry)
        raise InputError("--geometry", shown, "one file, as an argument or by --geometry")
    path = experiment or geometry
    assert path is not None
    return path


def read(path: Path, which: int | None, data_file: Path | None) -> ExperimentData:
    """The experiment of a geometry file. Raises InputError for one that no image can be rendered of."""
    from nanobrag_torch.experiment import require_monochromatic_xrays
    from nanobrag_torch.io.geometry import read_geometry

    data = read_geometry(path, index=which, data_file=data_file)
    data.need("detector", "beam", where="an image")
    require_monochromatic_xrays(data)
    return data


def crystal(
    data: ExperimentData, matrix: Path | None, cell: CellWords | None, misset: tuple[float, float, float] | None
) -> dict[str, Any]:
    """Fields of a crystal given on the command line. Raises InputError where there is none, here or in the geometry."""
    chosen: dict[str, Any] = {}
    if cell is not None:
        names = ("cell_a", "cell_b", "cell_c", "cell_alpha", "cell_beta", "cell_gamma")
        chosen |= dict(zip(names, cell, strict=True))
    if misset is not None:
        if cell is None and matrix is None:
            raise InputError("--misset", misset, "an orientation of --cell or --matrix")
        chosen["misset_deg"] = misset
    if matrix is not None:
        from nanobrag_torch.io.mosflm import read_mosflm_matrix
        from nanobrag_torch.io.mosflm_geometry import require_matrix

        assert data.beam is not None
        require_matrix(matrix, "--matrix")
        stars = read_mosflm_matrix(matrix, data.beam.wavelength_A)
        chosen |= {f"mosflm_{axis}_star": tuple(star) for axis, star in zip("abc", stars, strict=True)}
    if not chosen:
        data.need("crystal", where="an image without --cell or --matrix")
    return chosen


def illuminated(blocks: float, beam_size: str | None, materials: bool) -> dict[str, Any]:
    """How much crystal and how wide a beam, as fields of the configuration. Raises InputError."""
    if not 0 < blocks < float("inf"):
        raise InputError("--blocks", blocks, "a number above 0")
    if beam_size is None:
        return {"F_scale": blocks**0.5} if blocks != 1 else {}
    if not materials:
        raise InputError("--beam-size", beam_size, "nothing without --background")
    from nanobrag_torch.background.materials import length_mm

    return {"F_scale": blocks**0.5, "beamsize_mm": length_mm(beam_size, "--beam-size")}


def frames(text: str | None, data: ExperimentData) -> range:
    """Frames, from 0, of image numbers such as 3 or 1-90. Raises InputError."""
    count, first = (1, 1) if data.scan is None else (data.scan.frames, data.scan.image_range[0])
    if text is None:
        return range(count)
    low, _, high = text.partition("-")
    if not low.isdigit() or (high and not high.isdigit()):
        raise InputError("--frames", text, "an image number, or first-last")
    bounds = int(low), int(high or low)
    if not first <= bounds[0] <= bounds[1] <= first + count - 1:
        raise InputError("--frames", text, f"images {first} to {first + count - 1}")
    return range(bounds[0] - first, bounds[1] - first + 1)


def output(name: str, data: ExperimentData, chosen: range, allow_loss: bool, picture: Path | None) -> FileFormat:
    """The format of the output, which is tried before anything is rendered; a line says what it cannot hold.

    Raises InputError for a name that asks for no format or cannot be written, and for a loss that would misplace spots.
    """
    from nanobrag_torch.datasets.series import numbered
    from nanobrag_torch.io.atomic import require_writable
    from nanobrag_torch.io.geometry import losses
    from nanobrag_torch.io.images import frame_experiment, output_format
    from nanobrag_torch.records.experiment import part_of_scan

    found = output_format(name, flag="--output")
    template = "#" in name or "%" in name or (len(chosen) > 1 and found.frames is None)
    require_writable(numbered(name, chosen.start) if template else name, "--output")
    if picture is not None:
        require_writable(picture, "--png")
    part = part_of_scan(data, chosen.start, len(chosen)) if found.frames else frame_experiment(data, chosen.start)
    lost = losses(part, found) if found.holds else ()
    misplaced = [word for word in lost if word in PLACES_SPOTS]
    if misplaced and not allow_loss:
        raise InputError("--output", name, f"a format that holds {', '.join(misplaced)}, or --allow-loss")
    if lost:
        typer.echo(f"{name} leaves out: {', '.join(lost)} (the image has it all)")
    return found


def with_amplitudes(
    data: ExperimentData, path: Path | None, column: str | None, dmin: float | None, options: dict[str, Any]
) -> Experiment:
    """The experiment with its structure factors; atoms are taken to the corner of the detector without a limit."""
    from nanobrag_torch.crystallography.completeness import resolution_shells, shell_table
    from nanobrag_torch.crystallography.structure_factors import read_structure_factors
    from nanobrag_torch.experiment import Experiment
    from nanobrag_torch.io.amplitudes import amplitude_format
    from nanobrag_torch.records.resolution import corner_resolution

    if path is None:
        return Experiment(data=data, options=options)
    assert data.beam is not None and data.detector is not None
    if dmin is None and amplitude_format(path).read_atoms is not None:
        dmin = corner_resolution(data.detector, data.beam)
        typer.echo(f"{path}: atoms to {dmin:.4f} A, the corner of the detector (--dmin for another limit)")
    reflections = read_structure_factors(path, column=column, dmin=dmin, wavelength_A=data.beam.wavelength_A)
    typer.echo(f"{len(reflections.hkl)} reflections from {path}")
    if reflections.cell is not None and reflections.space_group is not None:
        typer.echo(shell_table(resolution_shells(reflections)))
    return Experiment(data=data, structure_factors=reflections, options=options)
