"""What `nb show` says of a file of reflections or atoms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nanobrag_torch.errors import DamagedError, InputError

if TYPE_CHECKING:
    from nanobrag_torch.io.fileformat import FileFormat
    from nanobrag_torch.records.atoms import AtomicModel
    from nanobrag_torch.records.reflections import Reflections


def describe_amplitudes(path: Path, found: FileFormat) -> Iterator[str]:
    """The lines about structure factors, or the atoms of a model. Raises InputError for a damaged file."""
    from nanobrag_torch.cli.nb.show import row
    from nanobrag_torch.io.fileformat import Choice

    if found.read_atoms is not None:
        model = found.read_atoms(path, str(path))
        yield f"{path}: {found.title}"
        yield from _atoms(model)
        return
    assert found.read_reflections is not None
    own = [] if found.rows is None else found.rows(path)
    try:
        reflections = found.read_reflections(path, Choice(flag=str(path)))
    except InputError as error:
        if not own or isinstance(error, DamagedError):
            raise
        yield f"{path}: {found.title}"
        yield from (row(*each) for each in own)
        yield row("amplitudes", f"none taken ({error})")
        return
    yield f"{path}: {found.title}"
    yield from (row(*each) for each in own)
    yield from _reflections(reflections)


def _reflections(reflections: Reflections) -> Iterator[str]:
    from nanobrag_torch.cli.nb.show import row
    from nanobrag_torch.crystallography.completeness import inverse_square_spacing

    yield row("amplitudes", reflections.remark or "one a line, for all of P1")
    yield row("reflections", f"{len(reflections)}{', F(h) and F(-h) apart' if reflections.anomalous else ''}")
    if len(reflections) == 0:
        return
    for name, column in zip("hkl", reflections.hkl.T, strict=True):
        yield row(f"  {name}", f"{column.min()} to {column.max()}")
    amplitude = reflections.amplitude
    yield row("  F lowest, highest, mean", f"{amplitude.min():g}  {amplitude.max():g}  {amplitude.mean():.6g}")
    if reflections.cell is not None:
        yield row("cell (A, deg)", "  ".join(f"{x:.4f}" for x in reflections.cell))
        squared = inverse_square_spacing(reflections.hkl, reflections.cell)
        low = "infinity" if squared.min() == 0 else f"{squared.min() ** -0.5:.3f}"
        high = "infinity" if squared.max() == 0 else f"{squared.max() ** -0.5:.3f}"
        yield row("resolution (A)", f"{low} to {high}")
    yield row("space group", reflections.space_group or "not stated: all of P1 is listed")


def _atoms(model: AtomicModel) -> Iterator[str]:
    import numpy as np

    from nanobrag_torch.cli.nb.show import row

    counts = Counter(model.elements)
    yield row(
        "atoms in the asymmetric unit", f"{len(model)}: " + " ".join(f"{e}{n}" for e, n in sorted(counts.items()))
    )
    yield row("cell (A, deg)", "  ".join(f"{x:.4f}" for x in model.cell))
    yield row("space group", model.space_group)
    yield row("occupancy, lowest and highest", f"{model.occupancy.min():g}  {model.occupancy.max():g}")
    orthogonal = np.linalg.inv(np.array(_fractionalising(model)))
    b_iso = 8 * np.pi**2 / 3 * np.trace(orthogonal @ model.u_star @ orthogonal.T, axis1=1, axis2=2)
    yield row("B (A^2), lowest, highest, mean", f"{b_iso.min():.2f}  {b_iso.max():.2f}  {b_iso.mean():.2f}")
    if model.resolution is not None:
        yield row("resolution (A), as stated", f"{model.resolution:g}")


def _fractionalising(model: AtomicModel) -> list[list[float]]:
    import gemmi

    return [[float(x) for x in line] for line in gemmi.UnitCell(*model.cell).frac.mat.tolist()]
