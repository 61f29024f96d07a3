"""Where a run took place: program versions, machine, commit. Facts for a reader of a report, nothing that is used."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("nanobrag-torch", "torch", "numba", "numpy", "scipy", "triton")
VARIABLES = ("CUDA_", "KMP_", "MKL_", "NB_", "NUMBA_", "OMP_", "OPENBLAS_", "PYTEST_", "PYTHON", "TORCH", "TRITON_")
"""Beginnings of the names of environment variables that a result or its speed may depend on."""


def environment(device: str) -> dict[str, Any]:
    """Versions, platform and device."""
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        **{name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "device": device,
        "device_name": _device_name(device),
    }


def variables() -> dict[str, str]:
    """The environment variables that matter, by name."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}


def commit() -> tuple[str, list[str] | None, Path]:
    """The commit of the package's own source, else of the working folder, its changed files, and the folder looked at.

    Without a git checkout the commit is "none" and the changes are None.
    """
    for folder in (Path(__file__).resolve().parent, Path.cwd()):
        sha = _git(folder, "rev-parse", "HEAD")
        if sha is not None:
            changes = _git(folder, "status", "--porcelain") or ""
            return sha.strip(), changes.splitlines(), Path((_git(folder, "rev-parse", "--show-toplevel") or "").strip())
    return "none", None, Path.cwd()


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return platform.processor() or platform.machine()
    import torch

    return torch.cuda.get_device_name(device)
