"""The command `nb`: one verb a subcommand, each in a module of its own, imported with the command line only.

A verb is a plain function with typer annotations that raises InputError for bad input, and typer.Exit(code) to end with
another code.
Verb modules import torch and the like inside functions, so that `nb --help` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

from nanobrag_torch.cli.boundary import exit_code
from nanobrag_torch.cli.messages import Loudness, show_messages
from nanobrag_torch.cli.nb.words import in_full, loudness

VERBS: dict[str, str] = {
    "simulate": "nanobrag_torch.cli.nb.simulate:simulate",
    "record": "nanobrag_torch.cli.nb.record:record",
    "trace": "nanobrag_torch.cli.nb.trace:trace",
    "compare-traces": "nanobrag_torch.cli.nb.compare_traces:compare_traces",
    "compare": "nanobrag_torch.cli.nb.compare:compare",
    "diff-json": "nanobrag_torch.cli.nb.diff_json:diff_json",
    "evidence": "nanobrag_torch.cli.nb.evidence:evidence",
    "fcalc": "nanobrag_torch.cli.nb.fcalc:fcalc",
    "wilson": "nanobrag_torch.cli.nb.wilson:wilson",
    "show": "nanobrag_torch.cli.nb.show:show",
    "convert": "nanobrag_torch.cli.nb.convert:convert",
    "view": "nanobrag_torch.cli.nb.view:view",
    "dataset": "nanobrag_torch.cli.nb.dataset:dataset",
    "refine": "nanobrag_torch.cli.nb.refine:refine",
    "refine-intensities": "nanobrag_torch.cli.nb.refine_intensities:refine_intensities",
    "refine-geometry": "nanobrag_torch.cli.nb.refine_geometry:refine_geometry",
    "merge": "nanobrag_torch.cli.nb.refine_intensities:merge",
    "predict": "nanobrag_torch.cli.nb.predict:predict",
    "warm": "nanobrag_torch.cli.nb.warm:warm",
}
"""Name of each verb -> "module:function"; in the order that help shows them."""
UsageError: Any = typer.BadParameter.__base__  # what the parser raises; typer has no public name for it


def _show_version(wanted: bool) -> None:
    if wanted:
        from nanobrag_torch import __version__

        print(f"nb (nanobrag-torch {__version__})")
        raise typer.Exit


def build() -> typer.Typer:
    """The application with every verb of VERBS."""
    app = typer.Typer(
        name="nb",
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_every_verb)
    for name, home in VERBS.items():
        module, function = home.split(":")
        verb: Callable[..., Any] = getattr(import_module(module), function)
        app.command(name)(verb)
    return app


def _every_verb(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors and results; with any verb.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say more; with any verb.")] = False,
) -> None:
    """X-ray diffraction images of small crystals: simulate, trace, compare, convert."""


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the exit code is 2 for bad input, after one line that says what is wrong."""
    return exit_code("nb", lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(given: list[str]) -> int:
    words, asked = loudness(in_full(given))
    show_messages()
    Loudness.set(asked)
    try:
        code = typer.main.get_command(build()).main(args=words, prog_name="nb", standalone_mode=False)
    except UsageError as error:
        print(_usage(error) if words else error.format_message(), file=sys.stderr)
        return 2
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> str:
    """One line for words that do not make a command line."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    home = "nb" if error.ctx is None else error.ctx.command_path
    return f"nb: error: {message[:1].lower()}{message[1:]} (see {home} --help)"
