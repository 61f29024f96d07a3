"""What every image of a recipe is made with. Image i is a function of the recipe and i, whatever is asked before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from nanobrag_torch.datasets.draws import Draw, Fixed, deviates, pick
from nanobrag_torch.datasets.materials import middle
from nanobrag_torch.datasets.recipe import Draws, Recipe, read_columns
from nanobrag_torch.datasets.turning import turns_of, uniform_turn
from nanobrag_torch.physics.unit_cell import dual, reciprocal_from_cell
from nanobrag_torch.records.reflections import Cell, require_cell

Reals = NDArray[np.float64]

BLOCK = 64  # images whose deviates are drawn at once
WHOLE_CELLS = ("square", "tophat")
"""Shapes whose number of cells is rounded: between whole numbers they jump half way from spot to spot."""
MATERIALS = ("water", "air", "ice", "profile")
SPECTRUM_REACH = 1.5  # full widths at half maximum that the lines of a spectrum span
_FWHM = 2 * math.sqrt(2 * math.log(2))


@dataclass(frozen=True, eq=False)
class LatticePlan:
    """One lattice: a crystal, or a piece of one that has split."""

    crystal: int  # which of the recipe's
    number: int  # of the lattice in the image, and of the piece in the lattice
    piece: int
    rows: Reals  # [3, 3] a, b, c in Angstrom, before the rotation of the scan
    cell: Cell
    cells: Reals  # [3]
    spread_deg: float
    scale: float  # of its photons


@dataclass(frozen=True, eq=False)
class ImagePlan:
    """One image: everything that was drawn for it."""

    image: int
    series: int  # number of the scan, or of the image where there is none
    frame: int  # in the scan
    phi_deg: Reals  # [T] middle of each step of the rotation
    lattices: tuple[LatticePlan, ...]
    wavelengths_A: Reals  # [S]
    weights: Reals  # [S] of sum one
    fluence: float
    beam_turn: Reals  # [3, 3] that takes the nominal direction of the beam to that of the image
    shift_mm: Reals  # [3]
    tilt_deg: Reals  # [3]
    constant: float  # photons a pixel
    thicknesses_mm: dict[str, float]  # of water, air, ice and the recipe's own profile

    @property
    def wavelength_A(self) -> float:
        """The mean wavelength."""
        return float(self.wavelengths_A @ self.weights)


class Plan:
    """The plan of a recipe: `plan.image(i)`. cells: of each of the recipe's crystals, where it draws none.

    spectrum: wavelengths and weights of a file, which keep their ratios when a mean wavelength is drawn.
    """

    def __init__(
        self,
        recipe: Recipe,
        cells: Sequence[Cell],
        wavelength_A: float,
        spectrum: tuple[Reals, Reals] | None = None,
    ) -> None:
        self.recipe, self._cells, self._wavelength, self._known = recipe, list(cells), wavelength_A, spectrum
        self._columns = read_columns(recipe.table.file) if recipe.table.file else {}
        self._most = int(recipe.lattices.number[0].support()[1])
        self._pieces = int(recipe.lattices.split[0].support()[1])
        self._lines = range(recipe.beam.lines if recipe.beam.spectrum == "sase" else 0)
        own = _names("beam", recipe.beam) + [f"beam.line[{i}]" for i in self._lines]
        own += _names("background", recipe.background)
        self._image_places = {name: place for place, name in enumerate(own)}
        self._series_places = {name: place for place, name in enumerate(self._names_of_series())}
        self._drawn = lru_cache(maxsize=4)(self._deviates)

    def image(self, image: int) -> ImagePlan:
        """What image `image`, from 0, is made with."""
        scan = self.recipe.scan
        series, frame = divmod(image, scan.frames) if scan.frames else (image, 0)
        shared = _Drawn(self._series_places, self._row("series", series), {})
        row = self._table_row(shared, series)
        shared = replace(shared, row=row)
        own = _Drawn(self._image_places, self._row("image", image), row)
        beam, detector, background = self.recipe.beam, self.recipe.detector, self.recipe.background
        centre = None if beam.wavelength_A is None else own.number("beam.wavelength_A", beam.wavelength_A)
        wavelengths, weights = self._spectrum(centre, own)
        shift = np.array(shared.numbers("detector.shift_mm", detector.shift_mm, 3))
        return ImagePlan(
            image=image,
            series=series,
            frame=frame,
            phi_deg=self._phi(shared, frame),
            lattices=self._lattices(shared),
            wavelengths_A=wavelengths,
            weights=weights,
            fluence=own.number("beam.fluence", beam.fluence),
            beam_turn=_small_turn(own.numbers("beam.direction_mrad", beam.direction_mrad, 2)),
            shift_mm=shift + self._centre_and_distance(shared),
            tilt_deg=np.array(shared.numbers("detector.tilt_deg", detector.tilt_deg, 3)),
            constant=own.number("background.constant", background.constant),
            thicknesses_mm={
                name: own.number(f"background.{name}_mm", getattr(background, f"{name}_mm")) for name in MATERIALS
            },
        )

    def _names_of_series(self) -> list[str]:
        recipe = self.recipe
        names = ["table.row", *_names("detector", recipe.detector), *_names("scan", recipe.scan)]
        names.append("lattices.number[0]")
        own = ["kind", *(f"turn[{i}]" for i in range(3)), *_names("lattices", recipe.lattices)]
        own += _names("crystal", *recipe.crystal)
        for lattice in range(self._most):
            names += [f"lattice[{lattice}].{name}" for name in own]
            for piece in range(1, self._pieces):
                piece_names = ("z", "azimuth", "lattices.split_angle_deg[0]")
                names += [f"lattice[{lattice}].piece[{piece}].{name}" for name in piece_names]
        return names

    def _row(self, kind: str, place: int) -> Reals:
        block, inside = divmod(place, BLOCK)
        drawn: Reals = self._drawn(kind, block)[inside]
        return drawn

    def _deviates(self, kind: str, block: int) -> Reals:
        names = self._image_places if kind == "image" else self._series_places
        numbers = range(block * BLOCK, (block + 1) * BLOCK)
        return deviates([f"{kind}.{name}" for name in names], numbers, self.recipe.dataset.seed)

    def _table_row(self, drawn: _Drawn, series: int) -> dict[str, float]:
        if not self._columns:
            return {}
        count = len(next(iter(self._columns.values())))
        ordered = self.recipe.table.order == "rows"
        row = series % count if ordered else min(int(drawn.uniform("table.row") * count), count - 1)
        return {name: float(column[row]) for name, column in self._columns.items()}

    def _phi(self, drawn: _Drawn, frame: int) -> Reals:
        scan = self.recipe.scan
        if not scan.frames:
            return np.zeros(1)
        start = drawn.number("scan.start_deg", scan.start_deg) + frame * scan.width_deg
        return np.asarray(start + scan.width_deg * (np.arange(scan.phi_steps) + 0.5) / scan.phi_steps)

    def _centre_and_distance(self, drawn: _Drawn) -> Reals:
        """How far (mm) a detector made of numbers stands from where `materials.setting` has it."""
        part, shift = self.recipe.detector, np.zeros(3)
        if part.distance_mm is not None:
            shift[2] = middle(part.distance_mm)[0] - drawn.number("detector.distance_mm", part.distance_mm)
        if part.beam_centre_px is not None:
            now = drawn.numbers("detector.beam_centre_px", part.beam_centre_px, 2)
            fast, slow = (part.pixel_size_mm * (a - b) for a, b in zip(now, middle(part.beam_centre_px), strict=True))
            shift[:2] = -fast, slow
        return shift

    def _spectrum(self, drawn_centre: float | None, drawn: _Drawn) -> tuple[Reals, Reals]:
        """Wavelengths and weights: a file's, a Gaussian sampled by lines, or one with the spikes of a SASE pulse."""
        if self._known is not None:
            known, shares = self._known
            return known * (1.0 if drawn_centre is None else drawn_centre / float(known @ shares)), shares
        centre = self._wavelength if drawn_centre is None else drawn_centre
        beam = self.recipe.beam
        width = centre * drawn.number("beam.bandwidth_pct", beam.bandwidth_pct) / 100
        if beam.lines == 1 or width == 0:
            return np.array([centre]), np.ones(1)
        steps = (np.arange(beam.lines) + 0.5) / beam.lines - 0.5
        weights = np.exp(-((2 * SPECTRUM_REACH * steps * _FWHM) ** 2) / 2)
        for line in self._lines:  # intensity of a mode of chaotic light is exponential
            weights[line] *= -math.log(drawn.uniform(f"beam.line[{line}]"))
        return centre + 2 * SPECTRUM_REACH * width * steps, weights / weights.sum()

    def _lattices(self, drawn: _Drawn) -> tuple[LatticePlan, ...]:
        part = self.recipe.lattices
        found: list[LatticePlan] = []
        for number in range(int(drawn.number("lattices.number", part.number))):
            one = drawn.under(f"lattice[{number}]")
            share = one.number("lattices.share", part.share) if number else 1.0
            pieces = int(one.number("lattices.split", part.split))
            kind = pick([crystal.probability for crystal in self.recipe.crystal], one.uniform("kind"))
            found += [self._lattice(one, kind, number, piece, share / pieces) for piece in range(pieces)]
        return tuple(found)

    def _lattice(self, drawn: _Drawn, kind: int, number: int, piece: int, share: float) -> LatticePlan:
        crystal = self.recipe.crystal[kind]
        cell = self._cells[kind]
        if crystal.cell is not None:
            cell = require_cell(drawn.numbers("crystal.cell", crystal.cell, 6))
        scale = drawn.number("crystal.cell_scale", crystal.cell_scale)
        cell = (cell[0] * scale, cell[1] * scale, cell[2] * scale, cell[3], cell[4], cell[5])
        cells = np.array(drawn.numbers("crystal.N_cells", crystal.N_cells, 3))
        cells = np.rint(cells) if crystal.shape in WHOLE_CELLS else cells
        turn = self._turn(drawn, crystal.misset_deg)
        if piece:
            turn = self._piece_turn(drawn.under(f"piece[{piece}]")) @ turn
        return LatticePlan(
            crystal=kind,
            number=number,
            piece=piece,
            rows=standard_rows(cell) @ turn.T,
            cell=cell,
            cells=cells,
            spread_deg=drawn.number("crystal.mosaic_spread_deg", crystal.mosaic_spread_deg),
            scale=share
            * drawn.number("crystal.blocks", crystal.blocks)
            * drawn.number("crystal.F_scale", crystal.F_scale) ** 2,
        )

    def _turn(self, drawn: _Drawn, misset_deg: Draws | None) -> Reals:
        if misset_deg is not None:
            angles = drawn.numbers("crystal.misset_deg", misset_deg, 3)
            return np.asarray(Rotation.from_euler("xyz", angles, degrees=True).as_matrix())
        return uniform_turn(*(drawn.uniform(f"turn[{i}]") for i in range(3)))

    def _piece_turn(self, drawn: _Drawn) -> Reals:
        """A small turn about an axis of any direction."""
        angle = drawn.number("lattices.split_angle_deg", self.recipe.lattices.split_angle_deg)
        axis = _direction(drawn.uniform("z"), drawn.uniform("azimuth"))
        return turns_of(axis * math.radians(angle))


