"""The fused kernel on the CPU: values of pixels, dealt out to threads.

The stages are compiled by numba at their first call. Blocks of pixels are worked on serially, without the interpreter
lock, so that threads are all it takes; what a pixel is does not depend on their number.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.bounds import fill_tile, look_ahead
from nanobrag_torch.kernels.cpu.cubic import interpolate, scatter_nodes
from nanobrag_torch.kernels.cpu.curved import bend, bend_by_lab_axes, unbend, unbend_by_lab_axes
from nanobrag_torch.kernels.cpu.near_slopes import add_pairs_and_slopes
from nanobrag_torch.kernels.cpu.packing import Packed, pack, scratch
from nanobrag_torch.kernels.cpu.pairs import add_pairs
from nanobrag_torch.kernels.cpu.profiles import form_matrix, form_slopes, form_squares
from nanobrag_torch.kernels.cpu.slopes import add_table_slopes
from nanobrag_torch.kernels.cpu.threads import Progress, thread_count, together
from nanobrag_torch.kernels.cpu.tiles import add_tile
from nanobrag_torch.kernels.cpu.value import value as _value
from nanobrag_torch.kernels.problem import Options, Scene, step_count, values_shape, without_absent

RARE = (
    *(bend, unbend, bend_by_lab_axes, unbend_by_lab_axes, interpolate, scatter_nodes, add_table_slopes),
    *(form_squares, form_slopes, form_matrix, look_ahead, fill_tile, add_pairs, add_tile, add_pairs_and_slopes),
)
"""What only curved detectors, tricubic structure factors, shapes other than the grating and bounds call."""
_value_of_most = _value.without(*RARE, COMPLETE=False)

STEPS_PER_CALL = 2**24
"""Pixel-steps after which a thread looks at what Python wants, about: to report progress, or to be interrupted."""
STEPS_PER_THREAD = 2**18
"""Pixel-steps below which waiting for a further thread takes as long as it helps."""


def value(pixels: Tensor | None, scene: Scene, options: Options, progress: Progress | None = None) -> Tensor:
    """Values [n] of the pixels [n], or of all in order, in options.dtype; [B, n] of a batch of scenes."""
    packed = pack(pixels, scene, options)
    out = empty(values_shape(pixels, scene, options), packed, options)
    image = rows_of(out, packed)
    chunks = [-(-int(one.whole[at.PLACES]) // at.CHUNK) for one in packed.scenes]
    if not packed.finite.all():
        chunks = [some if known else 0 for some, known in zip(chunks, packed.finite, strict=True)]
        image[~packed.finite] = np.nan
    taken, total = np.zeros((len(chunks), 1), np.int64), sum(chunks)
    steps = at.CHUNK * step_count(scene, options)
    most = max(1, STEPS_PER_CALL // steps)
    renders = [_value if rare else _value_of_most for rare in packed.rare]
    threads = min(thread_count(options), total, 1 + total * steps // STEPS_PER_THREAD)
    begin = iter(range(0, len(chunks), -(-len(chunks) // max(1, threads))))

    def work(report: Progress | None = None) -> None:
        first = next(begin, 0)
        for b in (*range(first, len(chunks)), *range(first)):
            if taken[b, 0] >= chunks[b]:
                continue
            room, render = scratch(packed.scenes[b]), renders[b]
            while render(image[b], taken[b], most, packed.scenes[b], room):
                if report is not None:
                    report(min(1.0, float(np.minimum(taken[:, 0], chunks).sum() / total)))

    together(work, threads, progress, lambda: taken.fill(max(chunks)))
    return without_absent(out, pixels)


def empty(shape: tuple[int, ...], packed: Packed, options: Options) -> Tensor:
    """Room for values: zeros where pixels that nothing adds to are not visited."""
    listed = packed.scenes[0].pixels
    ragged = len(packed.scenes) > 1 and any(one.pixels.size != listed.size for one in packed.scenes)
    return (torch.zeros if packed.sparse or ragged else torch.empty)(shape, dtype=options.dtype)


def rows_of(values: Tensor, packed: Packed) -> at.Array:
    """[B, n] of values [n] or [B, n], in the same memory."""
    found: at.Array = values.numpy().reshape(len(packed.scenes), -1)
    return found
