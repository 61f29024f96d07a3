"""Scene b: the full-size case from the shell, outputs written, beside what importing torch and numba takes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.demo import REPLACED, write_structure_factors

from nanobrag_torch.validation.scenes import named_scene, scene_in

REPEATS = 5
REMEMBER = "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0], file=sys.stderr)"
RENDER = "import sys; from nanobrag_torch.cli.nanobragg import main; assert main() == 0"
COMMAND = [sys.executable, "-c", f"{RENDER}; {REMEMBER}"]
IMPORTS = [sys.executable, "-c", f"import sys, torch, numba; {REMEMBER}"]


def measure_shell() -> dict[str, Any]:
    """Medians of the command's and the imports' time in turns, the compile cache warm; largest peak memory."""
    print("b           the full-size case from the shell", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        words = [*COMMAND, *_words(Path(folder))]
        _timed(words, folder)
        rounds = [(_timed(words, folder), _timed(IMPORTS, folder)) for _ in range(REPEATS)]
    command, imports = ([seconds for seconds, _ in part] for part in zip(*rounds, strict=True))
    return {
        "scene": "b",
        "title": "2463 x 2527, 10 phi steps, table, from the shell, outputs written",
        "command_s": statistics.median(command),
        "imports_s": statistics.median(imports),
        "beyond_imports_s": statistics.median(a - b for a, b in zip(command, imports, strict=True)),
        "peak_MB": max(megabytes for (_, megabytes), _ in rounds),
        "repeats": REPEATS,
    }


def _words(folder: Path) -> list[str]:
    """The case's inputs in a folder, with structure factors of our own, and its flags."""
    scene_in("supervisor", folder)
    (folder / "Fdump.bin").unlink()
    write_structure_factors(folder)
    words = named_scene("supervisor").words()
    for flag, name in REPLACED.items():
        words[words.index(flag) + 1] = name
    return words


def _timed(words: list[str], folder: str) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a command in a folder."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as users have it
    start = time.perf_counter()
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=kept)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-500:]}")
    return seconds, int(done.stderr.rsplit("VmHWM:", 1)[1].split()[0]) / 1024
