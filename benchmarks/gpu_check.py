"""All that is to be seen on a GPU, in parts: `scripts/gpu_check.sh [part ...]`, or `python -m benchmarks.gpu_check`.

Each part adds its results to one JSON, which is written after every part: what was measured stays, whatever comes next.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import gpu_parts

PARTS: dict[str, Callable[[gpu_parts.Limits], Any]] = {
    "device": gpu_parts.device,
    "tests": gpu_parts.tests,
    "scenes": gpu_parts.scenes,
    "variants": gpu_parts.variants,
    "overhead": gpu_parts.overhead,
    "profiles": gpu_parts.profiles,
}


def main() -> int:
    """Run the parts that are asked for, in order, while time lasts. Exit code 1 if any failed."""
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "gpu.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    limits = gpu_parts.Limits(time.monotonic() + arguments.seconds, arguments.out)
    for name in arguments.parts or list(PARTS):
        if limits.left() < 5:
            found[name] = {"left_out": "no time was left"}
            path.write_text(json.dumps(found, indent=1) + "\n")
            continue
        start = time.monotonic()
        try:
            found[name] = PARTS[name](limits)
        except Exception as error:  # whatever breaks a part is its result; the next one runs
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:2000], "where": traceback.format_exc()[-3000:]}
        took = round(time.monotonic() - start, 1)
        found.setdefault("seconds", {})[name] = took
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"== {name}: {took} s\n{json.dumps(found[name])[:3000]}", flush=True)
    return int(any("failed" in part for part in found.values() if isinstance(part, dict)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")), help="folder of the results")
    parser.add_argument("--seconds", type=float, default=260.0, help="time for all of it")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
