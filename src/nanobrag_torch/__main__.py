"""`python -m nanobrag_torch ...` is the command `nanoBragg`."""

from __future__ import annotations

import sys

from nanobrag_torch.cli.nanobragg import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
