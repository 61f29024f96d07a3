"""`python -m nanobrag_torch ...` is the command `nanoBragg`."""

from __future__ import annotations

import sys
from typing import Any

from nanobrag_torch.cli.nanobragg import main
from nanobrag_torch.lazy import lazily

__all__ = ["create_parser", "main", "parse_and_validate_args"]  # noqa: F822  (by __getattr__)


_attribute = lazily(__name__, {"cli.nanobragg.parser": ("create_parser", "parse_and_validate_args")})


def __getattr__(name: str) -> Any:
    """The command line for scripts, which the command itself does without."""
    return _attribute(name)


if __name__ == "__main__":
    sys.exit(main())
