"""`nb predict`: the spots of an experiment, with boxes, as a reflection table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Cells = tuple[float, float, float]


def predict(
    experiments: Annotated[Path, typer.Argument(help="DIALS experiment list, or another file with a crystal.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Reflection table (.refl).")],
    d_min: Annotated[float, typer.Option(help="Resolution limit (Angstrom).")],
    frame: Annotated[int, typer.Option(help="Frame of a scan, from 0.")] = 0,
    cells: Annotated[Cells | None, typer.Option("--N", help="Numbers of cells; default: the file's, else 30.")] = None,
    spread: Annotated[float | None, typer.Option(help="Mosaic spread (degrees); default: from the file.")] = None,
    box: Annotated[int, typer.Option(help="Half the size of a box (pixels).")] = 7,
) -> None:
    """Write the reflections that one frame shows, with their places, boxes and excitation errors."""
    import numpy as np

    from nanobrag_torch.io.geometry import read_experiments
    from nanobrag_torch.io.refl_write import write_refl
    from nanobrag_torch.records.tables import ReflectionData
    from nanobrag_torch.refinement.predicting import predicted_table

    tables, identifiers = [], dict[int, str]()
    for number, data in enumerate(read_experiments(experiments)):
        data.need("beam", "detector", "crystal", where="a prediction")
        numbers = None if cells is None else np.array(cells)
        one = predicted_table(data, frame=frame, d_min=d_min, cells=numbers, spread_deg=spread, half=box)
        tables.append({**one.columns, "id": one.columns["id"] + number})
        identifiers |= {number: data.identifier} if data.identifier else {}
    joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    write_refl(output, ReflectionData(rows=len(joined["id"]), identifiers=identifiers, columns=joined), flag="-o")
    print(f"{output}: {len(joined['id'])} reflections of {len(tables)} experiments to {d_min:g} Angstrom")
