"""What a recipe's crystals and detector are made of, read or worked out once a process: amplitudes, cells, panels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.crystallography.structure_factors import read_structure_factors
from nanobrag_torch.crystallography.symmetry import amplitude_table, expand_to_p1, require_compatible, space_group
from nanobrag_torch.crystallography.wilson import wilson_reflections
from nanobrag_torch.datasets.recipe import CrystalPart, DetectorPart, Draws, Recipe
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.geometry import read_geometry
from nanobrag_torch.records.experiment import BeamData, DetectorData, ExperimentData, GoniometerData, PanelData
from nanobrag_torch.records.reflections import Cell, Reflections, require_cell
from nanobrag_torch.response.presets import detector_preset
from nanobrag_torch.units import EV_ANGSTROM

Reals = NDArray[np.float64]

DEFAULT_WAVELENGTH_A = 1.0
EDGE = 0.98
"""Amplitudes reach to this share of the finest spacing that a pixel sees, so that no spot at the border lacks one."""


@dataclass(frozen=True, eq=False)
class Material:
    """One kind of crystal: its amplitudes as a table over P1, its cell and its symmetry."""

    table: Tensor  # [H, K, L], or no element where every amplitude is the same
    first: tuple[int, int, int]
    default_F: float
    cell: Cell
    space_group: str

    @cached_property
    def strongest(self) -> float:
        """The largest amplitude."""
        return max(float(self.table.abs().max()) if self.table.numel() else 0.0, abs(self.default_F))


def middle(draws: Draws) -> list[float]:
    """What comes out half way, of each distribution: where a detector stands that others are moved from."""
    return [draw.value(0.5, _MiddleRow(draw.support())) for draw in draws]


class _MiddleRow(dict[str, float]):
    """A table's row half way between the ends of every column."""

    def __init__(self, support: tuple[float, float]) -> None:
        super().__init__()
        self.support = support

    def __missing__(self, name: str) -> float:
        return sum(self.support) / 2


def setting(recipe: Recipe) -> ExperimentData:
    """Beam, detector and goniometer of a recipe, before anything is drawn; in the imgCIF frame."""
    part = recipe.detector
    read = read_geometry(part.file) if part.file else None
    if read is not None:
        read.need("detector", where="a data set")
    known = None if read is None else read.beam
    beam = BeamData(wavelength_A=DEFAULT_WAVELENGTH_A) if known is None else replace(known, frame_wavelengths_A=None)
    if recipe.beam.wavelength_A is not None:
        beam = replace(beam, wavelength_A=middle(recipe.beam.wavelength_A)[0])
    detector = _detector(part, beam) if read is None else read.detector
    if beam.polarization_fraction is None or recipe.beam.polarization:
        normal = np.array([0.0, 1.0, 0.0]) if beam.polarization_normal is None else beam.polarization_normal
        fraction = (1 + recipe.beam.polarization) / 2
        beam = replace(beam, polarization_normal=normal, polarization_fraction=fraction)
    axis = GoniometerData(rotation_axis=np.array(recipe.scan.axis)) if recipe.is_scan else None
    return ExperimentData(
        beam=replace(beam, spectrum_energies_eV=None, spectrum_weights=None),
        detector=detector,
        goniometer=axis,
        source="simulated by nanobrag_torch",
    )


def unused_spectrum(recipe: Recipe) -> bool:
    """Whether the detector's file has a spectrum that the recipe does not ask for."""
    if not recipe.detector.file or recipe.beam.spectrum == "file":
        return False
    beam = read_geometry(recipe.detector.file).beam
    return beam is not None and beam.spectrum_energies_eV is not None


def spectrum_of(recipe: Recipe) -> tuple[Reals, Reals] | None:
    """Wavelengths (Angstrom) and weights of sum one of the spectrum in the detector's file; None unless asked for.

    Raises InputError for a file without one.
    """
    if recipe.beam.spectrum != "file":
        return None
    beam = read_geometry(recipe.detector.file).beam
    if beam is None or beam.spectrum_energies_eV is None or beam.spectrum_weights is None:
        raise InputError("beam.spectrum", "file", f"gauss or sase: {recipe.detector.file} has no spectrum")
    lit = beam.spectrum_weights > 0
    weights = beam.spectrum_weights[lit]
    return EV_ANGSTROM / beam.spectrum_energies_eV[lit], weights / weights.sum()


def _detector(part: DetectorPart, beam: BeamData) -> DetectorData:
    """A detector by name, or of one panel by its numbers."""
    if not part.preset:
        return _one_panel(part)
    assert part.distance_mm is not None
    return detector_preset(part.preset, "detector.preset").detector(beam, middle(part.distance_mm)[0])


