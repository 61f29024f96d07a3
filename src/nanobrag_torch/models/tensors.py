"""Configuration values as tensors, without cutting the gradient of those that are tensors already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def as_tensor(value: Any, device: torch.device | str = "cpu") -> Tensor:
    """A number, sequence (of numbers or tensors) or tensor as a float64 tensor on `device`.

    Copies to a GPU do not wait for what it is doing: memory of the host is read before the call returns.
    """
    at_once = torch.device(device).type == "cuda"
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=torch.float64, non_blocking=at_once)
    if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
        return torch.stack([as_tensor(item, device) for item in value])
    return torch.as_tensor(value, dtype=torch.float64).to(device, non_blocking=at_once)


def times(values: Tensor, number: float) -> Tensor:
    """values * number. In forward mode `*` has a number for a tensor without a slope, and Python work out the shape of
    the product with nothing, which takes twenty times as long."""
    found: Tensor = torch.ops.aten.mul.Scalar(values, number)
    return found


def over(values: Tensor, number: float) -> Tensor:
    """values / number, likewise."""
    found: Tensor = torch.ops.aten.div.Scalar(values, number)
    return found


def is_finite(values: Tensor) -> bool:
    """Whether every number is: their sum, a tenth of the work, is not where one is not; it may also be too large."""
    return bool(torch.isfinite(values.detach().sum())) or bool(torch.isfinite(values).all())
