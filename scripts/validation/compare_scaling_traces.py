"""Two traces held against each other, under the name that existing workflows call: the same as `nb compare-traces`."""

from __future__ import annotations

import sys

from nanobrag_torch.cli.nb.app import main

if __name__ == "__main__":
    sys.exit(main(["compare-traces", *sys.argv[1:]]))
