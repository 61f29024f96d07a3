"""`python -m nanobrag_torch.cli.nb ...` is the command `nb`."""

from __future__ import annotations

import sys

from nanobrag_torch.cli.nb.app import main

if __name__ == "__main__":
    sys.exit(main())
