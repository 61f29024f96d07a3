"""Files of a series of made-up stills, and the folder that `nb refine` leaves of them."""

from dataclasses import replace

import numpy as np

from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.images import write_image
from nanobrag_torch.io.mtz import write_mtz
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.records.tables import ReflectionData
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.shots import Run, refine_many, tasks_of
from nanobrag_torch.refinement.synthetic import Start, wrong_factors, wrong_start

OPTIONS = {"readout_noise": 0.7, "shape": "gauss_hkl", "sampling": Sampling(25, 2)}


OFF = Start(rotation_deg=0.02, cell=0.0005, distance_mm=0.02)


def write_series(folder, series, count, *, wrong_F=0.2, off=OFF, spoil=None):
    """shots.expt, shots.refl, images and start.mtz; spoil(number, data, counts, table) changes what is written."""
    folder.mkdir(parents=True, exist_ok=True)
    experiments, tables = [], []
    for number, truth, exposure in series.exposures(range(count)):
        data = wrong_start(truth, off, number)[0]
        counts, table = exposure.counts, exposure.table
        if spoil is not None:
            data, counts, table = spoil(number, data, counts, table)
        name = f"image_{number:05d}.npy"
        write_image(folder / name, counts.astype(np.float32), data)
        experiments.append(replace(data, image_template=name, identifier=f"shot-{number}"))
        tables.append({**table.columns, "id": np.full(table.rows, number, np.int32)})
    write_expt(folder / "shots.expt", experiments)
    joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    write_refl(folder / "shots.refl", ReflectionData(rows=len(joined["id"]), identifiers={}, columns=joined))
    write_mtz(folder / "start.mtz", wrong_factors(series.base.factors, wrong_F, 5) if wrong_F else series.base.factors)


def refined(folder, **options):
    """The folder of stage one of the files of `write_series`."""
    paths = [str(folder / name) for name in ("shots.expt", "shots.refl", "start.mtz")]
    run = Run(experiments=paths[0], reflections=paths[1], structure_factors=paths[2], folder=str(folder / "out"),
              options={**OPTIONS, **options}, figures=False)  # fmt: skip
    return folder / "out", refine_many(run, tasks_of(run))
