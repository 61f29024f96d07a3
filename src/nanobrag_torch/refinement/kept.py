"""A refined shot without its image: pixels, boxes, owners and parameters in one small file, to go on from.

Later steps (shared intensities, shared geometry) read these files alone. Photons and variances are float32, which holds
every count below 16 million exactly.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.expt import experiments_of
from nanobrag_torch.io.expt_write import experiment_list
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.refinement.build import IntensityPrior, Slots, build_problem
from nanobrag_torch.refinement.model import Sampling, ShotModel
from nanobrag_torch.refinement.parameters import Parameter, ParameterSet, Transform
from nanobrag_torch.refinement.problem import Problem, State
from nanobrag_torch.refinement.result import StillResult
from nanobrag_torch.refinement.setup import Choices, shot_model
from nanobrag_torch.refinement.shoeboxes import Shoeboxes, Spots
from nanobrag_torch.refinement.stages import first_columns
from nanobrag_torch.refinement.targets import TARGETS

KEPT = "shot.npz"
ACCEPTED = "a file that nb refine has left"
OUTSIDE = ("background", "target")
"""Options beside those of the model that decide a problem."""


@dataclass(frozen=True, eq=False)
class KeptShot:
    """What a refinement of a shot alone leaves: the experiments that it started from, its boxes, and where it ended.

    neighbours: reflections without a box, `row` is the box that they share. linear [blocks, C] and amplitude [r] of the
    reflections' columns, empty where the columns are to be found anew; options: as `refine_still` takes them.
    """

    name: str
    experiments: tuple[ExperimentData, ...]
    frame: int
    boxes: Shoeboxes
    neighbours: Spots
    parameters: ParameterSet
    linear: Tensor
    amplitude: Tensor
    shape: CrystalShape
    sampling: Sampling
    options: Mapping[str, Any]
    status: str
    sigma_z: float

    def model(self, factors: Reflections) -> ShotModel:
        """The shot's model with amplitudes of a list."""
        chosen = {f.name: self.options[f.name] for f in fields(Choices) if f.name in self.options}
        made = shot_model(self.experiments, [factors] * len(self.experiments), self.frame, Choices(**chosen))
        return made.with_shape(self.shape).with_sampling(self.sampling)

    def bare_problem(self, factors: Reflections, prior: IntensityPrior) -> tuple[Problem, Slots]:
        """The problem with amplitudes of a list that knows all its reflections."""
        return build_problem(
            self.model(factors),
            self.parameters,
            self.boxes,
            [factors] * len(self.experiments),
            prior=prior,
            target=TARGETS[self.options.get("target", "poisson")],
            background=self.options.get("background", "planes"),
            neighbours=self.neighbours if len(self.neighbours) else None,
            spread_shape=self.options.get("psf_shape", "gauss"),
        )

    def problem(self, factors: Reflections) -> tuple[Problem, Slots, State]:
        """The problem without a prior of intensities, and the state where it was left."""
        problem, slots = self.bare_problem(factors, IntensityPrior(sigma_F=float("inf")))
        raw = self.parameters.pack()
        if not len(self.amplitude):
            return problem, slots, problem.start(raw, first_columns(problem))
        linear = self.linear.clone()
        linear[slots.block, slots.column] *= self.amplitude**2 / slots.amplitude**2
        return problem, slots, State(raw, linear, problem.render(raw))

    def only(self, wanted: NDArray[np.bool_], near: NDArray[np.bool_]) -> KeptShot:
        """Without the boxes where `wanted` [b] is false, and the neighbours where `near` is or whose box is gone.

        Raises InputError where no box is left.
        """
        if wanted.all() and near.all():
            return self
        if not wanted.any():
            raise InputError(f"{self.name}: boxes", 0, "at least one whose reflection the list of intensities holds")
        number = np.cumsum(wanted) - 1
        pixels = torch.from_numpy(wanted)[self.boxes.box]
        boxes = self.boxes.keep(pixels)
        chosen = torch.from_numpy(np.flatnonzero(wanted))
        used, block = torch.unique(boxes.block[chosen], return_inverse=True)
        rows = self.neighbours.rows(near & wanted[self.neighbours.row])
        return replace(
            self,
            boxes=replace(
                boxes, spots=boxes.spots.rows(wanted), box=torch.from_numpy(number)[boxes.box],
                block=block, place=_places(block),
            ),
            neighbours=replace(rows, row=number[rows.row]),
            linear=torch.zeros((len(used), 0), dtype=torch.float64),
            amplitude=torch.zeros(0, dtype=torch.float64),
        )  # fmt: skip


