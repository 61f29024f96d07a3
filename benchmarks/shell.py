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
COMMAND = [sys.executable, "-c", "import sys; from nanobrag_torch.cli.nanobragg import main; sys.exit(main())"]
IMPORTS = [sys.executable, "-c", "import torch, numba"]


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
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(words, cwd=folder, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            said.seek(0)
            raise SystemExit(f"{' '.join(words)}: {said.read().decode()[-500:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024
