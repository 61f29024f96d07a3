"""Groups of panels that all shots share: how they move together, and which moves cannot be told from the crystals'.

Every group shifts along, and turns about, its own axes. A pixel belongs to one group, so slopes along "every group
moves alike" are slopes along its own group's move: six directions serve any number of groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.physics.rotations import vector_rotation
from nanobrag_torch.records.experiment import DetectorData
from nanobrag_torch.refinement.groups import MOVES, PanelGroup, panel_groups
from nanobrag_torch.units import MM

ALIKE = "every group"
FREE = {"shift": MOVES[:3], "tilt": MOVES[3:]}
"""What --free takes beside distance."""
PRIOR = {"shift": 0.5, "tilt": 0.5}
"""Standard deviations (mm, degrees) that every group is known to before."""


@dataclass(frozen=True, eq=False)
class GroupMoves:
    """Moves [G, 6] (mm, degrees, as MOVES) of the groups of a detector; `of_panel` [P] is -1 for a panel in none.

    which: places in MOVES of those that are free.
    """

    names: tuple[str, ...]
    of_panel: Tensor
    centres: Tensor  # [G, 3] m
    axes: Tensor  # [G, 3, 3]
    moves: Tensor
    which: tuple[int, ...]
    distance: bool

    @classmethod
    def of(cls, detector: DetectorData, how: str | Mapping[int, int], free: Sequence[str]) -> GroupMoves:
        """Groups as `panel_groups` names them (asic: every panel; quadrant: the first level of the file's hierarchy).

        free: shift, tilt, distance. Raises InputError for other words, or where nothing is left to move.
        """
        known = {"asic": "panel", "quadrant": "1"}
        found = panel_groups(detector, known.get(how, how) if isinstance(how, str) else how)
        groups = found if how == "whole" else found[1:]
        unknown = set(free) - {*FREE, "distance"}
        if unknown or not free:
            raise InputError("--free", ", ".join(sorted(unknown)), "shift, tilt, distance")
        which = [place for place, move in enumerate(MOVES) if any(move in FREE[word] for word in free if word in FREE)]
        if how == "whole" and "distance" in free and 2 not in which:
            which = sorted([*which, 2])
        if not which:
            raise InputError("--free", "distance", "with groups other than whole, shift as well: it frees their mean")
        of_panel = torch.full((len(detector.panels),), -1)
        for number, group in enumerate(groups):
            of_panel[list(group.panels)] = number
        return cls(
            names=tuple(group.name or "whole" for group in groups),
            of_panel=of_panel,
            centres=torch.stack([group.centre for group in groups]),
            axes=torch.stack([group.axes for group in groups]),
            moves=torch.zeros((len(groups), len(MOVES)), dtype=torch.float64),
            which=tuple(which),
            distance="distance" in free or how == "whole",
        )

    @property
    def count(self) -> int:
        """Free numbers of all groups."""
        return len(self.names) * len(self.which)

    def moved(self, panels: Tensor, moves: Tensor) -> Tensor:
        """Panels [P, 4, 3] (m) after moves [G, 6]."""
        shift, tilt = moves[:, :3] * MM, torch.deg2rad(moves[:, 3:])
        turn = vector_rotation(torch.einsum("gm,gmi->gi", tilt, self.axes))
        away = torch.einsum("gm,gmi->gi", shift, self.axes)
        own, inside = self.of_panel.clamp(min=0), (self.of_panel >= 0)[:, None, None]
        origin = torch.einsum("pij,pj->pi", turn[own], panels[:, 0] - self.centres[own]) + self.centres[own] + away[own]
        axes = torch.einsum("pij,paj->pai", turn[own], panels[:, 1:])
        return torch.where(inside, torch.cat((origin[:, None], axes), 1), panels)

    def as_group(self) -> PanelGroup:
        """All groups as one, whose parameters move each of them alike from where it is."""
        return _Alike(ALIKE, tuple(range(len(self.of_panel))), self.centres.mean(0), self.axes[0], self)

    def gauge(self) -> Tensor:
        """Rows [k, G * moves] that keep what no spot tells: a turn of all about the beam, and their mean distance.

        Crystals turn with the one, and cells swell with the other, unless the distance is free. A shift of all across
        the beam is told by which reflections are lit, so it is free. One group alone has no gauge: it is held by what
        is known of it and of the cells.
        """
        if len(self.names) == 1:
            return torch.zeros((0, self.count), dtype=torch.float64)
        members = torch.bincount(self.of_panel[self.of_panel >= 0], minlength=len(self.names)).double()[:, None]
        normal = torch.nn.functional.normalize(self.axes[:, 2].mean(0), dim=0)
        rows = torch.zeros((2, len(self.names), len(MOVES)), dtype=torch.float64)
        if not self.distance:
            rows[0, :, :3] = members * (self.axes @ normal)
        if any(m < 3 for m in self.which):  # the turn of the whole shows in the shifts of its parts
            lever = torch.linalg.cross((self.centres - self.centres.mean(0))[:, None].expand(-1, 3, -1), self.axes)
            rows[1, :, :3] = members * (lever @ normal)
        else:
            rows[1, :, 3:] = members * (self.axes @ normal)
        found = rows[:, :, list(self.which)].reshape(2, -1)
        size = torch.linalg.vector_norm(found, dim=1, keepdim=True)
        kept: Tensor = (found / size.clamp(min=1e-300))[size[:, 0] > 0]
        return kept

    def prior(self) -> Tensor:
        """Precision [G * moves]."""
        sigma = [PRIOR["shift" if place < 3 else "tilt"] for place in self.which]
        return torch.tensor(sigma * len(self.names), dtype=torch.float64) ** -2

    def free_moves(self, moves: Tensor) -> Tensor:
        """The free ones [G * moves] of moves [G, 6]."""
        return moves[:, list(self.which)].reshape(-1)

    def with_free(self, vector: Tensor) -> Tensor:
        """Moves [G, 6] whose free ones are a vector [G * moves], none elsewhere."""
        found = torch.zeros((len(self.names), len(MOVES)), dtype=torch.float64)
        found[:, list(self.which)] = vector.reshape(len(self.names), -1)
        return found


@dataclass(frozen=True, eq=False)
class _Alike(PanelGroup):
    """Every group of GroupMoves, moved by the same numbers on top of its own."""

    table: GroupMoves

    def parameter(self, move: str) -> str:
        return f"{ALIKE}:{move}"

    def moved(self, panels: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        zero = panels.new_zeros(())
        more = torch.stack([values.get(self.parameter(move), zero) for move in MOVES])
        return self.table.moved(panels, self.table.moves + more)
