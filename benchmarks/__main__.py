"""Measure the CPU kernel: `make bench`, or `python -m benchmarks [a c ...] [--yardstick PATH] [--repeats N] [--before
FOLDER]`.

`make bench ARGS=refinement`, or `python -m benchmarks refinement [row ...]`, measures refinements instead, `dataset`
data sets, `many-shots` shots that are refined together, `frames` what comes on top of the kernel, `sparse` steps that
are left out.
Results go to benchmarks/results/, one file a machine; docs/benchmarks.md is written from all of them.
--yardstick: a measurement sketch of the inner loop, timed in the same process and taking turns with every scene.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.against import SCENES, compare
from benchmarks.first_compile import measure_first_compile
from benchmarks.measure import measure, yardstick
from benchmarks.page import RESULTS, write_page
from benchmarks.scenes import CASES
from benchmarks.shell import measure_shell

REPEATS, ROUNDS_A_START = 9, 5
OTHERS = {name: name.replace("-", "_") for name in ("refinement", "dataset", "many-shots", "frames", "sparse")}
"""Words for what other modules measure, and these."""


def main() -> None:
    """Measure, keep, and write the page; with a word of OTHERS first, what that module measures."""
    if sys.argv[1:2] and sys.argv[1] in OTHERS:
        import_module(f"benchmarks.{OTHERS[sys.argv[1]]}").main(sys.argv[2:])
        return
    arguments = _arguments()
    names = arguments.scenes or ["b", *CASES]
    sketch = yardstick(arguments.yardstick) if arguments.yardstick else None
    scenes = [measure_shell()] if "b" in names else []
    first_compile = {"first_compile": measure_first_compile()} if "b" in names else {}
    scenes += measure([name for name in names if name != "b"], arguments.repeats, sketch)
    found = {**_machine(), **first_compile, "scenes": scenes}
    if sketch:
        found["yardstick"] = {name: timer.report() for name, timer in sketch.items()}
    _keep(found, arguments.out)
    if arguments.before is not None:
        before, timed = arguments.before.resolve(), [name for name in SCENES if name in names]
        found["before"] = {name: compare(before, name, min(arguments.repeats, ROUNDS_A_START)) for name in timed}
        _keep(found, arguments.out)


def _keep(found: dict[str, Any], out: Path | None) -> None:
    """The results of a machine into their file, or another one; the page is written from the former."""
    path = out or RESULTS / f"cpu-{_slug(found['machine'])}-{found['cores']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {path}")
    if out is None:
        write_page()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", metavar="scene", help=f"of b, {', '.join(CASES)}; default all")
    parser.add_argument("--yardstick", type=Path)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier state, measured in turns with this one")
    parser.add_argument("--out", type=Path, help="another file for the results; the page is left as it is")
    arguments = parser.parse_args()
    unknown = set(arguments.scenes) - {"b", *CASES}
    if unknown:
        parser.error(f"unknown scenes {', '.join(sorted(unknown))}; known: b, {', '.join(CASES)}")
    return arguments


def _machine() -> dict[str, Any]:
    import llvmlite
    import numba
    import numpy
    import torch

    import nanobrag_torch

    modules = (nanobrag_torch, torch, numba, llvmlite, numpy)
    versions = {module.__name__: str(module.__version__) for module in modules}
    return {
        "machine": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "versions": {"python": platform.python_version(), **versions},
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found.group(1).strip() if found else platform.machine()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    main()
