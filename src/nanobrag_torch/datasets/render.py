"""One image of a plan: the noiseless photons of every lattice and of the background, and what a detector records.

    renderer = Renderer(read_recipe("recipe.toml"))
    frame = renderer.frame(12)      # expected photons, a lattice at a time
    counts = renderer.record(frame)

Only what a plan varies is worked out for each image: everything else of the scene is that of a template. One thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.datasets.backdrop import Backdrop
from nanobrag_torch.datasets.lattices import Prepared, Stack, mean_rows, photons_of, shape_of, stack_of
from nanobrag_torch.datasets.materials import materials, reach_of, setting, spectrum_of
from nanobrag_torch.datasets.plan import ImagePlan, LatticePlan, Plan
from nanobrag_torch.datasets.recipe import Recipe
from nanobrag_torch.datasets.turning import turns_of
from nanobrag_torch.errors import InputError
from nanobrag_torch.experiment import Experiment
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.models.detector import DetectorGeometry
from nanobrag_torch.physics.lattice_factor import PROFILES
from nanobrag_torch.physics.polarization import polarization_matrix
from nanobrag_torch.records.experiment import ExperimentData
from nanobrag_torch.response.chain import Response
from nanobrag_torch.response.presets import detector_preset
from nanobrag_torch.torch_threads import one_torch_thread
from nanobrag_torch.units import ANGSTROM, MICRON, MM, R_E_SQUARED

Reals = NDArray[np.float64]
Image = NDArray[np.float32]

SAMPLES_A_SPOT = 3
"""Sub-pixels across the narrowest spot, as the command nanoBragg has them."""
LARGEST_OVERSAMPLE = 64
LARGEST_CUT = 0.01
"""Share of a spot's peak below which no tolerance leaves anything out, however weak the spots are."""
CUT_STEP = 100.0
"""Shares are rounded down to powers of this: a step moves the edge of a spot by a seventh, and its cost by less."""
MOST_TOGETHER, PIXELS_TOGETHER = 16, 2**20
"""Images, and pixels of them, that are made together at most."""


@dataclass(frozen=True, eq=False)
class Lattice(Stack):
    """One lattice of an image as it was rendered, and its photons."""

    photons: Image  # flat over [panel, slow, fast]


@dataclass(frozen=True, eq=False)
class Frame:
    """One image, noiseless, as photons reach the pixels: behind shadow and point spread; flat over its pixels."""

    plan: ImagePlan
    lattices: tuple[Lattice, ...]
    background: Image
    expected: Image  # all of it, photons
    panels: Reals  # [P, 4, 3] origin, fast, slow, normal (m)
    incident: Reals  # [3] unit vector along the beam


