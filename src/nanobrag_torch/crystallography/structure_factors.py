"""Structure factors for a crystal from any file: reflections read, or calculated from atoms, and put into its table."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nanobrag_torch.crystallography.completeness import possible_reflections, within
from nanobrag_torch.crystallography.symmetry import (
    Expansion,
    amplitude_table,
    expand_to_p1,
    merge_equivalents,
    space_group,
)
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.amplitudes import amplitude_format, read_reflections
from nanobrag_torch.records.atoms import AtomicModel
from nanobrag_torch.records.bounds import check_reflections
from nanobrag_torch.records.reflections import Cell, Reflections, require_cell

if TYPE_CHECKING:
    from torch import Tensor

    from nanobrag_torch.crystallography.fcalc import BulkSolvent

FLAG = "structure factors"
Report = Callable[[float], None]


class HoldsAmplitudes(Protocol):
    """A crystal, as far as its table of amplitudes goes."""

    hkl_data: Tensor | None  # [H, K, L]
    hkl_metadata: dict[str, int] | None  # h_min h_max k_min k_max l_min l_max


def read_structure_factors(
    path: str | os.PathLike[str],
    *,
    column: str | None = None,
    dmin: float | None = None,
    dmax: float | None = None,
    wavelength_A: float | None = None,
    anomalous: bool | None = None,
    solvent: BulkSolvent | None = None,
    cell: Cell | None = None,
    space_group: str | None = None,
    progress: Report | None = None,
    flag: str = FLAG,
) -> Reflections:
    """The unique reflections of an MTZ, CIF, hkl or Fdump file, or those of the atoms of a PDB, mmCIF or CIF file.

    column: a column of amplitudes or intensities; without it the only sensible one. dmin, dmax: resolution limits
    (Angstrom); atoms need dmin, or a model that states its resolution. wavelength_A: adds f' and f'' to the atoms.
    anomalous: keep F(h) and F(-h) apart; None: where the file does, or the wavelength is given. cell (Angstrom,
    degrees) and space_group replace those of a file, or give text ones. Rows that symmetry makes equal are averaged.
    Raises InputError naming file and reason.
    """
    read_atoms = amplitude_format(path, flag=flag).read_atoms
    if read_atoms is not None:
        if column is not None:
            raise InputError("column", column, f"no column for {path}, which holds atoms")
        model = read_atoms(Path(path), flag)
        if cell is not None or space_group is not None:
            raise InputError("cell, space_group", (cell, space_group), f"nothing, as {path} holds atoms in their cell")
        return calculated_reflections(
            model,
            dmin=dmin,
            dmax=dmax,
            wavelength_A=wavelength_A,
            anomalous=anomalous,
            solvent=solvent,
            source=f"F of {len(model)} atoms of {path}",
            progress=progress,
        )
    read = read_reflections(path, column=column, anomalous=anomalous, flag=flag)
    reflections = within(_restated(read, cell, space_group), dmin, dmax)
    if len(reflections) == 0:
        raise InputError(flag, str(path), "a file with reflections inside the resolution limits")
    return merge_equivalents(reflections)


def calculated_reflections(
    model: AtomicModel,
    *,
    dmin: float | None = None,
    dmax: float | None = None,
    wavelength_A: float | None = None,
    anomalous: bool | None = None,
    solvent: BulkSolvent | None = None,
    method: str = "auto",
    source: str = "",
    progress: Report | None = None,
) -> Reflections:
    """The unique reflections of an atomic model, as read_structure_factors gives them; electrons, with phases.

    Anomalous: rows h, then rows -h of the acentric ones. Raises InputError without a resolution limit, for anomalous
    data without a wavelength, and for atoms that give amplitudes which are no numbers.
    """
    from nanobrag_torch.crystallography.fcalc import calculate

    dmin = model.resolution if dmin is None else dmin
    if dmin is None:
        raise InputError("dmin", None, "a resolution limit (Angstrom): the model does not state one")
    if anomalous and wavelength_A is None:
        raise InputError("anomalous", True, "a wavelength too")
    hkl = possible_reflections(model.cell, model.space_group, dmin, dmax)
    if len(hkl) == 0:
        raise InputError("dmin", dmin, "a resolution at which the cell has reflections")
    found = calculate(model, hkl, wavelength_A=wavelength_A, solvent=solvent, method=method, progress=progress)
    split = wavelength_A is not None if anomalous is None else anomalous
    values = found.plus
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number is refused below
        amplitude = np.sqrt((np.abs(found.plus) ** 2 + np.abs(found.minus) ** 2) / 2)
    if split:
        mates = ~space_group(model.space_group).operations().centric_flag_array(hkl)
        hkl, values = np.concatenate([hkl, -hkl[mates]]), np.concatenate([found.plus, found.minus[mates]])
        amplitude = np.abs(values)
    reflections = Reflections(
        hkl=hkl,
        amplitude=amplitude,
        phase_deg=np.degrees(np.angle(values)),
        cell=model.cell,
        space_group=model.space_group,
        anomalous=split,
        source=source,
    )
    check_reflections(reflections)
    return reflections


def attach_structure_factors(
    crystal: HoldsAmplitudes,
    reflections: Reflections,
    *,
    default_F: float | Tensor = 0.0,
    expansion: Expansion | None = None,
) -> Expansion:
    """Expand reflections to P1 and make them the crystal's table; missing ones get default_F.

    expansion: that of the same reflections, where it is at hand.

    To refine amplitudes, make `crystal.hkl_data` from a vector of unique ones with `table_maker(expansion)`.
    """
    import torch

    expansion = expand_to_p1(reflections) if expansion is None else expansion
    crystal.hkl_data = amplitude_table(expansion, torch.from_numpy(reflections.amplitude), default_F=default_F)
    crystal.hkl_metadata = expansion.metadata
    return expansion


def _restated(read: Reflections, cell: Cell | None, name: str | None) -> Reflections:
    """With another cell or space group; symmetry turns a plain list into unique reflections."""
    if cell is not None:
        read = replace(read, cell=require_cell(cell))
    if name is not None:
        given = space_group(name, read.cell).xhm()
        read = replace(read, space_group=given)
    return read
