"""Materials that scatter besides the crystal, as the user states them: what, how much of it, how dense."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.background.profiles import SUBSTANCES, substance
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.stol import read_stol_file
from nanobrag_torch.models.tensors import as_tensor

if TYPE_CHECKING:
    Real = float | Tensor

LENGTHS_MM = {"nm": 1e-6, "um": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1000.0}


@dataclass(frozen=True, kw_only=True)
class MaterialConfig:
    """An amorphous material in the beam. Any Real may be a tensor that requires grad, and so may F.

    name: water, air or ice, whose profile, density, weight and absorption are built in; or any other with its own.
    stol, F: the profile, sin(theta)/lambda (1/A) and electrons a molecule, interpolated smoothly and constant beyond
    its ends. thickness_mm: along the beam. mu_per_mm: absorption; None: that of the built-in substance, else none.
    """

    name: str = "water"
    thickness_mm: Real
    density_g_cm3: Real | None = None
    molecular_weight: float | None = None
    stol: Any | None = None
    F: Any | None = None
    mu_per_mm: Real | None = None
    scale: Real = 1.0  # of the photons

    def __post_init__(self) -> None:
        known = self.name in SUBSTANCES
        if (self.stol is None) != (self.F is None):
            raise InputError("stol, F", self.name, "both, or neither")
        if not known and (self.stol is None or self.density_g_cm3 is None or self.molecular_weight is None):
            raise InputError("name", self.name, f"{', '.join(SUBSTANCES)}; or stol, F, density and molecular weight")
        for name, open_low in (("thickness_mm", False), ("density_g_cm3", False), ("molecular_weight", True),
                               ("mu_per_mm", False), ("scale", False)):  # fmt: skip
            _require(name, getattr(self, name), open_low)
        if self.stol is not None:
            _require_profile(self.stol, self.F)

    def profile(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """sin(theta)/lambda (1/A) and F, each [n]."""
        if self.stol is not None:
            return as_tensor(self.stol, device), as_tensor(self.F, device)
        table = torch.from_numpy(substance(self.name).profile).to(device)
        return table[:, 0], table[:, 1]

    def density(self) -> Real:
        """g/cm^3."""
        return substance(self.name).density if self.density_g_cm3 is None else self.density_g_cm3

    def weight(self) -> float:
        """g/mol of what F is given for."""
        return substance(self.name).weight if self.molecular_weight is None else self.molecular_weight

    def attenuation(self, wavelength_A: float) -> Real:
        """1/mm."""
        if self.mu_per_mm is not None:
            return self.mu_per_mm
        if self.name not in SUBSTANCES or self.stol is not None:
            return 0.0
        known = substance(self.name)
        per_density = known.attenuation_per_mm(wavelength_A) / known.density
        return self.density() * per_density


def material_of(text: str, flag: str = "--background") -> MaterialConfig:
    """The material of words such as water:2.5mm, air:5cm, ice:10um or profile.stol:1mm:1.2g/cm3:18g/mol.

    Raises InputError that names the flag.
    """
    accepted = f"material:thickness, such as water:2.5mm; {', '.join(SUBSTANCES)}, or a .stol file"
    name, *rest = text.split(":")
    lengths = [found for word in rest if (found := _quantity(word, LENGTHS_MM)) is not None]
    densities = [found for word in rest if (found := _quantity(word, {"g/cm3": 1.0, "kg/m3": 1e-3})) is not None]
    weights = [found for word in rest if (found := _quantity(word, {"g/mol": 1.0})) is not None]
    if len(lengths) != 1 or max(len(densities), len(weights)) > 1 or len(rest) != len(lengths + densities + weights):
        raise InputError(flag, text, accepted)
    fields: dict[str, Any] = {"name": name, "thickness_mm": lengths[0]}
    if densities:
        fields["density_g_cm3"] = densities[0]
    if weights:
        fields["molecular_weight"] = weights[0]
    if name not in SUBSTANCES:
        if "." not in name:
            raise InputError(flag, text, accepted)
        table = read_stol_file(name, flag=flag)
        table = table[np.argsort(table[:, 0], kind="stable")]
        fields |= {"stol": table[:, 0], "F": np.nan_to_num(table[:, 1])}
        fields = {"density_g_cm3": 1.0, "molecular_weight": 18.015, **fields}
    try:
        return MaterialConfig(**fields)
    except InputError as error:
        raise InputError(flag, text, f"{error.name}: {error.accepted}") from None


def length_mm(text: str, flag: str) -> float:
    """A length such as 2mm or 75um, in mm. Raises InputError that names the flag."""
    found = _quantity(text, LENGTHS_MM)
    if found is None or not found > 0:
        raise InputError(flag, text, f"a length above 0 with its unit, such as 2mm; {', '.join(LENGTHS_MM)}")
    return found


def _quantity(text: str, units: dict[str, float]) -> float | None:
    found = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z/0-9]+)", text.strip())
    if found is None or found[2] not in units:
        return None
    try:
        return float(found[1]) * units[found[2]]
    except ValueError:
        return None


def _require(name: str, value: Any, open_low: bool) -> None:
    if value is None:
        return
    number = float(value.detach()) if isinstance(value, Tensor) else float(value)
    if not (math.isfinite(number) and (number > 0 or (number == 0 and not open_low))):
        raise InputError(name, number, "a number above 0" if open_low else "a number from 0 up")


def _require_profile(stol: Any, amplitudes: Any) -> None:
    places, values = as_tensor(stol).detach(), as_tensor(amplitudes).detach()
    if places.dim() != 1 or places.shape != values.shape or places.numel() < 2:
        raise InputError("stol, F", (tuple(places.shape), tuple(values.shape)), "as many F as stol, two at least")
    if not bool((torch.diff(places) > 0).all()) or not bool((places >= 0).all()):
        raise InputError("stol", places.tolist()[:8], "numbers from 0 up that grow")
    if not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise InputError("F", values.tolist()[:8], "finite numbers from 0 up")


def names_of(materials: Sequence[MaterialConfig]) -> str:
    """The materials in a few words, for headers and logs."""
    return ", ".join(f"{m.name} {float(m.thickness_mm):g} mm" for m in materials)
