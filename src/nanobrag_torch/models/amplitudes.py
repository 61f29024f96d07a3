"""Amplitudes of a crystal from what somebody has at hand: a file, an array with its first indices, or a table."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.checks import described
from nanobrag_torch.errors import InputError
from nanobrag_torch.records.reflections import Reflections

ACCEPTED = (
    "a file of structure factors, Reflections, an array [H, K, L] with its first indices (h, k, l), "
    "or a table [n, 4] of h k l F"
)


def amplitudes_of(given: Any, default_F: float | Tensor) -> tuple[Tensor, dict[str, int]]:
    """Table of amplitudes [H, K, L] and its limits h_min ... l_max; reflections that are missing have default_F.

    given: see ACCEPTED; files are any that `nb show` calls structure factors, and are expanded to P1. A tensor keeps
    its gradient. Raises InputError for anything else.
    """
    if isinstance(given, (str, os.PathLike)):
        from nanobrag_torch.crystallography.structure_factors import read_structure_factors

        given = read_structure_factors(given)
    if isinstance(given, Reflections):
        from nanobrag_torch.crystallography.symmetry import amplitude_table, expand_to_p1

        expansion = expand_to_p1(given)
        amplitudes = torch.from_numpy(given.amplitude)
        return amplitude_table(expansion, amplitudes, default_F=default_F), expansion.metadata
    if isinstance(given, tuple) and len(given) == 2:
        return _placed(*given)
    shape: tuple[int, ...] = tuple(getattr(given, "shape", ()))
    if len(shape) == 2 and shape[1] == 4:
        return _from_rows(torch.as_tensor(given), default_F)
    raise InputError("structure_factors", described(given), ACCEPTED)


def _placed(array: Any, first: Any) -> tuple[Tensor, dict[str, int]]:
    """An array and the indices of its first element."""
    table = torch.as_tensor(array)
    if table.dim() != 3 or len(first) != 3:
        raise InputError("structure_factors", (described(array), first), ACCEPTED)
    low = {f"{axis}_min": int(place) for axis, place in zip("hkl", first, strict=True)}
    high = {f"{a}_max": low[f"{a}_min"] + size - 1 for a, size in zip("hkl", table.shape, strict=True)}
    return table, low | high


def _from_rows(rows: Tensor, default_F: float | Tensor) -> tuple[Tensor, dict[str, int]]:
    """Rows of h k l F, in any order; the last of several rows of a reflection counts."""
    index = rows[:, :3].detach().round().long()
    if rows.shape[0] == 0 or not torch.equal(index.to(rows.dtype), rows[:, :3].detach()):
        raise InputError("structure_factors", described(rows), f"{ACCEPTED}, with whole h k l")
    first = index.amin(0)
    size = (index.amax(0) - first + 1).tolist()
    table = torch.as_tensor(default_F, dtype=rows.dtype, device=rows.device).expand(size).clone()
    return _placed(table.index_put(tuple((index - first).unbind(1)), rows[:, 3]), first.tolist())
