"""The files of a run: where they go, whether they can be written, and writing them all or none (section 10)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanobrag_torch.cli.dropin import check_places
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import OutputFile, OutputSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nanobrag_torch.cli.nanobragg.prepared import Prepared
    from nanobrag_torch.io.smv import SmvHeader
    from nanobrag_torch.records.statistics import ImageStatistics, Roi
    from nanobrag_torch.response.serial_noise import NoiseImage
    from nanobrag_torch.simulator import Simulator


def output_files(request: Request) -> list[tuple[str, str]]:
    """Flag and path of every image that the run writes, in the C program's order."""
    files = [("-floatfile", request.floatfile), ("-intfile", request.intfile)]
    if request.write_pgm:
        files.append(("-pgmfile", request.pgmfile))
    if request.write_noise:
        files.append(("-noisefile", request.noisefile))
    if request.pngfile is not None:
        files.append(("-pngfile", request.pngfile))
    return files


def input_files(request: Request) -> list[str]:
    """Path of every file that the flags name for reading; the dump file is none of them."""
    named = [request.hklfile, request.matfile, request.imgfile, request.maskfile, request.sourcefile]
    return [path for path in named if path is not None] + [path for _, path in request.stolfiles]


def check_outputs(request: Request) -> None:
    """Raise InputError for an output that cannot be written, is named twice, or is an input as well."""
    taken = {os.path.realpath(path): "an input file" for path in input_files(request)}
    dump = os.path.realpath(request.dumpfile)
    if request.hklfile is not None and dump in taken:
        raise InputError("-dump", request.dumpfile, "a name of its own, not that of an input file")
    taken[dump] = "the dump file"
    check_places(output_files(request), taken)


@dataclass(frozen=True)
class Results:
    """Everything that is made of an image (slow, fast) before any of it is written."""

    image: NDArray[np.float32]
    statistics: ImageStatistics
    int_scale: float
    counts: NDArray[np.uint16]
    pgm_scale: float
    grey: NDArray[np.uint8] | None
    noise: NoiseImage | None


def results_of(image: NDArray[np.float32], prepared: Prepared) -> Results:
    """Statistics, integer image, picture and noise (8.4 and 10.2 to 10.5). Raises InputError for non-finite pixels."""
    import numpy as np

    from nanobrag_torch.records import statistics

    if not np.isfinite(image).all():  # finite in float64 perhaps, but files hold float32
        raise InputError("image", "not finite", "parameters that give finite pixels")
    request, roi = prepared.request, region_of(prepared)
    mask = prepared.detector.mask_array
    numbers = statistics.image_statistics(image, roi=roi, mask=None if mask is None else mask != 0)
    int_scale = statistics.integer_scale(numbers.max_I, request.scale)
    pgm_scale = statistics.pgm_scale(numbers.rmsd, int_scale, request.pgmscale)
    return Results(
        image=image,
        statistics=numbers,
        int_scale=int_scale,
        counts=statistics.integer_counts(image, int_scale, request.adc, roi=roi),
        pgm_scale=pgm_scale,
        grey=statistics.grey_bytes(image, pgm_scale, roi=roi) if request.write_pgm else None,
        noise=_noise(image, prepared, roi) if request.write_noise else None,
    )


def region_of(prepared: Prepared) -> Roi:
    """First and last fast pixel, first and last slow pixel, inclusive."""
    detector = prepared.detector
    bounds = (detector.roi_xmin, detector.roi_xmax, detector.roi_ymin, detector.roi_ymax)
    f0, f1, s0, s1 = (0 if bound is None else bound for bound in bounds)
    return f0, f1, s0, s1


def _noise(image: NDArray[np.float32], prepared: Prepared, roi: Roi) -> NoiseImage:
    """Counting noise, from a random state that misset and mosaic domains have passed through as in the C program."""
    from nanobrag_torch.c_random import Streams, misset_angles, random_axes
    from nanobrag_torch.response.serial_noise import noise_counts

    streams = Streams()
    if prepared.noise_seed <= 0:  # such a stream goes on with the table that others left (D50)
        if prepared.request.misset_choice == "random":
            misset_angles(streams, -prepared.misset_seed)
        random_axes(streams, prepared.crystal.mosaic_seed, prepared.scans.mosaic_domains)
    return noise_counts(image, streams, -prepared.noise_seed, adc=prepared.request.adc, roi=roi)


