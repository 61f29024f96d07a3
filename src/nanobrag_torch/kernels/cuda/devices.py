"""Whether the fused GPU kernel can run on a device, and what to tell a user where it cannot."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import torch

from nanobrag_torch.errors import InputError

OLDEST = (8, 0)
"""Compute capability that Triton needs."""
OLDEST_TRITON = (3, 4)
"""Older versions cannot pass named tuples to kernels."""
_REFERENCE = "the reference kernel renders, many times slower"


@cache
def obstacle(device: torch.device) -> str:
    """Why the Triton kernel cannot run on a CUDA device; empty if it can. Looks once at the machine, not at tensors."""
    if importlib.util.find_spec("triton") is None:
        return f"Triton is not installed (pip install triton): {_REFERENCE}"
    if triton_version() < OLDEST_TRITON:
        return f"Triton {_dotted(triton_version())} is older than {_dotted(OLDEST_TRITON)}: {_REFERENCE}"
    if not c_compiler():
        return f"Triton finds no C compiler (install gcc or clang, or name one in CC): {_REFERENCE}"
    if not torch.cuda.is_available():
        return f"no CUDA GPU is usable: {_REFERENCE}"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        name = torch.cuda.get_device_name(device)
        return f"{name} has compute capability {_dotted(capability)}, Triton needs {_dotted(OLDEST)}: {_REFERENCE}"
    return ""


def triton_version() -> tuple[int, int]:
    """Major and minor version; imports Triton."""
    import triton

    major, minor = triton.__version__.split(".")[:2]
    return int(major), int(minor)


def c_compiler() -> str | None:
    """The compiler that Triton builds its launchers with."""
    return os.environ.get("CC") or shutil.which("clang") or shutil.which("gcc")


@contextmanager
def launching(device: torch.device, pixels: int, bytes_per_pixel: int, fixed_bytes: int) -> Iterator[None]:
    """Work on this device, whichever is current; running out of memory is an InputError that says what would fit."""
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        with current:
            yield
    except torch.OutOfMemoryError:
        free = torch.cuda.mem_get_info(device)[0]
        raise memory_error(free, pixels, bytes_per_pixel, fixed_bytes) from None


def memory_error(free: int, pixels: int, bytes_per_pixel: int, fixed_bytes: int) -> InputError:
    """The message for `free` bytes of GPU memory where a call needs fixed_bytes and bytes_per_pixel each."""
    fitting = max(0, free - fixed_bytes) // max(bytes_per_pixel, 1)
    need = fixed_bytes + pixels * bytes_per_pixel
    advice = (
        f"at most {fitting} pixels a call" if fitting else f"a GPU with {_megabytes(fixed_bytes)} MB more than that"
    )
    return InputError(
        "pixels", f"{pixels}, {_megabytes(need)} MB with {_megabytes(free)} MB of GPU memory free", advice
    )


def _megabytes(count: int) -> int:
    return -(-count // 2**20)


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
