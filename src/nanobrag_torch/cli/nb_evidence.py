"""nb evidence: a bundle of files that shows what a run computed, and the check of such a bundle."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from nanobrag_torch.cli.nb_flags import CONFIG_HELP, FLAGS_HELP, input_files, run_words, simulator_of
from nanobrag_torch.errors import InputError

FAILS = 1


def evidence(
    flags: Annotated[list[str] | None, typer.Argument(help=FLAGS_HELP, metavar="-- FLAGS")] = None,
    outdir: Annotated[Path | None, typer.Option(help="Folder to make, such as reports/NAME; new or empty.")] = None,
    verify: Annotated[Path | None, typer.Option(help="Check the files of this bundle against its sha256.txt.")] = None,
    config: Annotated[str | None, typer.Option(help=CONFIG_HELP)] = None,
    pixel: Annotated[
        tuple[int, int] | None,
        typer.Option(
            help="Slow and fast index of the pixel to trace. Without it: that of the named scene, else the brightest of"
            " some thousand evenly spaced ones.",
            metavar="SLOW FAST",
        ),
    ] = None,
    phi_mode: Annotated[
        str | None,
        typer.Option(help="Orientation at phi = 0: spec rotates afresh, c-parity keeps that of the step before."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float64 (the default) or float32.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    c: Annotated[
        Path | None, typer.Option("--c", help="A trace to hold this one against: a TRACE_C or TRACE_PY log, or JSON.")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="An earlier bundle; summary.md shows before and after.")] = None,
    pytest: Annotated[
        str | None, typer.Option(help="Tests to run, as pytest selects them; their output is kept.")
    ] = None,
) -> None:
    """Make a bundle that someone else can audit, or check one with --verify.

    It holds the trace of one pixel and of every phi step, metrics.json, summary.md, env.json, git_sha.txt,
    git_status.txt (clean or dirty), commands.txt with every step, working folder and environment variables, a README.md
    with key metrics and sign-off criteria, and sha256.txt over all of it.

    Exit code 0; 1 when a sign-off criterion or the verification fails (an unclean checkout is only noted); 2 for bad
    input.
    """
    if verify is not None:
        _verify(verify)
        return
    if outdir is None:
        raise InputError("--outdir", "nothing", "a folder for the bundle, or --verify DIR to check one")
    _make(outdir, flags, config, pixel, (phi_mode, dtype, device), c, baseline, pytest)


def _verify(folder: Path) -> None:
    from nanobrag_torch.validation.checksums import verify_checksums

    same, problems = verify_checksums(folder)
    for problem in problems:
        print(problem)
    print(f"{same} files as written, {len(problems)} problems")
    if problems:
        raise typer.Exit(FAILS)


def _make(
    outdir: Path,
    flags: list[str] | None,
    config: str | None,
    pixel: tuple[int, int] | None,
    settings: tuple[str | None, str | None, str | None],
    c: Path | None,
    baseline: Path | None,
    tests: str | None,
) -> None:
    from nanobrag_torch.validation import evidence as bundle
    from nanobrag_torch.validation.scenes import named_scene
    from nanobrag_torch.validation.trace import trace_pixel
    from nanobrag_torch.validation.tracediff import compare_traces
    from nanobrag_torch.validation.tracelog import read_trace

    bundle.check_outdir(outdir)
    before = None if baseline is None else bundle.read_baseline(baseline)
    reference = None if c is None else read_trace(c, "--c")
    begun = time.perf_counter()
    with run_words(flags, config) as words:
        inputs = input_files(words)
        if config is not None:
            inputs = {Path(name).name: digest for name, digest in inputs.items()}
        simulator = simulator_of(words, phi_mode=settings[0], dtype=settings[1], device=settings[2])
    if pixel is None:
        pixel = named_scene(config).pixel if config is not None else bundle.brightest_pixel(simulator)
    trace = trace_pixel(simulator, *pixel, rot_stars=True)
    checks = bundle.write_bundle(
        outdir,
        bundle.Evidence(
            command=["nb", *sys.argv[1:]],
            trace_command=_trace_command(pixel, config, flags, settings),
            pixel=pixel,
            trace=trace,
            device=str(simulator.device),
            seconds=time.perf_counter() - begun,
            reference=None if c is None else str(c),
            comparison=None if reference is None else compare_traces(trace, reference),
            baseline=before,
            tests=tests,
            inputs=inputs,
        ),
    )
    print("\n".join(map(str, checks)))
    print(f"bundle: {outdir}")
    if any(check.holds is False for check in checks[:-1]):
        raise typer.Exit(FAILS)


def _trace_command(
    pixel: tuple[int, int],
    config: str | None,
    flags: Sequence[str] | None,
    settings: tuple[str | None, str | None, str | None],
) -> list[str]:
    words = ["nb", "trace", "--pixel", str(pixel[0]), str(pixel[1]), "--emit-rot-stars", "--out", "trace.log"]
    for option, value in zip(("--config", "--phi-mode", "--dtype", "--device"), (config, *settings), strict=True):
        words += [] if value is None else [option, value]
    return [*words, "--", *flags] if flags else words
