"""nb compare, also installed as nb-compare: two images, or this program and the C program on the same flags."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobrag_torch.cli.nb.flags import (
    CONFIG_HELP,
    known_to_c,
    run_words,
    simulator_of,
    with_absolute_inputs,
    with_outputs,
    write_json,
)
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from nanobrag_torch.validation.images import Image

BELOW_THRESHOLD = 1
WORDS_HELP = "Two images of any kind that nb reads, or raw 32-bit floats; or after -- flags of the command nanoBragg."
C_BIN_HELP = "A compiled nanoBragg to run the flags through."


@dataclass(frozen=True)
class Images:
    """Two images, what they are, and the seconds it took to render them where they were rendered."""

    a: Image
    b: Image
    names: tuple[str, str]
    seconds: tuple[float, float] | None = None

    def plain(self) -> dict[str, Any]:
        """As plain data for JSON."""
        plain: dict[str, Any] = {"a": self.names[0], "b": self.names[1]}
        if self.seconds is not None:
            plain |= {"seconds_a": self.seconds[0], "seconds_b": self.seconds[1], "speed_ratio": self.speed_ratio}
        return plain

    @property
    def speed_ratio(self) -> float | None:
        """How many times faster b was made than a."""
        return None if self.seconds is None else self.seconds[0] / self.seconds[1]


def compare(
    words: Annotated[list[str] | None, typer.Argument(help=WORDS_HELP, metavar="A B | -- FLAGS")] = None,
    c_bin: Annotated[Path | None, typer.Option(help=C_BIN_HELP, envvar="NB_C_BIN")] = None,
    config: Annotated[str | None, typer.Option(help=CONFIG_HELP)] = None,
    shape: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Slow and fast pixels of raw float files; square without it.", metavar="SLOW FAST"),
    ] = None,
    shape_b: Annotated[
        tuple[int, int] | None, typer.Option(help="The same for B, when it differs.", metavar="SLOW FAST")
    ] = None,
    frame: Annotated[int, typer.Option(help="Which image, from 0, of files that hold several.")] = 0,
    roi: Annotated[
        tuple[int, int, int, int] | None,
        typer.Option(help="Compare these pixels alone, both ends included.", metavar="FMIN FMAX SMIN SMAX"),
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Bring B to the pixels of A by shared area, keeping its sum.")
    ] = False,
    threshold: Annotated[float, typer.Option(help="Correlation below which the exit code is 1.")] = 0.999,
    tolerance: Annotated[
        float, typer.Option(help="Difference, as a share of A's highest pixel, beyond which a pixel is counted.")
    ] = 1e-6,
    gate: Annotated[float, typer.Option(help="Largest distance of matched peaks (pixels).")] = 2.0,
    outdir: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html, metrics.json and pictures of images, difference and histogram."),
    ] = None,
) -> None:
    """Compare two images, or render one set of flags here and with the C program and compare those.

    Prints correlation, sum ratio, RMSE, the largest difference and where it is, the share of pixels beyond the
    tolerance, matched peaks with their position errors, and how much faster this program was. With --c-bin, A is the C
    program's image and B this program's; add -compat c to the flags to ask for the C program's image, defects included.

    Exit code 0 at or above the threshold, 1 below, 2 for bad input.
    """
    from nanobrag_torch.validation.compare import compare_images, metric_lines
    from nanobrag_torch.validation.images import cut, resampled
    from nanobrag_torch.validation.pages import write_comparison

    given = list(words or ())
    by_flags = config is not None or (bool(given) and given[0].startswith("-"))
    shapes = (shape, shape_b or (None if resample else shape))
    images = _rendered(given, config, c_bin) if by_flags else _read(given, shapes, frame)
    b = resampled(images.b, images.a.shape) if resample else images.b
    _same_shape(images.a, b)
    images = Images(cut(images.a, roi), cut(b, roi), images.names, images.seconds)
    origin = (0, 0) if roi is None else (roi[2], roi[0])
    metrics = compare_images(images.a, images.b, tolerance=tolerance, gate_px=gate, origin=origin)
    passed = metrics.correlation >= threshold
    print("\n".join(metric_lines(metrics)))
    if images.seconds is not None:
        print(f"seconds a, b           {images.seconds[0]:.3f} {images.seconds[1]:.3f}")
        print(f"speed ratio            {images.speed_ratio:.3f}")
    print(f"correlation {'at least' if passed else 'BELOW'} {threshold:g}")
    if outdir is not None:
        verdict = {"threshold": threshold, "passed": passed}
        plain = {**images.plain(), **metrics.plain(), **verdict}
        _write(outdir, images, plain, rendered=by_flags)
        write_comparison(outdir / "report.html", images.a, images.b, images.names, metrics, plain)
    if not passed:
        raise typer.Exit(BELOW_THRESHOLD)


def main(argv: Sequence[str] | None = None) -> int:
    """The command nb-compare."""
    from nanobrag_torch.cli.nb.app import main as nb

    return nb(["compare", *(sys.argv[1:] if argv is None else argv)])


def _read(paths: list[str], shapes: Sequence[tuple[int, int] | None], frame: int) -> Images:
    from nanobrag_torch.validation.images import read_image

    if len(paths) != 2:
        raise InputError("images", " ".join(paths) or "nothing", "two images, or flags of nanoBragg after --")
    a, b = (read_image(path, name, shape, frame) for path, name, shape in zip(paths, "AB", shapes, strict=True))
    return Images(a, b, (paths[0], paths[1]))


def _same_shape(a: Image, b: Image) -> None:
    if a.shape != b.shape:
        raise InputError("images", f"{a.shape} and {b.shape} pixels", "images of one shape, or --resample")


def _rendered(flags: list[str], config: str | None, c_bin: Path | None) -> Images:
    """The flags through the C program (a) and this one (b)."""
    import torch

    from nanobrag_torch.validation import cprogram

    if c_bin is None:
        raise InputError("--c-bin", "nothing", cprogram.HOW)
    if not c_bin.exists():
        raise InputError("--c-bin", str(c_bin), cprogram.HOW)
    with run_words(flags, config, text=True) as words, TemporaryDirectory(prefix="nb-compare-") as place:
        folder = Path(place)
        begun = time.perf_counter()
        simulator = simulator_of(words, dtype=None if "-dtype" in words else "float32")
        with torch.no_grad():
            ours = simulator.run().cpu().double().numpy()
        seconds = time.perf_counter() - begun
        line = with_outputs(with_absolute_inputs(known_to_c(words)), folder)
        _lend_dump_file(words, folder)
        shape = simulator.detector.image_shape
        theirs = cprogram.run_c_program(c_bin, line, folder, folder / "floatfile", shape)
    return Images(theirs.image, ours, ("C program", "nanobrag_torch"), (theirs.seconds, seconds))


def _lend_dump_file(words: Sequence[str], folder: Path) -> None:
    """The C program takes structure factors from Fdump.bin in its folder when no -hkl is given, as this one does."""
    dump = Path("Fdump.bin")
    if dump.exists() and not any("-hkl" in word for word in words if word.startswith("-")):
        (folder / dump.name).write_bytes(dump.read_bytes())


def _write(outdir: Path, images: Images, plain: dict[str, Any], *, rendered: bool) -> None:
    from nanobrag_torch.io.floatimage import write_float_image
    from nanobrag_torch.validation.compare import write_pictures

    try:
        outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("--outdir", str(outdir), f"a folder that can be made ({error.strerror})") from error
    if rendered:
        write_float_image(outdir / "a.bin", images.a, flag="--outdir")
        write_float_image(outdir / "b.bin", images.b, flag="--outdir")
    write_pictures(outdir, images.a, images.b, images.names)
    write_json(outdir / "metrics.json", plain, "--outdir")
