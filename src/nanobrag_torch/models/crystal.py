"""The crystal: configuration -> lattice stack, number of cells, structure factors (sections 6 to 8), differentiable."""

from __future__ import annotations

import logging
import os
from copy import copy
from dataclasses import Field, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.c_random import MosaicDomains, Streams, random_domains
from nanobrag_torch.checks import require_model
from nanobrag_torch.compat import Compat
from nanobrag_torch.config import MOSAIC_DOMAINS, BeamConfig, CrystalConfig, MosaicSampling
from nanobrag_torch.crystallography.amplitude_tables import table_of
from nanobrag_torch.devices import checked_device
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.hkl import read_hkl_file, write_fdump
from nanobrag_torch.models.attributes import CellTensor, Setting
from nanobrag_torch.models.remembered import remembered
from nanobrag_torch.models.tensors import as_tensor, over, times
from nanobrag_torch.physics import mosaicity
from nanobrag_torch.physics.rotations import axis_rotation, quaternion_rotation, vector_rotation, xyz_rotation
from nanobrag_torch.physics.structure_factors import (
    nearest_amplitude,
    nearest_integers,
    out_of_interpolation_range,
    tricubic_amplitude,
)
from nanobrag_torch.physics.unit_cell import cell_volume, cross_products, dual, reciprocal_from_cell, with_lengths
from nanobrag_torch.records.images import as_array
from nanobrag_torch.units import ANGSTROM, DEGREES_PER_RADIAN, MM

INTERPOLATION_CELLS = 2
LAB_Z = (0.0, 0.0, 1.0)
TURNING = (
    "phi_start_deg", "osc_range_deg", "phi_steps", "mosaic_spread_deg", "mosaic_domains", "mosaic_seed", "spindle_axis",
)  # fmt: skip
"""Fields of a CrystalConfig that say how a crystal turns and how mosaic it is."""
BESIDE_THE_CELL = (
    *TURNING, "phi_step_deg", "mosaic_sampling", "N_cells", "sample_size_mm", "shape", "fudge", "default_F", "F_scale",
    "B_factor_A2", "interpolate",
)  # fmt: skip
"""Fields of a CrystalConfig that neither size nor orientation of the cell depends on."""
ORIENTED = ("misset_deg", "orientation_vector_deg", "orientation_quaternion")
"""Fields that say how the cell lies."""
_LOG = logging.getLogger(__name__)

Triple = tuple[Tensor, Tensor, Tensor]
POWDER_DEG = 90.0
"""A mosaic spread that the C program calls powder."""


