"""The drop-in command `noisify`: the C program's flags in, its images out; the default corrects its defects."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nanobrag_torch.cli.dropin import Command, check_places, correction_lines
from nanobrag_torch.cli.noisify.flags import FLAGS, SUBJECTS, NoisifyRequest, parse

if TYPE_CHECKING:
    from nanobrag_torch.cli.noisify.images import Images
    from nanobrag_torch.cli.noisify.scene import Scene

NAME = "noisify"
INTRODUCTION = """\
usage: noisify -floatfile floatimage.bin [flags]

Makes of an image in photons per pixel what a detector records.

  noisify floatimage.bin -detpixels 1024 -readout 3 -gain 2 -seed 1
  noisify floatimage.bin -header intimage.img -psf fiber -psf_fwhm 80
"""
NOTES = """\
Sensitivities of pixels differ by 3 % unless -calibration says otherwise. -compat c gives the C program's images, bit
for bit; without it its defects are corrected, and each correction that changed an image is named in one line. Exit code
2: bad input, one line on stderr, no file written.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, or 2 after one line on stderr for bad input, or 130 when interrupted."""
    return Command(NAME, INTRODUCTION, NOTES, FLAGS, SUBJECTS, _run).main(argv)


def _run(words: Sequence[str]) -> None:
    request = parse(words)
    check_places(output_files(request), {})
    from nanobrag_torch.cli.noisify.images import images_of, write_images
    from nanobrag_torch.cli.noisify.scene import read_scene

    scene = read_scene(request, clock=int(time.time()))
    begun = time.perf_counter()
    images = images_of(scene)
    seconds = time.perf_counter() - begun
    for line in _lines(scene, images):
        print(line)
    for warning in (*request.warnings, *images.warnings):
        print(f"{NAME}: warning: {warning}", file=sys.stderr)
    write_images(images, scene)
    print("\n".join(f"wrote {path}" for _, path in output_files(request)))
    print(f"{scene.photons.size} pixels in {seconds:.2f} s")


def output_files(request: NoisifyRequest) -> list[tuple[str, str]]:
    """Flag and path of every image that the run writes."""
    files = [("-intfile", request.intfile)]
    files += [("-pgmfile", request.pgmfile)] if request.write_pgm else []
    return files + ([("-noisefile", request.noisefile)] if request.write_noise else [])


def _lines(scene: Scene, images: Images) -> Iterator[str]:
    request = scene.request
    slow, fast = scene.photons.shape
    yield f"{fast} x {slow} pixels, at most {scene.photons.max():g} photons expected in one"
    if request.write_noise:
        yield f"seed {scene.seed}, detector {scene.calibration_seed}"
        if request.calibration:
            default = "" if "-calibration" in request.fired else ", the default; -calibration 0 turns it off"
            yield f"sensitivities of pixels differ by {100 * request.calibration:g} %{default}"
    yield from images.lines
    yield from correction_lines(images.corrections)
