"""Merged reflections in CIF: the PDB's structure-factor files (SF-mmCIF) and the hkl or fcf files of chemistry."""

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
from nanobrag_torch.io.columns import Quantity, choose
from nanobrag_torch.io.fileformat import Choice, FileFormat, FileStart
from nanobrag_torch.records.reflections import Cell, Floats, Reflections

if TYPE_CHECKING:
    import gemmi

_LOG = logging.getLogger(__name__)

FLAG = "structure factors"
ACCEPTED = "a CIF file with merged reflections (_refln)"

CIF = re.compile(rb"(\s|#[^\n]*\n)*+data_", re.IGNORECASE)
_REFLECTIONS = re.compile(rb"^[ \t]*+_(?:diffrn_)?refln[._]", re.MULTILINE)

_KNOWN = (
    Quantity(("pdbx_F_plus", "pdbx_F_minus"), ("pdbx_F_plus_sigma", "pdbx_F_minus_sigma"), False),
    Quantity(("F_meas_au",), ("F_meas_sigma_au",), False),
    Quantity(("F_meas",), ("F_meas_sigma",), False),
    Quantity(("pdbx_I_plus", "pdbx_I_minus"), ("pdbx_I_plus_sigma", "pdbx_I_minus_sigma"), True),
    Quantity(("intensity_meas",), ("intensity_sigma",), True),
    Quantity(("F_squared_meas",), ("F_squared_sigma",), True),
    Quantity(("F_calc_au",), (), False),
    Quantity(("F_calc",), (), False),
    Quantity(("F_squared_calc",), (), True),
    Quantity(("intensity_calc",), (), True),
)
_STATUS = ("status", "observed_status", "include_status")
_UNKNOWN = ("?", ".")
_REJECTED = ("x", "-")  # measured but unreliable; systematically absent
_SYMMETRY = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz", "_space_group_symop.operation_xyz")


def read_sfcif(
    path: str | os.PathLike[str], *, column: str | None = None, anomalous: bool | None = None, flag: str = FLAG
) -> Reflections:
    """The reflections of a CIF file: of the item named (F_meas_au, pdbx_I_plus, ...), else of the best there is.

    The first data block with merged reflections counts. Rows marked unreliable (x) or absent (-), or without a value,
    are left out. As `mtz.read_mtz` in all else. Raises InputError naming file and reason.
    """
    block = _block(path, flag)
    tags = _tags(block)
    offered = [_with_known_sigma(quantity, tags) for quantity in _KNOWN if set(quantity.labels) <= set(tags)]
    chosen = choose(offered, column, anomalous, str(path))
    quantity = chosen.quantity
    values = quantity.amplitudes(lambda label: _column(block, label, path, flag))
    hkl = np.array(block.make_miller_array(), np.int32)
    kept = _reliable(block, tags)
    group = _space_group(block, path, flag)
    split = quantity.paired and anomalous is not False
    values = [(f[kept], None if s is None else s[kept]) for f, s in values]
    hkl, amplitude, sigma = quantity.rows(hkl[kept], values, group.operations(), split=split)
    reflections = Reflections(
        hkl=hkl,
        amplitude=amplitude,
        sigma=sigma,
        cell=_cell(block, path, flag),
        space_group=group.xhm(),
        anomalous=split,
        source=f"{quantity.name} of {path}",
        remark=chosen.remark,
    )
    return reflections.rows(~np.isnan(amplitude))  # what is infinite is not missing, and is refused


def _block(path: str | os.PathLike[str], flag: str) -> gemmi.ReflnBlock:
    import gemmi

    content = read_input(path, flag, ACCEPTED)
    try:
        document = gemmi.cif.read_string(content)
        blocks = [gemmi.hkl_cif_as_refln_block(b) for b in document if b.find_loop("_refln_index_h")]
        blocks = blocks or list(gemmi.as_refln_blocks(document))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(flag, str(path), f"{ACCEPTED} ({' '.join(str(error).split())[:160]})") from error
    merged = [block for block in blocks if block.default_loop is not None and block.is_merged()]
    if not merged:
        raise InputError(flag, str(path), f"{ACCEPTED}; there are {'only unmerged ones' if blocks else 'none'}")
    if len(merged) > 1:
        others = ", ".join(block.block.name for block in merged[1:])
        _LOG.warning("%s: reflections of data block %s; others hold some too: %s", path, merged[0].block.name, others)
    return merged[0]


def _tags(block: gemmi.ReflnBlock) -> list[str]:
    """Names of the loop's items, without `_refln.` or `_refln_`."""
    return [tag.split(".")[-1].removeprefix("_refln_") for tag in block.default_loop.tags]


def _with_known_sigma(quantity: Quantity, tags: list[str]) -> Quantity:
    known = set(quantity.sigmas) <= set(tags)
    return quantity if known else Quantity(quantity.labels, (), quantity.intensity)


def _column(block: gemmi.ReflnBlock, tag: str, path: str | os.PathLike[str], flag: str) -> Floats:
    """The numbers of an item, NaN where unknown. Raises InputError for words, which gemmi takes for unknown."""
    values = np.array(block.make_float_array(tag), np.float64)
    loop = block.default_loop
    words = np.array(list(loop.values)[_tags(block).index(tag) :: len(loop.tags)], dtype=str)
    wrong = np.isnan(values) & ~np.isin(words, _UNKNOWN)
    if wrong.any():
        row = int(np.argmax(wrong))
        accepted = f"{ACCEPTED}: a number, or ? or . where it is unknown"
        raise InputError(flag, f"{path}: {tag} of reflection {row + 1} = {words[row]}", accepted)
    return values


def _reliable(block: gemmi.ReflnBlock, tags: list[str]) -> NDArray[np.bool_]:
    kept = np.ones(len(block.make_miller_array()), bool)
    loop = block.default_loop
    for name in _STATUS:
        if name in tags:
            column = block.block.find_values(loop.tags[tags.index(name)])
            kept &= ~np.isin(np.array(list(column), dtype=str), _REJECTED)
    return kept


def _space_group(block: gemmi.ReflnBlock, path: str | os.PathLike[str], flag: str) -> gemmi.SpaceGroup:
    import gemmi

    group: gemmi.SpaceGroup | None = block.spacegroup
    if group is None:
        listed = [op for tag in _SYMMETRY for op in block.block.find_values(tag)]
        ops = [gemmi.Op(gemmi.cif.as_string(op)) for op in listed]
        group = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(ops)) if ops else None
    if group is None:
        raise InputError(flag, str(path), "a CIF file that names a known space group or lists its operations")
    return group


def _cell(block: gemmi.ReflnBlock, path: str | os.PathLike[str], flag: str) -> Cell:
    if not block.cell.is_crystal():
        raise InputError(flag, str(path), "a CIF file with a unit cell")
    a, b, c, alpha, beta, gamma = block.cell.parameters
    return a, b, c, alpha, beta, gamma


def _recognises(file: FileStart) -> bool:
    return CIF.match(file.start) is not None and _REFLECTIONS.search(file.content) is not None


def _read(path: Path, choice: Choice) -> Reflections:
    return read_sfcif(path, column=choice.column, anomalous=choice.anomalous, flag=choice.flag)


FORMAT = FileFormat(name="sfcif", title="CIF of reflections (_refln)", recognises=_recognises, read_reflections=_read)
