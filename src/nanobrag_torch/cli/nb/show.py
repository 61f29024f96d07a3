"""`nb show`: what a file says about an experiment and an image, in the numbers that people check geometry by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from numpy import ndarray

    from nanobrag_torch.records.experiment import (
        BeamData,
        CrystalData,
        DetectorData,
        ExperimentData,
        GoniometerData,
        ScanData,
    )
    from nanobrag_torch.records.images import ImageData
    from nanobrag_torch.records.tables import ReflectionData

PANELS_SHOWN = 8


def show(
    file: Annotated[Path, typer.Argument(help="a geometry, image or reflection file of any kind that nb reads")],
    frame: Annotated[int, typer.Option(help="which image of several, from 0")] = 0,
    wavelength: Annotated[float | None, typer.Option(help="Angstrom; needed for a MOSFLM matrix")] = None,
    experiment: Annotated[int | None, typer.Option(help="one experiment of several, from 0 [all]")] = None,
    data_file: Annotated[Path | None, typer.Option(help="images that hold the values a CrystFEL .geom locates")] = None,
) -> None:
    """Print what a file says: distance, beam centres, cell, orientation, panels, scan, pixels; reflections; atoms."""
    for line in describe_file(file, frame, wavelength, experiment, data_file):
        typer.echo(line)


def describe_file(
    path: Path,
    frame: int = 0,
    wavelength_A: float | None = None,
    which: int | None = None,
    data_file: Path | None = None,
) -> Iterator[str]:
    """The lines that `nb show` prints. Raises InputError for a file that is none of the kinds."""
    from nanobrag_torch.io.fileformat import Given
    from nanobrag_torch.io.formats import find_format

    found = find_format(path)
    if found.read_reflections is not None or found.read_atoms is not None:
        from nanobrag_torch.cli.nb.show_amplitudes import describe_amplitudes

        yield from describe_amplitudes(path, found)
        return
    if found.read_table is not None:
        yield from _table(path, found.read_table(path))
        return
    experiments: list[ExperimentData] = []
    if found.read_image is not None:
        image = found.read_image(path, frame)
        yield f"{path}: {image.format} image"
        yield from _pixels(image, frame)
        experiments = [] if image.experiment is None else [image.experiment]
    elif found.read_experiments is not None:
        experiments = found.read_experiments(path, Given(wavelength_A=wavelength_A, data_file=data_file))
        yield f"{path}: {found.name} geometry"
    if which is not None and not 0 <= which < len(experiments):
        raise InputError("--experiment", which, f"a number from 0 to {len(experiments) - 1}")
    for number, experiment in enumerate(experiments):
        if which in (None, number):
            if len(experiments) > 1:
                yield f"experiment {number}"
            yield from describe(experiment)


def describe(experiment: ExperimentData) -> Iterator[str]:
    """The lines about one experiment."""
    if experiment.beam is not None:
        yield from _beam(experiment.beam)
    if experiment.detector is not None:
        yield from _detector(experiment.detector, experiment.beam)
    if experiment.goniometer is not None:
        yield from _goniometer(experiment.goniometer)
    if experiment.scan is not None:
        yield from _scan(experiment.scan)
    if experiment.crystal is not None:
        yield from _crystal(experiment.crystal)


def row(name: str, value: str) -> str:
    """A line of name and value."""
    return f"  {name:<34}{value}"


def _numbers(values: object, digits: int = 6) -> str:
    import numpy as np

    return "  ".join(f"{x:.{digits}f}" for x in np.ravel(np.asarray(values, np.float64)) + 0.0)


def _beam(beam: BeamData) -> Iterator[str]:
    from nanobrag_torch.records.frames import incident, kahn_factor
    from nanobrag_torch.units import EV_ANGSTROM

    yield "beam"
    yield row("wavelength (A)", f"{beam.wavelength_A:.6f}  ({EV_ANGSTROM / beam.wavelength_A:.2f} eV)")
    yield row("direction, source to sample", _numbers(incident(beam)))
    if beam.polarization_fraction is not None:
        factor = kahn_factor(beam.polarization_fraction)
        yield row("polarization fraction", f"{beam.polarization_fraction:g}  (Kahn factor {factor:g})")
    if beam.polarization_normal is not None:
        yield row("polarization normal", _numbers(beam.polarization_normal))
    if beam.probe != "x-ray":
        yield row("probe", beam.probe)
    if beam.wavelength_range_A is not None:
        yield row("wavelength range (A)", _numbers(beam.wavelength_range_A))
    if beam.spectrum_energies_eV is not None:
        energies = beam.spectrum_energies_eV
        yield row("spectrum", f"{len(energies)} energies, {energies.min():.1f} to {energies.max():.1f} eV")


def _detector(detector: DetectorData, beam: BeamData | None) -> Iterator[str]:
    from nanobrag_torch.records.frames import BEAM_CENTRES, beam_on_panel

    yield f"detector, {len(detector.panels)} panel{'s' if len(detector.panels) > 1 else ''}"
    for index, panel in enumerate(detector.panels[:PANELS_SHOWN]):
        size, pitch = panel.image_size, panel.pixel_size_mm
        pixels = f"{size[0]} x {size[1]} pixels of {pitch[0]:g} x {pitch[1]:g} mm"
        yield row(f"panel {index} {panel.name}".rstrip(), pixels)
        yield row("  origin (mm)", _numbers(panel.origin_mm, 4))
        yield row("  fast, slow", f"{_numbers(panel.fast)}   {_numbers(panel.slow)}")
        if panel.thickness_mm is not None or panel.material is not None:
            thickness = "unknown" if panel.thickness_mm is None else f"{panel.thickness_mm:g} mm"
            yield row("  sensor", f"{panel.material or 'unknown'}, thickness {thickness}")
        if panel.trusted_range is not None:
            yield row("  trusted range", f"{panel.trusted_range[0]:g} to {panel.trusted_range[1]:g}")
    if len(detector.panels) > PANELS_SHOWN:
        yield row("", f"and {len(detector.panels) - PANELS_SHOWN} more")
    if detector.root is not None:
        yield row("groups", ", ".join(group.name or "(no name)" for group in detector.root.groups()))
    if beam is None:
        return
    hit, spot = next(
        ((i, s) for i, panel in enumerate(detector.panels) if (s := beam_on_panel(panel, beam)) and s.inside),
        (0, beam_on_panel(detector.panels[0], beam)),
    )
    if spot is not None:
        yield f"beam centre on panel {hit}" + ("" if spot.inside else ", which the beam misses")
        yield row("distance along the beam (mm)", f"{spot.distance_mm:.4f}")
        yield row("distance along the normal (mm)", f"{spot.close_distance_mm:.4f}")
        for name, (remark, centre) in BEAM_CENTRES.items():
            yield row(name, _numbers(centre(spot), 4) + (f"   ({remark})" if remark else ""))
    yield from _resolution(detector, beam)


def _resolution(detector: DetectorData, beam: BeamData) -> Iterator[str]:
    from nanobrag_torch.records.resolution import corner_resolution, edge_resolution

    corners, edge = corner_resolution(detector, beam), edge_resolution(detector, beam)
    yield "resolution (A)"
    yield row("corner, the finest", f"{corners:.4f}")
    if edge is not None:
        yield row("edge, the last whole ring", f"{edge:.4f}")


def _goniometer(goniometer: GoniometerData) -> Iterator[str]:
    import numpy as np

    yield "goniometer"
    yield row("rotation axis", _numbers(goniometer.rotation_axis))
    for index, name in enumerate(goniometer.names):
        axes, angles = goniometer.axes, goniometer.angles_deg
        if axes is not None and angles is not None:
            turning = "turns" if index == goniometer.scan_axis else f"{angles[index]:.4f} deg"
            yield row(f"  {name}", f"{_numbers(axes[index])}   {turning}")
    for label, matrix in (("fixed", goniometer.fixed_rotation), ("setting", goniometer.setting_rotation)):
        if not np.array_equal(matrix, np.eye(3)):
            yield row(f"{label} rotation", _numbers(matrix))


def _scan(scan: ScanData) -> Iterator[str]:
    yield "scan"
    yield row("images", f"{scan.image_range[0]} to {scan.image_range[1]}")
    end = scan.end_deg
    yield row("angles (deg)", f"{scan.oscillation_start_deg:g} to {end:g}, {scan.oscillation_width_deg:g} an image")
    if scan.starts_deg is not None:
        yield row("where images begin (deg)", _numbers(scan.starts_deg[:6], 4) + (" ..." if scan.frames > 6 else ""))
    if scan.time_of_flight is not None:
        yield row("time of flight", f"{scan.time_of_flight.min():g} to {scan.time_of_flight.max():g}")
    if scan.exposure_times_s is not None:
        yield row("exposure (s)", f"{scan.exposure_times_s[0]:g}")


def _crystal(crystal: CrystalData) -> Iterator[str]:
    from nanobrag_torch.records.symmetry import name_of_hall

    yield "crystal"
    yield row("cell (A, deg)", _numbers(crystal.cell, 4))
    if crystal.space_group_hall is not None:
        yield row("space group", f"{name_of_hall(crystal.space_group_hall)}  (Hall: {crystal.space_group_hall})")
    for name, edge in zip("abc", crystal.real_space, strict=True):
        yield row(f"{name} (A)", _numbers(edge, 5))
    yield row("orientation U, row by row", _numbers(orientation(crystal)))
    if crystal.mosaicity_deg is not None:
        yield row("mosaicity (deg)", f"{crystal.mosaicity_deg:g}")
    if crystal.A_at_scan_points is not None:
        yield row("scan points", str(len(crystal.A_at_scan_points)))


def orientation(crystal: CrystalData) -> ndarray:
    """U of A = U B (3, 3), where B has a* along x and b* in the xy plane (Busing and Levy)."""
    import numpy as np

    stars = crystal.A
    b_matrix = np.linalg.cholesky(stars.T @ stars).T
    return np.asarray(stars @ np.linalg.inv(b_matrix))


def _pixels(image: ImageData, frame: int) -> Iterator[str]:
    pixels = image.pixels
    sizes = " x ".join(str(n) for n in reversed(pixels.shape[-2:]))
    panels = f", {pixels.shape[0]} panels" if pixels.ndim == 3 else ""
    yield row("pixels, fast x slow", f"{sizes}{panels}, {pixels.dtype}")
    if image.frames > 1:
        yield row("frame", f"{frame} of {image.frames}")
    yield row("lowest, highest, mean", f"{pixels.min():g}  {pixels.max():g}  {pixels.mean():.6g}")
    if image.no_geometry:
        yield row("geometry: not known", image.no_geometry)


def _table(path: Path, table: ReflectionData) -> Iterator[str]:
    yield f"{path}: {table.rows} reflections"
    for name, column in table.columns.items():
        span = f"{column.min():g} to {column.max():g}" if table.rows else ""
        yield row(name, f"{column.dtype} {'x'.join(map(str, column.shape[1:]))}  {span}")
    if table.skipped:
        yield row("skipped", ", ".join(table.skipped))
