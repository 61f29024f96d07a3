"""Atomic models of PDB, mmCIF and small-molecule CIF files as arrays, through gemmi."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.fileformat import FileFormat, FileStart
from nanobrag_torch.io.sfcif import CIF
from nanobrag_torch.records.atoms import AtomicModel
from nanobrag_torch.records.reflections import Cell, Floats

if TYPE_CHECKING:
    import gemmi

FLAG = "model"
ACCEPTED = "a PDB, mmCIF or CIF file of atoms"

_CIF_ATOMS = re.compile(rb"^\s*_atom_site[._]", re.MULTILINE)
_PDB = re.compile(rb"^(HEADER|TITLE |REMARK|CRYST1|ATOM  |HETATM|COMPND|EXPDTA|MODEL |SCALE1|ORIGX1)", re.MULTILINE)


def read_atoms(path: str | os.PathLike[str], *, flag: str = FLAG) -> AtomicModel:
    """The first model of a PDB or mmCIF file (strict NCS expanded), or the sites of a small-molecule CIF.

    Raises InputError naming file and reason if it is damaged, has no atoms, cell or space group, or an atom whose
    element is unknown.
    """
    import gemmi

    content = read_input(path, flag, ACCEPTED)
    try:
        if b"_atom_site_fract_x" in content:
            return _small(gemmi.read_small_structure(str(path)), path, flag)
        return _macromolecule(gemmi.read_structure(str(path), format=gemmi.CoorFormat.Detect), path, flag)
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(flag, str(path), f"{ACCEPTED} ({' '.join(str(error).split())[:160]})") from error


def _macromolecule(structure: gemmi.Structure, path: str | os.PathLike[str], flag: str) -> AtomicModel:
    import gemmi

    _require(len(structure) > 0 and structure[0].count_atom_sites() > 0, path, flag, "no atoms")
    _require(structure.cell.is_crystal(), path, flag, "no unit cell")
    group = structure.find_spacegroup()
    _require(group is not None, path, flag, f"unknown space group {structure.spacegroup_hm!r}")
    if any(not op.given for op in structure.ncs):
        structure.expand_ncs(gemmi.HowToNameCopiedChain.Dup)
    del structure[1:]
    atoms = [site.atom for site in structure[0].all()]
    elements = tuple(atom.element.name for atom in atoms)
    _require_known(elements, path, flag)
    to_fractional = np.array(structure.cell.frac.mat.tolist())
    position = np.array([atom.pos.tolist() for atom in atoms])
    u = np.array([atom.aniso.elements_pdb() for atom in atoms], np.float64)
    b_iso = np.array([atom.b_iso for atom in atoms], np.float64)
    isotropic = np.eye(3) * (b_iso / (8 * np.pi**2))[:, None, None]
    cartesian = np.where(_anisotropic(u), _symmetric(u), isotropic)
    return AtomicModel(
        cell=_cell(structure.cell),
        space_group=group.xhm(),
        elements=elements,
        charges=np.zeros(len(atoms), np.int8),
        fractional=position @ to_fractional.T + np.array(structure.cell.frac.vec.tolist()),
        occupancy=np.array([atom.occ for atom in atoms], np.float64),
        u_star=to_fractional @ cartesian @ to_fractional.T,
        resolution=structure.resolution if structure.resolution > 0 else None,
        structure=structure,
    )


def _small(small: gemmi.SmallStructure, path: str | os.PathLike[str], flag: str) -> AtomicModel:
    _require(len(small.sites) > 0, path, flag, "no atoms")
    _require(small.cell.is_crystal(), path, flag, "no unit cell")
    if small.spacegroup is None:
        small.determine_and_set_spacegroup("s.h2")
    _require(small.spacegroup is not None, path, flag, "no known space group")
    small.setup_cell_images()
    small.change_occupancies_to_crystallographic()
    sites = list(small.sites)
    elements = tuple(site.element.name for site in sites)
    _require_known(elements, path, flag)
    to_fractional = np.array(small.cell.frac.mat.tolist())
    stars = np.linalg.norm(to_fractional, axis=1)  # 1/Angstrom: lengths of a*, b*, c*
    u = np.array([site.aniso.elements_pdb() for site in sites], np.float64)
    u_iso = np.array([site.u_iso for site in sites], np.float64)
    isotropic = (to_fractional @ to_fractional.T) * u_iso[:, None, None]
    return AtomicModel(
        cell=_cell(small.cell),
        space_group=small.spacegroup.xhm(),
        elements=elements,
        charges=np.array([site.charge for site in sites], np.int8),
        fractional=np.array([site.fract.tolist() for site in sites]),
        occupancy=np.array([site.occ for site in sites], np.float64),
        u_star=np.where(_anisotropic(u), _symmetric(u) * np.outer(stars, stars), isotropic),
    )


def _anisotropic(u: Floats) -> NDArray[np.bool_]:
    return np.asarray((u != 0).any(axis=1), np.bool_)[:, None, None]


def _symmetric(u: Floats) -> Floats:
    """[n, 6] in the order 11 22 33 12 13 23 -> [n, 3, 3]."""
    return u[:, [0, 3, 4, 3, 1, 5, 4, 5, 2]].reshape(-1, 3, 3)


def _cell(cell: gemmi.UnitCell) -> Cell:
    a, b, c, alpha, beta, gamma = cell.parameters
    return a, b, c, alpha, beta, gamma


def _require_known(elements: tuple[str, ...], path: str | os.PathLike[str], flag: str) -> None:
    if "X" in elements:
        _require(False, path, flag, f"atom {elements.index('X') + 1} is of no known element")


def _require(condition: bool, path: str | os.PathLike[str], flag: str, problem: str) -> None:
    if not condition:
        raise InputError(flag, str(path), f"{ACCEPTED} with a cell and a space group ({problem})")


def _recognises(file: FileStart) -> bool:
    if CIF.match(file.start):
        return _CIF_ATOMS.search(file.content) is not None
    return _PDB.search(file.content) is not None


def _read(path: Path, flag: str) -> AtomicModel:
    return read_atoms(path, flag=flag)


FORMAT = FileFormat(
    name="model", title="PDB, mmCIF or CIF model (_atom_site)", recognises=_recognises, read_atoms=_read
)
