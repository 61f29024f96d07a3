"""nb compare-traces: two traces of one pixel held against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nanobrag_torch.cli.messages import Loudness
from nanobrag_torch.cli.nb.flags import write_json, write_text
from nanobrag_torch.errors import InputError

DEPARTS = 1


def compare_traces(
    py: Annotated[Path, typer.Option(help="Trace of this program: a TRACE_PY log, or JSON.")],
    c: Annotated[Path, typer.Option("--c", help="Trace to hold it against: a TRACE_C or TRACE_PY log, or JSON.")],
    rtol: Annotated[
        float | None,
        typer.Option(help="Relative tolerance of every value; by default 1e-9, and 1.2e-7 in single precision."),
    ] = None,
    atol: Annotated[
        float | None,
        typer.Option(help="Absolute tolerance of every value; by default 0, but 1e-11 for hkl and 1e-10 for F_latt."),
    ] = None,
    metrics: Annotated[Path | None, typer.Option("--json", help="Write all pairs and differences as JSON.")] = None,
    summary: Annotated[
        Path | None, typer.Option("--summary", "--out", help="Write the comparison as Markdown.")
    ] = None,
    dump_scattering: Annotated[Path | None, typer.Option(help="Write the scattering vectors alone as JSON.")] = None,
) -> None:
    """Pair every value of two traces and name the first that departs, in the order of the computation.

    Vectors are compared as a whole, relative to their largest component. Exit code 0 when every value is within its
    tolerance, 1 when one departs, 2 for files that cannot be read or hold no trace.
    """
    from nanobrag_torch.tracing.log import read_trace
    from nanobrag_torch.validation import tracediff

    ours, theirs = read_trace(py, "--py"), read_trace(c, "--c")
    comparison = tracediff.compare_traces(ours, theirs, rtol=rtol, atol=atol)
    if not comparison.pairs:
        raise InputError("--c", str(c), f"a trace that shares a name with {py}")
    if metrics is not None:
        write_json(metrics, comparison.metrics(), "--json")
    if summary is not None:
        write_text(summary, tracediff.summary_markdown(comparison, str(py), str(c)), "--summary")
    if dump_scattering is not None:
        write_json(dump_scattering, tracediff.scattering(ours, theirs), "--dump-scattering")
    if not Loudness.quiet:  # of all that is said, the verdict is the result
        for row in tracediff.table_rows(comparison):
            print("  ".join(row))
    print("\n".join(tracediff.verdict_lines(comparison)))
    if comparison.departures:
        raise typer.Exit(DEPARTS)