@dataclass(frozen=True)
class _Drawn:
    """Deviates by name, and the row of the recipe's table."""

    places: Mapping[str, int]
    deviates: Reals
    row: Mapping[str, float]
    prefix: str = ""

    def under(self, prefix: str) -> _Drawn:
        return replace(self, prefix=f"{self.prefix}{prefix}.")

    def uniform(self, name: str) -> float:
        return float(self.deviates[self.places[self.prefix + name]])

    def numbers(self, name: str, draws: Draws, size: int = 1) -> list[float]:
        """One number a component; a distribution that stands alone is drawn once for all of them."""
        values = [self._value(draw, f"{name}[{i}]") for i, draw in enumerate(draws)]
        return values * size if len(values) == 1 else values

    def number(self, name: str, draws: Draws) -> float:
        return self._value(draws[0], f"{name}[0]")

    def _value(self, draw: Draw, name: str) -> float:
        return draw.number if isinstance(draw, Fixed) else float(draw.value(self.uniform(name), self.row))


def _names(section: str, *parts: Any) -> list[str]:
    """The names of everything that may be drawn in a section, of any of its parts."""
    found: dict[str, None] = {}
    for part in parts:
        for key in fields(part):
            size = key.metadata.get("size", 0)
            found |= dict.fromkeys(f"{section}.{key.name}[{i}]" for i in range(size))
    return list(found)


@lru_cache(maxsize=256)
def standard_rows(cell: Cell) -> Reals:
    """Rows a, b, c (Angstrom) of a cell that nothing has turned: a* along x, b* in the xy plane."""
    lengths, angles = torch.tensor(cell[:3], dtype=torch.float64), torch.tensor(cell[3:], dtype=torch.float64)
    rows, _ = dual(reciprocal_from_cell(lengths, torch.deg2rad(angles)))
    return rows.numpy()


def _direction(u: float, v: float) -> Reals:
    """A direction of two uniform deviates, every one as likely."""
    z, azimuth = 2 * u - 1, 2 * math.pi * v
    sine = math.sqrt(1 - z * z)
    return np.array([sine * math.cos(azimuth), sine * math.sin(azimuth), z])


def _small_turn(mrad: Sequence[float]) -> Reals:
    """The rotation by angles about x and y."""
    if not any(mrad):
        return np.eye(3)
    return turns_of(np.array([mrad[0] / 1000, mrad[1] / 1000, 0.0]))
