"""Structure factors in whatever form a user holds them, as the table [H, K, L] that a crystal takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nanobrag_torch.crystallography.structure_factors import read_structure_factors
from nanobrag_torch.crystallography.symmetry import LARGEST_TABLE, amplitude_table, expand_to_p1
from nanobrag_torch.errors import InputError
from nanobrag_torch.records.reflections import Reflections

if TYPE_CHECKING:
    from torch import Tensor

NAME = "structure_factors"
ACCEPTED = (
    "a file of structure factors or atoms, Reflections, an array [H, K, L] with its first indices (h, k, l), "
    "rows h k l F [n, 4], or a mapping (h, k, l) -> F"
)
Metadata = dict[str, int]


def table_of(
    given: Any, *, default_F: float | Tensor = 0.0, dmin: float | None = None, wavelength_A: float | None = None
) -> tuple[Tensor, Metadata]:
    """The table [H, K, L] (electrons) and its limits h_min ... l_max, from any form of ACCEPTED.

    Tensors keep their gradients, dtype and device. Files with symmetry are expanded to P1; what is missing is
    `default_F`. dmin (Angstrom) limits a file, and atoms need it unless their model states a resolution; wavelength_A
    adds f' and f'' to atoms. Raises InputError naming the file, or what is wrong with the array.
    """
    import torch

    if isinstance(given, str | os.PathLike):
        given = read_structure_factors(given, dmin=dmin, wavelength_A=wavelength_A, flag=NAME)
    if isinstance(given, Reflections):
        expansion = expand_to_p1(given)
        return amplitude_table(expansion, torch.from_numpy(given.amplitude), default_F=default_F), expansion.metadata
    if isinstance(given, Mapping):
        rows = [(*hkl, value) for hkl, value in given.items()] if _are_indices(given) else None
        return _of_rows(rows, default_F)
    if isinstance(given, tuple) and len(given) == 2:
        return _of_array(*given)
    return _of_rows(given, default_F)


def _are_indices(given: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, Sequence) and len(key) == 3 for key in given)


def _tensor(given: Any) -> Tensor:
    import torch

    if isinstance(given, torch.Tensor):
        return given
    try:
        return torch.from_numpy(np.array(given, np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(NAME, type(given).__name__, ACCEPTED) from error


def _of_array(array: Any, first: Any) -> tuple[Tensor, Metadata]:
    """A table as it is; `first` is h, k, l of its first cell, or its limits by name."""
    if isinstance(first, Mapping):
        first = [first.get(f"{axis}_min") for axis in "hkl"]
    table = _finite(_tensor(array))
    low = _whole(first)
    if table.dim() != 3 or low.shape != (3,) or 0 in table.shape:
        raise InputError(NAME, f"shapes {tuple(table.shape)} and {low.shape}", ACCEPTED)
    return table, _limits(low, low + np.array(table.shape) - 1)


def _of_rows(rows: Any, default_F: float | Tensor) -> tuple[Tensor, Metadata]:
    """A table of rows h k l F; later rows must not repeat earlier ones."""
    import torch

    given = _finite(_tensor(rows))
    if given.dim() != 2 or given.shape[1] != 4 or len(given) == 0:
        raise InputError(NAME, f"shape {tuple(given.shape)}", ACCEPTED)
    hkl = _whole(given[:, :3].detach().cpu().numpy())
    if len(np.unique(hkl, axis=0)) < len(hkl):
        raise InputError(NAME, f"{len(hkl)} rows, some of the same h k l", "each reflection once")
    low, high = hkl.min(axis=0), hkl.max(axis=0)
    if np.prod((high - low + 1).astype(np.float64)) > LARGEST_TABLE:
        raise InputError(NAME, f"h k l from {low.tolist()} to {high.tolist()}", f"at most {LARGEST_TABLE} cells")
    start = torch.as_tensor(default_F, dtype=given.dtype, device=given.device)
    places = tuple(torch.from_numpy(hkl - low).to(given.device).T)
    table = start.expand(tuple(int(n) for n in high - low + 1)).index_put(places, given[:, 3])
    return table, _limits(low, high)


def _whole(values: Any) -> np.ndarray:
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(NAME, str(values)[:60], "whole indices h k l in rows of h k l F") from error
    if not np.isfinite(numbers).all() or (numbers != np.rint(numbers)).any():
        raise InputError(NAME, str(values)[:60], "whole indices h k l in rows of h k l F")
    return numbers.astype(np.int64)


def _finite(table: Tensor) -> Tensor:
    if not table.is_floating_point() or not bool(table.detach().isfinite().all()):
        raise InputError(NAME, str(table.dtype), "finite numbers, in float32 or float64")
    return table


def _limits(low: np.ndarray, high: np.ndarray) -> Metadata:
    return {f"{axis}_{end}": int(v) for axis, *ends in zip("hkl", low, high, strict=True)
            for end, v in zip(("min", "max"), ends, strict=True)}  # fmt: skip
