"""One entry to every reflection file, told apart by what is in it; and writers chosen by suffix."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.io.atoms import read_text
from nanobrag_torch.io.dump import read_dump_file
from nanobrag_torch.io.hkl import read_hkl_arrays
from nanobrag_torch.io.mtz import read_mtz
from nanobrag_torch.io.sfcif import read_sfcif
from nanobrag_torch.records.reflections import Floats, Indices, Reflections

FLAG = "structure factors"
FORMATS = "an MTZ file, a CIF of reflections, a PDB, mmCIF or CIF model, text of h k l F, or an Fdump file"
SUFFIXES = (".mtz", ".hkl", ".bin")

_DUMP = re.compile(rb"(-?[0-9]+ ){5}-?[0-9]+\n\f")
_CIF = re.compile(rb"(\s|#[^\n]*\n)*+data_", re.IGNORECASE)
_CIF_REFLECTIONS = re.compile(rb"^\s*_refln[._]", re.MULTILINE)
_CIF_ATOMS = re.compile(rb"^\s*_atom_site[._]", re.MULTILINE)
_CIF_UNMERGED = re.compile(rb"^\s*_diffrn_refln[._]", re.MULTILINE)
_PDB = re.compile(rb"^(HEADER|TITLE |REMARK|CRYST1|ATOM  |HETATM|COMPND|EXPDTA|MODEL |SCALE1|ORIGX1)", re.MULTILINE)
_NUMBERS = re.compile(rb"(\s|#[^\n]*\n)*+[-+]?[0-9]")
_ABSENT = -np.finfo(np.float64).max


def kind_of(path: str | os.PathLike[str], *, flag: str = FLAG) -> str:
    """What a file of structure factors is, by its content: mtz, sfcif, model, dump or hkl.

    Raises InputError naming file and reason if it is none of these or cannot be read.
    """
    content = read_text(path, flag, FORMATS)
    if content.startswith(b"MTZ "):
        return "mtz"
    if _DUMP.match(content):
        return "dump"
    if _CIF.match(content):
        return _kind_of_cif(content, path, flag)
    if _NUMBERS.match(content):
        return "hkl"
    if _PDB.search(content):
        return "model"
    raise InputError(flag, str(path), FORMATS)


def _kind_of_cif(content: bytes, path: str | os.PathLike[str], flag: str) -> str:
    if _CIF_REFLECTIONS.search(content) or _CIF_UNMERGED.search(content):
        return "sfcif"
    if _CIF_ATOMS.search(content):
        return "model"
    raise InputError(flag, str(path), "a CIF file with reflections (_refln) or atoms (_atom_site)")


def read_reflections(
    path: str | os.PathLike[str], *, column: str | None = None, anomalous: bool | None = None, flag: str = FLAG
) -> Reflections:
    """The reflections of an MTZ, CIF, hkl or Fdump file.

    Text and Fdump files list everything there is, so their space group is None and their cell unknown; those have no
    columns to choose from. Raises InputError naming file, place and reason.
    """
    kind = kind_of(path, flag=flag)
    if kind == "mtz":
        return read_mtz(path, column=column, anomalous=anomalous, flag=flag)
    if kind == "sfcif":
        return read_sfcif(path, column=column, anomalous=anomalous, flag=flag)
    if kind == "model":
        raise InputError(flag, str(path), "a file of reflections, not of atoms")
    if column is not None:
        raise InputError("column", column, f"no column for {path}, which has only one")
    return _listed(path, kind)


def _listed(path: str | os.PathLike[str], kind: str) -> Reflections:
    if kind == "dump":
        grid, metadata = read_dump_file(path)
    else:
        table = read_hkl_arrays(path, default_F=_ABSENT)
        grid, metadata = table.grid, table.metadata
    present = grid != _ABSENT
    low = np.array([metadata[f"{axis}_min"] for axis in "hkl"])
    hkl = (np.argwhere(present) + low).astype(np.int32)
    return Reflections(hkl=hkl, amplitude=grid[present], anomalous=True, source=f"h k l F of {path}")


def require_suffix(path: str | os.PathLike[str], *, flag: str = "-o") -> str:
    """The suffix of an output file of structure factors; InputError if it is none of SUFFIXES."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(flag, str(path), f"a name that ends in {', '.join(SUFFIXES)}")
    return suffix


def write_hkl_lines(target: Target, hkl: Indices | NDArray[np.int64], amplitude: Floats, *, flag: str = "-o") -> None:
    """Write reflections [n, 3], [n] as lines h k l F of nine digits, which the C program reads too.

    Raises InputError if the file cannot be written.
    """
    columns = [*hkl.T.tolist(), amplitude.tolist()]
    with open_output(target, flag) as file:
        file.write("".join(map("%d %d %d %.9g\n".__mod__, zip(*columns, strict=True))).encode())
