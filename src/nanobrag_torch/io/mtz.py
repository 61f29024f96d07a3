"""Merged reflections in MTZ files, through gemmi."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output, read_input, unpacked_path
from nanobrag_torch.io.columns import Quantity, choose
from nanobrag_torch.io.fileformat import Choice, FileFormat
from nanobrag_torch.records.reflections import Cell, Floats, Indices, Reflections

if TYPE_CHECKING:
    import gemmi

FLAG = "structure factors"
ACCEPTED = "an MTZ file of merged reflections"

_SIGMA_OF = {"F": "Q", "J": "Q", "G": "L", "K": "M"}
LARGEST_INDEX = 2**20
WORD_BYTES = 4
_COUNTS = re.compile(rb"(NCOL|SYMINF|NDIF) +([0-9]+)(?: +([0-9]+))?(?: +([0-9]+))?")
_TITLE = "written by nanobrag_torch"


def read_mtz(
    path: str | os.PathLike[str], *, column: str | None = None, anomalous: bool | None = None, flag: str = FLAG
) -> Reflections:
    """The reflections of an MTZ file: of the F or I column named, else of the one that `columns.choose` picks.

    Either column of a pair F(+), F(-) or I(+), I(-) names the pair; anomalous False averages it. Intensities become
    amplitudes (`amplitudes_of_intensities`). Rows without a value are left out. Raises InputError naming file and
    reason for a damaged or unmerged file, or a column that is not there.
    """
    mtz = open_mtz(path, flag)
    if mtz.batches or any(item.type == "B" for item in mtz.columns):  # merged files have a column of type Y, too
        raise InputError(flag, str(path), f"{ACCEPTED} (these are unmerged: merge them first)")
    labels = {item.label: item for item in mtz.columns}
    hkl = _indices(mtz, path, flag)
    chosen = choose(offered_by(mtz), column, anomalous, str(path))
    quantity = chosen.quantity
    values = quantity.amplitudes(lambda label: _known(mtz, labels[label]))
    split = quantity.paired and anomalous is not False
    group = _space_group(mtz, path, flag)
    hkl, amplitude, sigma = quantity.rows(hkl, values, group.operations(), split=split)
    reflections = Reflections(
        hkl=hkl,
        amplitude=amplitude,
        sigma=sigma,
        cell=_cell(mtz, labels[quantity.labels[0]], path, flag),
        space_group=group.xhm(),
        anomalous=split,
        source=f"{quantity.name} of {path}",
        remark=chosen.remark,
    )
    return reflections.rows(~np.isnan(amplitude))  # what is infinite is not missing, and is refused


def offered_by(mtz: gemmi.Mtz) -> list[Quantity]:
    """Every amplitude and intensity of an MTZ file, pairs of h and -h as one."""
    columns = list(mtz.columns)
    found: list[Quantity] = []
    paired: set[str] = set()
    for item in columns:
        if item.type not in _SIGMA_OF or item.label in paired:
            continue
        labels: tuple[str, ...] = (item.label,)
        if item.type in "GK":
            mates = [other for other in columns if other.type == item.type and _are_mates(item.label, other.label)]
            labels += tuple(mate.label for mate in mates[:1])
            paired.update(labels)
        sigmas = [_sigma(columns, label) for label in labels]
        known = tuple(sigma for sigma in sigmas if sigma is not None)
        found.append(Quantity(labels, known if len(known) == len(labels) else (), item.type in "JK"))
    return found


def _are_mates(label: str, other: str) -> bool:
    swaps = (("(+)", "(-)"), ("+", "-"), ("plus", "minus"), ("PLUS", "MINUS"))
    return any(plus in label and label.replace(plus, minus) == other for plus, minus in swaps)


def _sigma(columns: list[gemmi.Mtz.Column], label: str) -> str | None:
    """Label of the standard deviation: SIG + label, else the next column but one if its type fits."""
    types = {item.label: item.type for item in columns}
    place = list(types).index(label)
    wanted = _SIGMA_OF[types[label]]
    following = list(types)[place + 1 : place + 3]
    named = [name for name in (f"SIG{label}", f"SIG_{label}", f"SIG{label[1:]}") if types.get(name) == wanted]
    return next(iter(named + [name for name in following if types[name] == wanted]), None)


def _known(mtz: gemmi.Mtz, column: gemmi.Mtz.Column) -> Floats:
    """The values of a column; NaN where they are the number by which the header says "missing" (VALM)."""
    values = np.array(column.array, np.float64)
    return np.where(values == np.float64(np.float32(mtz.valm)), np.nan, values)


def _indices(mtz: gemmi.Mtz, path: str | os.PathLike[str], flag: str) -> Indices:
    """h, k, l [n, 3]: the columns of type H by label, wherever they stand; by order where they have other labels."""
    columns = [item for item in mtz.columns if item.type == "H"]
    by_label = {item.label.upper(): item for item in columns}
    if len(columns) != 3 or len(by_label) != 3:
        labels = ", ".join(item.label for item in columns) or "none"
        raise InputError(flag, str(path), f"{ACCEPTED} with three index columns of type H (it has {labels})")
    if set(by_label) == set("HKL"):
        columns = [by_label[axis] for axis in "HKL"]
    values = np.stack([np.array(item.array, np.float64) for item in columns], axis=1)
    wrong = ~((values == np.rint(values)) & (np.abs(values) <= LARGEST_INDEX)).all(1)
    if wrong.any():
        row = int(np.argmax(wrong))
        shown = " ".join(f"{value:g}" for value in values[row])
        raise InputError(
            flag, f"{path}: row {row + 1}: h k l = {shown}", f"{ACCEPTED} (an index is not a whole number)"
        )
    return values.astype(np.int32)


def open_mtz(path: str | os.PathLike[str], flag: str) -> gemmi.Mtz:
    """The file as gemmi reads it. Raises InputError naming file and reason if it is damaged or empty."""
    import gemmi

    if b"MTZENDOFHEADERS" not in read_input(path, flag, ACCEPTED):  # gemmi reads on without it
        raise InputError(flag, str(path), f"{ACCEPTED} (its end is missing)")
    try:
        with unpacked_path(path, flag, ACCEPTED) as place:
            _require_sizes(place)
            mtz = gemmi.read_mtz_file(str(place))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(flag, str(path), f"{ACCEPTED} ({_line(error)})") from error
    if mtz.nreflections == 0:
        raise InputError(flag, str(path), f"{ACCEPTED} (it has no reflection)")
    return mtz


def _require_sizes(place: Path) -> None:
    """Raise ValueError where header or data are said to be longer than the file: gemmi takes memory for them first."""
    content = place.read_bytes()
    start = np.frombuffer(content[:20].ljust(20, b"\0"), np.uint8)
    ends = "<>"[int(start[9]) >> 4 == 1]  # the machine stamp says so of whole numbers
    first, there = int(start[4:8].view(f"{ends}i4")[0]), len(content) // WORD_BYTES
    words = first if first != -1 else int(start[12:20].view(f"{ends}i8")[0])
    if not 0 < words <= there:
        raise ValueError(f"its header is said to begin at word {words} of {there}")
    for name, *numbers in _COUNTS.findall(content[(words - 1) * WORD_BYTES :]):
        counts = [int(number[:18]) for number in numbers if number]
        if max([*counts, counts[0] * counts[1] if name == b"NCOL" and len(counts) > 1 else 0]) > there:
            raise ValueError(f"{name.decode()} {counts} in a file of {there} words")


def _space_group(mtz: gemmi.Mtz, path: str | os.PathLike[str], flag: str) -> gemmi.SpaceGroup:
    if mtz.spacegroup is None:
        raise InputError(flag, str(path), f"a known space group, not {mtz.spacegroup_name!r}")
    return mtz.spacegroup


def _cell(mtz: gemmi.Mtz, column: gemmi.Mtz.Column, path: str | os.PathLike[str], flag: str) -> Cell:
    own = column.dataset.cell
    cell = own if own.is_crystal() else mtz.cell
    if not cell.is_crystal():
        raise InputError(flag, str(path), "an MTZ file with a unit cell")
    a, b, c, alpha, beta, gamma = cell.parameters
    return a, b, c, alpha, beta, gamma


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def write_mtz(target: Target, reflections: Reflections, *, label: str = "F", flag: str = "-o") -> None:
    """Write an MTZ file: `label`, SIG`label` and PHI`label` as far as known; for anomalous data `label`(+), `label`(-).

    A list without space group is written in P 1, h and -h apart. Numbers are float32, as the format has them. Raises
    InputError if the cell is unknown or the file cannot be written.
    """
    if reflections.cell is None:
        raise InputError("cell", None, "a unit cell: an MTZ file has one")
    if reflections.anomalous or reflections.space_group is None:
        hkl, columns = _pair_columns(reflections, label)
    else:
        hkl, columns = reflections.hkl, _plain_columns(reflections, label)
    content = _as_mtz(reflections, hkl, columns).write_to_bytes()
    with open_output(target, flag) as file:
        file.write(content)


Columns = list[tuple[str, str, Floats]]
"""Label, type and values [n] of each column."""


def _plain_columns(reflections: Reflections, label: str) -> Columns:
    columns: Columns = [(label, "F", reflections.amplitude)]
    if reflections.sigma is not None:
        columns.append((f"SIG{label}", "Q", reflections.sigma))
    if reflections.phase_deg is not None:
        columns.append((f"PHI{label}", "P", reflections.phase_deg))
    return columns


def _pair_columns(reflections: Reflections, label: str) -> tuple[Indices, Columns]:
    """Rows of the asymmetric unit with F(+), F(-); a centric reflection has the same in both."""
    group = _group(reflections)
    asu = np.ascontiguousarray(reflections.hkl, np.int32).copy()
    group.switch_to_asu(asu)
    hkl, row = np.unique(asu, axis=0, return_inverse=True)
    row = row.reshape(-1)
    plus = proper_equivalent(reflections.hkl, asu, group)
    centric = group.operations().centric_flag_array(hkl)
    columns: Columns = []
    for name, kind, values in (("", "G", reflections.amplitude), ("SIG", "L", reflections.sigma)):
        if values is None:
            continue
        for sign, chosen in (("(+)", plus), ("(-)", ~plus)):
            column = np.full(len(hkl), np.nan)
            both = chosen | centric[row]
            column[row[both]] = values[both]
            columns.append((f"{name}{label}{sign}", kind, column))
    if reflections.phase_deg is not None:
        phase = np.full(len(hkl), np.nan)
        listed = (reflections.hkl == asu).all(1)
        phase[row[listed]] = reflections.phase_deg[listed]
        columns.append((f"PHI{label}(+)", "P", phase))
    return hkl.astype(np.int32), columns


def proper_equivalent(hkl: Indices, asu: Indices, group: gemmi.SpaceGroup) -> NDArray[np.bool_]:
    """Where asu [n, 3] is a rotation of hkl [n, 3], so that no Friedel mate was taken."""
    found = np.zeros(len(hkl), bool)
    for op in group.operations().sym_ops:
        found |= (hkl @ (np.array(op.rot, np.int32) // op.DEN) == asu).all(1)
    return found


def _group(reflections: Reflections) -> gemmi.SpaceGroup:
    import gemmi

    return gemmi.SpaceGroup(reflections.space_group or "P 1")


def _as_mtz(reflections: Reflections, hkl: Indices, columns: Columns) -> gemmi.Mtz:
    import gemmi

    assert reflections.cell is not None
    mtz = gemmi.Mtz(with_base=True)
    mtz.title = _TITLE
    mtz.spacegroup = _group(reflections)
    mtz.add_dataset("nanobrag_torch")
    mtz.set_cell_for_all(gemmi.UnitCell(*reflections.cell))
    for label, kind, _ in columns:
        mtz.add_column(label, kind)
    data = np.column_stack([hkl, *(values for _, _, values in columns)]).astype(np.float32)
    mtz.set_data(data)
    return mtz


def _read(path: Path, choice: Choice) -> Reflections:
    return read_mtz(path, column=choice.column, anomalous=choice.anomalous, flag=choice.flag)


def _write(target: Target, reflections: Reflections, label: str) -> None:
    write_mtz(target, reflections, label=label)


def _rows(path: Path) -> list[tuple[str, str]]:
    """Each column: label, type, values and how many are missing."""
    mtz = open_mtz(path, str(path))
    batches = [("batches", f"{len(mtz.batches)}: unmerged")] if mtz.batches else []
    return [
        ("title", mtz.title.strip() or "(none)"),
        *batches,
        *((f"column {item.label}", _of_column(mtz, item)) for item in mtz.columns),
    ]


def _of_column(mtz: gemmi.Mtz, column: gemmi.Mtz.Column) -> str:
    values = _known(mtz, column)
    there = values[np.isfinite(values)]
    missing = f", {len(values) - len(there)} missing" if len(there) < len(values) else ""
    return f"{column.type}  " + (f"{there.min():g} to {there.max():g}{missing}" if len(there) else "all missing")


FORMAT = FileFormat(
    name="mtz",
    title="MTZ file",
    recognises=lambda file: file.start.startswith(b"MTZ "),
    suffixes=(".mtz",),
    read_reflections=_read,
    write_reflections=_write,
    rows=_rows,
)
