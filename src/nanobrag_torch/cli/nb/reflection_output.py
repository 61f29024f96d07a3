"""Write reflections as MTZ, as text or as a dump file, and say in two lines what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nanobrag_torch.crystallography.symmetry import Expansion
    from nanobrag_torch.records.reflections import Reflections


def write_reflections(path: Path, reflections: Reflections, label: str) -> None:
    """Write to `path` by its suffix: unique reflections in .mtz, all of P1 in .hkl and .bin; then print a summary.

    Raises InputError for another suffix or a file that cannot be written.
    """
    from nanobrag_torch.crystallography.symmetry import expand_to_p1
    from nanobrag_torch.io.amplitudes import require_suffix, write_hkl_lines
    from nanobrag_torch.io.dump import write_dump_file
    from nanobrag_torch.io.mtz import write_mtz

    suffix = require_suffix(path)
    expansion = expand_to_p1(reflections)
    if suffix == ".mtz":
        write_mtz(path, reflections, label=label)
    elif suffix == ".hkl":
        write_hkl_lines(path, expansion.hkl, reflections.amplitude[expansion.unique])
    else:
        grid = np.zeros(expansion.shape)
        grid.reshape(-1)[expansion.flat] = reflections.amplitude[expansion.unique]
        write_dump_file(path, grid, expansion.metadata, flag="-o")
    print(summary(path, reflections, expansion, suffix))


def summary(path: Path, reflections: Reflections, expansion: Expansion, suffix: str) -> str:
    """What lies in a file: number of reflections, symmetry, resolution, completeness and the mean amplitude."""
    from nanobrag_torch.crystallography.completeness import inverse_square_spacing, resolution_shells

    assert reflections.cell is not None
    squared = inverse_square_spacing(reflections.hkl, reflections.cell)
    shells = resolution_shells(reflections, count=1)
    possible, present = shells[0].possible, shells[0].present
    kinds = "F(h) and F(-h) apart" if reflections.anomalous else "F(h) = F(-h)"
    listed = "unique" if suffix == ".mtz" else "all of P1"
    return (
        f"{path}: {len(reflections)} unique reflections of {reflections.space_group} ({kinds}),"
        f" {len(expansion.flat)} in P1; {listed} written\n"
        f"resolution {squared.min() ** -0.5:.2f} to {squared.max() ** -0.5:.2f} Angstrom,"
        f" {100 * present / max(possible, 1):.1f}% complete ({possible - present} missing);"
        f" mean F {reflections.amplitude.mean():.4g} electrons"
    )
