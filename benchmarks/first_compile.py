"""Seconds until the kernels are compiled where nothing is in the cache: `python -m benchmarks.first_compile`.

What LLVM takes of them is measured apart: the rest is numba's own work in Python (reading bytecode, types, lowering),
which no setting of LLVM makes shorter.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

LLVM = ("add_ir_module", "finalize")
"""Methods of numba's code library that call LLVM: of every kind of library, as they are those of all of them."""


def measure_first_compile() -> dict[str, float]:
    """value_s, and gradients_s that come on top, in a process of its own with a cache folder of its own.

    With value_llvm_s and gradients_llvm_s, the seconds of LLVM in them, and how many functions were compiled.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "benchmarks.first_compile"]
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        printed = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(printed)
    return found


class LlvmClock:
    """Seconds that LLVM has worked in this process, and libraries that it has finished: one a function."""

    def __init__(self) -> None:
        from numba.core import codegen

        self.seconds, self.libraries, self._depth = 0.0, 0, 0
        for name in LLVM:
            setattr(codegen.CPUCodeLibrary, name, self._timed(getattr(codegen.CPUCodeLibrary, name)))

    def _timed(self, method: Any) -> Any:
        @functools.wraps(method)
        def timed(*given: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            self._depth += 1
            try:
                return method(*given, **named)
            finally:
                self._depth -= 1
                self.libraries += method.__name__ == "finalize"
                if self._depth == 0:
                    self.seconds += time.perf_counter() - begun

        return timed


def main() -> None:
    """Render a small scene and its gradients, and print how long each took."""
    import torch
    from benchmarks.scenes import build

    case = build("", "", side=16, pixel_mm=0.5, domains=2, table=True)
    found: dict[str, float] = {}
    started = time.perf_counter()
    clock = LlvmClock()  # imports numba, which is part of it
    with torch.no_grad():
        case.simulator.run()
    rendered = time.perf_counter()
    found |= {"value_s": rendered - started, "value_llvm_s": clock.seconds, "value_functions": clock.libraries}
    torch.autograd.grad(case.simulator.run().sum(), list(case.parameters.values()))
    found |= {"gradients_s": time.perf_counter() - rendered, "gradients_llvm_s": clock.seconds - found["value_llvm_s"]}
    print(json.dumps(found | {"gradients_functions": clock.libraries - found["value_functions"]}))


if __name__ == "__main__":
    main()
