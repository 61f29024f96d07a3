"""The truth of a shard of stills as DIALS's .expt and .refl, an experiment a lattice: of all images at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.datasets.labels import Columns
from nanobrag_torch.datasets.plan import ImagePlan
from nanobrag_torch.datasets.render import Renderer
from nanobrag_torch.datasets.store import FLAG
from nanobrag_torch.datasets.truth import crystal_of, experiment_of, identifier, image_set, reflection_columns
from nanobrag_torch.datasets.turning import turns_of
from nanobrag_torch.io.atomic import open_output
from nanobrag_torch.io.expt_write import experiment_list
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.records.experiment import DetectorData, ExperimentData
from nanobrag_torch.records.tables import ReflectionData

Json = dict[str, Any]
Reals = NDArray[np.float64]


class StillsTruth:
    """Gathers experiments and spots of the images of a shard of stills."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._plans: list[ImagePlan] = []
        self._tables: list[Columns] = []

    def add(self, plan: ImagePlan, spots: Columns) -> None:
        """Take in an image and its spots."""
        self._plans.append(plan)
        self._tables.append(spots)

    def write(self, place: Path) -> None:
        """Write `expt` and `refl` into a folder."""
        with open_output(place / "expt", FLAG) as file:
            file.write(json.dumps(self._experiments()).encode() + b"\n")
        names = [identifier(plan, lattice) for plan in self._plans for lattice in plan.lattices]
        columns = self._reflections()
        table = ReflectionData(rows=len(columns["id"]), identifiers=dict(enumerate(names)), columns=columns)
        write_refl(place / "refl", table, flag=FLAG)

    def _experiments(self) -> Json:
        """The tree of a DIALS experiment list: beam, detector and image set an image that has any lattice."""
        plans = [plan for plan in self._plans if plan.lattices]
        crystals = [crystal_of(self._renderer, lattice) for plan in plans for lattice in plan.lattices]
        tree = experiment_list([ExperimentData(crystal=crystal) for crystal in crystals])
        nominal = experiment_list([self._nominal(plan) for plan in self._plans[:1]])
        entries = zip(_numbered(plans), range(len(crystals)), strict=True)
        tree["experiment"] = [
            {
                **nominal["experiment"][0],
                "identifier": identifier(plans[image], plans[image].lattices[own]),
                **dict.fromkeys(("beam", "detector"), image),
                "crystal": crystal,
                "imageset": image,
            }
            for (image, own), crystal in entries
        ]
        tree["beam"] = [self._beam(nominal["beam"][0], plan) for plan in plans]
        tree["detector"] = [self._detector(nominal["detector"][0], plan) for plan in plans]
        tree["imageset"] = [image_set("ImageSet", "../master.nxs", plan.image) for plan in plans]
        return tree

    def _nominal(self, plan: ImagePlan) -> ExperimentData:
        """Beam and detector before anything was drawn."""
        still = replace(plan, shift_mm=np.zeros(3), tilt_deg=np.zeros(3), beam_turn=np.eye(3))
        return experiment_of(self._renderer, still)

    def _beam(self, nominal: Json, plan: ImagePlan) -> Json:
        assert self._renderer.data.beam is not None
        direction = plan.beam_turn @ self._renderer.data.beam.direction
        return nominal | {"direction": direction.tolist(), "wavelength": plan.wavelength_A}

    def _detector(self, nominal: Json, plan: ImagePlan) -> Json:
        """What moves along moves the outermost frame that there is; what is turned is written anew."""
        if plan.tilt_deg.any():
            turned: Json = experiment_list([experiment_of(self._renderer, plan)])["detector"][0]
            return turned
        detector = self._renderer.data.detector
        assert detector is not None
        if detector.root is not None:
            return nominal | {"hierarchy": _moved(nominal["hierarchy"], plan.shift_mm)}
        return nominal | {"panels": [_moved(panel, plan.shift_mm) for panel in nominal["panels"]]}

    def _reflections(self) -> Columns:
        """The columns of the reflection table, for the spots of all images together."""
        spots = {name: np.concatenate([table[name] for table in self._tables]) for name in self._tables[0]}
        image = np.repeat(np.arange(len(self._tables)), [len(table["h"]) for table in self._tables])
        detector = self._renderer.data.detector
        assert detector is not None
        sizes = np.array([panel.pixel_size_mm for panel in detector.panels])[spots["panel"]]
        wavelengths = np.array([plan.wavelength_A for plan in self._plans])[image]
        places = _positions(detector, self._plans, spots, image), sizes, wavelengths
        columns = reflection_columns(spots, self._owners(spots, image), np.full(len(image), 0.5), *places)
        shown = np.cumsum([bool(plan.lattices) for plan in self._plans]) - 1
        columns["imageset_id"] = shown[image].astype(np.int32)
        return columns

    def _owners(self, spots: Columns, image: NDArray[np.int64]) -> NDArray[np.int32]:
        """Experiments [n] of spots."""
        known = [(i, own.number, own.piece) for i, plan in enumerate(self._plans) for own in plan.lattices]
        numbers = np.array(known, np.int64).reshape(-1, 3)
        wide = 1 + numbers.max(0, initial=0)
        order = _packed(numbers.T, wide)
        asked = _packed((image, spots["lattice"].astype(np.int64), spots["piece"].astype(np.int64)), wide)
        return np.searchsorted(order, asked).astype(np.int32)


def _packed(columns: Iterable[NDArray[np.int64]], wide: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number of three, in their order."""
    image, lattice, piece = columns
    return np.asarray((image * wide[1] + lattice) * wide[2] + piece)


def _numbered(plans: Iterable[ImagePlan]) -> list[tuple[int, int]]:
    """(image, lattice) of every lattice, by their places."""
    return [(i, own) for i, plan in enumerate(plans) for own in range(len(plan.lattices))]


def _moved(frame: Json, shift_mm: Reals) -> Json:
    """A panel or group whose frame is that of the lab, moved."""
    return frame | {"origin": (np.array(frame["origin"]) + shift_mm).tolist()}


def _positions(detector: DetectorData, plans: list[ImagePlan], spots: Columns, image: NDArray[np.int64]) -> Reals:
    """Where spots [n, 3] are in the lab (mm), on the detector of each image [n]."""
    panel, panels = spots["panel"], detector.panels
    fast = np.stack([one.pixel_size_mm[0] * one.fast for one in panels])[panel]
    slow = np.stack([one.pixel_size_mm[1] * one.slow for one in panels])[panel]
    places = np.stack([one.origin_mm for one in panels])[panel] + np.stack([plan.shift_mm for plan in plans])[image]
    places = places + spots["fast"][:, None] * fast + spots["slow"][:, None] * slow
    tilts = np.radians([plan.tilt_deg for plan in plans])
    return np.einsum("nij,nj->ni", turns_of(tilts)[image], places) if tilts.any() else places
