"""Many images with known truth from one recipe, and what learners read them with."""

from __future__ import annotations

from typing import Any

__all__ = ["ShardDataset", "SimulatedDataset", "collate"]


def __getattr__(name: str) -> Any:
    """The classes for torch, imported when they are named: series of images do without them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nanobrag_torch.datasets import learning

    return getattr(learning, name)
