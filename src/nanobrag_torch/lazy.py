"""Public names of a package that come from their modules when first used, so that importing it waits for nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package. homes: modules of nanobrag_torch, and the names that each gives."""
    module_of = {name: module for module, names in homes.items() for name in names}

    def attribute(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"nanobrag_torch.{module_of[name]}"), name)

    return attribute
