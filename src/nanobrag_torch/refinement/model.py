"""A shot as tensors of its parameters: crystals on one detector in one beam, for the pixels of a list.

From the raw vector of the parameters to the tensors of a Scene all is small and differentiable, so that the directions
in which a scene moves come from forward differentiation, and slopes of pixels from one pass of the operation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.physics import mosaicity
from nanobrag_torch.physics.lattice_factor import PROFILES, amplitude, shape_matrix
from nanobrag_torch.physics.rotations import axis_rotation, vector_rotation
from nanobrag_torch.physics.unit_cell import dual
from nanobrag_torch.refinement.groups import MOVES, PanelGroup, centred
from nanobrag_torch.refinement.normal_equations import MAX_TANGENTS, at_most, scene_directions
from nanobrag_torch.refinement.parameters import ParameterSet
from nanobrag_torch.refinement.symmetry import CellParameters, direct_rows
from nanobrag_torch.units import ANGSTROM, MRAD

OUTSIDE_KERNEL = ("scale", "B")
"""Parameters that multiply what a crystal scatters; their slopes need no kernel."""
ROTATION = ("rot_x", "rot_y", "rot_z")
CELLS = ("N_a", "N_b", "N_c", "N_ab", "N_bc", "N_ac")


@dataclass(frozen=True, eq=False)
class Lattice:
    """One crystal of a shot; `suffix` ends the names of its parameters."""

    turn: Tensor  # [3, 3] direct_rows(cell) @ turn are a, b, c in the lab at the middle of the exposure
    cell: CellParameters
    structure_factors: Tensor  # [H, K, L]
    hkl_first: tuple[int, int, int]
    shape: CrystalShape = CrystalShape.GAUSS_HKL
    suffix: str = ""


@dataclass(frozen=True)
class Sampling:
    """How finely a shot is summed: oversample^2 samples a pixel, from which its integral is extrapolated if wanted."""

    domains: int = 1
    oversample: int = 1
    phi_steps: int = 1
    extrapolated: bool = False

    def orders(self) -> tuple[tuple[int, float], ...]:
        """Numbers of samples along a pixel's edge, and the weights of what they give.

        n samples in the middle of their parts make a spot too narrow, by a variance of a twelfth of 1 / n^2 pixels:
        numbers of cells would take that up. Half as many samples, and a number between, tell how much that is
        (Richardson's extrapolation, in powers of 1 / n^2).
        """
        n = self.oversample
        used = sorted({n, (n + n // 2 + 1) // 2, n // 2} - {0}) if self.extrapolated else [n]
        return tuple((a, math.prod(a * a / (a * a - b * b) for b in used if b != a)) for a in reversed(used))


@dataclass(frozen=True, eq=False)
class ShotModel:
    """Crystals, detector and beam of one exposure.

    base: the tensors that no parameter moves, and the file's values of the others. spindle [3] and rotation (radians):
    of the exposure about its middle.
    """

    lattices: tuple[Lattice, ...]
    base: Scene
    options: Options
    spindle: Tensor
    rotation: float
    groups: tuple[PanelGroup, ...]
    sampling: Sampling = Sampling()

    def with_sampling(self, sampling: Sampling) -> ShotModel:
        """The same shot summed more or less finely."""
        return replace(self, sampling=sampling)

    def with_shape(self, shape: CrystalShape) -> ShotModel:
        """The same shot with crystals of another shape."""
        return replace(self, lattices=tuple(replace(lattice, shape=shape) for lattice in self.lattices))

    def rows(self, values: Mapping[str, Tensor], crystal: int) -> Tensor:
        """a, b, c [3, 3] (Angstrom) in the lab at the middle of the exposure."""
        lattice = self.lattices[crystal]
        rows = direct_rows(lattice.cell.cell(values, lattice.suffix)) @ lattice.turn
        vector = torch.stack([values[f"{name}{lattice.suffix}"] for name in ROTATION])
        return rows @ vector_rotation(torch.deg2rad(vector)).T

    def panels(self, values: Mapping[str, Tensor]) -> Tensor:
        """Panel vectors [P, 4, 3] (m), moved by the largest group first; moves of groups have no mean."""
        panels, values = self.base.panels, centred(self.groups, values)
        for group in self.groups:
            panels = group.moved(panels, values)
        return panels

    def incident(self, values: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors along the beam [S, 3]."""
        if "beam_x" not in values:
            return self.base.incident
        return self.base.incident @ self._beam_turn(values).T

    def wavelengths(self, values: Mapping[str, Tensor]) -> Tensor:
        """Wavelengths [S] (m); the parameter is their mean."""
        if "wavelength" not in values:
            return self.base.wavelengths
        return self.base.wavelengths * (values["wavelength"] * ANGSTROM / self.mean_wavelength)

    @property
    def mean_wavelength(self) -> Tensor:
        """Mean [] of the file's wavelengths (m), by weight."""
        weights = self.base.source_weights
        return (self.base.wavelengths * weights).sum() / weights.sum()

    def options_of(self, crystal: int) -> Options:
        """What a kernel is told for one crystal."""
        lattice = self.lattices[crystal]
        return replace(
            self.options,
            profile=PROFILES[lattice.shape],
            hkl_first=lattice.hkl_first,
            oversample=self.sampling.oversample,
        )

    def moving(self, values: Mapping[str, Tensor], crystal: int) -> dict[str, Tensor]:
        """The tensors of a crystal's scene that parameters move, by the names of Scene's fields."""
        lattice = self.lattices[crystal]
        rows = self.rows(values, crystal)
        number = self.cells(values, crystal)
        stars, volume = dual(rows)
        strength = amplitude(lattice.shape, number) ** 2 / torch.linalg.det(number)
        found = {
            "lattice": self._stack(values, rows, lattice.suffix),
            "shape": shape_matrix(lattice.shape, number, number.new_ones(()), stars, volume),
            "source_weights": self._weights(values) * strength,
        }
        if self._moves_detector(values):
            found["panels"] = self.panels(values)
        if "beam_x" in values:
            turn = self._beam_turn(values)
            found |= {"incident": self.incident(values), "polarization": turn @ self.base.polarization @ turn.T}
        if "wavelength" in values:
            found["wavelengths"] = self.wavelengths(values)
        return found

    def cells(self, values: Mapping[str, Tensor], crystal: int) -> Tensor:
        """The symmetric matrix of numbers of cells [3, 3]."""
        suffix = self.lattices[crystal].suffix
        n = [values.get(f"{name}{suffix}", values["N_a" + suffix] * 0) for name in CELLS]
        return torch.stack([n[0], n[3], n[5], n[3], n[1], n[4], n[5], n[4], n[2]]).reshape(3, 3)

    def scene(self, values: Mapping[str, Tensor], crystal: int, table: Tensor | None = None) -> Scene:
        """The scene of one crystal; table: other structure factors in the same places."""
        steps, domains = self._phi_steps, self._domain_weights(values, self.lattices[crystal].suffix)
        fixed = {
            "structure_factors": self.lattices[crystal].structure_factors if table is None else table,
            "lattice_weights": domains.repeat(steps) / steps,
        }
        return replace(self.base, **fixed, **self.moving(values, crystal))

    def directions(
        self, parameters: ParameterSet, raw: Tensor, crystal: int, which: Sequence[int]
    ) -> dict[str, Tensor]:
        """How the tensors of a crystal's scene move with some of the raw values: [T, *shape], by name."""
        with torch.enable_grad():
            leaf = raw.detach().clone().requires_grad_()
            stacks, _ = scene_directions(self.scene(parameters.unpack(leaf), crystal), [leaf])
        return {name: stack[list(which)] for name, stack in stacks.items()}

    def kernel_parameters(self, parameters: ParameterSet, crystal: int) -> list[int]:
        """Places in the raw vector of what moves the scene of a crystal."""
        others = [lattice.suffix for i, lattice in enumerate(self.lattices) if i != crystal]
        own = self.lattices[crystal].suffix
        places = []
        for place, name in enumerate(parameters.names):
            stem, _, number = name.partition("@")
            suffix = f"@{number}" if number else ""
            foreign = suffix in others and suffix != own and _is_of_crystal(stem)
            if stem not in OUTSIDE_KERNEL and not foreign:
                places.append(place)
        return places

    def intensities(self, pixels: Tensor, scene: Scene, crystal: int) -> Tensor:
        """Values [n] of pixels, float64."""
        options = self.options_of(crystal)
        found = torch.zeros(len(pixels), dtype=torch.float64)
        for samples, weight in self.sampling.orders():
            chosen = replace(options, oversample=samples)
            found += weight * operation.intensity(pixels, scene, chosen).double()
        return found

    def slopes(self, pixels: Tensor, scene: Scene, crystal: int, directions: Mapping[str, Tensor]) -> Tensor:
        """Slopes [T, n] of the same along directions, float64."""
        options, parts = self.options_of(crystal), list(at_most(directions, MAX_TANGENTS))
        found: Tensor | None = None
        for samples, weight in self.sampling.orders():
            chosen = replace(options, oversample=samples)
            one = weight * torch.cat([operation.tangents(pixels, scene, part, chosen).double() for part in parts])
            found = one if found is None else found + one
        assert found is not None
        return found

    @property
    def _phi_steps(self) -> int:
        return self.sampling.phi_steps if self.rotation else 1

    def _turns(self, values: Mapping[str, Tensor]) -> Tensor:
        """Rotations [T, 3, 3] of the steps of the exposure, about its middle."""
        steps = self._phi_steps
        offset = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps - 0.5
        angles = offset * self.rotation
        axis = self.spindle
        if "spindle_1" in values:
            tilt = torch.stack((values["spindle_1"], values["spindle_2"])) * MRAD
            axis = axis + tilt @ perpendicular(axis)
            axis = axis / torch.linalg.vector_norm(axis)
        if "phi" in values:
            angles = angles + torch.deg2rad(values["phi"])
        return axis_rotation(axis.expand(steps, 3), angles)

    def _stack(self, values: Mapping[str, Tensor], rows: Tensor, suffix: str) -> Tensor:
        """Lattices [K, 3, 3] (m): phi outermost, mosaic domain innermost."""
        turns = self._turns(values)
        if self.sampling.domains == 1 or not any(name.startswith("spread") for name in values):
            return (turns @ (rows * ANGSTROM).T).transpose(-1, -2)
        vectors, _ = mosaicity.quadrature_nodes(self.sampling.domains)
        spread = self._spread(values, suffix)
        if spread.dim() == 0:
            domains = vector_rotation(vectors * spread)
            stack = domains[None] @ (turns @ (rows * ANGSTROM).T)[:, None]
        else:
            frame = mosaicity.crystal_frame(rows.detach())
            domains = vector_rotation(vectors @ mosaicity.spread_matrix(spread, frame))
            stack = turns[:, None] @ (domains @ (rows * ANGSTROM).T)[None]
        return stack.transpose(-1, -2).reshape(-1, 3, 3)

    def _spread(self, values: Mapping[str, Tensor], suffix: str) -> Tensor:
        """Radians: [] about every axis, or the symmetric matrix [3, 3] in the frame of the crystal."""
        if f"spread{suffix}" in values:
            return torch.deg2rad(values[f"spread{suffix}"])
        zero = values[f"spread_a{suffix}"] * 0
        s = [values.get(f"spread_{axis}{suffix}", zero) for axis in ("a", "b", "c", "ab", "bc", "ac")]
        matrix = torch.stack([s[0], s[3], s[5], s[3], s[1], s[4], s[5], s[4], s[2]]).reshape(3, 3)
        return torch.deg2rad(matrix)

    def _domain_weights(self, values: Mapping[str, Tensor], suffix: str) -> Tensor:
        if self.sampling.domains == 1 or not any(name.startswith("spread") for name in values):
            return torch.ones(1, dtype=torch.float64)
        return mosaicity.quadrature_nodes(self.sampling.domains)[1]

    def _weights(self, values: Mapping[str, Tensor]) -> Tensor:
        """Weights of the sources [S], whose sum stays as it is while spectrum_1, 2, 3 bend them."""
        base = self.base.source_weights
        bends = [values[name] for name in ("spectrum_1", "spectrum_2", "spectrum_3") if name in values]
        if not bends:
            return base
        span = self.base.wavelengths - self.mean_wavelength
        x = span / span.abs().max().clamp(min=1e-30)
        bent = base * torch.exp(sum((bend * x ** (i + 1) for i, bend in enumerate(bends)), torch.zeros_like(x)))
        return bent * (base.sum() / bent.sum())

    def _beam_turn(self, values: Mapping[str, Tensor]) -> Tensor:
        tilt = torch.stack((values["beam_x"], values["beam_y"])) * MRAD
        return vector_rotation(tilt @ perpendicular(self.base.incident[0]))

    def _moves_detector(self, values: Mapping[str, Tensor]) -> bool:
        return any(group.parameter(move) in values for group in self.groups for move in MOVES)


def perpendicular(direction: Tensor) -> Tensor:
    """Two unit vectors [2, 3] across a unit vector [3], the first as close to x as can be; to y for one along x."""
    x = torch.eye(3, dtype=torch.float64)[int(direction[0].abs() > 0.9)]
    first = x - (x @ direction) * direction
    first = first / torch.linalg.vector_norm(first)
    return torch.stack((first, torch.linalg.cross(direction, first)))


def _is_of_crystal(stem: str) -> bool:
    return stem in (*ROTATION, *CELLS, "a", "b", "c", "alpha", "beta", "gamma") or stem.startswith("spread")
