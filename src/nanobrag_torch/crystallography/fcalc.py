"""Structure factors of an atomic model: summed directly over atoms, or by transforming its electron density.

F(h) = sum over operations and atoms of occupancy (f0 + f' + i f'') exp(-2 pi^2 h U h) exp(2 pi i h x); to that may come
a flat bulk solvent, k exp(-B s^2) F(mask) (Jiang & Bruenger (1994), J. Mol. Biol. 243, 100).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.crystallography.completeness import inverse_square_spacing
from nanobrag_torch.crystallography.form_factors import dispersion, gaussian_coefficients, scattering_factors
from nanobrag_torch.crystallography.symmetry import space_group
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from nanobrag_torch.records.atoms import AtomicModel

Whole = NDArray[np.int32]
Complex = NDArray[np.complex128]
Report = Callable[[float], None]

LARGEST_SUM = 4e7
"""Atoms times operations times reflections above which the density is transformed instead."""
CHUNK = 2**20
SAMPLING = 2.0
"""Grid points of the density per half of the resolution limit."""
DENSITY_CUTOFF = 1e-6
METHODS = ("auto", "direct", "fft")


@dataclass(frozen=True)
class BulkSolvent:
    """A flat solvent: density k (electrons/Angstrom^3) and smoothing B (Angstrom^2)."""

    k_sol: float = 0.35
    b_sol: float = 46.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.k_sol) and self.k_sol >= 0 and np.isfinite(self.b_sol)):
            raise InputError("k_sol, b_sol", (self.k_sol, self.b_sol), "a density from 0 up and a finite B")


@dataclass(frozen=True)
class Calculated:
    """F(h) and F(-h) of reflections, complex [n]; each other's conjugates without anomalous scattering."""

    plus: Complex
    minus: Complex


def calculate(
    model: AtomicModel,
    hkl: Whole,
    *,
    wavelength_A: float | None = None,
    solvent: BulkSolvent | None = None,
    method: str = "auto",
    progress: Report | None = None,
) -> Calculated:
    """F (electrons) of reflections [n, 3] and of their Friedel mates; with f' and f'' where a wavelength is given.

    method "direct" is exact, "fft" good to about 1e-5 of the mean F, "auto" takes the quicker. Raises InputError for an
    unknown method, or "fft" or a solvent without the structure of a macromolecule.
    """
    if method not in METHODS:
        raise InputError("method", method, ", ".join(METHODS))
    if model.structure is None and (method == "fft" or solvent is not None):
        raise InputError("method" if method == "fft" else "solvent", "small-molecule CIF", "a PDB or mmCIF model")
    terms = float(len(model)) * len(space_group(model.space_group).operations()) * len(hkl)
    transform = method == "fft" or (method == "auto" and terms > LARGEST_SUM and model.structure is not None)
    if transform:
        normal, anomalous = _transformed(model, hkl, wavelength_A)
    else:
        normal, anomalous = _summed(model, hkl, wavelength_A, progress)
    if solvent is not None:
        normal = normal + _solvent(model, hkl, solvent)
    return Calculated(normal + 1j * anomalous, normal.conj() + 1j * anomalous.conj())


def atom_sums(hkl: Tensor, fractional: Tensor, weight: Tensor, u_star: Tensor, kinds: Tensor) -> Tensor:
    """Sum over the atoms of each kind of weight exp(-2 pi^2 h U h) exp(2 pi i h x), complex [n, kinds].

    hkl [n, 3], fractional [m, 3], weight [m], u_star [m, 3, 3], kinds [m, kinds] with a one for each atom's kind. All
    float64; differentiable by everything about the atoms.
    """
    quadratic = (hkl[:, :, None] * hkl[:, None, :]).reshape(-1, 9) @ u_star.reshape(-1, 9).T
    size = weight * torch.exp(-2 * torch.pi**2 * quadratic)  # [n, m]
    angle = 2 * torch.pi * (hkl @ fractional.T)
    return torch.complex((size * torch.cos(angle)) @ kinds, (size * torch.sin(angle)) @ kinds)


def symmetry_sums(hkl: Tensor, group: str, fractional: Tensor, weight: Tensor, u_star: Tensor, kinds: Tensor) -> Tensor:
    """`atom_sums` over the whole cell: every operation of the space group, centring included; [n, kinds]."""
    operations = space_group(group).operations()
    total = torch.zeros((len(hkl), kinds.shape[1]), dtype=torch.complex128)
    for op in operations.sym_ops:  # h (R x + t) = (h R) x + h t
        turn = torch.tensor(op.rot, dtype=torch.float64) / op.DEN
        shift = 2 * torch.pi * (hkl @ torch.tensor(op.tran, dtype=torch.float64)) / op.DEN
        total = total + atom_sums(hkl @ turn, fractional, weight, u_star, kinds) * torch.polar(
            torch.ones_like(shift), shift
        ).unsqueeze(-1)
    centring = torch.tensor(operations.cen_ops, dtype=torch.float64) / 24
    angle = 2 * torch.pi * (hkl @ centring.T)
    return total * torch.polar(torch.ones_like(angle), angle).sum(-1, keepdim=True)


