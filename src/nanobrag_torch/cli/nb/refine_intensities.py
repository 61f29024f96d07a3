"""`nb refine-intensities` and `nb merge`: intensities that all shots of a folder share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from nanobrag_torch.cli.nb.option_groups import takes
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from nanobrag_torch.refinement.intensities import Request
    from nanobrag_torch.refinement.reducers import Reducer
    from nanobrag_torch.workers import Place

MOST_AGAIN = 2
"""How often a killed process is started again."""
Folder = Annotated[Path, typer.Argument(help="The folder that nb refine has left.")]
Factors = Annotated[Path, typer.Option("-F", "--structure-factors", help="Where intensities start (MTZ, CIF).")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")]
Column = Annotated[str | None, typer.Option(help="Column of the structure factors.")]
Anomalous = Annotated[bool, typer.Option("--anomalous", help="Friedel mates have intensities of their own.")]
SigmaF = Annotated[str, typer.Option("--sigma-F", help="How wrong F may be: one number, one a shell by commas, inf.")]
Wilson = Annotated[bool, typer.Option("--wilson", help="Wilson's distribution as a prior, too.")]
Friedel = Annotated[float | None, typer.Option(help="How much F of Friedel mates differ, relative; default: freely.")]
ShellMeans = Annotated[float | None, typer.Option(help="How far the mean of a shell may move, relative.")]
Shells = Annotated[int, typer.Option(help="Shells of the statistics.")]
Workers = Annotated[int, typer.Option(help="Processes of this machine, of one thread each.")]
How = Annotated[str, typer.Option("--reducer", help="How processes add up: auto, torch (torchrun), files.")]
Part = Annotated[str | None, typer.Option(help="Which of how many processes with --reducer files, as 3/8 from 1.")]


@dataclass(frozen=True)
class Shared:
    """What both verbs ask: which intensities, what is known of them, and who works."""

    column: Column = None
    anomalous: Anomalous = False
    wilson: Wilson = False
    friedel: Friedel = None
    shell_means: ShellMeans = None
    shells: Shells = 10
    workers: Workers = 1
    reducer: How = "auto"
    part: Part = None


@takes(Shared, "shared")
def refine_intensities(
    folder: Folder,
    structure_factors: Factors,
    output: Output,
    sigma_f: SigmaF = "0.2",
    most_steps: Annotated[int, typer.Option("--max-steps", help="At most so many steps.")] = 12,
    *,
    shared: Shared,
) -> None:
    """Refine the intensities that all shots share, and every shot with them."""
    _shared({**locals(), **vars(shared), "held": False})


@takes(Shared, "shared")
def merge(
    folder: Folder, structure_factors: Factors, output: Output, sigma_f: SigmaF = "inf", *, shared: Shared
) -> None:
    """The quick look: intensities of all shots in one linear solve, every shot held as it was refined alone."""
    _shared({**locals(), **vars(shared), "held": True, "most_steps": 0})


def _shared(given: dict[str, Any]) -> None:
    from nanobrag_torch.refinement.intensities import run

    request = _request(given)
    with company(given["workers"], given["part"], given["reducer"], request) as (place, reducer):
        found = run(request, place, reducer)
        code = 0
        if place.rank == 0:
            code = _finish(found, request.output, given["shells"])
    if code:
        raise typer.Exit(code)


class Asked(Protocol):
    """What a verb asks of the shots of a folder."""

    @property
    def output(self) -> Path:
        """The folder for the results."""

    def job(self) -> str:
        """A fingerprint of what decides them."""


@contextmanager
def company(workers: int, part: str | None, how: str, request: Asked) -> Iterator[tuple[Place, Reducer]]:
    """Where this process stands among those that do the same, and how they add up; the output is theirs meanwhile.

    With several workers this process only starts and watches them, and ends with their exit code.
    """
    from nanobrag_torch.io.ownership import owned_folder
    from nanobrag_torch.refinement.intensities import reducer_for
    from nanobrag_torch.refinement.reducers import Files
    from nanobrag_torch.workers import Place, end_with_launcher, joined

    job = request.job()
    if workers > 1:
        with owned_folder(request.output, job):
            raise typer.Exit(launched(workers))
    import torch

    end_with_launcher()
    torch.set_num_threads(1)
    place = place_of(part, how)
    rank = place.rank if place.size > 1 else None
    with owned_folder(request.output, job, rank=rank), joined(place if how != "files" else Place()):
        reducer = reducer_for(how, request.output, job, place)
        if isinstance(reducer, Files) and reducer.has_finished():
            raise typer.Exit(0)
        yield place, reducer
        if isinstance(reducer, Files):
            reducer.finish()


def _request(given: dict[str, Any]) -> Request:
    from nanobrag_torch.refinement.intensities import Request
    from nanobrag_torch.refinement.shared_prior import SharedPrior

    widths = _widths(given["sigma_f"])
    prior = SharedPrior(
        sigma_F=widths[0] if len(widths) == 1 else widths,
        wilson=given["wilson"],
        friedel=given["friedel"],
        shell_means=given["shell_means"],
    )
    if given["friedel"] is not None and not given["anomalous"]:
        raise InputError("--friedel", given["friedel"], "nothing without --anomalous: mates are one intensity then")
    return Request(
        folder=given["folder"],
        structure_factors=given["structure_factors"],
        output=given["output"],
        column=given["column"],
        anomalous=given["anomalous"],
        held=given["held"],
        prior=prior,
        most_steps=given["most_steps"],
    )


def _widths(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise InputError("--sigma-F", text, "a number, inf, or a number for each shell with commas between") from None


def place_of(part: str | None, how: str) -> Place:
    """Where this process stands: by --part, or as its launcher says. Raises InputError for a part that is none."""
    from nanobrag_torch.workers import Place, place_of_process

    if part is None:
        return place_of_process()
    number, slash, size = part.partition("/")
    if how != "files" or not slash or not (number.isdigit() and size.isdigit()) or not 1 <= int(number) <= int(size):
        raise InputError("--part", part, "with --reducer files, a number of a number from 1, as 3/8")
    return Place(int(number) - 1, int(size))


def launched(workers: int) -> int:
    """The same command in so many processes that add up through files; one that is killed is started again."""
    import os
    import subprocess
    import sys

    from nanobrag_torch.workers import LAUNCHED

    words = list(sys.argv[1:])
    place = next(i for i, word in enumerate(words) if word.split("=")[0] == "--workers")
    del words[place : place + (1 if "=" in words[place] else 2)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", LAUNCHED), "1")

    def begin(number: int) -> subprocess.Popen[bytes]:
        more = ["--reducer", "files", "--part", f"{number}/{workers}"]
        command = [sys.executable, "-m", "nanobrag_torch.cli.nb", *words, *more]
        return subprocess.Popen(command, env={**os.environ, **one}, stdin=subprocess.PIPE)

    running = {number: begin(number) for number in range(1, workers + 1)}
    begun, codes = dict.fromkeys(running, 1), {}
    while running:
        for number, process in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[number]
            if code < 0 and begun[number] <= MOST_AGAIN:
                print(f"process {number} was killed (signal {-code}) and is started again", file=sys.stderr, flush=True)
                begun[number] += 1
                running[number] = begin(number)
            else:
                codes[number] = code
            if codes.get(number):  # the others would wait for its sums for ever
                for other in running.values():
                    other.terminate()
        time.sleep(0.05)
    return next((code if code > 0 else 1 for code in codes.values() if code), 0)


def _finish(found: Any, output: Path, shells: int) -> int:
    """Write what was found and say how it went; the exit code, 0 converged or merged, 3 not at the end, 4 failed."""
    from nanobrag_torch.refinement.merging import statistics, table, write_merged

    names = write_merged(found, output, shells)
    print(table(statistics(found, shells)))
    left_out = [row for row in found.shots if not row["weight"]]
    less = sum(0 < row["weight"] < 1 for row in found.shots)
    for row in left_out[:20]:
        print(f"left out: {row['name']}: {row['reason']}")
    if len(left_out) > 20:
        print(f"left out: {len(left_out) - 20} more, see the table of shots")
    why = f" ({found.reason})" if found.reason else ""
    print(f"{found.status}{why}: {len(found.history)} steps, {len(found.shots) - len(left_out)} shots ({less} of them "
          f"with less weight), {int(found.seen.sum())} intensities")  # fmt: skip
    print(f"{output}: {', '.join(names)}")
    return {"steps": 3, "stalled": 3, "failed": 4}.get(found.status, 0)
