"""nb trace: every intermediate value of one pixel, in the order of the computation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nanobrag_torch.cli.nb.flags import FLAGS_HELP, RunOptions, run_words, write_text
from nanobrag_torch.cli.nb.option_groups import takes


@takes(RunOptions, "run")
def trace(
    pixel: Annotated[
        tuple[int, int], typer.Option(help="Slow and fast index of the pixel, from 0.", metavar="SLOW FAST")
    ],
    flags: Annotated[list[str] | None, typer.Argument(help=FLAGS_HELP, metavar="-- FLAGS")] = None,
    *,
    run: RunOptions,
    emit_rot_stars: Annotated[
        bool, typer.Option("--emit-rot-stars", help="Add the rotated a*, b*, c* (1/Angstrom) of every phi step.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of TRACE_PY lines.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write; standard output without it.")] = None,
    layer: Annotated[int, typer.Option(help="Sensor layer to show; -1 is the last.")] = -1,
    subpixel: Annotated[int, typer.Option(help="Sub-pixel to show, slow outermost; -1 is the last.")] = -1,
    source: Annotated[int, typer.Option(help="Source to show; -1 is the last.")] = -1,
    domain: Annotated[int, typer.Option(help="Mosaic domain to show; -1 is the last.")] = -1,
) -> None:
    """Trace one pixel through the reference kernel: geometry, scattering, every phi step, sums and scaling.

    Lines `TRACE_PY: name value...` under the C program's names, with 15 significant digits, and a line
    `TRACE_PY_PHI: key=value...` for every phi step. Only that pixel is computed. Names that mislead are the C
    program's: scattering_vec_A_inv is in 1/m, and rot_a_star_A_inv is a* before the rotation by phi.
    """
    import json

    from nanobrag_torch.tracing.log import log_lines, trace_json
    from nanobrag_torch.tracing.pixel import Step, trace_pixel

    with run_words(flags, run.config) as words:
        simulator = run.simulator(words)
    step = Step(layer, subpixel, source, domain)
    result = trace_pixel(simulator, *pixel, step=step, rot_stars=emit_rot_stars)
    text = json.dumps(trace_json(result), indent=1) if as_json else "\n".join(log_lines(result))
    if out is None:
        print(text)
    else:
        write_text(out, text + "\n", "--out")
