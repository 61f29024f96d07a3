"""Write reflections as MTZ, as text or as a dump file, and say in two lines what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nanobrag_torch.crystallography.symmetry import Expansion
    from nanobrag_torch.records.reflections import Reflections


def write_reflections(path: Path, reflections: Reflections, label: str) -> None:
    """Write by suffix: unique reflections, or all of P1 where the format has no symmetry; print a summary.

    Raises InputError for another suffix, amplitudes that are no numbers, or a file that cannot be written.
    """
    from nanobrag_torch.crystallography.symmetry import expand_to_p1
    from nanobrag_torch.io.amplitudes import reflection_output
    from nanobrag_torch.records.bounds import check_reflections

    check_reflections(reflections)
    found = reflection_output(path)
    expansion = expand_to_p1(reflections)
    written = reflections
    if found.listed_in_P1:
        hkl, amplitude = expansion.hkl.astype(np.int32), reflections.amplitude[expansion.unique]
        written = replace(reflections, hkl=hkl, amplitude=amplitude, sigma=None, phase_deg=None, space_group=None)
    assert found.write_reflections is not None
    found.write_reflections(path, written, label)
    print(summary(path, reflections, expansion, "all of P1" if found.listed_in_P1 else "unique"))


def summary(path: Path, reflections: Reflections, expansion: Expansion, listed: str) -> str:
    """What lies in a file: number of reflections, symmetry, resolution, completeness and the mean amplitude."""
    from nanobrag_torch.crystallography.completeness import inverse_square_spacing, resolution_shells

    assert reflections.cell is not None
    squared = inverse_square_spacing(reflections.hkl, reflections.cell)
    shells = resolution_shells(reflections, count=1)
    possible, present = shells[0].possible, shells[0].present
    kinds = "F(h) and F(-h) apart" if reflections.anomalous else "F(h) = F(-h)"
    return (
        f"{path}: {len(reflections)} unique reflections of {reflections.space_group} ({kinds}),"
        f" {len(expansion.flat)} in P1; {listed} written\n"
        f"resolution {squared.min() ** -0.5:.2f} to {squared.max() ** -0.5:.2f} Angstrom,"
        f" {100 * present / max(possible, 1):.1f}% complete ({possible - present} missing);"
        f" mean F {reflections.amplitude.mean():.4g} electrons"
    )
