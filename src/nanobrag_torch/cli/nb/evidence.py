"""nb evidence: a bundle of files that shows what a run computed, and the check of such a bundle."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanobrag_torch.cli.nb.flags import FLAGS_HELP, RunOptions, input_files, run_words
from nanobrag_torch.cli.nb.option_groups import takes
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from nanobrag_torch.simulator import Simulator

FAILS = 1


@takes(RunOptions, "run")
def evidence(
    flags: Annotated[list[str] | None, typer.Argument(help=FLAGS_HELP, metavar="-- FLAGS")] = None,
    outdir: Annotated[Path | None, typer.Option(help="Folder to make, such as reports/NAME; new or empty.")] = None,
    verify: Annotated[Path | None, typer.Option(help="Check the files of this bundle against its sha256.txt.")] = None,
    *,
    run: RunOptions,
    pixel: Annotated[
        tuple[int, int] | None,
        typer.Option(
            help="Slow and fast index of the pixel to trace. Without it: that of the named scene, else the brightest of"
            " some thousand evenly spaced ones.",
            metavar="SLOW FAST",
        ),
    ] = None,
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
    _make(_Asked(outdir, flags or (), run, pixel, c, baseline, pytest))


def _verify(folder: Path) -> None:
    from nanobrag_torch.validation.checksums import verify_checksums

    same, problems = verify_checksums(folder)
    for problem in problems:
        print(problem)
    print(f"{same} files as written, {len(problems)} problems")
    if problems:
        raise typer.Exit(FAILS)


@dataclass(frozen=True)
class _Asked:
    """What the command line asked for."""

    outdir: Path
    flags: Sequence[str]
    run: RunOptions
    pixel: tuple[int, int] | None
    c: Path | None
    baseline: Path | None
    pytest: str | None

    def command(self) -> list[str]:
        """The command that asks for the same."""
        words = ["nb", "evidence", "--outdir", str(self.outdir), *self._scene()]
        if self.pixel is not None:
            words += ["--pixel", *map(str, self.pixel)]
        more = {"c": self.c, "baseline": self.baseline, "pytest": self.pytest}
        return [*words, *_given(more), *self._flags()]

    def trace_command(self, pixel: tuple[int, int]) -> list[str]:
        """The command that gives the trace alone."""
        words = ["nb", "trace", "--pixel", *map(str, pixel), "--emit-rot-stars", "--out", "trace.log"]
        return [*words, *self._scene(), *self._flags()]

    def _scene(self) -> list[str]:
        return _given(vars(self.run))

    def _flags(self) -> list[str]:
        return ["--", *self.flags] if self.flags else []


def _given(options: Mapping[str, object]) -> list[str]:
    """The words of options that were given."""
    values = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
    return [word for option, value in values if value is not None for word in (option, str(value))]


def _make(asked: _Asked) -> None:
    from nanobrag_torch.tracing.log import read_trace
    from nanobrag_torch.tracing.pixel import trace_pixel
    from nanobrag_torch.validation import evidence as bundle
    from nanobrag_torch.validation.scenes import named_scene
    from nanobrag_torch.validation.tracediff import compare_traces

    bundle.check_outdir(asked.outdir)
    before = None if asked.baseline is None else bundle.read_baseline(asked.baseline)
    reference = None if asked.c is None else read_trace(asked.c, "--c")
    begun = time.perf_counter()
    simulator, inputs = _simulator(asked)
    pixel = asked.pixel
    if pixel is None:
        named = asked.run.config
        pixel = bundle.brightest_pixel(simulator) if named is None else named_scene(named).pixel
    trace = trace_pixel(simulator, *pixel, rot_stars=True)
    checks = bundle.write_bundle(
        asked.outdir,
        bundle.Evidence(
            command=asked.command(),
            trace_command=asked.trace_command(pixel),
            pixel=pixel,
            trace=trace,
            device=str(simulator.device),
            seconds=time.perf_counter() - begun,
            reference=None if asked.c is None else str(asked.c),
            comparison=None if reference is None else compare_traces(trace, reference),
            baseline=before,
            tests=asked.pytest,
            inputs=inputs,
        ),
    )
    print("\n".join(map(str, checks)))
    print(f"bundle: {asked.outdir}")
    if any(check.holds is False for check in checks[:-1]):
        raise typer.Exit(FAILS)


def _simulator(asked: _Asked) -> tuple[Simulator, dict[str, str]]:
    """The simulator of the run, and the digests of its input files."""
    with run_words(asked.flags, asked.run.config) as words:
        inputs = input_files(words)
        simulator = asked.run.simulator(words)
    named = asked.run.config is not None  # its files were in a passing folder
    return simulator, {Path(name).name if named else name: digest for name, digest in inputs.items()}
