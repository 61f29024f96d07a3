"""The trace of one pixel, under the name that existing workflows call: the same as `nb trace`."""

from __future__ import annotations

import sys

from nanobrag_torch.cli.nb.app import main

if __name__ == "__main__":
    sys.exit(main(["trace", *sys.argv[1:]]))
