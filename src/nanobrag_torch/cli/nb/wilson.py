"""`nb wilson`: invented amplitudes that look like a protein's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError

CellWords = tuple[float, float, float, float, float, float]
Limits = tuple[int, int, int]


def wilson(
    cell: Annotated[CellWords, typer.Option(help="a b c (Angstrom) alpha beta gamma (degrees).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File: .mtz, .hkl (P1 text) or .bin (Fdump).")],
    spacegroup: Annotated[str, typer.Option(help="Space group, by name or number.")] = "P1",
    dmin: Annotated[float | None, typer.Option(help="Resolution limit (Angstrom).")] = None,
    limits: Annotated[
        Limits | None, typer.Option(help="Largest |h| |k| |l|: a whole box in P1, in place of --dmin.")
    ] = None,
    b_iso: Annotated[float, typer.Option(help="Overall B factor (Angstrom^2).")] = 20.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same amplitudes.")] = 0,
    solvent_content: Annotated[float, typer.Option(help="Part of the cell that is not protein, 0 to 1.")] = 0.47,
) -> None:
    """Invent amplitudes with Wilson's statistics, on the scale of the protein that fits into the cell."""
    from nanobrag_torch.cli.nb.reflection_output import write_reflections
    from nanobrag_torch.crystallography.symmetry import require_compatible, space_group
    from nanobrag_torch.io.amplitudes import reflection_output
    from nanobrag_torch.records.reflections import Reflections, require_cell

    reflection_output(output)
    parameters = require_cell(cell)
    group = space_group(spacegroup, parameters).xhm()
    require_compatible(parameters, group)
    if (dmin is None) == (limits is None):
        raise InputError("--dmin, --limits", (dmin, limits), "one of the two")
    hkl, amplitude = _draw(parameters, group, dmin or limits, b_iso=b_iso, seed=seed, solvent_content=solvent_content)
    found = Reflections(hkl=hkl, amplitude=amplitude, cell=parameters, space_group=group, source="Wilson statistics")
    write_reflections(output, found, label="F")


def _draw(
    cell: CellWords, group: str, extent: float | Limits | None, **options: Any
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Unique reflections [n, 3] and amplitudes [n] to a resolution, or in a box of P1."""
    from nanobrag_torch.crystallography.wilson import half_box, wilson_box, wilson_reflections

    if not isinstance(extent, tuple):
        return wilson_reflections(cell, group, 0.0 if extent is None else extent, **options)
    if group != "P 1":
        raise InputError("--limits", extent, f"P1, not {group}: a box of indices has no other symmetry")
    grid, _ = wilson_box(cell, extent, **options)
    hkl = half_box(extent)
    return hkl, grid.reshape(-1)[: len(hkl)]
