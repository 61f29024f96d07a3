"""Seconds until the kernels are compiled where nothing is in the cache: `python -m benchmarks.first_compile`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time


def measure_first_compile() -> dict[str, float]:
    """value_s, and gradients_s that come on top, in a process of its own with a cache folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "benchmarks.first_compile"]
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        printed = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(printed)
    return found


def main() -> None:
    """Render a small scene and its gradients, and print how long each took."""
    import torch
    from benchmarks.scenes import build

    case = build("", "", side=16, pixel_mm=0.5, domains=2, table=True)
    started = time.perf_counter()
    with torch.no_grad():
        case.simulator.run()
    rendered = time.perf_counter()
    torch.autograd.grad(case.simulator.run().sum(), list(case.parameters.values()))
    print(json.dumps({"value_s": rendered - started, "gradients_s": time.perf_counter() - rendered}))


if __name__ == "__main__":
    main()
