"""The drop-in command `nanoBragg`: the C program's flags in, its images and its printed lines out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nanobrag_torch.cli.boundary import exit_code
from nanobrag_torch.cli.nanobragg.help import help_text, version_text
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nanobrag_torch.cli.nanobragg.prepared import Prepared
    from nanobrag_torch.cli.nanobragg.request import Request
    from nanobrag_torch.cli.progress import Report
    from nanobrag_torch.simulator import Simulator

NAME = "nanoBragg"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, or 2 after one line on stderr for bad input, or 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(NAME, lambda: _run(words), in_words=_in_flags)


def _in_flags(error: InputError) -> str:
    from nanobrag_torch.cli.nanobragg.settings import in_flags

    return str(in_flags(error))


def _run(words: Sequence[str]) -> int:
    for texts, text in ((("-h", "-help", "--help"), help_text), (("--version",), version_text)):
        if any(word in texts for word in words):
            print(text().rstrip())
            return 0
    if "-batch" in words:
        from nanobrag_torch.cli.nanobragg.batch import run_batch

        return run_batch(words, _run_once)
    if "-resume" in words:
        raise InputError("-resume", "no -batch", "-batch FILE beside it")
    return _run_once(words)


def _run_once(
    words: Sequence[str],
    *,
    clock_seed: int | None = None,
    report: Report | None = None,
    read: Request | None = None,
) -> int:
    """One image. clock_seed: for seeds that nobody gave. report: takes the fraction done, in place of a meter. read:
    what the words said, if that is known."""
    from nanobrag_torch.cli.nanobragg.prepare import build, prepare
    from nanobrag_torch.cli.nanobragg.warnings import ineffective

    prepared = prepare(words, clock_seed=clock_seed, read=read)
    simulator = build(prepared)
    warnings = [*prepared.request.warnings, *ineffective(prepared)]
    _announce(prepared, simulator, warnings)
    _render_and_write(prepared, simulator, report)
    return 0


def _announce(prepared: Prepared, simulator: Simulator, warnings: Sequence[str]) -> None:
    """Print what is known before rendering; computed as a whole first, so that an error stands alone."""
    from nanobrag_torch.cli.nanobragg.corrections import correction_lines, scene_of
    from nanobrag_torch.cli.nanobragg.echo import configuration_lines
    from nanobrag_torch.cli.nanobragg.report import opening_lines

    lines = [*opening_lines(prepared, simulator), *correction_lines(scene_of(prepared, simulator))]
    if prepared.request.show_config:
        lines += configuration_lines(simulator)
    for warning in warnings:
        print(f"{NAME}: warning: {warning}", file=sys.stderr)
    print("\n".join(lines), flush=True)


def _render_and_write(prepared: Prepared, simulator: Simulator, report: Report | None) -> None:
    from nanobrag_torch.cli.nanobragg import outputs
    from nanobrag_torch.cli.nanobragg.printout import printout_lines, trace_lines
    from nanobrag_torch.cli.nanobragg.report import closing_lines, speed_line
    from nanobrag_torch.cli.nanobragg.solid_angle import reported_solid_angle

    image, seconds = _rendered(prepared, simulator, report)
    results = outputs.results_of(image, prepared)
    files = outputs.write_results(results, prepared, simulator)
    complaint = outputs.write_dump(prepared)
    if complaint is not None:
        print(f"{NAME}: warning: {complaint}", file=sys.stderr)
    lines = [
        *printout_lines(image, prepared, simulator),
        *trace_lines(prepared.request, simulator),
        *closing_lines(results, prepared, simulator, reported_solid_angle(simulator)),
        *outputs.written_lines(files),
    ]
    if prepared.request.tolerance > 0:
        lines.append(f"left out: at most {prepared.request.tolerance:g} photons of any pixel (-tolerance)")
    if line := simulator.fewer_samples_line():
        lines.append(line)
    wanted = simulator.detector.pixels()
    lines.append(speed_line(seconds, image.size if wanted is None else wanted.numel(), simulator.steps))
    print("\n".join(lines), flush=True)


def _rendered(prepared: Prepared, simulator: Simulator, report: Report | None) -> tuple[NDArray[np.float32], float]:
    """The image (slow, fast) and the seconds that it took."""
    import torch

    from nanobrag_torch.cli.nanobragg.prepare import share_random_state
    from nanobrag_torch.cli.progress import progress_meter

    share_random_state(simulator.crystal, prepared)  # what was printed before may have drawn from it
    begun = time.perf_counter()
    with progress_meter(prepared.request.progress and report is None) as meter, torch.no_grad():
        image = simulator.run(progress=meter if report is None else report)
    array: NDArray[np.float32] = image.to("cpu", torch.float32).numpy()
    return array, time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
