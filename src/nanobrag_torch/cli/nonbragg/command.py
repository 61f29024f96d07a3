"""The drop-in command `nonBragg`: the C program's flags in, its images out; the default corrects its defects."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nanobrag_torch.cli.dropin import Command, check_places, correction_lines
from nanobrag_torch.cli.nonbragg.flags import FLAGS, SUBJECTS, NonBraggRequest, parse
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nanobrag_torch.cli.nonbragg.scene import Scene

NAME = "nonBragg"
INTRODUCTION = """\
usage: nonBragg -stol FILE [flags]

Renders what an amorphous material scatters, in photons per pixel.

  nonBragg -stol water.stol -flux 1e12 -exposure 0.1 -beamsize 0.05 -thick 0.1 -distance 100
  nonBragg -stol air.stol -thick 30 -density 1.2e-3 -MW 14
"""
NOTES = """\
-compat c gives the C program's image; without it its defects are corrected, and each correction that changed an image
is named in one line. Exit code 2: bad input, one line on stderr, no file written.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, or 2 after one line on stderr for bad input, or 130 when interrupted."""
    return Command(NAME, INTRODUCTION, NOTES, FLAGS, SUBJECTS, _run).main(argv)


def _run(words: Sequence[str]) -> None:
    from nanobrag_torch.cli.nanobragg.parsing import compat_of

    request = parse(words)
    check_places(output_files(request), {})
    from nanobrag_torch.cli.nonbragg.scene import prepare, rendered

    scene = prepare(request, compat_of(words))
    for warning in (*request.warnings, *_warnings(scene)):
        print(f"{NAME}: warning: {warning}", file=sys.stderr)
    if request.image is not None:
        from nanobrag_torch.cli.nonbragg.inversion import measure

        print(measure(scene))
    if scene.table is None:
        return
    begun = time.perf_counter()
    image = rendered(scene)
    seconds = time.perf_counter() - begun
    for line in (*_lines(scene), *_write(image, scene)):
        print(line)
    print(f"{image.size} pixels in {seconds:.2f} s")


def output_files(request: NonBraggRequest) -> list[tuple[str, str]]:
    """Flag and path of every file that the run writes."""
    files = [("-stolout", request.stolout)] if request.image is not None else []
    if request.stolfile is None:
        return files
    files += [("-floatfile", request.floatfile), ("-intfile", request.intfile)]
    files += [("-pgmfile", request.pgmfile)] if request.write_pgm else []
    return files + ([("-noisefile", request.noisefile)] if request.write_noise else [])


def _warnings(scene: Scene) -> Iterator[str]:
    beam = scene.request.beamsize_mm
    for flag, size in (("-width", scene.request.sample_y_mm), ("-heigh", scene.request.sample_z_mm)):
        if size > beam >= 0:
            yield f"the sample's {flag} {size:g} mm is clipped to the beam, -beamsize {beam:g} mm"
    total, count = float(scene.source.intensities.sum()), scene.source.intensities.numel()
    if abs(total / count - 1) > 1e-9:
        yield f"source intensities are taken as they are: {total / count:g} on average"
    if scene.unsorted and scene.request.compat == "c":
        yield "rows of the profile are out of order: a pixel depends on the one before it"


def _lines(scene: Scene) -> Iterator[str]:
    request = scene.request
    x, y, z = scene.size
    yield f"{scene.molecules:g} molecules in {x:g} x {y:g} x {z:g} m, {scene.fluence:g} photons/m^2"
    slow, fast = scene.detector.image_shape
    sources = len(scene.source.wavelengths)
    yield f"{fast} x {slow} pixels, {request.oversample} sub-pixels along an edge, {sources} sources"


def _write(image: NDArray[np.float32], scene: Scene) -> Iterator[str]:
    """Write every file, all or none; lines about them."""
    import numpy as np

    from nanobrag_torch.c_random import Streams
    from nanobrag_torch.cli.nonbragg.scene import header
    from nanobrag_torch.io.atomic import OutputSet
    from nanobrag_torch.io.floatimage import write_float_image
    from nanobrag_torch.io.pgm import write_pgm_bytes
    from nanobrag_torch.io.smv import write_smv_image
    from nanobrag_torch.records import statistics
    from nanobrag_torch.response.serial_noise import noise_counts

    if not np.isfinite(image).all():
        raise InputError("image", "not finite", "parameters that give finite pixels")
    request, config = scene.request, scene.detector.config
    changed = _corrections(image, scene)
    image = np.maximum(image, np.float32(0)) if "R9" in changed else image
    roi = (config.roi_xmin or 0, config.roi_xmax or 0, config.roi_ymin or 0, config.roi_ymax or 0)
    numbers = statistics.image_statistics(image, roi=roi)
    scale = statistics.integer_scale(numbers.max_I, request.scale)
    grey_scale = statistics.pgm_scale(numbers.rmsd, scale, request.pgmscale)
    text, seed = header(scene), int(time.time()) if request.seed is None else request.seed
    yield f"max_I = {numbers.max_I:g}, mean = {numbers.mean:g}, rms = {numbers.rms:g}, rmsd = {numbers.rmsd:g}"
    with OutputSet() as outputs:
        files = {flag: outputs.open(path, flag) for flag, path in output_files(request) if flag != "-stolout"}
        write_float_image(files["-floatfile"], image)
        write_smv_image(files["-intfile"], statistics.integer_counts(image, scale, request.adc, roi=roi), text)
        if request.write_pgm:
            write_pgm_bytes(files["-pgmfile"], statistics.grey_bytes(image, grey_scale, roi=roi), grey_scale)
        if request.write_noise:
            noise = noise_counts(image, Streams(), -seed, adc=request.adc, roi=roi)
            write_smv_image(files["-noisefile"], noise.counts, text, flag="-noisefile")
            yield f"{noise.photons:.0f} photons on noise image ({noise.overloads} overloads), seed {seed}"
    yield from correction_lines(changed)
    yield from (f"wrote {path}" for flag, path in output_files(request))


def _corrections(image: NDArray[np.float32], scene: Scene) -> list[str]:
    if scene.request.compat == "c":
        return []
    negative = not scene.request.amplitude_alone and bool((image < 0).any())
    return [name for name, felt in (("R8", scene.unsorted), ("R9", negative)) if felt]
