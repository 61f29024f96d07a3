"""NXmx fields with their units, and the chains of axes that place detector and sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.unit_words import ANGLES_DEG, LENGTHS_MM, Units
from nanobrag_torch.records.experiment import Vector, rotation_matrix


@dataclass(frozen=True)
class Step:
    """One axis of a chain: where it is, what it does to a vector (turn, then shift), and all its values."""

    path: str
    turn: Vector  # (3, 3)
    shift_mm: Vector  # (3,)
    offset_mm: Vector  # (3,) the part of the shift that no value scales
    kind: str
    direction: Vector
    values: Vector  # degrees or mm, one or one a frame
    component: str


def text_of(value: Any) -> str:
    """Text of an HDF5 value or attribute."""
    value = np.ravel(value)[0] if isinstance(value, np.ndarray) else value
    return value.decode() if isinstance(value, bytes) else str(value)


def class_of(group: Any) -> str:
    """NX_class of a group."""
    return text_of(group.attrs.get("NX_class", "")) if group is not None else ""


def all_of(group: Any, kind: str) -> list[Any]:
    """The members of a class; links into files that are not there are passed over."""
    return [child for child in group.values() if child is not None and class_of(child) == kind]


def first_of(group: Any, kind: str) -> Any:
    """The first member of a class, or None."""
    return next(iter(all_of(group, kind)), None)


def number_of(group: Any, name: str) -> float | None:
    """The number of a field; None if there is no such field."""
    return float(np.ravel(group[name][()])[0]) if name in group else None


def quantity(dataset: Any, units: Units, path: str, default: str | None = None) -> Vector:
    """All values of a dataset in the unit of the table. Raises InputError for an unknown unit, or none at all."""
    values = np.atleast_1d(np.asarray(dataset[()], np.float64)).ravel()
    word = dataset.attrs.get("units", default)
    if word is None and not values.any():
        return values
    return values * factor_of(word, units, f"{path}: {dataset.name}")


def factor_of(word: Any, units: Units, place: str) -> float:
    """The factor of a unit word. Raises InputError naming the place if it is missing or none of the kind."""
    name = "" if word is None else text_of(word)
    factor = units.factor(name)
    if factor is None:
        raise InputError(f"{place}@units", name or None, units.what)
    return factor


def chain_of(file: Any, start: str, owner: Any, path: str) -> list[Step]:
    """The axes from `start` to the base."""
    steps: list[Step] = []
    while start and start != ".":
        where = start if start.startswith("/") else f"{owner.name}/{start}"
        if where not in file or any(step.path == where for step in steps):
            raise InputError(f"{path}: depends_on", start, "the path of an axis, without a circle")
        dataset = file[where]
        steps.append(step_of(dataset, where, path))
        start, owner = depends_on(dataset), dataset.parent
    return steps


def depends_on(dataset: Any) -> str:
    """The axis that an axis hangs in; "." for the base."""
    return text_of(dataset.attrs.get("depends_on", "."))


def step_of(dataset: Any, where: str, path: str) -> Step:
    """One axis. Raises InputError where it moves something and does not say which way, or by which unit."""
    kind = text_of(dataset.attrs.get("transformation_type", "translation"))
    if kind not in ("rotation", "translation"):
        raise InputError(f"{path}: {where}@transformation_type", kind, "rotation or translation")
    rotation = kind == "rotation"
    values = quantity(dataset, ANGLES_DEG if rotation else LENGTHS_MM, path, "deg" if rotation else None)
    direction = np.asarray(dataset.attrs.get("vector", np.zeros(3)), np.float64)
    length = float(np.linalg.norm(direction))
    if direction.shape != (3,) or (length == 0 and values.any()):
        raise InputError(f"{path}: {where}@vector", direction.tolist(), "three numbers that have a direction")
    direction = direction / length if length > 0 else np.array([0.0, 0.0, 1.0])
    offset = np.asarray(dataset.attrs.get("offset", np.zeros(3)), np.float64)
    if offset.shape != (3,):
        raise InputError(f"{path}: {where}@offset", offset.tolist(), "three numbers")
    if offset.any():
        unit = dataset.attrs.get("offset_units", dataset.attrs.get("units"))
        offset = offset * factor_of(unit, LENGTHS_MM, f"{path}: {where}@offset_units")
    turn = rotation_matrix(direction, values[0]) if rotation else np.eye(3)
    shift = offset if rotation else offset + values[0] * direction
    component = text_of(dataset.attrs.get("equipment_component", ""))
    return Step(where, turn, shift, offset, kind, direction, values, component)


def frame_of(steps: list[Step]) -> tuple[Vector, Vector]:
    """Turn and shift of a whole chain, the first step innermost."""
    turn, shift = np.eye(3), np.zeros(3)
    for step in steps:
        turn, shift = step.turn @ turn, step.turn @ shift + step.shift_mm
    return turn, shift
