"""`nb fcalc`: structure factors of an atomic model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def fcalc(
    model: Annotated[Path, typer.Argument(help="PDB, mmCIF or small-molecule CIF file of atoms.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File: .mtz, .hkl (P1 text) or .bin (Fdump).")],
    dmin: Annotated[float | None, typer.Option(help="Resolution limit (Angstrom) [the model's own].")] = None,
    dmax: Annotated[float | None, typer.Option(help="Low-resolution limit (Angstrom) [none].")] = None,
    wavelength: Annotated[float | None, typer.Option(help="Wavelength (Angstrom) for f' and f'' [none].")] = None,
    anomalous: Annotated[
        bool | None, typer.Option(help="Write F(h) and F(-h) apart [when a wavelength is given].")
    ] = None,
    bulk_solvent: Annotated[bool, typer.Option(help="Fill what the atoms leave empty with a flat solvent.")] = False,
    k_sol: Annotated[float, typer.Option(help="Density of that solvent (electrons/Angstrom^3).")] = 0.35,
    b_sol: Annotated[float, typer.Option(help="Smoothing B of that solvent (Angstrom^2).")] = 46.0,
    b_iso: Annotated[float | None, typer.Option(help="B factor for every atom (Angstrom^2) [the file's].")] = None,
    b_add: Annotated[float, typer.Option(help="B factor to add to every atom (Angstrom^2).")] = 0.0,
    method: Annotated[str, typer.Option(help="direct (exact), fft, or auto.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Calculate structure factors (electrons) of the atoms in a file and write them."""
    from nanobrag_torch.cli.nb.reflection_output import write_reflections
    from nanobrag_torch.cli.progress import progress_meter
    from nanobrag_torch.crystallography.fcalc import BulkSolvent, with_b_factors
    from nanobrag_torch.crystallography.structure_factors import calculated_reflections
    from nanobrag_torch.io.amplitudes import reflection_output
    from nanobrag_torch.io.atoms import read_atoms

    reflection_output(output)
    atoms = with_b_factors(read_atoms(model), b_iso=b_iso, b_add=b_add)
    solvent = BulkSolvent(k_sol, b_sol) if bulk_solvent else None
    shown = not quiet and sys.stderr.isatty()
    asked: dict[str, Any] = {"dmin": dmin, "dmax": dmax, "wavelength_A": wavelength, "anomalous": anomalous}
    asked |= {"solvent": solvent, "method": method, "source": f"F of {model}"}
    with progress_meter(shown, stream=sys.stderr, what="structure factors") as report:
        reflections = calculated_reflections(atoms, progress=report, **asked)
    write_reflections(output, reflections, label="FC")
