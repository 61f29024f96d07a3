"""Unmerged reflections in MTZ files, through gemmi: what careless and scaling programs read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.records.reflections import Cell

TITLE = "written by nanobrag_torch"
DETECTOR = "XDET, YDET"


@dataclass(frozen=True, kw_only=True, eq=False)
class Unmerged:
    """Observations, a row each; columns has further ones by label: type and values [n].

    batch [n]: the number of the image, from 1. hkl are the indices of the observation: the file has those of the
    asymmetric unit and M/ISYM.
    """

    hkl: NDArray[np.int64]
    batch: NDArray[np.int64]
    intensity: NDArray[np.float64]
    sigma: NDArray[np.float64]
    cell: Cell
    space_group: str | None
    wavelength_A: float
    columns: dict[str, tuple[str, NDArray[np.float64]]]


def write_unmerged_mtz(target: Target, data: Unmerged, *, flag: str = "output file") -> None:
    """Write H K L M/ISYM BATCH I SIGI and the further columns, with a batch header for every image.

    Rows without a finite intensity and sigma above zero are left out. Raises InputError where none is left, or the
    file cannot be written.
    """
    import gemmi

    good = np.isfinite(data.intensity) & np.isfinite(data.sigma) & (data.sigma > 0)
    if not good.any():
        raise InputError("intensities", 0, "at least one with a standard deviation")
    mtz = gemmi.Mtz(with_base=True)
    mtz.title = TITLE
    mtz.spacegroup = gemmi.SpaceGroup(data.space_group or "P 1")
    dataset = mtz.add_dataset("nanobrag_torch")
    for one in mtz.datasets:  # some readers ask the first one, which holds the indices
        one.wavelength = data.wavelength_A
    mtz.set_cell_for_all(gemmi.UnitCell(*data.cell))
    kinds = {"M/ISYM": "Y", "BATCH": "B", "I": "J", "SIGI": "Q"} | {n: k for n, (k, _) in data.columns.items()}
    for label, kind in kinds.items():
        mtz.add_column(label, kind)
    further = [values for _, values in data.columns.values()]
    rows = np.column_stack([data.hkl, np.ones(len(data.hkl)), data.batch, data.intensity, data.sigma, *further])
    mtz.set_data(rows[good].astype(np.float32))
    mtz.switch_to_asu_hkl()
    for number in np.unique(data.batch[good]):
        batch = gemmi.Mtz.Batch()
        batch.number = int(number)
        batch.title = f"image {number}"
        batch.cell = gemmi.UnitCell(*data.cell)
        batch.wavelength = data.wavelength_A
        batch.dataset_id = dataset.id
        mtz.batches.append(batch)
    with open_output(target, flag) as file:
        file.write(mtz.write_to_bytes())
