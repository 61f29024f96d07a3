"""Refinement of exposures against their pixels: the public names, imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanobrag_torch.lazy import lazily

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
    "refinement.columns": ("Columns",),
    "refinement.parameters": ("Parameter", "ParameterSet"),
    "refinement.result": ("StillResult",),
    "refinement.shoeboxes": ("Shoeboxes",),
    "refinement.solver": ("levenberg_marquardt",),
    "refinement.still": ("refine_still",),
    "refinement.targets": ("Gaussian", "Poisson", "StudentT"),
}
__getattr__ = lazily(__name__, _HOMES)
