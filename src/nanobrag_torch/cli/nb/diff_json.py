"""nb diff-json: where two JSON files differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DIFFERENT = 1


def diff_json(
    a: Annotated[Path, typer.Argument(help="First file.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="Second file.", metavar="B")],
    rtol: Annotated[float, typer.Option(help="Numbers may differ by atol + rtol times that of A.")] = 0.0,
    atol: Annotated[float, typer.Option(help="Numbers may differ by atol + rtol times that of A.")] = 0.0,
) -> None:
    """One line for every place where two JSON files differ: keys and elements of one alone, types, values.

    Exit code 0 when they agree, 1 when they differ, 2 for files that cannot be read.
    """
    from nanobrag_torch.validation.diff import json_differences, read_json

    found = list(json_differences(read_json(a, "A"), read_json(b, "B"), rtol=rtol, atol=atol))
    for difference in found:
        print(difference)
    print(f"{len(found)} differences" if found else "no difference")
    if found:
        raise typer.Exit(DIFFERENT)
