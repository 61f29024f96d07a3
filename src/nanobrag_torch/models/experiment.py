"""The place where scripts look for ExperimentModel, which knows the simulator and so lives above the models."""

from __future__ import annotations

from typing import Any

from nanobrag_torch.lazy import lazily

_attribute = lazily(__name__, {"utils.experiment_model": ("ExperimentModel",)})


def __getattr__(name: str) -> Any:
    """ExperimentModel, imported when it is first asked for."""
    return _attribute(name)
