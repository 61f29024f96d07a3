"""Panels that move together during a refinement: the whole detector, each panel, or the groups of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.physics.rotations import vector_rotation
from nanobrag_torch.records.experiment import DetectorData, GroupData
from nanobrag_torch.units import MM

MOVES = ("shift_fast", "shift_slow", "shift_normal", "tilt_fast", "tilt_slow", "tilt_normal")
WHOLE = ""


@dataclass(frozen=True, eq=False)
class PanelGroup:
    """Panels that shift along, and turn about, the axes of the group through its centre.

    name: before the colon of its parameters' names, as in "quadrant 1:shift_fast"; empty for the whole detector, whose
    shift along the normal is the parameter "distance".
    """

    name: str
    panels: tuple[int, ...]
    centre: Tensor  # [3] m
    axes: Tensor  # [3, 3] rows fast, slow, normal (away from the sample)

    @property
    def distance_mm(self) -> float:
        """Of the sample from the plane of the group."""
        return float(self.centre @ self.axes[2]) / MM

    def parameter(self, move: str) -> str:
        """The name of the parameter of one of MOVES."""
        if self.name == WHOLE:
            return "distance" if move == "shift_normal" else move
        return f"{self.name}:{move}"

    def moved(self, panels: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Panels [P, 4, 3] (m) after the moves (mm, degrees) in `values`; those that are not there are none."""
        zero = panels.new_zeros(())
        names = [self.parameter(move) for move in MOVES]
        found = [values.get(name, zero) for name in names]
        if names[2] == "distance" and "distance" in values:
            found[2] = found[2] - self.distance_mm
        shift, tilt = torch.stack(found[:3]) * MM, torch.deg2rad(torch.stack(found[3:]))
        turn = vector_rotation(tilt @ self.axes)
        chosen = torch.zeros(len(panels), dtype=torch.bool)
        chosen[list(self.panels)] = True
        origin = (panels[:, 0] - self.centre) @ turn.T + self.centre + shift @ self.axes
        after = torch.cat((origin[:, None], panels[:, 1:] @ turn.T), 1)
        return torch.where(chosen[:, None, None], after, panels)


def centred(groups: Sequence[PanelGroup], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values whose moves of groups have no mean: what all groups do together is a move of the whole detector."""
    found = dict(values)
    parts = [group for group in groups if group.name != WHOLE]
    for move in MOVES:
        names = [group.parameter(move) for group in parts]
        if len(names) > 1 and all(name in values for name in names):
            mean = torch.stack([values[name] for name in names]).mean()
            found |= {name: values[name] - mean for name in names}
    return found


def without_means(groups: Sequence[PanelGroup], names: Sequence[str], covariance: Tensor) -> Tensor:
    """The covariance [n, n] of values after `centred`: what all groups do together, known from nothing, is left out."""
    parts = [group for group in groups if group.name != WHOLE]
    centring = torch.eye(len(names), dtype=covariance.dtype)
    for move in MOVES:
        places = [names.index(name) for group in parts if (name := group.parameter(move)) in names]
        if len(places) == len(parts) > 1:
            rows = torch.tensor(places)
            centring[rows[:, None], rows] -= 1 / len(places)
    return centring @ covariance @ centring.T


def panel_groups(detector: DetectorData, how: str | Mapping[int, int] = "whole") -> list[PanelGroup]:
    """The whole detector first, then the groups that `how` names.

    how: whole, panel (each on its own), a level of the file's hierarchy counted from 1 (as "1"), or a mapping from
    panel to the number of its group. Raises InputError for a hierarchy without that level.
    """
    everything = tuple(range(len(detector.panels)))
    found = [_group(WHOLE, everything, detector)]
    if how == "whole":
        return found
    if how == "panel":
        return found + [_group(detector.panels[i].name or f"panel {i}", (i,), detector) for i in everything]
    if isinstance(how, Mapping):
        numbers = sorted(set(how.values()))
        return found + [
            _group(f"group {n}", tuple(i for i in everything if how.get(i) == n), detector) for n in numbers
        ]
    return found + _level(detector, how)


def _level(detector: DetectorData, how: str) -> list[PanelGroup]:
    depth = int(how) if how.isdigit() else -1
    level: list[GroupData] = [] if detector.root is None else [detector.root]
    for _ in range(max(depth, 0)):
        level = [child for group in level for child in group.children if isinstance(child, GroupData)]
    if depth < 1 or not level:
        raise InputError("groups", how, "whole, panel, a file of panel and group numbers, or a level of the hierarchy")
    names = [group.name or f"group {i}" for i, group in enumerate(level)]
    if len(set(names)) < len(names):
        names = [f"{name} {i}" for i, name in enumerate(names)]
    return [_group(name, tuple(g.panel_indices()), detector) for name, g in zip(names, level, strict=True)]


def _group(name: str, members: Sequence[int], detector: DetectorData) -> PanelGroup:
    panels = [detector.panels[i] for i in members]
    middles = [panel.positions_mm(panel.image_size[0] / 2, panel.image_size[1] / 2) for panel in panels]
    centre = np.mean(middles, axis=0)
    normal = np.mean([panel.normal * np.sign(panel.normal @ panel.origin_mm or 1.0) for panel in panels], axis=0)
    normal = normal / np.linalg.norm(normal)
    fast = panels[0].fast - (panels[0].fast @ normal) * normal
    fast = fast / np.linalg.norm(fast)
    axes = np.stack([fast, np.cross(normal, fast), normal])
    return PanelGroup(name, tuple(members), torch.from_numpy(centre * MM), torch.from_numpy(axes))
