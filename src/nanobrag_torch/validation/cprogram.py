"""The C program as a reference: run it on the same flags and read its float image."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.floatimage import read_float_image
from nanobrag_torch.validation.images import Image, finite

NAME = "--c-bin"
HOW = (
    "the path of a compiled nanoBragg, for example: gcc -O3 -fopenmp -o nanoBragg nanoBragg.c -lm, "
    "then --c-bin ./nanoBragg or NB_C_BIN=./nanoBragg"
)
TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Run:
    """What a run of the C program left."""

    image: Image  # (slow, fast)
    seconds: float
    output: str


def run_c_program(
    binary: Path,
    words: Sequence[str],
    folder: Path,
    floatfile: Path,
    shape: tuple[int, int],
    *,
    timeout: float = TIMEOUT_S,
) -> Run:
    """Run the binary in a folder on words that make it write floatfile.

    Raises InputError naming the binary when it cannot be started, fails, takes too long or leaves no whole image.
    """
    command = [str(binary.resolve()), *words]
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except OSError as error:
        raise InputError(NAME, str(binary), f"{HOW} ({(error.strerror or str(error)).lower()})") from error
    except subprocess.TimeoutExpired:
        raise InputError(NAME, str(binary), f"a program that ends within {timeout:g} s") from None
    seconds = time.perf_counter() - begun
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise InputError(NAME, str(binary), f"exit code 0 (it ended with {done.returncode}, saying: {said})")
    if not floatfile.exists():
        raise InputError(NAME, str(binary), "a program that writes the image of -floatfile (it wrote none)")
    image = read_float_image(floatfile, shape, flag=NAME)
    return Run(finite(image.astype("f8"), NAME), seconds, done.stdout)
