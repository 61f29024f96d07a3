"""Merged intensities and amplitudes in MTZ files, through gemmi, with Friedel mates side by side where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.io.mtz import proper_equivalent
from nanobrag_torch.records.reflections import Cell

if TYPE_CHECKING:
    import gemmi

KINDS = {"I": "J", "SIGI": "Q", "F": "F", "SIGF": "Q", "N": "I"}
PAIRED = {"J": "K", "Q": "M", "F": "G", "I": "I"}
"""MTZ types of columns of one of two mates; a sigma of an amplitude is L."""


def write_merged_mtz(
    target: Target,
    hkl: NDArray[np.int64],
    columns: Mapping[str, NDArray[np.float64]],
    cell: Cell,
    group: str,
    *,
    anomalous: bool,
    flag: str = "-o",
) -> None:
    """Write columns [n] named I, SIGI, F, SIGF, N of reflections [n, 3]; anomalous: rows h and -h apart, I(+) and I(-).

    A centric reflection has the same in both. Raises InputError if the file cannot be written.
    """
    import gemmi

    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup(group)
    mtz.add_dataset("nanobrag_torch")
    mtz.set_cell_for_all(gemmi.UnitCell(*cell))
    asu = np.ascontiguousarray(hkl, np.int32).copy()
    mtz.spacegroup.switch_to_asu(asu)
    unique, row = np.unique(asu, axis=0, return_inverse=True)
    row = row.reshape(-1)
    found: list[NDArray[np.float64]] = []
    sides = _sides(mtz.spacegroup, hkl, asu) if anomalous else {"": np.ones(len(hkl), bool)}
    for name, values in columns.items():
        for side, own in sides.items():
            kind = KINDS[name] if not side else "L" if name == "SIGF" else PAIRED[KINDS[name]]
            mtz.add_column(f"{name}{side}", kind)
            column = np.full(len(unique), np.nan)
            column[row[own]] = values[own]
            found.append(column)
    mtz.set_data(np.column_stack([unique, *found]).astype(np.float32))
    with open_output(target, flag) as file:
        file.write(mtz.write_to_bytes())


def _sides(group: gemmi.SpaceGroup, hkl: NDArray[np.int64], asu: NDArray[np.int32]) -> dict[str, NDArray[np.bool_]]:
    """Which rows [n] belong to h and which to -h."""
    plus = proper_equivalent(hkl.astype(np.int32), asu, group)
    centric = np.asarray(group.operations().centric_flag_array(asu), bool)
    return {"(+)": plus | centric, "(-)": ~plus | centric}