class Renderer:
    """Renders the images of a recipe. Reads its files and prepares its tables once. Raises InputError for bad ones."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.data = setting(recipe)
        self.materials = materials(recipe, self.data)
        self.finest_A = reach_of(recipe, self.data)
        assert self.data.beam is not None and self.data.detector is not None
        cells = [m.cell for m in self.materials]
        self.plan = Plan(recipe, cells, self.data.beam.wavelength_A, spectrum_of(recipe))
        self._scene, self._options, self._geometry = self._template()
        self.good = good_pixels(self.data)
        self.whole = bool(self.good.all())
        self.optics, self.readout = self._responses()
        shape = self.image_shape[-2], self.image_shape[-1]
        self._beam = lru_cache(maxsize=4)(self._turned_beam)
        self._backdrop = Backdrop(recipe.background, self._geometry, shape, self._reached)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(slow, fast), or (panel, slow, fast) of several panels."""
        assert self.data.detector is not None
        return self.data.detector.shape

    @property
    def pixel_size(self) -> Reals:
        """Fast and slow size of a pixel of each panel [P, 2] (m)."""
        return self._scene.pixel_size.numpy()

    @property
    def sensor(self) -> Reals:
        """Thickness of a layer (m) and attenuation (1/m) of each panel [P, 2]."""
        return self._scene.sensor.numpy()

    @property
    def layers(self) -> int:
        """Layers of the sensor."""
        return self._options.layers

    @property
    def at_once(self) -> int:
        """Images that are best made together: small ones, for what a call of the kernel costs beside its pixels."""
        return max(1, min(MOST_TOGETHER, PIXELS_TOGETHER // max(self.good.size, 1)))

    def frame(self, image: int) -> Frame:
        """Image `image` without noise. Raises InputError if a pixel is not finite."""
        return self.frames([image])[0]

    def frames(self, images: Sequence[int]) -> list[Frame]:
        """Images without noise, the same as one by one. Raises InputError if a pixel is not finite."""
        with one_torch_thread(), torch.no_grad():
            plans = [self.plan.image(image) for image in images]
            scenes = [self._of_image(plan) for plan in plans]
            prepared = [self._prepared(p, s) for p, s in zip(plans, scenes, strict=True)]
            photons = iter(photons_of([one for own in prepared for one in own]))
            each = zip(plans, scenes, prepared, strict=True)
            return [self._frame(plan, scene, [(one, next(photons)) for one in own]) for plan, scene, own in each]

    def _frame(self, plan: ImagePlan, scene: Scene, rendered: Sequence[tuple[Prepared, Image]]) -> Frame:
        lattices = tuple(
            Lattice(one.plan, one.stack, one.weights, one.shape, one.middle, self._reached(photons))
            for one, photons in rendered
        )
        background = self._backdrop.image(plan, scene)
        expected = background.copy()
        for lattice in lattices:
            expected += lattice.photons
        if not self.whole:
            expected[~self.good] = 0
        if not np.isfinite((expected.min(), expected.max())).all():
            raise InputError(f"image {plan.image}", "not finite", "a recipe whose images have finite pixels")
        return Frame(plan, lattices, background, expected, scene.panels.numpy(), scene.incident[0].numpy())

    def record(self, frame: Frame) -> NDArray[np.generic]:
        """What the detector records of a frame, in the recipe's type of pixel; flat over [panel, slow, fast]."""
        photons = torch.from_numpy(frame.expected).reshape(self.image_shape)
        with one_torch_thread():
            recorded = self.readout.record(photons, self.recipe.dataset.seed, frame.plan.image)
        return recorded.numpy().reshape(-1)

    @property
    def saturation(self) -> float:
        """The value from which a pixel is no measurement: the largest that it can have otherwise."""
        return self._saturation

    def _template(self) -> tuple[Scene, Options, DetectorGeometry]:
        """Scene and options of a crystal that is replaced in every image."""
        dtype = torch.float64 if self.recipe.render.dtype == "float64" else torch.float32
        placeholder = {"cell_a": 100.0, "N_cells": (10, 10, 10), "oversample": 1, "phi_steps": 1}
        experiment = Experiment(data=self.data, options={**placeholder, "fluence": 1 / R_E_SQUARED})
        simulator = experiment.simulator(0, dtype=dtype, threads=1)
        with one_torch_thread(), torch.no_grad():
            return simulator.scene(), simulator.options(), simulator.geometry

    def _responses(self) -> tuple[Response | None, Response]:
        """What happens to photons on their way, None if nothing, and what the detector makes of them."""
        assert self.data.beam is not None
        size = self.pixel_size[0] / MICRON
        if (self.pixel_size != self.pixel_size[0]).any() and self.recipe.response.psf != "none":
            raise InputError(
                "response.psf", self.recipe.response.psf, "none, where panels have pixels of several sizes"
            )
        mask = None if self.good.all() else self.good.reshape(self.image_shape)
        kind, name = self.recipe.output.pixel_type, self.recipe.detector.preset
        preset = None
        if name:
            preset = detector_preset(name, "detector.preset").response(self.data.beam.wavelength_A, dtype=kind)
        whole = self.recipe.response.config(kind, mask, (float(size[0]), float(size[1])), preset)
        readout = Response(replace(whole, beamstop=None, spread=None))
        most = float(np.iinfo(kind).max)
        self._saturation = most if whole.saturation is None else min(whole.saturation, most)
        if whole.beamstop is None and whole.spread is None:
            return None, readout
        return Response(whole, geometry=self._geometry), readout

    def _reached(self, photons: Image) -> Image:
        """What comes through the shadow of the beam stop and the point spread of a flat image."""
        if self.optics is None:
            return photons
        image = torch.from_numpy(photons).reshape(self.image_shape)
        return self.optics.photons(image).clamp(min=0).numpy().reshape(-1)

    def _of_image(self, plan: ImagePlan) -> Scene:
        """The scene of an image but for its crystals: detector and beam where they were drawn to be."""
        template, count = self._scene, len(plan.wavelengths_A)
        panels = template.panels.numpy().copy()
        panels[:, 0] += plan.shift_mm * MM
        if plan.tilt_deg.any():
            panels = panels @ turns_of(np.radians(plan.tilt_deg)).T
        incident, polarization = self._beam(plan.beam_turn.tobytes())
        return replace(
            template,
            panels=torch.from_numpy(panels),
            incident=incident.expand(count, 3).contiguous(),
            wavelengths=torch.from_numpy(plan.wavelengths_A * ANGSTROM),
            source_weights=torch.from_numpy(plan.weights * (R_E_SQUARED * plan.fluence)),
            polarization=polarization.expand(count, 3, 3).contiguous(),
        )

    def _turned_beam(self, turn: bytes) -> tuple[Tensor, Tensor]:
        """Direction [1, 3] and polarization [1, 3, 3] of a beam that was turned by the matrix of these bytes."""
        beam, matrix = self.data.beam, torch.from_numpy(np.frombuffer(turn).reshape(3, 3).copy())
        assert beam is not None and beam.polarization_normal is not None and beam.polarization_fraction is not None
        incident = self._scene.incident[:1] @ matrix.T
        axis = torch.linalg.cross(torch.from_numpy(beam.polarization_normal), incident[0])
        fraction = torch.tensor(2 * beam.polarization_fraction - 1).double()
        return incident, polarization_matrix(incident, axis, fraction)

    def _prepared(self, plan: ImagePlan, scene: Scene) -> list[Prepared]:
        most = self._brightest(scene) if plan.lattices else 0.0
        return [self._prepare(plan, lattice, scene, most) for lattice in plan.lattices]

    def _prepare(self, plan: ImagePlan, lattice: LatticePlan, scene: Scene, most: float) -> Prepared:
        crystal, material = self.recipe.crystal[lattice.crystal], self.materials[lattice.crystal]
        shape, axis = CrystalShape(crystal.shape), np.array(self.recipe.scan.axis)
        stack, weights = stack_of(plan, lattice, axis, crystal.mosaic_domains)
        matrix, peak = shape_of(shape, lattice)
        scale = lattice.scale * peak
        options = replace(
            self._options,
            profile=PROFILES[shape],
            hkl_first=material.first,
            oversample=self.oversample(plan, lattice),
            tolerance=self.recipe.render.tolerance,
            cut=self._cut(most * scale * material.strongest**2),
        )
        middle = mean_rows(plan, lattice, axis)
        return Prepared(lattice, stack, weights, matrix, middle, scene, scale, material, options)

    def _brightest(self, scene: Scene) -> float:
        """What a pixel can have at most of a crystal of one electron: weights times the largest solid angle."""
        panels = scene.panels.numpy()
        close = np.abs((panels[:, 0] * panels[:, 3]).sum(1)).min()
        return float(scene.source_weights.sum()) * float(self.pixel_size.prod(1).max()) / float(close) ** 2

    def _cut(self, most: float) -> float:
        """Share of a spot's peak below which a shape that vanishes is left out: what the recipe's tolerance allows.

        No pixel can have more than `most`, what all steps on the strongest reflection would give the nearest one. The
        share is rounded down, so that lattices of many images are rendered in one call.
        """
        if most <= 0:
            return self._options.cut
        share = min(max(self._options.cut, self.recipe.render.tolerance / most), LARGEST_CUT)
        return max(self._options.cut, CUT_STEP ** math.floor(math.log(share, CUT_STEP)))

    def oversample(self, plan: ImagePlan, lattice: LatticePlan) -> int:
        """Sub-pixels along an edge: as the recipe says, else three across the narrowest spot."""
        if self.recipe.render.oversample:
            return self.recipe.render.oversample
        largest = max(edge * cells for edge, cells in zip(lattice.cell, lattice.cells, strict=False)) * ANGSTROM
        origin, normal = self._scene.panels[0, 0].numpy() + plan.shift_mm * MM, self._scene.panels[0, 3].numpy()
        spot = float(plan.wavelengths_A.min()) * ANGSTROM * abs(float(origin @ normal)) / float(self.pixel_size.min())
        return int(min(max(1, math.ceil(SAMPLES_A_SPOT * largest / spot)), LARGEST_OVERSAMPLE))


def good_pixels(data: ExperimentData) -> NDArray[np.bool_]:
    """Which pixels are there and not masked, flat over [panel, slow, fast]."""
    detector = data.detector
    assert detector is not None
    slow, fast = detector.shape[-2:]
    good = np.zeros((len(detector.panels), slow, fast), np.bool_)
    for panel, place in zip(detector.panels, good, strict=True):
        place[: panel.shape[0], : panel.shape[1]] = panel.good_pixels()
    return good.reshape(-1)
