"""From words to configurations: everything that can be refused is refused here, before anything is rendered."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nanobrag_torch import sampling
from nanobrag_torch.cli.nanobragg import settings
from nanobrag_torch.cli.nanobragg.ingest import Ingested, check_mask, ingest
from nanobrag_torch.cli.nanobragg.outputs import check_outputs
from nanobrag_torch.cli.nanobragg.parsing import apply_words, compat_of, last_value
from nanobrag_torch.cli.nanobragg.prepared import Prepared
from nanobrag_torch.cli.nanobragg.request import DRAWN, Request
from nanobrag_torch.cli.nanobragg.settings import Plane
from nanobrag_torch.cli.nanobragg.structure import structure_factors
from nanobrag_torch.compat import Compat
from nanobrag_torch.errors import InputError
from nanobrag_torch.memory import without_collecting
from nanobrag_torch.units import ANGSTROM, DEGREES_PER_RADIAN, SOURCE_DISTANCE_M

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nanobrag_torch.models.crystal import Crystal
    from nanobrag_torch.simulator import Simulator


LONGEST_WAVELENGTH_M = 1e-6
"""What is longer, in a table of X-ray sources, was meant in Angstrom."""


def prepare(words: Sequence[str], *, clock_seed: int | None = None, read: Request | None = None) -> Prepared:
    """Both passes over the command line, all input files and all automatic choices; no torch. Raises InputError.

    clock_seed: stands for the seeds that nobody gave; the clock's seconds unless given. read: what `read_words` made of
    the words, if they were read before.
    """
    compat = compat_of(words)
    ingested = ingest(words, as_c_finds=compat.close_distance_of_header_wins)
    request = read_words(words, ingested.request) if read is None or ingested.lines else read
    settings.check_request(request)
    check_outputs(request)
    seed = int(time.time()) if clock_seed is None else clock_seed
    return _choose(words, compat, ingested, _nearer(request, compat), seed)


def read_words(words: Sequence[str], headers: Request | None = None) -> Request:
    """The second pass alone, over what the headers said."""
    request = Request() if headers is None else replace(headers, stolfiles=[], fired=[], warnings=[])
    apply_words(request, words, compat_of(words), as_c_reads=last_value(words, "-compat") == "c")
    return request


def _nearer(request: Request, compat: Compat) -> Request:
    """A -distance on the line beats a CLOSE_DISTANCE from a header (D22)."""
    own = request.close_distance_mm is None or request.close_distance_on_line or not request.distance_on_line
    return request if own or compat.close_distance_of_header_wins else replace(request, close_distance_mm=None)


def _choose(words: Sequence[str], compat: Compat, ingested: Ingested, request: Request, clock_seed: int) -> Prepared:
    plane, scans = settings.plane_of(request), settings.scans_of(request, compat)
    check_mask(ingested.mask, plane.spixels, plane.fpixels)
    _check_profiles(request)
    _check_printout(request, plane)
    sources = source_table(request, in_c=compat.equal_sources)
    table = structure_factors(request, stop_at_text=compat.hkl_stops_at_text)
    misset = request.misset_deg if request.misset_choice == "angles" else None
    stars = _stars(request)
    return Prepared(
        words=words,
        compat=compat,
        headers=ingested.request,
        request=request,
        plane=plane,
        scans=scans,
        structure=table,
        sources=sources,
        crystal=settings.crystal_config(request, scans, stars, misset or (0.0, 0.0, 0.0), table.count),
        detector=settings.detector_config(request, plane, ingested.mask),
        beam=settings.beam_config(request, scans, source_fields(sources)),
        lines=ingested.lines,
        clock_seed=clock_seed,
    )


def _check_profiles(request: Request) -> None:
    """The -stol files change nothing, but the C program refuses to run without them."""
    from nanobrag_torch.io.atomic import read_input

    for flag, path in request.stolfiles:
        read_input(path, flag, "a readable file that is not empty")


def _check_printout(request: Request, plane: Plane) -> None:
    accepted = f"fast 0 to {plane.fpixels - 1}, slow 0 to {plane.spixels - 1}"
    for flag, fast, slow in (
        ("-printout_pixel", request.printout_f, request.printout_s),
        ("-trace_pixel", request.trace_f, request.trace_s),
    ):
        if fast is not None and slow is not None and not (0 <= fast < plane.fpixels and 0 <= slow < plane.spixels):
            raise InputError(flag, f"fast {fast}, slow {slow}", accepted)


def _stars(request: Request) -> list[list[float]] | None:
    """Reciprocal vectors of -mat (1/Angstrom)."""
    if request.matfile is None:
        return None
    from nanobrag_torch.io.mosflm import read_mosflm_matrix

    return [star.tolist() for star in read_mosflm_matrix(request.matfile, request.lambda_A)]


def source_table(request: Request, *, in_c: bool = False) -> NDArray[np.float64] | None:
    """The table X Y Z I lambda(m) of -sourcefile with its defaults filled in (4.2).

    in_c: intensities and wavelengths that no source has are taken, as the C program takes them.
    """
    if request.sourcefile is None:
        return None
    from nanobrag_torch.io.source import with_defaults
    from nanobrag_torch.io.sourcefile import read_sourcefile

    far = [-SOURCE_DISTANCE_M * x for x in settings.beam_direction(request)]
    table = with_defaults(read_sourcefile(request.sourcefile), far, request.lambda_A * ANGSTROM)
    if not table[:, :3].any(1).all():
        raise InputError("-sourcefile", request.sourcefile, "sources that are not at the sample (0 0 0)")
    if not in_c and (table[:, 4] > LONGEST_WAVELENGTH_M).any():
        longest = f"wavelength {table[:, 4].max():g} m"
        raise InputError(f"-sourcefile {request.sourcefile}", longest, "metres in the fifth column, such as 1e-10")
    if (table[:, 3] < 0).any() or not table[:, 3].sum() > 0:
        raise InputError("-sourcefile", request.sourcefile, "intensities from 0 up, one above 0 at least")
    return table


def source_fields(sources: NDArray[np.float64] | None) -> dict[str, Any]:
    """The table as fields of BeamConfig; none without one."""
    if sources is None:
        return {}
    return {
        "source_directions": sources[:, :3].copy(),
        "source_wavelengths": sources[:, 4] / ANGSTROM,
        "source_weights": sources[:, 3].copy(),
    }


def misset_deg(prepared: Prepared) -> tuple[float, float, float]:
    """The misset angles of the run, drawn where they are random (9.4)."""
    choice = prepared.request.misset_choice
    if choice not in DRAWN:
        x, y, z = prepared.crystal.misset_deg
        return float(x), float(y), float(z)
    from nanobrag_torch.c_random import Streams, misset_angles, uniform_misset_angles

    state = -prepared.misset_seed
    angles = misset_angles(Streams(), state) if choice == "random" else uniform_misset_angles(state)
    return (angles[0] * DEGREES_PER_RADIAN, angles[1] * DEGREES_PER_RADIAN, angles[2] * DEGREES_PER_RADIAN)


def build(prepared: Prepared) -> Simulator:
    """The models and the simulator of a run. Imports torch. Raises InputError for an unusable device."""
    with without_collecting():
        import torch

        from nanobrag_torch.cli.nanobragg.settled import SettledSimulator
        from nanobrag_torch.models.crystal import Crystal
        from nanobrag_torch.models.detector import Detector

    request, dtype = prepared.request, getattr(torch, prepared.request.dtype)
    device = _device(request.device)
    config = prepared.crystal
    if request.misset_choice in DRAWN:
        config = replace(config, misset_deg=misset_deg(prepared))
    crystal = Crystal(config, dtype=dtype, device=device)
    sizes = settings.sample_sizes(request)
    if any(size > 0 for size in sizes):
        crystal = Crystal(replace(config, N_cells=_cells(crystal, sizes, prepared)), dtype=dtype, device=device)
    _attach(crystal, prepared)
    return SettledSimulator(
        crystal,
        Detector(prepared.detector, dtype=dtype, device=device),
        beam_config=prepared.beam,
        compat=prepared.compat,
        kernel=request.kernel,
        dtype=dtype,
        device=device,
        threads=request.threads,
        tolerance=request.tolerance,
    )


def _device(name: str) -> Any:
    from nanobrag_torch.devices import checked_device

    device = checked_device(name, "-device")
    if device.type not in ("cpu", "cuda"):
        raise InputError("-device", name, "cpu, cuda or cuda:N")
    return device


def _cells(crystal: Crystal, sizes: Sequence[float], prepared: Prepared) -> tuple[int, ...]:
    """Unit cells that fill the sample (6.4)."""
    rows = crystal.cell(prepared.compat)[0].tolist()
    lengths = [math.hypot(*row) * ANGSTROM for row in rows]
    given = [int(n) for n in prepared.crystal.N_cells]
    return tuple(sampling.cells_along(*row) for row in zip(sizes, given, lengths, strict=True))


def _attach(crystal: Crystal, prepared: Prepared) -> None:
    import torch

    if prepared.structure.grid is not None:
        crystal.hkl_data = torch.from_numpy(prepared.structure.grid)
        crystal.hkl_metadata = prepared.structure.metadata
    share_random_state(crystal, prepared)


def share_random_state(crystal: Crystal, prepared: Prepared) -> None:
    """A mosaic stream with a seed that is not positive goes on with the table that a random misset left (D50)."""
    from nanobrag_torch.c_random import Streams, misset_angles

    if prepared.crystal.mosaic_seed > 0 and prepared.request.misset_choice == "random":
        crystal.streams = Streams()
        misset_angles(crystal.streams, -prepared.misset_seed)
