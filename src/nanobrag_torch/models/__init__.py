"""Configurations as tensors. These names come from their modules when first used."""

from __future__ import annotations

from typing import Any

from nanobrag_torch.lazy import lazily

_HOMES = {
    "models.beam": ("Beam",),
    "models.crystal": ("Crystal",),
    "models.detector": ("Detector",),
    "config": ("BeamConfig", "CrystalConfig", "DetectorConfig"),
    "utils.experiment_model": ("ExperimentModel",),
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0605
_attribute = lazily(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    """A public name, imported with its module when it is first asked for."""
    return _attribute(name)
