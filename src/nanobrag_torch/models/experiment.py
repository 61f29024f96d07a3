"""The place where scripts look for ExperimentModel, which knows the simulator and so lives above the models."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """ExperimentModel, imported when it is first asked for."""
    if name != "ExperimentModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("nanobrag_torch.utils.experiment_model").ExperimentModel
