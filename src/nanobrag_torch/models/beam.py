"""The beam: configuration -> a table of sources, their polarization and the fluence (sections 3.1, 3.3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nanobrag_torch.checks import require_model
from nanobrag_torch.compat import Compat
from nanobrag_torch.config import BeamConfig
from nanobrag_torch.devices import checked_device
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.remembered import remembered
from nanobrag_torch.models.tensors import as_tensor
from nanobrag_torch.physics.polarization import polarization_matrix, unpolarized_matrix
from nanobrag_torch.physics.rotations import unit
from nanobrag_torch.physics.sources import centred_steps, grid_directions, inside_ellipse, source_behind
from nanobrag_torch.units import ANGSTROM, MICRON, MM, MRAD

if TYPE_CHECKING:
    from nanobrag_torch.config import Real


@dataclass(frozen=True)
class Sources:
    """One row a source: divergence outermost, wavelength innermost."""

    directions: Tensor  # [S, 3] from the sample to the source, any length
    wavelengths: Tensor  # [S] m
    weights: Tensor  # [S] sum to one

    @property
    def incident(self) -> Tensor:
        """Unit vectors along the beam [S, 3]."""
        return -unit(self.directions)

    def weightless_last(self) -> Sources:
        """The same with sources of weight zero at the end: the first one that a pixel sees sets its polarization."""
        order = torch.sort((self.weights == 0).to(torch.uint8), stable=True).indices
        return Sources(self.directions[order], self.wavelengths[order], self.weights[order])


class Beam:
    """A beam built from its configuration; tables are float64 on `device`."""

    def __init__(
        self,
        config: BeamConfig | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config if config is not None else BeamConfig()
        require_model("config", self.config, BeamConfig)
        self.dtype, self.device = dtype, checked_device(device)

    def __repr__(self) -> str:
        return f"Beam({self.config!r}, {self.device})"

    @remembered()
    def sources(self, beam: Tensor, polar: Tensor, compat: Compat = Compat()) -> Sources:  # noqa: B008
        """The table of sources about the beam direction [3] and polarization axis [3]; unit vectors.

        Raises InputError when the divergence grid keeps no point.
        """
        table = self._given(beam) if self.config.source_directions is not None else self._grid(beam, polar, compat)
        if compat.equal_sources:
            count = table.wavelengths.numel()
            return Sources(table.directions, table.wavelengths, torch.full_like(table.wavelengths, 1 / count))
        return table if self.config.source_weights is None else table.weightless_last()

    @remembered()
    def polarization(
        self,
        incident: Tensor,
        axis: Tensor,
        compat: Compat = Compat(),  # noqa: B008
        *,
        unpolarized: bool,
    ) -> Tensor:
        """M [S, 3, 3] of P = (1 + d^T M d) / 2 for the incident directions [S, 3]."""
        if unpolarized:
            return unpolarized_matrix(incident)
        given = self.config.polarization_axis
        axis = axis if given is None else unit(self._tensor(given))
        factor = self._tensor(self.config.polarization_factor)
        return polarization_matrix(incident, axis, factor, polarized_along_beam=compat.polarized_along_beam)

    def wavelength(self) -> Tensor:
        """The configured wavelength [] (m)."""
        return self._tensor(self.config.wavelength_A) * ANGSTROM

    def water_size(self) -> Tensor:
        """Edge of the water droplet [] (m)."""
        return self._tensor(self.config.water_size_um) * MICRON

    def fluence(self) -> Tensor:
        """Photons per square metre []: flux * exposure / beam size squared when a flux is given."""
        config = self.config
        exposed = isinstance(config.exposure, Tensor) or config.exposure > 0
        if isinstance(config.flux, Tensor) or (config.flux != 0 and exposed):
            size = self._tensor(config.beamsize_mm) * MM
            return self._tensor(config.flux) * self._tensor(config.exposure) / size / size
        return self._tensor(config.fluence)

    def _tensor(self, value: Any) -> Tensor:
        return as_tensor(value, self.device)

    def _given(self, beam: Tensor) -> Sources:
        config = self.config
        directions = self._tensor(config.source_directions)
        count = directions.shape[0]
        wavelengths = config.wavelength_A if config.source_wavelengths is None else config.source_wavelengths
        weights = 1.0 if config.source_weights is None else config.source_weights
        weights = self._tensor(weights).expand(count)
        return Sources(directions, (self._tensor(wavelengths) * ANGSTROM).expand(count), weights / weights.sum())

    def _grid(self, beam: Tensor, polar: Tensor, compat: Compat) -> Sources:
        directions = source_behind(beam)[None] if self._is_parallel else self._diverging(beam, polar, compat)
        wavelengths = self._wavelengths()
        count = directions.shape[0] * wavelengths.numel()
        return Sources(
            directions.repeat_interleave(wavelengths.numel(), 0),
            wavelengths.repeat(directions.shape[0]),
            torch.full((count,), 1 / count, dtype=torch.float64, device=self.device),
        )

    @property
    def _is_parallel(self) -> bool:
        """Whether there is one direction, whatever the ranges, and no gradient by them: turning by zero costs more than
        all the rest of a beam."""
        config = self.config
        scans = (
            (config.hdiv_range_mrad, config.hdiv_steps, config.hdiv_step_mrad),
            (config.vdiv_range_mrad, config.vdiv_steps, config.vdiv_step_mrad),
        )
        return all(not isinstance(of, Tensor) and count == 1 and step is None for of, count, step in scans)

    def _diverging(self, beam: Tensor, polar: Tensor, compat: Compat) -> Tensor:
        """Vectors [n, 3] to the sources of the grid that are kept."""
        (h, *_), (v, *_) = self._scans(self.device, compat.lopsided_divergence)
        directions = grid_directions(beam, polar, h, v).reshape(-1, 3)
        if self.config.round_div:
            kept = self._inside(compat.lopsided_divergence)
            if kept.numel() < directions.shape[0]:
                directions = directions.index_select(0, kept.to(self.device, non_blocking=True))
        if directions.shape[0] == 0:
            raise InputError("hdiv_steps, vdiv_steps", (h.numel(), v.numel()), "a grid that keeps a source")
        return directions

    def _inside(self, lopsided: bool) -> Tensor:
        """Places [n] in the grid that a round beam keeps; found on the CPU, so that no GPU has to be waited for."""
        (h, h_range, h_step), (v, v_range, v_step) = self._scans(torch.device("cpu"), lopsided)
        keep = inside_ellipse(h, v, (h_range, v_range), (h_step, v_step))
        return keep.detach().reshape(-1).nonzero().squeeze(1)

    def _scans(self, device: torch.device, lopsided: bool) -> tuple[_Scan, _Scan]:
        config = self.config
        return (
            _scan(config.hdiv_range_mrad, config.hdiv_steps, config.hdiv_step_mrad, device, lopsided),
            _scan(config.vdiv_range_mrad, config.vdiv_steps, config.vdiv_step_mrad, device, lopsided),
        )

    def _wavelengths(self) -> Tensor:
        config = self.config
        spread = self._tensor(config.dispersion_pct) / 100
        count = config.dispersion_steps
        offsets = (
            centred_steps(spread, spread / max(count - 1, 1), count, lopsided=True) if count > 1 else spread[None] * 0
        )
        return self.wavelength() * (1 + offsets)


class _Scan(NamedTuple):
    """Angles of a scan [count], its range [] and step [] (radians)."""

    angles: Tensor
    range: Tensor
    step: Tensor


def _scan(range_mrad: Real, count: int, step_mrad: Real | None, device: torch.device, lopsided: bool) -> _Scan:
    range_ = as_tensor(range_mrad, device) * MRAD
    step = range_ / max(count - 1, 1) if step_mrad is None else as_tensor(step_mrad, device) * MRAD
    if count == 1 and step_mrad is None:
        range_, step = range_ * 0, step * 0
    return _Scan(centred_steps(range_, step, count, lopsided=lopsided), range_, step)
