"""How much memory rendering a scene takes: `python -m benchmarks.memory SCENE value|backward` prints MB.

The most that the process held, the program and all that it imports included, machine code cached.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import timers_of
from benchmarks.scenes import CASES


def main(name: str, what: str) -> None:
    """Render once, say how much memory there was at most."""
    timers_of(CASES[name](), None)[what].run()
    print(peak_megabytes())


def peak_megabytes() -> float:
    """The most that this process held; the system's other figure also counts what it was before it became Python."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
