"""Atomic models of PDB, mmCIF and small-molecule CIF files as arrays, through gemmi."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.fileformat import FileFormat, FileStart
from nanobrag_torch.io.guard import guards
from nanobrag_torch.io.sfcif import CIF
from nanobrag_torch.records.atoms import AtomicModel
from nanobrag_torch.records.reflections import Cell, Floats

if TYPE_CHECKING:
    import gemmi

_LOG = logging.getLogger(__name__)

FLAG = "model"
COORDINATES = slice(30, 54)  # columns of a PDB line
NAMED = 6  # atoms that a line names
ACCEPTED = "a PDB, mmCIF or CIF file of atoms"

_CIF_ATOMS = re.compile(rb"^[ \t]*+_atom_site[._]", re.MULTILINE)
_PDB = re.compile(rb"^(HEADER|TITLE |REMARK|CRYST1|ATOM  |HETATM|COMPND|EXPDTA|MODEL |SCALE1|ORIGX1)", re.MULTILINE)


@guards(ACCEPTED)
def read_atoms(path: str | os.PathLike[str], *, flag: str = FLAG) -> AtomicModel:
    """The first model of a PDB or mmCIF file (strict NCS expanded), or the sites of a small-molecule CIF.

    Atoms of unknown position are left out and named; of several data blocks with atoms the first is taken and named.
    Raises InputError naming file and reason if it is damaged, has no atoms, cell or space group, or an atom whose
    element is unknown.
    """
    import gemmi

    content = read_input(path, flag, ACCEPTED)
    try:
        if not CIF.match(content):
            return _macromolecule(_of_pdb(content, path, flag), path, flag)
        block = _block_of_atoms(content, path, flag)
        if block.find_values("_atom_site_fract_x"):
            return _small(gemmi.make_small_structure_from_block(block), path, flag)
        return _macromolecule(gemmi.make_structure_from_block(block), path, flag)
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError, IndexError) as error:
        raise InputError(flag, str(path), f"{ACCEPTED} ({' '.join(str(error).split())[:160]})") from error


def _block_of_atoms(content: bytes, path: str | os.PathLike[str], flag: str) -> gemmi.cif.Block:
    """The data block that holds atoms; the first of several, with a line that says so."""
    import gemmi

    tags = ("_atom_site_fract_x", "_atom_site.Cartn_x", "_atom_site.fract_x", "_atom_site_Cartn_x")
    document = gemmi.cif.read_string(content)
    blocks = [block for block in document if any(block.find_values(tag) for tag in tags)]
    _require(bool(blocks), path, flag, "no atoms in any of its data blocks")
    if len(blocks) > 1:
        others = ", ".join(block.name for block in blocks[1:])
        _LOG.warning("%s: atoms of data block %s; others have atoms too: %s", path, blocks[0].name, others)
    return blocks[0]


def _of_pdb(content: bytes, path: str | os.PathLike[str], flag: str) -> gemmi.Structure:
    """A PDB file. Columns 73 to 80 of old ones, entry code and line number, are no segment, element and charge."""
    import gemmi

    lines = content.decode("latin-1").splitlines()
    atoms = [(number, line) for number, line in enumerate(lines, 1) if line.startswith(("ATOM  ", "HETATM"))]
    unknown = [number for number, line in atoms if len(line) >= COORDINATES.stop and _is_unplaced(line)]
    for number, line in atoms:
        place = f"line {number}: {line[COORDINATES].strip()!r} are no coordinates"
        _require(number in unknown or all(map(_is_finite, _coordinates(line))), path, flag, place)
    for number in unknown:
        _LOG.warning("%s: line %d, %s: an atom of unknown position is left out", path, number, lines[number - 1][:27])
    dropped = set(unknown)
    text = "\n".join(line for number, line in enumerate(lines, 1) if number not in dropped)
    _require(len(unknown) < len(atoms) or not atoms, path, flag, "no atom of known position")
    old = bool(atoms) and all(line[76:80].strip().isdigit() for _, line in atoms)
    if old:
        _LOG.warning("%s: columns 73 to 80 hold entry code and line number, as in old files, and are passed over", path)
    return gemmi.read_pdb_string(text, max_line_length=72 if old else 0)


def _coordinates(line: str) -> tuple[str, str, str]:
    return line[30:38], line[38:46], line[46:54]


def _is_unplaced(line: str) -> bool:
    """Whether a coordinate is blank, or a sign for "not known"."""
    return any(word.strip(" ?.*-") == "" or word.strip().lower() == "nan" for word in _coordinates(line))


def _is_finite(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False


def _known_places(names: list[str], places: Floats, path: str | os.PathLike[str], flag: str) -> list[int]:
    """Which atoms [n] have a position [n, 3]; those that have none are named in a line."""
    known = np.asarray(np.isfinite(places).all(axis=1), np.bool_)
    if not known.all():
        lost = [name for name, there in zip(names, known, strict=True) if not there]
        _require(bool(known.any()), path, flag, "no atom of known position")
        _LOG.warning("%s: atoms of unknown position are left out: %s", path, _some(lost))
    return [int(index) for index in np.flatnonzero(known)]


def _stated(values: Floats, names: list[str], what: str, path: str | os.PathLike[str]) -> Floats:
    """Displacements [n]; those that are not stated (NaN) are 0, and a line says so."""
    unknown = [name for name, value in zip(names, values, strict=True) if not np.isfinite(value)]
    if unknown:
        _LOG.warning("%s: %s of %s is 0 or not stated, and taken as 0", path, what, _some(unknown))
    return np.where(np.isfinite(values), values, 0.0)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _macromolecule(structure: gemmi.Structure, path: str | os.PathLike[str], flag: str) -> AtomicModel:
    import gemmi

    _require(len(structure) > 0 and structure[0].count_atom_sites() > 0, path, flag, "no atoms")
    _require(structure.cell.is_crystal(), path, flag, "no unit cell")
    group = structure.find_spacegroup()
    _require(group is not None, path, flag, f"unknown space group {structure.spacegroup_hm!r}")
    if any(not op.given for op in structure.ncs):
        structure.expand_ncs(gemmi.HowToNameCopiedChain.Dup)
    del structure[1:]
    sites = list(structure[0].all())
    names = [f"{site.chain.name} {site.residue.name} {site.residue.seqid} {site.atom.name}" for site in sites]
    kept = _known_places(names, np.array([site.atom.pos.tolist() for site in sites]), path, flag)
    atoms, names = [sites[index].atom for index in kept], [names[index] for index in kept]
    elements = tuple(atom.element.name for atom in atoms)
    _require_known(elements, path, flag)
    to_fractional = np.array(structure.cell.frac.mat.tolist())
    position = np.array([atom.pos.tolist() for atom in atoms])
    u = np.array([atom.aniso.elements_pdb() for atom in atoms], np.float64)
    b_iso = _stated(np.array([atom.b_iso for atom in atoms], np.float64), names, "B", path)
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
    every = list(small.sites)
    kept = _known_places([s.label for s in every], np.array([s.fract.tolist() for s in every]), path, flag)
    sites = [every[index] for index in kept]
    elements = tuple(site.element.name for site in sites)
    _require_known(elements, path, flag)
    to_fractional = np.array(small.cell.frac.mat.tolist())
    stars = np.linalg.norm(to_fractional, axis=1)  # 1/Angstrom: lengths of a*, b*, c*
    u = np.array([site.aniso.elements_pdb() for site in sites], np.float64)
    u_iso = np.array([site.u_iso for site in sites], np.float64)
    unknown = (u_iso == 0) & ~_anisotropic(u)[:, 0, 0]  # gemmi has 0 where nothing is stated
    u_iso = _stated(np.where(unknown, np.nan, u_iso), [site.label for site in sites], "U", path)
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
    return np.asarray((u != 0).any(axis=1) & np.isfinite(u).all(axis=1), np.bool_)[:, None, None]


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
