"""The one place that decorates functions for Triton. Importing it imports Triton, so only launchers import it.

Triton decides at the decoration whether a function is compiled or interpreted (TRITON_INTERPRET=1 in the environment,
which lets the same kernels run on a CPU, slowly). No libdevice, no inline assembly: whatever the interpreter can run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import triton
import triton.language as tl

LAUNCH = {"num_warps": 1, "enable_fp_fusion": True}
"""One warp a program: sums over its lanes need no barrier, and many programs share a multiprocessor."""
GROUP = 4
"""Neighbouring pixels that share a float64 anchor: what one thread works on."""
GRADIENT_GROUP = 2
"""The same for gradients, which need more registers a pixel."""
ROUNDING = 1
"""Where whole numbers come from adding and taking away a large one, not from an instruction for it: 1: in the lattice
factor, 2: in float32 differences of hkl too."""
LANES = 32
"""Groups a program works on at once."""
NUMBERS = (
    *("tiles", "panel_count", "count", "slow", "fast", "lattices", "chunk", "source_count", "oversample", "layers"),
    *("size_h", "size_k", "size_l", "first_h", "first_k", "first_l", "stride"),
)
"""Whole-number arguments of the kernel; they do not select code."""
VALUE, BOUND, FACTORS, RECORDS, GRADIENTS, SLOPES = (tl.constexpr(job) for job in range(6))
"""What a kernel works out: the image; how large gradients by structure factors can be; these, as whole numbers; the
same as a list of places and values; gradients by everything else; slopes along directions."""


REGISTERS = {VALUE.value: 80, BOUND.value: 96, FACTORS.value: 96, GRADIENTS.value: 96, SLOPES.value: 128}
"""Most registers of a thread, where hkl is not in float64 throughout: fewer let more programs share a multiprocessor,
which hides how long each instruction takes, and cost some traffic with memory."""


class Way(NamedTuple):
    """What selects code; a kernel is compiled for each combination that is used."""

    real: Any  # type of the image and of everything after hkl
    wide: bool  # hkl in float64 throughout
    profile: int
    table: bool  # there is a table of structure factors
    cubic: bool
    point: bool
    curved: bool  # as the C program has it
    sphere: bool  # curved about the sample
    upright: bool  # every ray meets the sensor at a right angle
    each_omega: bool  # solid angle of every sample, not of the first
    layer_omega: bool  # else that of the first sub-pixel of each layer; layers differ in it
    each_polar: bool
    each_capture: bool
    last_capture: bool  # every layer captures as the last one does
    limit: bool  # a resolution limit
    listed: bool  # pixels are listed; else all in order
    offset: bool  # something is added once a pixel
    job: int = VALUE.value
    directions: int = 0  # slopes that are taken at once
    by_lattice: bool = False  # gradients that are wanted, and what moves along directions
    by_shape: bool = False
    by_table: bool = False  # directions only
    valued: bool = False  # values are wanted beside the gradients
    rounding: int = ROUNDING
    group: int = GROUP
    lanes: int = LANES


def launch_options(way: Way) -> dict[str, Any]:
    """How a kernel is compiled and launched."""
    most = 0 if way.wide else REGISTERS.get(way.job, 0)
    return {**LAUNCH, "maxnreg": most} if most else LAUNCH


def jit(function: Callable[..., Any]) -> Any:
    """A function that kernels call; it becomes part of them."""
    return triton.jit(function)


def kernel(function: Callable[..., Any]) -> Any:
    """A kernel: neither its whole-number arguments select code, nor where tensors begin, which may be slices.

    Numbers inside a tuple would: Triton looks at each of them. So a kernel's arguments are a flat list.
    """
    tensors = [name for name in inspect.signature(function).parameters if name not in (*NUMBERS, "way")]
    return triton.jit(function, do_not_specialize=NUMBERS, do_not_specialize_on_alignment=tensors)