def write_results(results: Results, prepared: Prepared, simulator: Simulator) -> list[tuple[str, int]]:
    """Write every image, all or none, and name each file with its size in bytes. Raises InputError."""
    from nanobrag_torch.io.floatimage import write_float_image
    from nanobrag_torch.io.pgm import write_pgm_bytes
    from nanobrag_torch.io.smv import format_header, write_smv_image

    header = format_header(smv_header(prepared, simulator))
    with OutputSet() as outputs:
        files = {flag: outputs.open(path, flag) for flag, path in output_files(prepared.request)}
        write_float_image(files["-floatfile"], results.image)
        write_smv_image(files["-intfile"], results.counts, header, flag="-intfile")
        if results.grey is not None:
            write_pgm_bytes(files["-pgmfile"], results.grey, results.pgm_scale)
        if results.noise is not None:
            write_smv_image(files["-noisefile"], results.noise.counts, header, flag="-noisefile")
        if "-pngfile" in files:
            _write_png(files["-pngfile"], results, simulator)
    return [(path, _size(path)) for _, path in output_files(prepared.request)]


def _size(path: str) -> int:
    return Path(path).stat().st_size


def _write_png(target: OutputFile, results: Results, simulator: Simulator) -> None:
    import numpy as np

    from nanobrag_torch.io.picture import ResolutionMap, write_picture

    geometry, shape = simulator.geometry, results.image.shape
    panel, size = geometry.panels[0].cpu().numpy(), geometry.pixel_size[0].cpu().numpy()
    slow, fast = (np.linspace(0, count, 201) for count in shape)
    positions = panel[0] + (fast[None, :, None] * size[0]) * panel[1] + (slow[:, None, None] * size[1]) * panel[2]
    wavelength_A = float(simulator.beam.config.wavelength_A)
    rings = ResolutionMap.from_positions(fast, slow, positions, geometry.beam.cpu().numpy(), wavelength_A)
    beam_pixel = beam_spot(panel, size, geometry.beam.cpu().numpy())
    title = f"nanoBragg, {wavelength_A:g} Å, detector at {1000 * float(geometry.distance):.5g} mm"
    write_picture(target, results.image, title=title, beam_pixel=beam_pixel, resolution=rings)


def beam_spot(
    panel: NDArray[np.float64], size: NDArray[np.float64], beam: NDArray[np.float64]
) -> tuple[float, float] | None:
    """Fast and slow pixel where the direct beam hits a panel [origin, fast, slow, normal]; None when it does not."""
    origin, fast, slow, normal = panel
    towards = beam @ normal
    distance = (origin @ normal) / towards if towards != 0 else -1.0
    if distance <= 0:
        return None
    offset = distance * beam - origin
    return float(offset @ fast / size[0]), float(offset @ slow / size[1])


def smv_header(prepared: Prepared, simulator: Simulator) -> SmvHeader:
    """The values of the SMV header (10.3): the placed detector, and the beam centre that was asked for."""
    from nanobrag_torch.io.smv import SmvHeader

    geometry, plane, request = simulator.geometry, prepared.plane, prepared.request
    x, y, z = geometry.panels[0, 0].tolist()
    return SmvHeader(
        fpixels=plane.fpixels,
        spixels=plane.spixels,
        pixel_size=plane.pixel,
        distance=float(geometry.distance),
        close_distance=float(geometry.close_distance),
        wavelength=request.lambda_A * 1e-10,
        xbeam=plane.Xbeam,
        ybeam=plane.Ybeam,
        fbeam=float(geometry.Fbeam),
        sbeam=float(geometry.Sbeam),
        detsize_s=plane.ssize,
        dials_origin_mm=(1000.0 * z, 1000.0 * y, -1000.0 * x),
        orgx=float(geometry.Fclose) / plane.pixel + 0.5,
        orgy=float(geometry.Sclose) / plane.pixel + 0.5,
        phi_deg=request.phi_deg,
        osc_deg=prepared.scans.phi.range,
        twotheta_deg=request.twotheta_deg,
    )


def write_dump(prepared: Prepared) -> str | None:
    """Keep the structure factors for the next run, as the C program does; a warning when that is not possible."""
    from nanobrag_torch.io.dump import write_dump_file

    structure, path = prepared.structure, prepared.request.dumpfile
    if structure.from_dump or structure.grid is None or structure.metadata is None:
        return None
    try:
        write_dump_file(path, structure.grid, structure.metadata)
    except InputError as error:
        return f"the dump file is not written: {error}"
    return None


def written_lines(files: Sequence[tuple[str, int]]) -> Iterator[str]:
    """One line a file."""
    for path, size in files:
        yield f"wrote {path} ({size} bytes)"
