"""Small sound files, a few a kind: made by our own writers, or reference data."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from fuzz_mutations import Mutation, hdf5_trees, json_trees, msgpack_trees

from nanobrag_torch.io.fileformat import ImageOptions
from nanobrag_torch.io.formats import format_called, reads_experiments, reads_images
from nanobrag_torch.io.mtz import write_mtz
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.records.tables import ReflectionData
from small_cif import LOOP
from small_scan import small_scan

DATA = Path(__file__).parents[1] / "data"
SIZE = (7, 5)
REFLECTIONS_CIF = (
    "data_x\n"
    + LOOP
    + """\
_refln.status
_refln.F_meas_au
_refln.F_meas_sigma_au
1 2 3 o 10.5 0.5
2 2 3 f 20.5 0.25
3 1 1 x 99 1
4 1 1 o ? ?
"""
)
TREES: dict[str, Mutation] = {"expt": json_trees, "refl": msgpack_trees, "nxmx": hdf5_trees}


@cache
def seeds(kind: str) -> list[bytes]:
    """The sound files of a kind."""
    return [*_stored(kind), *_made(kind)]


def _stored(kind: str) -> list[bytes]:
    names = {
        "expt": ["field/expt-electron-probe/e_tof.expt"],
        "geom": ["field/geom-detector-shift/shift.geom", "field/geom-rigid-partial/rigid.geom"],
        "mat": ["inputs/tri.mat"],
        "hkl": ["inputs/p1_comment.hkl"],
        "smv": ["field/smv-crlf/s_crlf.img"],
        "cbf": ["field/cbf-compressed/b.cbf"],
        "nxmx": ["field/nxmx-leaf-offset/leaf.nxs"],
        "mtz": ["field/mtz-column-order/order_norm.mtz", "field/mtz-isym/isym.mtz"],
        "pdb": ["field/pdb-old-columns/old.pdb"],
        "cif": ["field/cif-unknown-position/unknownpos.cif"],
        "source": ["inputs/sources_full.txt", "inputs/sources_crlf.txt"],
        "dump": ["inputs/blank_byte_dump.bin"],
    }
    found = [(DATA / name).read_bytes() for name in names.get(kind, [])]
    return found + ([REFLECTIONS_CIF.encode()] if kind == "cif" else [])


def _made(kind: str) -> list[bytes]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "seed"
        _write(kind, path)
        return [path.read_bytes()] if path.exists() else []


def _write(kind: str, path: Path) -> None:
    names = {"geom": "crystfel", "mat": "mosflm"}
    if kind in ("expt", "geom", "xparm", "mat"):
        write = format_called(names.get(kind, kind), reads_experiments, flag="seed").write_experiment
        assert write is not None
        write(path, small_scan(SIZE, 1, 100.0))
    elif kind in ("smv", "cbf", "nxmx"):
        pixels = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype("i4")
        image_writer = format_called(kind, reads_images, flag="seed").write_image
        assert image_writer is not None
        image_writer(path, pixels, small_scan(SIZE, 1, 100.0), ImageOptions())
    elif kind == "mtz":
        hkl = np.array([[1, 2, 3], [2, 0, 0], [3, 1, 4]], np.int32)
        found = Reflections(
            hkl=hkl, amplitude=np.array([10.0, 20, 5]), cell=(30, 40, 50, 90, 90, 90), space_group="P 21 21 21",
            phase_deg=np.zeros(3),
        )  # fmt: skip
        write_mtz(path, found)
    elif kind == "refl":
        write_refl(path, table())


def table() -> ReflectionData:
    """Two spots, with a column of each type."""
    columns = {
        "miller_index": np.array([[1, 2, 3], [2, 0, 0]], np.int32),
        "id": np.zeros(2, np.int32),
        "panel": np.zeros(2, np.uint64),
        "flags": np.ones(2, np.uint64),
        "bbox": np.array([[0, 2, 1, 3, 0, 1]] * 2, np.int32),
        "entering": np.array([True, False]),
        "s1": np.array([[0.1, 0, 1.0]] * 2),
        "xyzobs.px.value": np.array([[1.5, 2.5, 0.5]] * 2),
        "intensity.sum.value": np.array([100.0, 200]),
    }
    return ReflectionData(rows=2, identifiers={0: "a"}, columns=columns)
