"""Configurations as tensors. These names come from their modules when first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "models.beam": ("Beam",),
    "models.crystal": ("Crystal",),
    "models.detector": ("Detector",),
    "config": ("BeamConfig", "CrystalConfig", "DetectorConfig"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = list(_MODULE_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """A public name, imported with its module when it is first asked for."""
    if name == "ExperimentModel":
        raise ImportError("ExperimentModel is not part of this package: parameters of a fit are in refinement")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"nanobrag_torch.{_MODULE_OF[name]}"), name)