def _one_panel(part: DetectorPart) -> DetectorData:
    """A flat panel across the beam, its slow axis down."""
    assert part.pixels is not None and part.distance_mm is not None
    size, (fast, slow) = part.pixel_size_mm, part.pixels
    centre = [fast / 2, slow / 2] if part.beam_centre_px is None else middle(part.beam_centre_px)
    thick = part.thickness_um / 1000 or None
    attenuation = 1000 / (part.attenuation_um or part.thickness_um) if thick else None
    panel = PanelData(
        origin_mm=np.array([-centre[0] * size, centre[1] * size, -middle(part.distance_mm)[0]]),
        fast=np.array([1.0, 0.0, 0.0]),
        slow=np.array([0.0, -1.0, 0.0]),
        pixel_size_mm=(size, size),
        image_size=(fast, slow),
        name="panel",
        thickness_mm=thick,
        mu_per_mm=attenuation,
        material="Si" if thick else None,
    )
    return DetectorData(panels=(panel,))


def finest_spacing(detector: DetectorData, direction: Reals, wavelength_A: float) -> float:
    """The finest d (Angstrom) that a corner of a panel sees; direction [3] is from the sample to the source."""
    corners = [
        panel.positions_mm(fast, slow)
        for panel in detector.panels
        for fast in (0, panel.image_size[0])
        for slow in (0, panel.image_size[1])
    ]
    rays = np.stack(corners) / np.linalg.norm(corners, axis=1, keepdims=True)
    return float(wavelength_A / np.linalg.norm(rays + direction, axis=1).max())


def reach_of(recipe: Recipe, data: ExperimentData) -> float:
    """The finest d (Angstrom) that the images of a recipe can show, whatever is drawn within its bounds."""
    assert data.detector is not None and data.beam is not None
    nearest, part = data.detector, recipe.detector
    wavelengths, shifts = recipe.beam.wavelength_A, [draw.support() for draw in part.shift_mm]
    shortest = data.beam.wavelength_A if wavelengths is None else wavelengths[0].support()[0]
    shortest = max(shortest, 0.5 * data.beam.wavelength_A)  # of an uncut distribution
    closer = [end for end in shifts[-1] if abs(end) < np.inf]
    if part.distance_mm is not None:
        low = part.distance_mm[0].support()[0]
        closer.append(middle(part.distance_mm)[0] - max(low, 0.5 * middle(part.distance_mm)[0]))
    moved = tuple(replace(p, origin_mm=p.origin_mm + data.beam.direction * max([0.0, *closer])) for p in nearest.panels)
    return EDGE * finest_spacing(DetectorData(panels=moved), data.beam.direction, shortest)


def materials(recipe: Recipe, data: ExperimentData) -> list[Material]:
    """The amplitudes of every crystal of a recipe. Raises InputError for what cannot be read or does not fit."""
    return [_material(crystal, recipe, data) for crystal in recipe.crystal]


def _material(crystal: CrystalPart, recipe: Recipe, data: ExperimentData) -> Material:
    assert data.beam is not None
    given = None if crystal.cell is None else require_cell(middle(crystal.cell))
    dmin = crystal.dmin_A or reach_of(recipe, data)
    if crystal.amplitudes == "constant":
        assert given is not None
        empty = torch.zeros((0, 0, 0), dtype=torch.float32)
        return Material(empty, (0, 0, 0), crystal.constant_F, given, space_group(crystal.space_group, given).xhm())
    if crystal.amplitudes == "wilson":
        assert given is not None
        found = _wilson(crystal, given, dmin)
    else:
        column = crystal.column or None
        found = read_structure_factors(crystal.amplitudes, column=column, dmin=dmin, flag="crystal.amplitudes")
    if found.cell is None and given is None:
        raise InputError("crystal.cell", None, f"a cell, as {crystal.amplitudes} has none")
    expansion = expand_to_p1(found)
    dtype = torch.float64 if recipe.render.dtype == "float64" else torch.float32
    table = amplitude_table(expansion, torch.from_numpy(found.amplitude)).to(dtype)
    cell = given or found.cell
    assert cell is not None
    return Material(table, expansion.first, 0.0, cell, found.space_group or "P 1")


def _wilson(crystal: CrystalPart, cell: Cell, dmin: float) -> Reflections:
    group = space_group(crystal.space_group, cell).xhm()
    require_compatible(cell, group)
    hkl, amplitude = wilson_reflections(cell, group, dmin, b_iso=crystal.wilson_B_A2, seed=crystal.wilson_seed)
    return Reflections(hkl=hkl, amplitude=amplitude, cell=cell, space_group=group, source="Wilson statistics")
