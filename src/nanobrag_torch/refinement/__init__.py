"""Refinement of exposures against their pixels: the public names, imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanobrag_torch.refinement.columns import Columns
    from nanobrag_torch.refinement.parameters import Parameter, ParameterSet
    from nanobrag_torch.refinement.result import StillResult
    from nanobrag_torch.refinement.shoeboxes import Shoeboxes
    from nanobrag_torch.refinement.solver import levenberg_marquardt
    from nanobrag_torch.refinement.still import refine_still
    from nanobrag_torch.refinement.targets import Gaussian, Poisson, StudentT

__all__ = [
    "Columns",
    "Gaussian",
    "Parameter",
    "ParameterSet",
    "Poisson",
    "Shoeboxes",
    "StillResult",
    "StudentT",
    "levenberg_marquardt",
    "refine_still",
]

_HOMES = {
    "Columns": "columns",
    "Gaussian": "targets",
    "Parameter": "parameters",
    "ParameterSet": "parameters",
    "Poisson": "targets",
    "Shoeboxes": "shoeboxes",
    "StillResult": "result",
    "StudentT": "targets",
    "levenberg_marquardt": "solver",
    "refine_still": "still",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"nanobrag_torch.refinement.{_HOMES[name]}"), name)
