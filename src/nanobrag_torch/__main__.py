"""`python -m nanobrag_torch ...` is the command `nanoBragg`."""

from __future__ import annotations

import sys
from typing import Any

from nanobrag_torch.cli.nanobragg import main

__all__ = ["create_parser", "main", "parse_and_validate_args"]  # noqa: F822  (by __getattr__)


def __getattr__(name: str) -> Any:
    """The command line for scripts, which the command itself does without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nanobrag_torch.cli.nanobragg import parser

    return getattr(parser, name)


if __name__ == "__main__":
    sys.exit(main())
