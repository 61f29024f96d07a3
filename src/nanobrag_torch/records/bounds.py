"""What the numbers of an experiment can be: bounds that physics and detectors give, wide enough for every real one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.records.atoms import AtomicModel
from nanobrag_torch.records.experiment import CrystalData, ExperimentData, PanelData
from nanobrag_torch.records.reflections import Cell, Reflections, require_cell


class Bounds(NamedTuple):
    """A closed range, and its unit for people."""

    low: float
    high: float
    unit: str


PANEL = {
    "pixel_size_mm": Bounds(1e-5, 100.0, "mm"),
    "image_size": Bounds(1, 65536, "pixels"),
    "thickness_mm": Bounds(0.0, 1000.0, "mm"),
    "mu_per_mm": Bounds(0.0, 1e5, "1/mm"),
    "gain": Bounds(1e-9, 1e9, "counts a photon"),
    "pedestal": Bounds(-1e9, 1e9, "counts"),
    "origin_mm": Bounds(-1e7, 1e7, "mm"),
}
BEAM = {
    "wavelength_A": Bounds(1e-4, 1e3, "Angstrom"),
    "wavelength_range_A": Bounds(1e-4, 1e3, "Angstrom"),
    "polarization_fraction": Bounds(0.0, 1.0, ""),
    "spectrum_energies_eV": Bounds(1.0, 1e9, "eV"),
    "spectrum_weights": Bounds(0.0, 1e300, ""),
    "divergence_deg": Bounds(0.0, 180.0, "degrees"),
    "flux": Bounds(0.0, 1e40, "photons a second"),
    "transmission": Bounds(0.0, 1.0, ""),
}
SCAN = {
    "oscillation_start_deg": Bounds(-1e6, 1e6, "degrees"),
    "oscillation_width_deg": Bounds(-360.0, 360.0, "degrees"),
    "exposure_times_s": Bounds(0.0, 1e9, "s"),
    "image_range": Bounds(-1e9, 1e9, ""),
}
CRYSTAL = {"mosaicity_deg": Bounds(0.0, 180.0, "degrees"), "domain_size_A": Bounds(0.0, 1e10, "Angstrom")}
ATOMS = {
    "fractional": Bounds(-1e6, 1e6, "cell edges"),
    "occupancy": Bounds(-10.0, 1e3, ""),
    "u_star": Bounds(-1e3, 1e3, ""),
}
AMPLITUDE = Bounds(0.0, 1e15, "electrons")
CELL_EDGE_A = Bounds(1.0, 1e5, "Angstrom")
LARGEST_IMAGE = 2**30
"""Pixels of all panels of an experiment together."""
FLATTEST_CELL = 1e-4
"""Volume of a cell over the product of its edges, at least."""
SQUARE_AXES = 1e-3
"""Cosine between the fast and slow axes of a panel, at most."""


def check_experiment(data: ExperimentData) -> None:
    """Raise InputError naming the first field that no experiment can have, its value and what is accepted."""
    if data.beam is not None:
        _check(data.beam, "beam", BEAM)
    if data.scan is not None:
        _check(data.scan, "scan", SCAN)
    if data.crystal is not None:
        _check_crystal(data.crystal)
    panels = () if data.detector is None else data.detector.panels
    for panel in panels:
        _check_panel(panel)
    pixels = sum(math.prod(panel.image_size) for panel in panels)
    if pixels > LARGEST_IMAGE:
        raise InputError("image_size", f"{pixels} pixels of {len(panels)} panels", f"at most {LARGEST_IMAGE} in all")


def check_reflections(found: Reflections) -> None:
    """The same of reflections: amplitudes, with their place, and a cell.

    Lists of h k l F without a space group may have a sign, as the C program takes them.
    """
    bounds = AMPLITUDE if found.space_group is not None else AMPLITUDE._replace(low=-AMPLITUDE.high)
    wrong = ~((found.amplitude >= bounds.low) & (found.amplitude <= bounds.high))
    if wrong.any():
        place = int(np.argmax(wrong))
        _require(f"F of {' '.join(map(str, found.hkl[place]))}", float(found.amplitude[place]), bounds)
    if found.cell is not None:
        _check_cell(found.cell)


def check_atoms(found: AtomicModel) -> None:
    """The same of atoms: a cell, and finite numbers for every atom, counted from 1."""
    _check_cell(found.cell)
    for name, bounds in ATOMS.items():
        values = np.asarray(getattr(found, name), np.float64).reshape(len(found), -1)
        wrong = ~((values >= bounds.low) & (values <= bounds.high))
        if wrong.any():
            atom = int(np.argmax(wrong.any(axis=1)))
            _require(f"atom {atom + 1} ({found.elements[atom]}): {name}", values[atom][wrong[atom]][0], bounds)


def _check_cell(cell: Cell) -> None:
    for name, edge in zip("abc", cell[:3], strict=True):
        _require(f"cell edge {name}", edge, CELL_EDGE_A)
    require_cell(cell)


def _check_panel(panel: PanelData) -> None:
    owner = f"panel {panel.name!r}"
    _check(panel, owner, PANEL)
    cosine = float(abs(panel.fast @ panel.slow))
    if cosine > SQUARE_AXES:
        angle = math.degrees(math.acos(cosine))
        raise InputError(f"{owner}: fast, slow", f"axes {angle:.3f} degrees apart", "axes at right angles")
    trusted = panel.trusted_range
    if trusted is not None and not -math.inf < trusted[0] <= trusted[1] < math.inf:
        raise InputError(f"{owner}: trusted_range", trusted, "a lower and an upper value, finite and in this order")


def _check_crystal(crystal: CrystalData) -> None:
    _check(crystal, "crystal", CRYSTAL)
    edges = np.linalg.norm(crystal.real_space, axis=1)
    for name, edge in zip("abc", edges, strict=True):
        _require(f"crystal: cell edge {name}", edge, CELL_EDGE_A)
    flatness = abs(float(np.linalg.det(crystal.real_space / edges[:, None])))
    if not flatness >= FLATTEST_CELL:
        raise InputError("crystal: real_space", crystal.real_space.round(4).tolist(), "vectors that span a volume")


def _check(owner: Any, name: str, table: dict[str, Bounds]) -> None:
    for field, bounds in table.items():
        for value in _numbers(getattr(owner, field)):
            _require(f"{name}: {field}", value, bounds)


def _numbers(value: Any) -> Iterator[float]:
    """The lowest and the highest of a field's numbers, whichever shape it has; nan comes out as itself."""
    if value is not None:
        numbers = np.atleast_1d(np.asarray(value, np.float64))
        if numbers.size:
            yield float(numbers.min())
            yield float(numbers.max())


def _require(name: str, value: float, bounds: Bounds) -> None:
    if not bounds.low <= value <= bounds.high:  # nan is refused too
        raise InputError(name, float(value), f"{bounds.low:g} to {bounds.high:g} {bounds.unit}".rstrip())