class Crystal:
    """A crystal built from its configuration and amplitudes.

    structure_factors: a file of them, Reflections, an array [H, K, L] with its first indices, or a table [n, 4] of
    h k l F. Older scripts attach an array as `hkl_data` and `hkl_metadata`.
    Lattices are float64 whatever `dtype`, which is that of what compute_cell_tensors returns. `streams` shares the
    random state of a run with the noise, as the C program does; by default every call starts afresh.
    """

    def __init__(
        self,
        config: CrystalConfig | None = None,
        beam_config: BeamConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        hkl_data: Tensor | None = None,
        hkl_metadata: dict[str, int] | None = None,
        structure_factors: Any = None,
    ) -> None:
        self.config = config if config is not None else CrystalConfig(cell_a=100.0)
        require_model("config", self.config, CrystalConfig)
        self.beam_config = beam_config
        self.dtype, self.device = dtype, checked_device(device or "cpu")
        self.hkl_data = hkl_data  # [H, K, L] amplitudes
        self.hkl_metadata = hkl_metadata  # h_min h_max k_min k_max l_min l_max
        if structure_factors is not None:
            if hkl_data is not None:
                raise InputError("structure_factors", "hkl_data beside it", "one of the two")
            table, self.hkl_metadata = table_of(structure_factors, default_F=self.config.default_F)
            self.hkl_data = table.to(self.device)
        self.streams: Streams | None = None
        self._drawn: tuple[Streams | None, tuple[int, int], MosaicDomains] | None = None
        if self.config.cell_a is None and self.config.mosflm_a_star is None:
            raise InputError("cell_a", None, "a cell, or mosflm_a_star, mosflm_b_star and mosflm_c_star")

    cell_a, cell_b, cell_c = (Setting(f"cell_{edge}", default="cell_a") for edge in "abc")
    cell_alpha, cell_beta, cell_gamma = (Setting(f"cell_{angle}") for angle in ("alpha", "beta", "gamma"))
    N_cells_a, N_cells_b, N_cells_c = (Setting("N_cells", place) for place in range(3))
    a, b, c, a_star, b_star, c_star, V, volume = (
        CellTensor(name) for name in ("a", "b", "c", "a_star", "b_star", "c_star", "V", "V")
    )

    def __repr__(self) -> str:
        table = "no table" if self.hkl_data is None else "a table of " + " x ".join(map(str, self.hkl_data.shape))
        return f"Crystal({self.config!r}, {table}, {self.device})"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device, change the dtype of what is returned; in place, the table of amplitudes with it."""
        self.device = self.device if device is None else checked_device(device)
        self.dtype = self.dtype if dtype is None else dtype
        self.hkl_data = None if self.hkl_data is None else self.hkl_data.to(self.device)
        if self._drawn is not None:
            drawn = self._drawn[2]
            moved = drawn._replace(axes=drawn.axes.to(self.device), angles=drawn.angles.to(self.device))
            self._drawn = (*self._drawn[:2], moved)
        return self

    def load_hkl(self, path: str | os.PathLike[str], write_cache: bool = False) -> None:
        """Read hkl_data and hkl_metadata from lines of h k l F; write_cache leaves them in Fdump.bin too."""
        self.hkl_data, self.hkl_metadata = read_hkl_file(path, float(self.default_amplitude()), self.device)
        if write_cache:
            write_fdump(self.hkl_data, self.hkl_metadata, "Fdump.bin")

    @property
    def interpolate(self) -> bool:
        """Whether amplitudes are interpolated: as set, else when any of N_cells is small."""
        asked = self.config.interpolate
        cells = as_tensor(self.config.N_cells)
        along = cells if cells.dim() == 1 else cells.diagonal()
        return bool((along <= INTERPOLATION_CELLS).any()) if asked is None else asked

    @interpolate.setter
    def interpolate(self, wanted: bool) -> None:
        self.config = replace(self.config, interpolate=wanted)

    def get_structure_factor(self, h: Tensor, k: Tensor, l: Tensor) -> Tensor:
        """F of real indices, tensors of one shape: of the nearest reflection, or interpolated; default_F outside."""
        hkl = torch.stack((h, k, l), -1).to(self.device, torch.float64)
        table, first = self.structure_factors(torch.float64)
        default = self.default_amplitude()
        if not self.interpolates():
            return nearest_amplitude(nearest_integers(hkl), table, first, default).to(self.dtype)
        outside = out_of_interpolation_range(hkl, table, first)
        return torch.where(outside, default, tricubic_amplitude(hkl, table, first)).to(self.dtype)

    def turning_as(self, config: CrystalConfig) -> Self:
        """The same crystal, rotation and mosaicity as another configuration has them; what else it says is named."""
        ignored = [f.name for f in fields(config) if f.name not in TURNING and _departs(config, self.config, f)]
        if ignored:
            _LOG.warning("of this crystal_config only %s count; not: %s", ", ".join(TURNING), ", ".join(ignored))
        other = copy(self)
        other.config = replace(self.config, **{name: getattr(config, name) for name in TURNING})
        return other

    def still_with(self, a_star: Tensor) -> Self:
        """The same crystal in one orientation, with another a* [3] (1/Angstrom) beside its own b* and c*."""
        _, b_star, c_star = self.cell()[1].unbind(0)
        other = copy(self)
        other.config = replace(
            self.config,
            cell_a=None,
            cell_b=None,
            cell_c=None,
            mosflm_a_star=a_star,
            mosflm_b_star=b_star,
            mosflm_c_star=c_star,
            misset_deg=(0.0, 0.0, 0.0),
            orientation_vector_deg=None,
            orientation_quaternion=None,
            phi_start_deg=0.0,
            osc_range_deg=0.0,
            phi_steps=1,
            phi_step_deg=None,
            mosaic_spread_deg=0.0,
        )
        return other

    def get_rotated_real_vectors(self, config: CrystalConfig | None = None) -> tuple[Triple, Triple]:
        """(a, b, c) and (a*, b*, c*) of every step, each [phi steps, mosaic domains, 3]; Angstrom, 1/Angstrom.

        config: rotation and mosaicity, the crystal's own unless given. The spindle is along z unless it has one.
        """
        crystal = self if config is None else self.turning_as(config)
        lattice, _ = crystal.lattice(self._tensor(LAB_Z))
        rows = lattice / ANGSTROM
        stars = torch.func.vmap(lambda one: dual(one)[0])(rows)
        shape = (crystal.config.phi_steps, -1, 3)
        a, b, c = (rows[:, i].reshape(shape).to(self.dtype) for i in range(3))
        a_star, b_star, c_star = (stars[:, i].reshape(shape).to(self.dtype) for i in range(3))
        return (a, b, c), (a_star, b_star, c_star)

    def compute_cell_tensors(self, compat: Compat = Compat()) -> dict[str, Tensor]:  # noqa: B008
        """a, b, c (Angstrom), a_star, b_star, c_star (1/Angstrom), V (Angstrom^3), after misset, before phi.

        a . a_star = 1 and a . b_star = 0 and so on; compat.skewed_cell keeps the volume of the cell that was asked for.
        """
        rows, stars, volume = self.cell(compat)
        names = ("a", "b", "c", "a_star", "b_star", "c_star")
        tensors = dict(zip(names, (*rows, *stars), strict=True)) | {"V": volume}
        return {name: tensor.to(self.dtype) for name, tensor in tensors.items()}

    @remembered(*BESIDE_THE_CELL)
    def cell(self, compat: Compat = Compat()) -> tuple[Tensor, Tensor, Tensor]:  # noqa: B008
        """Direct rows [3, 3] (Angstrom), reciprocal rows [3, 3] (1/Angstrom) and volume [], float64 (section 6.3)."""
        stars = self._reciprocal(compat) @ self.orientation().T
        if self.config.cell_a is None:
            rows, reciprocal_volume = dual(stars)
            return rows, stars, 1 / reciprocal_volume
        lengths, angles = self.cell_parameters()
        rows = with_lengths(cross_products(stars), lengths)
        stars, volume = dual(rows)
        if compat.skewed_cell:
            asked = cell_volume(lengths, angles)
            return rows, stars * (volume / asked), asked
        return rows, stars, volume

    @remembered(*BESIDE_THE_CELL, *ORIENTED)
    def cell_parameters(self) -> tuple[Tensor, Tensor]:
        """Lengths [3] (Angstrom) and angles [3] (radians) of the configured cell."""
        config = self.config
        edges = [config.cell_a if edge is None else edge for edge in (config.cell_a, config.cell_b, config.cell_c)]
        angles = [config.cell_alpha, config.cell_beta, config.cell_gamma]
        return self._stack(edges), over(self._stack(angles), DEGREES_PER_RADIAN)

    def orientation(self) -> Tensor:
        """Rotation [3, 3] by the misset angles, then by the orientation vector or quaternion when one is given."""
        config = self.config
        turn = xyz_rotation(over(self._tensor(config.misset_deg), DEGREES_PER_RADIAN))
        if config.orientation_vector_deg is not None:
            turn = vector_rotation(over(self._tensor(config.orientation_vector_deg), DEGREES_PER_RADIAN)) @ turn
        if config.orientation_quaternion is not None:
            turn = quaternion_rotation(self._tensor(config.orientation_quaternion)) @ turn
        return turn

    def phi_radians(self) -> Tensor:
        """Start of each phi step [T]; formed in radians, as in the C program, so that both have the same zeros."""
        config = self.config
        index = torch.arange(config.phi_steps, dtype=torch.float64, device=self.device)
        start, given = self._tensor(config.phi_start_deg) / DEGREES_PER_RADIAN, config.phi_step_deg
        if given is not None:
            return start + self._tensor(given) / DEGREES_PER_RADIAN * index
        return start + self._tensor(config.osc_range_deg) / DEGREES_PER_RADIAN / config.phi_steps * index

    def lattice(self, spindle: Tensor, compat: Compat = Compat(), rows: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: B008
        """Lattice rows a, b, c [K, 3, 3] (m), phi outermost and mosaic domain innermost, and weights [K] of sum one.

        spindle [3] unit, used unless the configuration has its own. rows: those of `cell`, if they are at hand.
        """
        rows = self.cell(compat)[0] if rows is None else rows
        domains, weights = self.mosaic_domains(rows, compat)
        turns, columns = self.phi_rotations(spindle, compat), times(rows, ANGSTROM).T
        if self._is_anisotropic:  # domains are fixed to the crystal, and turn with it
            stack = turns[:, None] @ (domains @ columns)[None]
        else:
            stack = domains[None] @ (turns @ columns)[:, None]
        steps = turns.shape[0]
        return stack.transpose(-1, -2).reshape(-1, 3, 3), weights.repeat(steps) / steps

    def turns_alike(self, spindle: Tensor, compat: Compat = Compat()) -> bool:  # noqa: B008
        """Whether nothing that gradients are by moves a lattice against another: all change by the same matrix, which
        multiplies them from the left, as the cell and its orientation do."""
        if self._is_anisotropic:
            return False
        turns = self.phi_rotations(spindle, compat)
        domains, _ = self.mosaic_domains(torch.eye(3, dtype=torch.float64, device=self.device), compat)
        return not (turns.requires_grad or domains.requires_grad)

    def phi_rotations(self, spindle: Tensor, compat: Compat = Compat()) -> Tensor:  # noqa: B008
        """Spindle rotation of each phi step [T, 3, 3]; under compat.stale_phi a step at zero repeats the one before."""
        phi = self.phi_radians()
        if self.config.spindle_axis is not None:
            spindle = self._tensor(self.config.spindle_axis)
            spindle = spindle / torch.linalg.vector_norm(spindle)
        turns = axis_rotation(spindle.expand(phi.numel(), 3), phi)
        return turns[stale_steps(phi)] if compat.stale_phi else turns

    def mosaic_domains(self, rows: Tensor, compat: Compat = Compat()) -> tuple[Tensor, Tensor]:  # noqa: B008
        """Rotation of each mosaic domain [M, 3, 3] and weights [M] that sum to one, for direct rows [3, 3].

        An isotropic spread turns domains in the lab, as the C program does; an anisotropic one about crystal axes. A
        number from POWDER_DEG up is a powder: uniform over all rotations (D62).
        """
        config, count = self.config, self.domain_count
        if count == 1 and self.streams is None:
            one = torch.ones(1, dtype=torch.float64, device=self.device)
            return torch.eye(3, dtype=torch.float64, device=self.device)[None], one
        equal = torch.full((count,), 1 / count, dtype=torch.float64, device=self.device)
        powder = self.is_powder and not compat.powder_of_half_a_sphere
        if powder and config.mosaic_sampling is MosaicSampling.QUADRATURE:
            return mosaicity.rotation_spiral(count).to(self.device), equal
        if config.mosaic_sampling is MosaicSampling.QUADRATURE:
            vectors, weights = mosaicity.quadrature_nodes(count)
            return self._domain_rotations(vectors, rows), weights.to(self.device)
        domains = self._drawn_domains()
        if powder:
            angles = mosaicity.powder_angles(domains.angles.double())
            return mosaicity.domain_rotations(domains.axes, angles), equal
        if self._is_anisotropic:
            return self._domain_rotations(domains.axes * domains.angles.double()[:, None], rows), equal
        spread = config.mosaic_spread_deg  # a plain number gives the C program's rounded angles
        spread = (spread if isinstance(spread, float | int) else self._tensor(spread)) / DEGREES_PER_RADIAN
        angles = mosaicity.domain_angles(spread, domains.angles).to(self.device)
        return mosaicity.domain_rotations(domains.axes.to(self.device), angles), equal

    @property
    def is_powder(self) -> bool:
        """Whether the spread is a plain number that stands for every orientation; a tensor's value is not looked at."""
        spread = self.config.mosaic_spread_deg
        return isinstance(spread, float | int) and spread >= POWDER_DEG

    @property
    def domain_count(self) -> int:
        """Mosaic domains: one without a spread; with one as configured, else ten (3.5).

        A tensor is a spread whatever its value, which an optimiser may change.
        """
        if not _is_spread(self.config.mosaic_spread_deg):
            return 1
        given = self.config.mosaic_domains
        return MOSAIC_DOMAINS if given is None else given

    def _drawn_domains(self) -> MosaicDomains:
        """The random domains, drawn once and kept on the device: a shared stream must not go on at the next image."""
        seed, count = self.config.mosaic_seed, self.domain_count
        if self._drawn is None or self._drawn[0] is not self.streams or self._drawn[1] != (seed, count):
            streams = Streams() if self.streams is None else self.streams
            drawn = random_domains(streams, seed, count)
            placed = drawn._replace(axes=drawn.axes.to(self.device), angles=drawn.angles.to(self.device))
            self._drawn = self.streams, (seed, count), placed
        return self._drawn[2]

    @property
    def _is_anisotropic(self) -> bool:
        spread = self.config.mosaic_spread_deg
        return not isinstance(spread, float | int) and self._tensor(spread).numel() > 1

    def _domain_rotations(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Rotations [M, 3, 3] from rotation vectors in the unit ball [M, 3]."""
        vectors = vectors.to(self.device)
        spread = self._tensor(self.config.mosaic_spread_deg) / DEGREES_PER_RADIAN
        if not self._is_anisotropic:
            return vector_rotation(vectors * spread)
        return vector_rotation(vectors @ mosaicity.spread_matrix(spread, mosaicity.crystal_frame(rows)))

    def cells(self, compat: Compat = Compat()) -> Tensor:  # noqa: B008
        """Number of cells along a, b, c [3]: as given, or the sample size over the cell edges, at least one (6.4).

        A symmetric matrix [3, 3] where one was given.
        """
        given = self._tensor(self.config.N_cells)
        if self.config.sample_size_mm is not None:
            edges = torch.linalg.vector_norm(self.cell(compat)[0], dim=-1) * ANGSTROM
            given = torch.ceil(self.sample_size() / edges)
        return given.clamp(min=1) if given.dim() == 1 else given

    def sample_size(self) -> Tensor:
        """Size along a, b and c [3] (m) as configured; b and c are cut to the beam that the crystal was given (3.1)."""
        size = (self._tensor(self.config.sample_size_mm) * MM).expand(3)
        beam = 0.0 if self.beam_config is None else self.beam_config.beamsize_mm
        if not isinstance(beam, Tensor) and beam == 0:
            return size
        seen = torch.minimum(size[1:], self._tensor(beam) * MM)
        for axis, whole, cut in zip("yz", size[1:].tolist(), seen.tolist(), strict=True):
            if cut < whole:
                _LOG.warning("clipping sample_%s from %.6e m to beamsize %.6e m", axis, whole, cut)
        return torch.cat((size[:1], seen))

    def structure_factors(self, dtype: torch.dtype) -> tuple[Tensor, tuple[int, int, int]]:
        """Table of amplitudes [H, K, L] after scale and B factor, and its first indices; no element without a table."""
        if self.hkl_data is None:
            return torch.zeros((0, 0, 0), dtype=dtype, device=self.device), (0, 0, 0)
        if self.hkl_data.dim() != 3:
            raise InputError("hkl_data", tuple(self.hkl_data.shape), "a table (H, K, L)")
        first = self.hkl_first
        table = self.hkl_data.to(dtype=dtype, device=self.device)
        return self._scaled(table, first).to(dtype), first

    @property
    def hkl_first(self) -> tuple[int, int, int]:
        """Indices of the first amplitude of the table; zeros without one."""
        if self.hkl_data is None:
            return 0, 0, 0
        if self.hkl_metadata is None or not {"h_min", "k_min", "l_min"} <= self.hkl_metadata.keys():
            raise InputError("hkl_metadata", self.hkl_metadata, "h_min ... l_max of hkl_data")
        h, k, l = (int(self.hkl_metadata[f"{axis}_min"]) for axis in "hkl")
        return h, k, l

    def fudge(self) -> Tensor:
        """The shape parameter []."""
        return self._tensor(self.config.fudge)

    def default_amplitude(self) -> Tensor:
        """Amplitude outside the table []."""
        return self._tensor(self.config.default_F) * self._tensor(self.config.F_scale)

    def interpolates(self) -> bool:
        """Whether amplitudes are interpolated: as asked, else when any of N_cells, before the sample size, is small."""
        if self.hkl_data is None or self.hkl_data.numel() == 0:
            return False
        return self.interpolate

    def _scaled(self, table: Tensor, first: tuple[int, ...]) -> Tensor:
        config = self.config
        if isinstance(config.B_factor_A2, Tensor) or config.B_factor_A2 != 0:
            axes = [torch.arange(size, dtype=torch.float64, device=self.device) for size in table.shape]
            hkl = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) + self._tensor([float(x) for x in first])
            stol2 = ((hkl @ self.cell()[1]) ** 2).sum(-1) / 4
            table = table * torch.exp(-self._tensor(config.B_factor_A2) * stol2)
        if isinstance(config.F_scale, Tensor) or config.F_scale != 1:
            table = table * self._tensor(config.F_scale)
        return table

    @remembered(*BESIDE_THE_CELL, *ORIENTED)
    def _reciprocal(self, compat: Compat) -> Tensor:
        config = self.config
        if config.mosflm_a_star is not None:
            return self._stack([config.mosflm_a_star, config.mosflm_b_star, config.mosflm_c_star])
        return reciprocal_from_cell(*self.cell_parameters(), skewed=compat.skewed_cell)

    def _tensor(self, value: Any) -> Tensor:
        return as_tensor(value, self.device)

    def _stack(self, values: list[Any]) -> Tensor:
        return torch.stack([self._tensor(value).squeeze() for value in values])  # a parameter may have shape (1,)


def _departs(config: CrystalConfig, other: CrystalConfig, field: Field[Any]) -> bool:
    """Whether a field was given, and is not that of the other configuration."""
    value = getattr(config, field.name)
    return value is not field.default and not np.array_equal(as_array(value), as_array(getattr(other, field.name)))


def _is_spread(value: Any) -> bool:
    if isinstance(value, float | int):
        return value != 0
    if isinstance(value, (list, tuple)):
        return any(map(_is_spread, value))
    return isinstance(value, Tensor) or bool(np.any(value))


def stale_steps(phi: Tensor) -> Tensor:
    """Which phi step's orientation each step really uses in the C program (section 8.5), after the first pixel.

    A step at exactly zero keeps the orientation of the last non-zero step before it, or of the last in the list.
    """
    index = torch.arange(phi.numel(), device=phi.device)
    latest = torch.where(phi != 0, index, torch.full_like(index, -1)).cummax(0).values
    carried = torch.where(latest >= 0, latest, latest[-1])
    return torch.where(carried >= 0, carried, index)
