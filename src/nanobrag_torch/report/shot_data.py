"""A refined shot as its folder has it: the record, the reflections, the pixels of the boxes."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.expt import read_expts
from nanobrag_torch.io.refl import read_refl
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.records.tables import ReflectionData

DRAWS = 10
RECORD, EXPERIMENTS, REFLECTIONS, BOXES = "parameters.json", "refined.expt", "refined.refl", "boxes.npz"
Array = NDArray[Any]
_PIXELS, _ROWS = ("pixel", "box", "data", "model", "spot", "variance"), ("hkl", "panel", "centre", "corners", "sigma_z")


@dataclass(frozen=True, eq=False)
class Boxes:
    """Pixels [n] that were fitted, in photons, and the boxes [b] that they belong to."""

    pixel: Array  # [n] flat index over [panel, slow, fast]
    box: Array  # [n]
    data: Array
    model: Array
    spot: Array  # the model without its background
    variance: Array
    hkl: Array  # [b, 3]
    panel: Array
    centre: Array  # [b, 2] fast, slow
    corners: Array  # [b, 4] fast0 fast1 slow0 slow1, ends excluded
    sigma_z: Array
    image_shape: Array  # panel, slow, fast

    def __len__(self) -> int:
        return len(self.hkl)

    @cached_property
    def worst_first(self) -> Array:
        """Numbers of the boxes with pixels, from the highest sigma-Z on; those that a fit left out have none."""
        order = np.argsort(-self.sigma_z)
        return np.asarray(order[np.bincount(self.box, minlength=len(self))[order] > 0])

    @cached_property
    def z(self) -> Array:
        """(data - model) / sigma of every pixel [n]."""
        return np.asarray((self.data - self.model) / np.sqrt(self.variance))

    @cached_property
    def expected_z(self) -> Array:
        """Z of 10 draws [10 n] of the counts and the readout noise that the model expects: what noise alone gives."""
        draw = np.random.default_rng(1)
        model = np.maximum(np.tile(self.model, DRAWS).astype(np.float64), 0)
        variance = np.tile(self.variance, DRAWS)
        counts = draw.poisson(model) + draw.normal(size=len(model)) * np.sqrt(np.maximum(variance - model, 0))
        return np.asarray((counts - model) / np.sqrt(variance))

    @cached_property
    def place(self) -> tuple[Array, Array]:
        """Slow and fast index [n] of every pixel on its panel."""
        _, slow, fast = np.unravel_index(self.pixel, tuple(self.image_shape))
        return np.asarray(slow), np.asarray(fast)

    def pictures(self, box: int) -> tuple[Array, Array, Array]:
        """Data, model and residual over sigma of one box (slow, fast); NaN where it has no pixel of its own."""
        fast0, fast1, slow0, slow1 = self.corners[box]
        mine = self._order[self._first[box] : self._first[box + 1]]
        where = self.place[0][mine] - slow0, self.place[1][mine] - fast0
        found = np.full((3, slow1 - slow0, fast1 - fast0), np.nan, np.float32)
        found[:, where[0], where[1]] = self.data[mine], self.model[mine], self.z[mine]
        return found[0], found[1], found[2]

    @cached_property
    def _order(self) -> Array:
        return np.argsort(self.box, kind="stable")

    @cached_property
    def _first(self) -> Array:
        return np.searchsorted(self.box[self._order], np.arange(len(self) + 1))


@dataclass(frozen=True, eq=False)
class Shot:
    """What a refinement left of one exposure; a fit that failed early has nothing but its record."""

    folder: Path
    record: dict[str, Any]
    experiment: ExperimentData | None = None
    table: ReflectionData | None = None
    boxes: Boxes | None = None

    @property
    def name(self) -> str:
        """Of the shot, or of its folder."""
        return str(self.record.get("name") or self.folder.resolve().name)

    @property
    def moved(self) -> list[dict[str, Any]]:
        """The parameters that were fitted."""
        return [p for p in self.record["parameters"] if p["free"]]


def is_shot(folder: Path) -> bool:
    """Whether a refinement left its record of one exposure there."""
    return folder.is_dir() and (folder / RECORD).is_file() and isinstance(_json(folder / RECORD), dict)


def read_shot_folder(folder: Path) -> Shot:
    """What `nb refine` wrote of one exposure. Raises InputError for another folder, or one that is damaged."""
    record = _json(folder / RECORD)
    if not isinstance(record, dict) or "status" not in record or not isinstance(record.get("parameters"), list):
        raise InputError("folder", str(folder), f"one of a shot, with the {RECORD} that nb refine wrote")
    if not (folder / BOXES).is_file():
        return Shot(folder, record)
    table = read_refl(folder / REFLECTIONS)
    boxes = _boxes(folder / BOXES)
    if table.rows != len(boxes):
        raise InputError("folder", str(folder), f"as many rows in {REFLECTIONS} as boxes in {BOXES}")
    return Shot(folder, record, read_expts(folder / EXPERIMENTS)[0], table, boxes)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError("folder", str(path.parent), f"one with a readable {path.name} ({error})") from error


def _boxes(path: Path) -> Boxes:
    content = read_input(path, "folder", "the file of boxes that nb refine wrote")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            found = {name: file[name] for name in (*_PIXELS, *_ROWS, "image_shape")}
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError("folder", str(path), f"the file of boxes that nb refine wrote ({error})") from error
    sizes = {len(found[n]) for n in _PIXELS}, {len(found[n]) for n in _ROWS}
    fits = len(sizes[0]) == len(sizes[1]) == 1 and found["image_shape"].shape == (3,)
    if not fits or not (found["box"] < len(found["hkl"])).all():
        raise InputError("folder", str(path), "arrays of equal lengths, a row a pixel and a row a box")
    return Boxes(**found)