def _places(block: Tensor) -> Tensor:
    """Numbers boxes [b] within their block."""
    order = torch.argsort(block, stable=True)
    starts = torch.searchsorted(block[order], block[order])
    found = torch.empty_like(block)
    found[order] = torch.arange(len(block)) - starts
    return found


def kept_shot(name: str, result: StillResult, options: Mapping[str, Any]) -> KeptShot:
    """What is to be kept of a result that has a fit."""
    assert result.fit is not None and result.shot is not None
    problem, slots = result.fit.problem, result.fit.slots
    first_box = torch.zeros(int(problem.boxes.block.max()) + 1, dtype=torch.int64)
    first_box[problem.boxes.block.flip(0)] = torch.arange(len(problem.boxes)).flip(0)
    extra = (slots.spot < 0).numpy()
    row = first_box[slots.block[slots.spot < 0]].numpy()
    count = len(row)
    known = {f.name for f in fields(Choices)} | set(OUTSIDE)
    return KeptShot(
        name=name,
        experiments=result.shot.experiments,
        frame=result.shot.frame,
        boxes=problem.boxes,
        neighbours=Spots(slots.hkl[extra], slots.crystal[extra], np.zeros(count, np.int64), np.zeros((count, 2)), row),
        parameters=problem.parameters.at(result.fit.state.raw),
        linear=result.fit.state.linear,
        amplitude=slots.amplitude,
        shape=problem.model.lattices[0].shape,
        sampling=problem.model.sampling,
        options={k: v for k, v in options.items() if k in known},
        status=result.status,
        sigma_z=result.sigma_z,
    )


