"""A separable spread in machine code, for images that nothing is differentiated by: those that are recorded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.compilation import compiled

_ROWS = 64


@compiled(title="the spread")
def _spread_rows(image: Any, slow_line: Any, fast_line: Any, first: int, last: int, target: Any) -> None:
    """Rows first to last (excluded) of an image convolved with symmetric lines along both axes."""
    rows, columns = image.shape
    reach_slow, reach_fast = len(slow_line) // 2, len(fast_line) // 2
    gathered = np.zeros(columns + 2 * reach_fast, image.dtype)
    middle = gathered[reach_fast : reach_fast + columns]
    for row in range(first, last):
        middle[:] = 0
        for other in range(max(0, row - reach_slow), min(rows, row + reach_slow + 1)):
            share, source = slow_line[other - row + reach_slow], image[other]
            for f in range(columns):
                middle[f] += share * source[f]
        found = target[row]
        found[:] = 0
        for k in range(len(fast_line)):
            share, shifted = fast_line[k], gathered[k : k + columns]
            for f in range(columns):
                found[f] += share * shifted[f]


def spread_along_lines(image: Tensor, slow_line: Tensor, fast_line: Tensor) -> Tensor:
    """The image [..., slow, fast] on a CPU, convolved with symmetric lines; not differentiable."""
    stack = np.ascontiguousarray(image.detach().reshape(-1, *image.shape[-2:]).numpy())
    lines = [line.detach().to(image.dtype).numpy() for line in (slow_line, fast_line)]
    target = np.empty_like(stack)
    rows = stack.shape[1]
    jobs = [(p, r, min(r + _ROWS, rows)) for p in range(len(stack)) for r in range(0, rows, _ROWS)]

    def work(job: tuple[int, int, int]) -> None:
        panel, first, last = job
        _spread_rows(stack[panel], lines[0], lines[1], first, last, target[panel])

    for job in jobs[:1]:
        work(job)  # compiles once, before there are threads
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        list(pool.map(work, jobs[1:]))
    return torch.from_numpy(target).reshape(image.shape)
