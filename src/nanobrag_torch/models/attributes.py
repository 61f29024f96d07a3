"""Attributes of a crystal that stand for fields of its configuration, or for tensors that follow from it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nanobrag_torch.models.tensors import as_tensor

if TYPE_CHECKING:
    from nanobrag_torch.models.crystal import Crystal


class Setting:
    """A number of the configuration: read as a tensor []; set to a number or tensor, which the next run reads.

    Setting gives this crystal a configuration of its own, so that another one made from the same is left alone.
    """

    def __init__(self, field: str, place: int | None = None, default: str | None = None) -> None:
        self.field, self.place, self.default = field, place, default

    def __get__(self, crystal: Crystal, owner: type | None = None) -> Tensor:
        value = getattr(crystal.config, self.field)
        if value is None and self.default is not None:
            value = getattr(crystal.config, self.default)
        value = value if self.place is None else value[self.place]
        return as_tensor(value, crystal.device).to(crystal.dtype)

    def __set__(self, crystal: Crystal, value: Any) -> None:
        if self.place is not None:
            whole = list(getattr(crystal.config, self.field))
            whole[self.place] = value
            value = whole
        crystal.config = replace(crystal.config, **{self.field: value})


class CellTensor:
    """One of the tensors of `compute_cell_tensors`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, crystal: Crystal, owner: type | None = None) -> Tensor:
        return crystal.compute_cell_tensors()[self.name]
