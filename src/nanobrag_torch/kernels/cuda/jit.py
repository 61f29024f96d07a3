"""The one place that decorates functions for Triton. Importing it imports Triton, so only launchers import it.

Triton decides at the decoration whether a function is compiled or interpreted (TRITON_INTERPRET=1 in the environment,
which lets the same kernels run on a CPU, slowly). No libdevice, no inline assembly: whatever the interpreter can run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import triton

LAUNCH = {"num_warps": 1, "enable_fp_fusion": True}
"""One warp a program: sums over its lanes need no barrier, and many programs share a multiprocessor."""
GROUP = 8
"""Neighbouring pixels that share a float64 anchor: what one thread works on."""
SMALL_GROUP = 4
"""The same for gradients and for interpolation, which need more registers a pixel."""
LANES = 32
"""Groups a program works on at once."""
NUMBERS = (
    *("count", "slow", "fast", "lattices", "chunk", "source_count", "oversample", "layers", "stride"),
    *("size_h", "size_k", "size_l", "h", "k", "l"),
)
"""Whole-number arguments that the kernels share; they do not select code."""


CALLERS = ("pixels", "upstream", "table")
"""Arguments that may be slices of a caller's tensors and so begin at any address."""


class Way(NamedTuple):
    """What selects code; a kernel is compiled for each combination that is used."""

    real: Any  # type of the image and of everything after hkl
    wide: bool  # hkl in float64 throughout
    profile: int
    table: bool  # there is a table of structure factors
    cubic: bool
    point: bool
    curved: bool
    each_omega: bool  # solid angle of every sample, not of the first
    each_polar: bool
    each_capture: bool
    last_capture: bool  # every layer captures as the last one does
    limit: bool  # a resolution limit
    listed: bool  # pixels are listed; else all in order
    offset: bool  # something is added once a pixel
    by_lattice: bool = False  # gradients that are wanted
    by_shape: bool = False
    valued: bool = False  # values are wanted beside the gradients
    group: int = GROUP
    lanes: int = LANES


def jit(function: Callable[..., Any]) -> Any:
    """A function that kernels call; it becomes part of them."""
    return triton.jit(function)


def kernel(*numbers: str) -> Callable[[Callable[..., Any]], Any]:
    """A kernel whose whole-number arguments `numbers` do not select code, nor where the caller's tensors begin."""

    def decorate(function: Callable[..., Any]) -> Any:
        given = [name for name in CALLERS if name in inspect.signature(function).parameters]
        return triton.jit(function, do_not_specialize=list(numbers), do_not_specialize_on_alignment=given)

    return decorate
