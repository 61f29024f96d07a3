"""How much memory rendering a scene takes: `python -m benchmarks.memory SCENE value|backward` prints MB.

The most that the process held, the program and all that it imports included, machine code cached.
"""

from __future__ import annotations

import resource
import sys

from benchmarks.measure import timers_of
from benchmarks.scenes import CASES


def main(name: str, what: str) -> None:
    """Render once, say how much memory there was at most."""
    timers_of(CASES[name](), None)[what].run()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