def packed(shot: KeptShot) -> bytes:
    """The bytes of a kept shot's file."""
    boxes, near = shot.boxes, shot.neighbours
    text = {
        "name": shot.name,
        "experiments": experiment_list(shot.experiments),
        "frame": shot.frame,
        "half": boxes.half,
        "parameters": [{**asdict(p), "transform": p.transform.value} for p in shot.parameters],
        "shape": shot.shape.value,
        "sampling": asdict(shot.sampling),
        "options": dict(shot.options),
        "status": shot.status,
        "sigma_z": shot.sigma_z,
    }
    arrays: dict[str, NDArray[Any]] = {
        "text": np.frombuffer(json.dumps(text).encode(), np.uint8),
        "pixel": boxes.pixels.numpy().astype(np.int32),
        "box": boxes.box.numpy().astype(np.int16),
        "data": boxes.data.numpy().astype(np.float32),
        "readout": boxes.readout.numpy().astype(np.float32),
        "block": boxes.block.numpy().astype(np.int16),
        "place": boxes.place.numpy().astype(np.int16),
        "hkl": boxes.spots.hkl.astype(np.int16),
        "crystal": boxes.spots.crystal.astype(np.int16),
        "panel": boxes.spots.panel.astype(np.int16),
        "centre": boxes.spots.centre,
        "row": boxes.spots.row.astype(np.int32),
        "near_hkl": near.hkl.astype(np.int16),
        "near_crystal": near.crystal.astype(np.int16),
        "near_box": near.row.astype(np.int16),
        "linear": shot.linear.numpy(),
        "amplitude": shot.amplitude.numpy(),
    }
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpacked(content: bytes, source: str) -> KeptShot:
    """A kept shot from the bytes of its file. Raises InputError naming `source` for another or a damaged file."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        text = json.loads(arrays.pop("text").tobytes())
        return _shot(text, arrays, source)
    except (KeyError, ValueError, TypeError, IndexError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(source, str(error), ACCEPTED) from error


def read_kept(path: str | Path) -> KeptShot:
    """A kept shot. Raises InputError for a file that is none."""
    return unpacked(read_input(path, "kept shot", ACCEPTED, unpack=False), str(path))


def _shot(text: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], source: str) -> KeptShot:
    experiments = tuple(experiments_of(text["experiments"], source))
    whole = {name: arrays[name].astype(np.int64) for name in ("hkl", "crystal", "panel", "row")}
    spots = Spots(whole["hkl"], whole["crystal"], whole["panel"], arrays["centre"], whole["row"])
    near = [arrays[name].astype(np.int64) for name in ("near_hkl", "near_crystal", "near_box")]
    count = len(near[0])
    options = dict(text["options"])
    if isinstance(options.get("groups"), dict):
        options["groups"] = {int(k): v for k, v in options["groups"].items()}
    return KeptShot(
        name=text["name"],
        experiments=experiments,
        frame=text["frame"],
        boxes=_boxes(spots, (int(text["half"][0]), int(text["half"][1])), arrays, experiments[0]),
        neighbours=Spots(near[0], near[1], np.zeros(count, np.int64), np.zeros((count, 2)), near[2]),
        parameters=ParameterSet([_parameter(p) for p in text["parameters"]]),
        linear=torch.from_numpy(arrays["linear"]),
        amplitude=torch.from_numpy(arrays["amplitude"]),
        shape=CrystalShape(text["shape"]),
        sampling=Sampling(**text["sampling"]),
        options=options,
        status=text["status"],
        sigma_z=text["sigma_z"],
    )


def _parameter(text: Mapping[str, Any]) -> Parameter:
    pairs = {name: None if text[name] is None else tuple(text[name]) for name in ("bounds", "prior")}
    return Parameter(**{**text, **pairs, "transform": Transform(text["transform"])})


def _boxes(spots: Spots, half: tuple[int, int], arrays: Mapping[str, NDArray[Any]], data: ExperimentData) -> Shoeboxes:
    """The boxes, with the coordinates of their planes from where the pixels are."""
    assert data.detector is not None
    slow_size, fast_size = data.detector.shape[-2:]
    pixel, box = arrays["pixel"].astype(np.int64), arrays["box"].astype(np.int64)
    whole = np.floor(spots.centre).astype(np.int64)[box]
    offset = np.stack([pixel % fast_size, (pixel // fast_size) % slow_size], 1) - whole
    basis = np.column_stack([np.ones(len(pixel)), offset / np.array(half)])
    return Shoeboxes(
        spots=spots,
        half=half,
        pixels=torch.from_numpy(pixel),
        box=torch.from_numpy(box),
        basis=torch.from_numpy(basis),
        data=torch.from_numpy(arrays["data"].astype(np.float64)),
        readout=torch.from_numpy(arrays["readout"].astype(np.float64)),
        block=torch.from_numpy(arrays["block"].astype(np.int64)),
        place=torch.from_numpy(arrays["place"].astype(np.int64)),
    )


def fingerprint_of(paths: Sequence[Path]) -> str:
    """Of names and contents of kept shots: of the checksums that their files hold of what is in them.

    Raises InputError for a file that is none.
    """
    import hashlib

    found = [(path.parent.name, _checksums(path)) for path in paths]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:32]


def _checksums(path: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and checksums of the arrays of a file, which reading them compares."""
    try:
        with zipfile.ZipFile(path) as file:
            return [(each.filename, each.file_size, each.CRC) for each in file.infolist()]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(str(path), str(error), ACCEPTED) from error


def gathered(paths: Sequence[Path], shard: Path) -> list[KeptShot]:
    """The shots of files, through a shard of all of them that is written once and read from then on.

    A shard that is not of these very files is written again. Raises InputError for a file that cannot be read.
    """
    from nanobrag_torch.io.atomic import open_output

    mark = fingerprint_of(paths).encode()
    damaged = OSError, zipfile.BadZipFile, zlib.error
    with suppress(*damaged), zipfile.ZipFile(shard) as together:  # else, or where there is none, made again
        if together.comment == mark:
            return _all_of(together, shard)
    shard.parent.mkdir(parents=True, exist_ok=True)
    with open_output(shard, "shard") as file, zipfile.ZipFile(file, "w") as together:
        together.comment = mark
        for number, path in enumerate(paths):
            together.writestr(f"{number:07d}", read_input(path, "kept shot", ACCEPTED, unpack=False))
    with zipfile.ZipFile(shard) as together:
        return _all_of(together, shard)


def _all_of(together: zipfile.ZipFile, shard: Path) -> list[KeptShot]:
    return [unpacked(together.read(name), f"{shard}: {name}") for name in sorted(together.namelist())]