def _summed(
    model: AtomicModel, hkl: Whole, wavelength_A: float | None, progress: Report | None
) -> tuple[Complex, Complex]:
    """The part of f0 + f' and the part of f'' [n], by direct summation in chunks of reflections."""
    species = sorted(set(zip(model.elements, model.charges.tolist(), strict=True)))
    row = {kind: place for place, kind in enumerate(species)}
    place = [row[kind] for kind in zip(model.elements, model.charges.tolist(), strict=True)]
    kinds = torch.eye(len(species), dtype=torch.float64)[place]
    fractional, weight, u_star = (torch.from_numpy(a) for a in (model.fractional, model.occupancy, model.u_star))
    elements, charges = [name for name, _ in species], [charge for _, charge in species]
    coefficients = torch.from_numpy(gaussian_coefficients(elements, charges))
    real, imaginary = (
        [torch.from_numpy(f.copy()) for f in dispersion(elements, wavelength_A)]
        if wavelength_A is not None
        else [torch.zeros(len(species), dtype=torch.float64)] * 2
    )
    stol2 = torch.from_numpy(inverse_square_spacing(hkl, model.cell) / 4)
    indices = torch.from_numpy(np.asarray(hkl, np.float64))
    parts = []
    step = max(1, CHUNK // max(1, len(model)))
    for start in range(0, len(hkl), step):
        chosen = slice(start, start + step)
        sums = symmetry_sums(indices[chosen], model.space_group, fractional, weight, u_star, kinds)
        factor = scattering_factors(coefficients, stol2[chosen]) + real
        parts.append(torch.stack([(factor * sums).sum(-1), (imaginary * sums).sum(-1)]))
        if progress is not None:
            progress(min(1.0, (start + step) / len(hkl)))
    both: NDArray[np.complex128] = torch.cat(parts, -1).numpy()
    return both[0], both[1]


def _transformed(model: AtomicModel, hkl: Whole, wavelength_A: float | None) -> tuple[Complex, Complex]:
    """As _summed, by Fourier transform of the density. f'' is had as a difference, with and without it added to f0."""
    names = sorted(set(model.elements))
    if wavelength_A is None:
        return _density_transform(model, hkl, {}), np.zeros(len(hkl), np.complex128)
    real, imaginary = (dict(zip(names, f.tolist(), strict=True)) for f in dispersion(names, wavelength_A))
    normal = _density_transform(model, hkl, real)
    shifted = _density_transform(model, hkl, {name: real[name] + imaginary[name] for name in names})
    return normal, shifted - normal


def _density_transform(model: AtomicModel, hkl: Whole, added: dict[str, float]) -> Complex:
    import gemmi

    calculator = gemmi.DensityCalculatorX()
    calculator.d_min = _finest(model, hkl)
    calculator.rate, calculator.cutoff = SAMPLING, DENSITY_CUTOFF
    for name, value in added.items():
        calculator.addends.set(gemmi.Element(name), value)
    calculator.set_grid_cell_and_spacegroup(model.structure)
    calculator.set_refmac_compatible_blur(model.structure[0])
    calculator.put_model_density_on_grid(model.structure[0])
    return _at(gemmi.transform_map_to_f_phi(calculator.grid, half_l=True), hkl, calculator.blur)


def _solvent(model: AtomicModel, hkl: Whole, solvent: BulkSolvent) -> Complex:
    import gemmi

    grid = gemmi.FloatGrid()
    grid.setup_from(model.structure, spacing=min(0.6, _finest(model, hkl) / 3))
    gemmi.SolventMasker(gemmi.AtomicRadiiSet.Refmac).put_mask_on_float_grid(grid, model.structure[0])
    mask = _at(gemmi.transform_map_to_f_phi(grid, half_l=True), hkl, 0.0)
    stol2 = inverse_square_spacing(hkl, model.cell) / 4
    return np.asarray(solvent.k_sol * np.exp(-solvent.b_sol * stol2) * mask, np.complex128)


def _finest(model: AtomicModel, hkl: Whole) -> float:
    return float(inverse_square_spacing(hkl, model.cell).max() ** -0.5)


def _at(transform: Any, hkl: Whole, blur: float) -> Complex:
    return np.asarray(transform.get_value_by_hkl(np.ascontiguousarray(hkl, np.int32), unblur=blur), np.complex128)


def with_b_factors(model: AtomicModel, *, b_iso: float | None = None, b_add: float = 0.0) -> AtomicModel:
    """The model with every atom given b_iso (Angstrom^2), or with b_add added to all, for direct sums and transforms.

    Raises InputError where that is not finite.
    """
    from dataclasses import replace

    if not np.isfinite([b_add, 0.0 if b_iso is None else b_iso]).all():
        raise InputError("b_iso, b_add", (b_iso, b_add), "finite numbers")
    if b_iso is None and b_add == 0:
        return model
    metric = _reciprocal_metric(model)
    base = np.zeros_like(model.u_star) if b_iso is not None else model.u_star
    added = (b_add if b_iso is None else b_iso) / (8 * np.pi**2)
    structure = None if model.structure is None else _restated(model.structure, b_iso, b_add)
    return replace(model, u_star=base + added * metric, structure=structure)


def _reciprocal_metric(model: AtomicModel) -> NDArray[np.float64]:
    import gemmi

    to_fractional = np.array(gemmi.UnitCell(*model.cell).frac.mat.tolist())
    return np.asarray(to_fractional @ to_fractional.T, np.float64)


def _restated(structure: Any, b_iso: float | None, b_add: float) -> Any:
    import gemmi

    changed = structure.clone()
    for site in changed[0].all():
        if b_iso is not None:
            site.atom.b_iso, site.atom.aniso = b_iso, gemmi.SMat33f(0, 0, 0, 0, 0, 0)
        else:
            site.atom.b_iso += b_add
            if site.atom.aniso.nonzero():
                site.atom.aniso = site.atom.aniso.added_kI(b_add / (8 * np.pi**2))
    return changed
